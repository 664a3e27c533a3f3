//! A reader of the pickles that PyTorch writes. It builds plain data and runs nothing: a global is a name to be compared with those that
//! a file of the wanted kind needs, and any other is refused. Objects of harmless classes that hold nothing of interest (the state of a
//! random generator, say) are passed over as [`Value::Opaque`].
//!
//! Memory is bounded by a small multiple of the stream's length and of the most instructions that are read: every instruction adds at
//! most one value, and shared objects are shared here too, where copying them would let a few bytes grow without limit.

mod machine;

use machine::Machine;

/// A value. Containers are places in the tables of [`Pickle`], so that values are copied freely; [`Pickle::entries`] and
/// [`Pickle::items`] look into them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    /// A callable or class.
    Global(Global),
    Tuple(usize, usize),
    List(usize),
    Dict(usize),
    Storage(usize),
    /// A place in [`Pickle::views`].
    Tensor(usize),
    /// An object that is not looked into: of a class that [`Purpose`] lets through, a set, bytes, or an integer of more than 64 bits.
    Opaque,
}

/// The callables and classes that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    /// A tuple by another name.
    Size,
    Storage(&'static str),
    /// Let through, and not looked into.
    Opaque,
}

/// What a file is read for, which decides the names that may occur in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A dictionary of tensors.
    Weights,
    /// The state of an optimizer and of the training around it: also generators' states, loss scalers, settings.
    Optimizer,
}

impl Purpose {
    fn noun(self) -> &'static str {
        match self {
            Self::Weights => "a file of weights",
            Self::Optimizer => "the state of an optimizer",
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
    if let Some(storage) = STORAGES.iter().find(|storage| module == "torch" && **storage == name) {
        return Some(Global::Storage(storage));
    }
    let passed = purpose == Purpose::Optimizer && PASSED_OVER.iter().any(|known| known.0 == module && known.1.contains(&name));
    passed.then_some(Global::Opaque)
}

/// A stored array that tensors are views of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Storage<'a> {
    pub(crate) class: &'static str,
    pub(crate) key: &'a str,
    pub(crate) length: i64,
}

/// A view of a storage.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    pub(crate) storage: usize,
    pub(crate) offset: i64,
    pub(crate) shape: Vec<i64>,
    pub(crate) strides: Vec<i64>,
}

/// What a stream holds: a tree of plain values. It may have shared branches, and even cycles.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    pub(crate) root: Value<'a>,
    pub(crate) storages: Vec<Storage<'a>>,
    pub(crate) views: Vec<View>,
    tables: Tables<'a>,
}

/// The contents of containers.
#[derive(Debug, Default)]
struct Tables<'a> {
    /// The elements of all tuples.
    elements: Vec<Value<'a>>,
    lists: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
}

impl<'a> Pickle<'a> {
    /// The entries of a dictionary, in order; a key may occur more than once, and then the last counts.
    pub(crate) fn entries(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        if let Value::Dict(place) = value { Some(&self.tables.dicts[place]) } else { None }
    }

    /// The elements of a list or tuple.
    pub(crate) fn items(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::List(place) => Some(&self.tables.lists[place]),
            Value::Tuple(start, end) => Some(&self.tables.elements[start..end]),
            _ => None,
        }
    }

    /// An entry of a dictionary under a name.
    pub(crate) fn get(&self, value: Value<'a>, name: &str) -> Option<Value<'a>> {
        self.entries(value)?.iter().rfind(|entry| entry.0 == Value::Text(name)).map(|entry| entry.1)
    }
}

/// Reads a stream to its end.
pub(crate) fn read(stream: &[u8], purpose: Purpose) -> Result<Pickle<'_>, String> {
    let mut machine = Machine::new(stream, purpose);
    let root = machine.run()?;
    Ok(Pickle { root, storages: machine.storages, views: machine.views, tables: machine.tables })
}

/// What a value is, in words.
pub(crate) fn kind(value: Value) -> &'static str {
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
        Value::Opaque => "an object of another kind",
    }
}
