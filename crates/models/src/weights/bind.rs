//! From the tensors of a store to the flat center of a layout.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use basin_volume::direction::{self, BLOCK};
use sha2::{Digest, Sha256};

use super::element::Element;
use super::error::WeightsError;
use super::store::TensorStore;
use super::stored::{MappedFile, StoredTensor};
use crate::parameters::ParameterLayout;

/// Which tensors of a file a network may leave unused.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BindOptions {
    /// Endings of the names of buffers that are computed, not learned: masks and rotary frequencies.
    pub buffers: Vec<String>,
    /// Endings of the names of output heads that may be stored beside the embedding they are tied to, with its values.
    pub tied_heads: Vec<String>,
    /// Endings of the names that an embedding has in a layout.
    pub embeddings: Vec<String>,
    /// First parts of names that some files have and others do not.
    pub prefixes: Vec<String>,
    /// Whether a head that is not stored has the values of the embedding: the layout unties what the file has tied.
    pub heads_from_embeddings: bool,
}

impl Default for BindOptions {
    fn default() -> Self {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            buffers: own(&[
                "attention.bias",
                "attention.masked_bias",
                "attn.bias",
                "attn.masked_bias",
                "rotary_emb.inv_freq",
                "rope_freqs.weight",
            ]),
            tied_heads: own(&["lm_head.weight", "embed_out.weight"]),
            embeddings: own(&["embed_tokens.weight", "embed_in.weight", "wte.weight"]),
            prefixes: own(&["model.", "transformer.", "gpt_neox.", "model.decoder."]),
            heads_from_embeddings: false,
        }
    }
}

impl BindOptions {
    /// Whether this is the name of an output head.
    pub(super) fn is_head(&self, name: &str) -> bool {
        any_ending(name, &self.tied_heads)
    }

    /// Whether this is the name of the embedding of tokens.
    pub(super) fn is_embedding(&self, name: &str) -> bool {
        any_ending(name, &self.embeddings)
    }
}

/// Whether `name` is `ending`, or ends with it after a dot.
fn ends_with(name: &str, ending: &str) -> bool {
    name.strip_suffix(ending).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn any_ending(name: &str, endings: &[String]) -> bool {
    endings.iter().any(|ending| ends_with(name, ending))
}

/// The weights of a network in the flat order of its layout, read from the mapped files whenever they are asked for.
#[derive(Debug)]
pub struct Center {
    layout: ParameterLayout,
    /// One for every parameter of the layout.
    tensors: Vec<StoredTensor>,
    sum_of_squares: f64,
    hash: String,
    notes: Vec<String>,
}

/// The tensors of a store in the order of a layout.
pub(super) struct Bound {
    pub(super) tensors: Vec<StoredTensor>,
    /// What a person should know about how they were found.
    pub(super) notes: Vec<String>,
}

/// Lays the tensors of a store out in the order of `layout`.
///
/// A parameter is looked for under the name that `rename` gives it, then with one of the optional prefixes taken off or put on. Every
/// tensor of the store must be used, except the buffers and tied heads of `options`; heads are compared with the embedding. What training
/// tools put into all names is taken off where the network's names remain. All values are read once, to check that they are finite and to
/// compute [`Center::hash`] and [`Center::sum_of_squares`].
///
/// # Errors
/// When tensors are missing, left over or of another shape, when a value is NaN or infinite, or when a head that should be tied differs
/// from the embedding. The message names the first tensors and counts the others.
pub fn bind(
    store: &TensorStore,
    layout: &ParameterLayout,
    rename: &dyn Fn(&str) -> String,
    options: &BindOptions,
) -> Result<Center, WeightsError> {
    Center::new(layout.clone(), lay_out(store, layout, rename, options)?)
}

/// The tensors of a store in the order of `layout`, as [`bind`] finds and checks them.
pub(super) fn lay_out(
    store: &TensorStore,
    layout: &ParameterLayout,
    rename: &dyn Fn(&str) -> String,
    options: &BindOptions,
) -> Result<Bound, WeightsError> {
    let mut best: Option<((bool, usize), Option<TensorStore>, String)> = None;
    for wrapper in store.wrappers() {
        let other = if wrapper.is_none() { None } else { store.unwrapped(&wrapper) };
        if !wrapper.is_none() && other.is_none() {
            continue;
        }
        let fit = fit(other.as_ref().unwrap_or(store), layout, rename, options);
        // Of ways that fit equally well, the one that changes least.
        if best.as_ref().is_none_or(|best| fit > best.0) {
            best = Some((fit, other, wrapper.to_string()));
        }
    }
    match best {
        Some((_, Some(unwrapped), what)) => {
            let tensors = tensors_of(&unwrapped, layout, rename, options)?;
            Ok(Bound { tensors, notes: vec![format!("{}: {what} is taken off the names of its tensors", store.path().display())] })
        }
        _ => Ok(Bound { tensors: tensors_of(store, layout, rename, options)?, notes: Vec::new() }),
    }
}

/// How well the names of a store are those of a layout: whether all of them are there as they are, and how many there are in any form.
fn fit(store: &TensorStore, layout: &ParameterLayout, rename: &dyn Fn(&str) -> String, options: &BindOptions) -> (bool, usize) {
    let wanted = || layout.parameters().iter().map(|parameter| (rename(&parameter.name), &parameter.name));
    let is_found = |(wanted, name): &(String, &String), prefixes: &[String]| {
        find(store, wanted, prefixes).is_some() || in_place_of(store, layout, name, options).is_some()
    };
    let exact = wanted().all(|pair| is_found(&pair, &[]));
    (exact, wanted().filter(|pair| is_found(pair, &options.prefixes)).count())
}

fn tensors_of(
    store: &TensorStore,
    layout: &ParameterLayout,
    rename: &dyn Fn(&str) -> String,
    options: &BindOptions,
) -> Result<Vec<StoredTensor>, WeightsError> {
    let path = || store.path().to_owned();
    let mut used = BTreeSet::new();
    let mut tensors = Vec::with_capacity(layout.parameters().len());
    let (mut missing, mut misshapen, mut first) = (Vec::new(), Vec::new(), String::new());
    for parameter in layout.parameters() {
        let wanted = rename(&parameter.name);
        let Some(name) = find(store, &wanted, &options.prefixes).or_else(|| in_place_of(store, layout, &parameter.name, options)) else {
            missing.push(wanted);
            continue;
        };
        let tensor = store.readable(&name)?;
        if tensor.shape != parameter.shape {
            if misshapen.is_empty() {
                first = format!("{:?} instead of {:?}", tensor.shape, parameter.shape);
            }
            misshapen.push(name.clone());
        }
        tensors.push(tensor.clone());
        used.insert(name);
    }
    if !missing.is_empty() {
        return Err(WeightsError::Missing { path: path(), tensors: missing });
    }
    if !misshapen.is_empty() {
        return Err(WeightsError::Shapes { path: path(), tensors: misshapen, first });
    }
    let mut extra = Vec::new();
    for name in store.names().filter(|name| !used.contains(*name)) {
        if any_ending(name, &options.buffers) {
            continue;
        }
        if options.is_head(name)
            && let Some(place) = layout.parameters().iter().position(|parameter| options.is_embedding(&parameter.name))
        {
            check_tied(store, name, &layout.parameters()[place].name, &tensors[place])?;
            continue;
        }
        extra.push(name.to_owned());
    }
    if !extra.is_empty() {
        return Err(WeightsError::Extra { path: path(), tensors: extra });
    }
    Ok(tensors)
}

/// The name in the store: as given, or with a prefix taken off or put on.
fn find(store: &TensorStore, wanted: &str, prefixes: &[String]) -> Option<String> {
    forms(wanted, prefixes).find(|name| store.get(name).is_some())
}

/// The forms of a name: as given, and with a prefix taken off or put on.
pub(super) fn forms(wanted: &str, prefixes: &[String]) -> impl Iterator<Item = String> {
    let taken = prefixes.iter().filter_map(move |prefix| wanted.strip_prefix(prefix.as_str()).map(str::to_owned));
    let put = prefixes.iter().map(move |prefix| format!("{prefix}{wanted}"));
    std::iter::once(wanted.to_owned()).chain(taken).chain(put)
}

/// The tensor that holds the values of one that is not stored under its name. Of two tied tensors some tools store the head instead of the
/// embedding, when the layout has no head of its own; and where the layout unties them, the one that is stored is both.
fn in_place_of(store: &TensorStore, layout: &ParameterLayout, parameter: &str, options: &BindOptions) -> Option<String> {
    if options.is_head(parameter) {
        // One version of transformers calls a head `embed_out`, another `lm_head`.
        let embedding = || store.names().find(|name| options.heads_from_embeddings && options.is_embedding(name));
        return store.names().find(|name| options.is_head(name)).or_else(embedding).map(str::to_owned);
    }
    if !options.is_embedding(parameter) || layout.parameters().iter().any(|other| options.is_head(&other.name)) {
        return None;
    }
    store.names().find(|name| options.is_head(name)).map(str::to_owned)
}

/// Refuses a head that is stored beside the embedding it should be tied to, but differs from it.
fn check_tied(store: &TensorStore, head: &str, embedding: &str, other: &StoredTensor) -> Result<(), WeightsError> {
    let tensor = store.readable(head)?;
    let fault = |problem: String| tensor.file.tensor_fault(head, problem);
    if tensor.shape != other.shape {
        return Err(fault(format!("has shape {:?}, but `{embedding}`, to which it should be tied, has {:?}", tensor.shape, other.shape)));
    }
    let (mut own, mut theirs) = (vec![0.0; BLOCK], vec![0.0; BLOCK]);
    for start in (0..tensor.len()).step_by(BLOCK) {
        let range = start..(start + BLOCK).min(tensor.len());
        let count = range.len();
        tensor.read(range.clone(), &mut own[..count]);
        other.read(range, &mut theirs[..count]);
        // What is NaN in both is refused later, for being NaN.
        if own[..count].iter().zip(&theirs[..count]).any(|(own, theirs)| own != theirs && !(own.is_nan() && theirs.is_nan())) {
            return Err(fault(format!("differs from `{embedding}`, although the configuration ties them")));
        }
    }
    Ok(())
}

impl Center {
    pub(super) fn new(layout: ParameterLayout, bound: Bound) -> Result<Self, WeightsError> {
        let Bound { tensors, notes } = bound;
        let mut center = Self { layout, tensors, sum_of_squares: 0.0, hash: String::new(), notes };
        let dimension = center.dimension();
        let mut hasher = Sha256::new();
        let mut block = vec![0.0f32; BLOCK.min(dimension)];
        let mut bytes = Vec::with_capacity(4 * block.len());
        for start in (0..dimension).step_by(BLOCK) {
            let range = start..(start + BLOCK).min(dimension);
            let values = &mut block[..range.len()];
            center.fill(range, values);
            // The sum of a block with a NaN or infinity is not finite either; finite values can only overflow an f32, not this f64.
            let square = direction::dot(values, values);
            if !square.is_finite() {
                return Err(center.not_finite(start, values));
            }
            center.sum_of_squares += square;
            bytes.clear();
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            hasher.update(&bytes);
        }
        center.hash = basin_volume_data::hexadecimal(&hasher.finalize());
        Ok(center)
    }

    fn not_finite(&self, start: usize, values: &[f32]) -> WeightsError {
        let place = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
        let position = start + place;
        let parameters = self.layout.parameters();
        let index = parameters.partition_point(|parameter| parameter.range().end <= position);
        let parameter = &parameters[index];
        let problem = format!("is {} at element {}: every value must be finite", values[place], position - parameter.offset);
        self.tensors[index].file.tensor_fault(&parameter.name, problem)
    }

    /// What a person should know about how the tensors were found, in sentences without a full stop.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Names, shapes and order.
    #[must_use]
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// Number of weights, `D`.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.layout.dimension()
    }

    /// Writes the coordinates `range` of the center into `out`, converted from the mapped files. Any number of threads may do so at once.
    ///
    /// # Panics
    /// If `out` has another length than `range`, or the range goes past the dimension.
    pub fn fill(&self, range: Range<usize>, out: &mut [f32]) {
        assert_eq!(range.len(), out.len(), "the output must be as long as the range");
        assert!(range.end <= self.dimension(), "the range must lie inside the center");
        let parameters = self.layout.parameters();
        let mut index = parameters.partition_point(|parameter| parameter.range().end <= range.start);
        let mut position = range.start;
        while position < range.end {
            let place = parameters[index].range();
            let stop = place.end.min(range.end);
            self.tensors[index].read(position - place.start..stop - place.start, &mut out[position - range.start..stop - range.start]);
            position = stop;
            index += 1;
        }
    }

    /// The weights `range` where they stand in a mapped file, if they are plain `f32` of one tensor there.
    #[must_use]
    pub fn as_f32(&self, range: Range<usize>) -> Option<&[f32]> {
        let parameters = self.layout.parameters();
        let index = parameters.partition_point(|parameter| parameter.range().end <= range.start);
        let place = parameters.get(index)?.range();
        if range.end > place.end {
            return None;
        }
        Some(&self.tensors[index].as_f32()?[range.start - place.start..range.end - place.start])
    }

    /// `||c||^2`, accumulated in `f64` by blocks of [`BLOCK`] in order, as [`crate::parameters::Parameters::sum_of_squares`] does.
    #[must_use]
    pub fn sum_of_squares(&self) -> f64 {
        self.sum_of_squares
    }

    /// Root mean square of the weights: the default scale of the prior.
    #[must_use]
    pub fn rms(&self) -> f64 {
        (self.sum_of_squares / self.dimension() as f64).sqrt()
    }

    /// SHA-256, in hexadecimal, of the weights as little-endian `f32` in the layout's order, whatever the format of the files.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// How the weights are stored: the distinct element types, in the order they occur.
    #[must_use]
    pub fn elements(&self) -> Vec<Element> {
        let mut elements = Vec::new();
        for tensor in &self.tensors {
            if !elements.contains(&tensor.element) {
                elements.push(tensor.element);
            }
        }
        elements
    }

    /// The element type that a tensor is stored in, if its elements are those of the file as they stand.
    pub(crate) fn plain_element(&self, tensor: usize) -> Option<Element> {
        self.tensors.get(tensor).filter(|tensor| tensor.shift == 0.0).map(|tensor| tensor.element)
    }

    /// Bytes that the weights take in the files.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes.len() as u64).sum()
    }

    /// The files that the weights are read from, in the order they occur.
    #[must_use]
    pub fn files(&self) -> Vec<&std::path::Path> {
        let mut files: Vec<&Arc<MappedFile>> = Vec::new();
        for tensor in &self.tensors {
            if !files.iter().any(|file| Arc::ptr_eq(file, &tensor.file)) {
                files.push(&tensor.file);
            }
        }
        files.into_iter().map(|file| file.path.as_path()).collect()
    }
}
