//! A reader of the pickles that PyTorch and numpy write. It builds plain data and runs nothing: a global is a name to be compared with those that
//! a file of the wanted kind needs, and any other is refused. Objects of harmless classes that hold nothing of interest (the state of a
//! random generator, say) are passed over as [`Value::Opaque`].
//!
//! Protocols 0 to 5 are read, as the Pythons and numpys of twenty years wrote them.
//!
//! Memory is bounded by a small multiple of the stream's length and of the most instructions that are read: every instruction adds at
//! most one value, and shared objects are shared here too, where copying them would let a few bytes grow without limit.

mod machine;
mod numpy;
mod text;

use machine::Machine;
pub use numpy::{Array, ElementType};

/// A value. Containers are places in the tables of [`Pickle`], so that values are copied freely; [`Pickle::entries`] and
/// [`Pickle::items`] look into them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A text.
    Text(&'a str),
    /// A callable or class.
    Global(Global),
    /// The place of a tuple's elements; see [`Pickle::items`].
    Tuple(usize, usize),
    /// The place of a list; see [`Pickle::items`].
    List(usize),
    /// The place of a dictionary; see [`Pickle::entries`].
    Dict(usize),
    /// A place in [`Pickle::storages`].
    Storage(usize),
    /// A place in [`Pickle::views`].
    Tensor(usize),
    /// Bytes, where a [`Purpose`] looks at them.
    Bytes(&'a [u8]),
    /// A text or bytes that are written in another way than they are; see [`Pickle::text`] and [`Pickle::bytes`].
    Decoded(usize),
    /// The type of an array's elements.
    ElementType(usize),
    /// An array of numpy: a place in [`Pickle::arrays`].
    Array(usize),
    /// An object that is not looked into: of a class that [`Purpose`] lets through, a set, bytes, or an integer of more than 64 bits.
    Opaque,
}

/// The callables and classes that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`.
    RebuildParameter,
    /// A tuple by another name.
    Size,
    /// A class of storages, by its name.
    Storage(&'static str),
    /// What makes an empty array of numpy.
    Reconstruct,
    /// What makes an array of numpy from its bytes.
    FromBuffer,
    /// `numpy.dtype`.
    ElementType,
    /// What makes a number of numpy.
    Scalar,
    /// What makes bytes from a text of Latin-1.
    Encode,
    /// `bytes` or `bytearray`.
    Bytes,
    /// Let through, and not looked into.
    Opaque,
}

/// What a file is read for, which decides the names that may occur in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A dictionary of tensors.
    Weights,
    /// The state of an optimizer and of the training around it: also generators' states, loss scalers, settings.
    Optimizer,
    /// Dictionaries of numpy arrays, numbers and texts, as data sets come in.
    Arrays,
}

impl Purpose {
    fn noun(self) -> &'static str {
        match self {
            Self::Weights => "a file of weights",
            Self::Optimizer => "the state of an optimizer",
            Self::Arrays => "a data set",
        }
    }
}

const STORAGES: &[&str] = &[
    "FloatStorage",
    "HalfStorage",
    "BFloat16Storage",
    "DoubleStorage",
    "BoolStorage",
    "ByteStorage",
    "CharStorage",
    "ShortStorage",
    "IntStorage",
    "LongStorage",
];

/// Names in the files of optimizers whose objects are passed over.
const PASSED_OVER: &[(&str, &[&str])] = &[
    ("torch", &["device", "float32", "float16", "bfloat16", "float64", "uint8", "int32", "int64", "bool"]),
    ("numpy", &["ndarray", "dtype"]),
    ("numpy.core.multiarray", &["_reconstruct", "scalar"]),
    ("numpy._core.multiarray", &["_reconstruct", "scalar"]),
    ("_codecs", &["encode"]),
    ("argparse", &["Namespace"]),
    ("builtins", &["set", "frozenset"]),
    ("__builtin__", &["set", "frozenset"]),
    ("collections", &["defaultdict"]),
    ("lightning.fabric.utilities.data", &["AttributeDict"]),
    ("lightning_fabric.utilities.data", &["AttributeDict"]),
    ("pytorch_lightning.utilities.parsing", &["AttributeDict"]),
    ("deepspeed.runtime.fp16.loss_scaler", &["LossScaler", "DynamicLossScaler"]),
    ("deepspeed.runtime.zero.config", &["ZeroStageEnum"]),
    ("deepspeed.utils.tensor_fragment", &["fragment_address"]),
];

/// The known globals; storages keep their class's name, which tells the type of the elements.
fn global(purpose: Purpose, module: &str, name: &str) -> Option<Global> {
    match (module, name) {
        ("collections", "OrderedDict") => return Some(Global::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2") => return Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => return Some(Global::RebuildParameter),
        ("torch", "Size") => return Some(Global::Size),
        _ => (),
    }
    if purpose == Purpose::Arrays {
        return match (module, name) {
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Some(Global::Reconstruct),
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Some(Global::Scalar),
            ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Some(Global::FromBuffer),
            ("numpy", "dtype") => Some(Global::ElementType),
            ("numpy", "ndarray") => Some(Global::Opaque),
            ("_codecs", "encode") => Some(Global::Encode),
            ("builtins" | "__builtin__", "bytes" | "bytearray") => Some(Global::Bytes),
            _ => None,
        };
    }
    if let Some(storage) = STORAGES.iter().find(|storage| module == "torch" && **storage == name) {
        return Some(Global::Storage(storage));
    }
    let passed = purpose == Purpose::Optimizer && PASSED_OVER.iter().any(|known| known.0 == module && known.1.contains(&name));
    passed.then_some(Global::Opaque)
}

/// A stored array that tensors are views of.
#[derive(Debug, Clone, PartialEq)]
pub struct Storage<'a> {
    /// Its class, which tells the type of the elements.
    pub class: &'static str,
    /// Name of its file in the archive.
    pub key: &'a str,
    /// Number of elements.
    pub length: i64,
}

/// A view of a storage.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// A place in [`Pickle::storages`].
    pub storage: usize,
    /// Elements before the first.
    pub offset: i64,
    /// Its shape.
    pub shape: Vec<i64>,
    /// Elements from one to the next along every dimension.
    pub strides: Vec<i64>,
}

/// What is written in another way than it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Decoded {
    Text(String),
    Bytes(Vec<u8>),
}

/// What a stream holds: a tree of plain values. It may have shared branches, and even cycles.
#[derive(Debug)]
pub struct Pickle<'a> {
    /// The outermost value.
    pub root: Value<'a>,
    /// The storages.
    pub storages: Vec<Storage<'a>>,
    /// The tensors.
    pub views: Vec<View>,
    /// The arrays.
    pub arrays: Vec<Array<'a>>,
    tables: Tables<'a>,
}

/// The contents of containers.
#[derive(Debug, Default)]
struct Tables<'a> {
    /// The elements of all tuples.
    elements: Vec<Value<'a>>,
    lists: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    decoded: Vec<Decoded>,
    types: Vec<ElementType>,
}

impl<'a> Tables<'a> {
    fn text(&self, value: Value<'a>) -> Option<&str> {
        match value {
            Value::Text(text) => Some(text),
            Value::Decoded(place) => match &self.decoded[place] {
                Decoded::Text(text) => Some(text),
                Decoded::Bytes(_) => None,
            },
            _ => None,
        }
    }

    fn bytes(&self, value: Value<'a>) -> Option<&[u8]> {
        match value {
            Value::Bytes(bytes) => Some(bytes),
            Value::Decoded(place) => match &self.decoded[place] {
                Decoded::Bytes(bytes) => Some(bytes),
                Decoded::Text(_) => None,
            },
            _ => None,
        }
    }
}

impl<'a> Pickle<'a> {
    /// The entries of a dictionary, in order; a key may occur more than once, and then the last counts.
    #[must_use]
    pub fn entries(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        if let Value::Dict(place) = value { Some(&self.tables.dicts[place]) } else { None }
    }

    /// The elements of a list or tuple.
    #[must_use]
    pub fn items(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::List(place) => Some(&self.tables.lists[place]),
            Value::Tuple(start, end) => Some(&self.tables.elements[start..end]),
            _ => None,
        }
    }

    /// A text.
    #[must_use]
    pub fn text(&self, value: Value<'a>) -> Option<&str> {
        self.tables.text(value)
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self, value: Value<'a>) -> Option<&[u8]> {
        self.tables.bytes(value)
    }

    /// An entry of a dictionary under a name.
    #[must_use]
    pub fn get(&self, value: Value<'a>, name: &str) -> Option<Value<'a>> {
        let is_name = |key: Value<'a>| self.text(key) == Some(name) || self.bytes(key) == Some(name.as_bytes());
        self.entries(value)?.iter().rfind(|entry| is_name(entry.0)).map(|entry| entry.1)
    }
}

/// Reads a stream to its end.
///
/// # Errors
/// A phrase that says what is wrong with it: truncated, malformed, or with a name or instruction that this purpose does not need.
pub fn read(stream: &[u8], purpose: Purpose) -> Result<Pickle<'_>, String> {
    let mut machine = Machine::new(stream, purpose);
    let root = machine.run()?;
    Ok(Pickle { root, storages: machine.storages, views: machine.views, arrays: machine.arrays, tables: machine.tables })
}

/// What a value is, in words.
#[must_use]
pub fn kind(value: Value) -> &'static str {
    match value {
        Value::None => "nothing (None)",
        Value::Bool(_) => "a truth value",
        Value::Int(_) => "an integer",
        Value::Float(_) => "a number",
        Value::Text(_) => "a text",
        Value::Global(_) => "a class",
        Value::Tuple(..) => "a tuple",
        Value::List(_) => "a list",
        Value::Dict(_) => "a dictionary",
        Value::Storage(_) => "a storage",
        Value::Tensor(_) => "a tensor",
        Value::Bytes(_) => "bytes",
        Value::Decoded(_) => "a text or bytes",
        Value::ElementType(_) => "the type of an array",
        Value::Array(_) => "an array",
        Value::Opaque => "an object of another kind",
    }
}

/// A name from a file as it may stand in a sentence: control characters replaced, cut after 120 characters.
#[must_use]
pub fn printable(name: &str) -> String {
    let mut text: String = name.chars().take(120).map(|letter| if letter.is_control() { '?' } else { letter }).collect();
    if name.chars().nth(120).is_some() {
        text.push_str("...");
    }
    text
}
