//! PyTorch's zipped pickles (`pytorch_model.bin`, `optimizer.pt`): a zip archive with a pickle that describes objects and tensors, and one
//! plain entry for every storage.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use basin_volume_data::pickle::{self, Pickle, Purpose, Value, View};

use super::element::Element;
use super::error::{WeightsError, printable};
use super::stored::{MappedFile, Order, StoredTensor, element_count};
use super::zip;

/// The pickle of the largest published models has a few MB.
const MAX_PICKLE: usize = 64 << 20;

/// The entries of a file, and the objects that its pickle describes.
pub(crate) struct Archive<'a> {
    file: &'a Arc<MappedFile>,
    contents: HashMap<&'a str, Range<usize>>,
    pub(crate) pickle: Pickle<'a>,
}

/// The entries of a mapped file.
pub(crate) fn entries(file: &MappedFile) -> Result<Vec<zip::Entry>, WeightsError> {
    let bytes = file.bytes();
    if !bytes.starts_with(b"PK") {
        // A bare pickle, or a tar archive of the first releases.
        let legacy = bytes[0] == 0x80 || bytes.get(257..262) == Some(b"ustar");
        return Err(file.fault(if legacy {
            "it is in PyTorch's format of before version 1.6, which is not read: load it in Python with torch.load and save it again with \
             torch.save or safetensors"
        } else {
            "it is neither a zipped PyTorch file nor a safetensors file"
        }));
    }
    zip::entries(bytes).map_err(|problem| file.fault(problem))
}

impl<'a> Archive<'a> {
    /// Reads the pickle of a file whose [`entries`] are known.
    pub(crate) fn read(file: &'a Arc<MappedFile>, entries: &'a [zip::Entry], purpose: Purpose) -> Result<Self, WeightsError> {
        let bytes = file.bytes();
        let description = entries.iter().find_map(|entry| Some((entry.name.strip_suffix("data.pkl")?, entry.content.clone())));
        let (folder, description) = description.ok_or_else(|| file.fault("it has no data.pkl: it was not written by torch.save"))?;
        if description.len() > MAX_PICKLE {
            return Err(file.fault(format!("its pickle has {} bytes: expected at most {MAX_PICKLE}", description.len())));
        }
        let contents: HashMap<&str, _> =
            entries.iter().filter_map(|entry| Some((entry.name.strip_prefix(folder)?, entry.content.clone()))).collect();
        if contents.get("byteorder").is_some_and(|content| &bytes[content.clone()] == b"big") {
            return Err(file.fault("it was written on a big-endian machine"));
        }
        let pickle = pickle::read(&bytes[description], purpose).map_err(|problem| file.fault(problem))?;
        Ok(Self { file, contents, pickle })
    }

    /// The tensor of a view; `name` is for messages.
    pub(crate) fn tensor(&self, view: usize, name: &str) -> Result<StoredTensor, WeightsError> {
        let file = self.file;
        let view = &self.pickle.views[view];
        let storage = &self.pickle.storages[view.storage];
        let content = self.contents.get(format!("data/{}", storage.key).as_str()).cloned();
        let content = content
            .ok_or_else(|| file.tensor_fault(name, format!("is in the storage `{}`, which the archive lacks", printable(storage.key))))?;
        let element = element(storage.class);
        let place = locate(view, storage.length, element, &file.bytes()[content.clone()]);
        let (shape, order, offset) = place.map_err(|problem| file.tensor_fault(name, problem))?;
        Ok(StoredTensor { file: Arc::clone(file), shape, element, bytes: content.start + offset..content.end, order, shift: 0.0 })
    }
}

/// Where a training's checkpoint keeps the weights (Lightning, and many a script).
const NESTED: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];

/// The tensors of a file: of a dictionary of tensors, or of the one inside the checkpoint of a training.
pub(super) fn read(file: &Arc<MappedFile>) -> Result<BTreeMap<String, StoredTensor>, WeightsError> {
    let entries = entries(file)?;
    match Archive::read(file, &entries, Purpose::Weights) {
        Ok(archive) => tensors(&archive, nested(&archive.pickle).unwrap_or(archive.pickle.root)),
        // Beside the weights of a training stand objects of other kinds: they are passed over if the weights stand where they should.
        Err(refused) => match Archive::read(file, &entries, Purpose::Optimizer) {
            Ok(archive) => tensors(&archive, nested(&archive.pickle).ok_or(refused)?),
            Err(_) => Err(refused),
        },
    }
}

/// The dictionary of tensors inside that of a training's checkpoint.
fn nested<'a>(pickle: &Pickle<'a>) -> Option<Value<'a>> {
    if pickle.entries(pickle.root)?.iter().any(|entry| matches!(entry.1, Value::Tensor(_))) {
        return None;
    }
    NESTED.iter().filter_map(|name| pickle.get(pickle.root, name)).find(|&value| {
        // A training's settings may have such names too.
        pickle.entries(value).is_some_and(|entries| entries.iter().any(|entry| matches!(entry.1, Value::Tensor(_))))
    })
}

/// The tensors of a dictionary.
fn tensors(archive: &Archive, dictionary: Value) -> Result<BTreeMap<String, StoredTensor>, WeightsError> {
    let (file, pickle) = (archive.file, &archive.pickle);
    let entries = pickle.entries(dictionary);
    let entries =
        entries.ok_or_else(|| file.fault(format!("its pickle holds {} instead of a dictionary of tensors", pickle::kind(dictionary))))?;
    let mut tensors = BTreeMap::new();
    for &(key, value) in entries {
        let Value::Text(name) = key else {
            return Err(file.fault(format!("a key of its dictionary is {} instead of a name", pickle::kind(key))));
        };
        let Value::Tensor(view) = value else {
            return Err(file.fault(format!(
                "its entry `{}` is {} instead of a tensor: a state dictionary is expected",
                printable(name),
                pickle::kind(value)
            )));
        };
        if tensors.insert(name.to_owned(), archive.tensor(view, name)?).is_some() {
            return Err(file.tensor_fault(name, "occurs twice"));
        }
    }
    Ok(tensors)
}

fn element(class: &'static str) -> Element {
    match class {
        "FloatStorage" => Element::F32,
        "HalfStorage" => Element::F16,
        "BFloat16Storage" => Element::BF16,
        "DoubleStorage" => Element::F64,
        other => Element::Other(other.strip_suffix("Storage").unwrap_or(other)),
    }
}

/// Shape, order and byte offset of a view, once every element is known to lie inside its storage.
fn locate(view: &View, length: i64, element: Element, content: &[u8]) -> Result<(Vec<usize>, Order, usize), String> {
    let natural = |numbers: &[i64]| -> Option<Vec<usize>> { numbers.iter().map(|&number| usize::try_from(number).ok()).collect() };
    let (Some(shape), Some(strides), Ok(offset), Ok(length)) =
        (natural(&view.shape), natural(&view.strides), usize::try_from(view.offset), usize::try_from(length))
    else {
        return Err("has a negative size, stride or offset".to_owned());
    };
    if shape.len() != strides.len() {
        return Err(format!("has {} sizes, but {} strides", shape.len(), strides.len()));
    }
    let count = element_count(&shape).ok_or("has more elements than can be addressed")?;
    let Some((size, _)) = element.block() else {
        // Unreadable kinds (masks, counters) are listed, and refused if they are asked for.
        return Ok((shape, Order::Dense, 0));
    };
    if length.checked_mul(size).is_none_or(|bytes| bytes > content.len()) {
        return Err(format!("is in a storage of {length} elements, of which the file holds {}", content.len() / size));
    }
    // A view may repeat elements (a stride of 0); none with more elements than its storage is needed, and one could be of any size.
    if count > length {
        return Err(format!("has {count} elements in a storage of {length}"));
    }
    let dense: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
    let order = if shape.iter().zip(strides.iter().zip(&dense)).all(|(&size, (stride, dense))| size == 1 || stride == dense) {
        Order::Dense
    } else {
        Order::Strided(strides.clone())
    };
    if count > 0 {
        let last = shape.iter().zip(&strides).try_fold(offset, |last, (&size, &stride)| last.checked_add((size - 1).checked_mul(stride)?));
        if last.is_none_or(|last| last >= length) {
            return Err(format!("reaches past the {length} elements of its storage"));
        }
        return Ok((shape, order, offset * size));
    }
    Ok((shape, Order::Dense, 0))
}
