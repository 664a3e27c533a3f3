//! `W + scale B A`, and whole tensors in the place of the base's.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::AdapterError;
use super::parts::{Parts, Product};
use super::settings::Settings;
use crate::arch::{Architecture, Network};
use crate::memory::free_memory;
use crate::parameters::Parameter;
use crate::products::product;
use crate::weights::bind::{BindOptions, forms};
use crate::weights::stored::{MappedFile, StoredTensor};
use crate::weights::{Element, printable};

/// Rows that are computed at a time.
const ROWS: usize = 64;

/// What is added to one tensor: `scale * left right`, with `left` `[rows, rank]` and `right` `[rank, columns]`.
struct Delta {
    left: Vec<f32>,
    right: Vec<f32>,
    rank: usize,
    columns: usize,
    scale: f32,
}

/// The tensors of a network's layout with an adapter merged into them; `path` is the adapter's file.
pub(super) fn merged(
    parts: &Parts,
    settings: &Settings,
    path: &Path,
    architecture: &dyn Architecture,
    options: &BindOptions,
    mut tensors: Vec<StoredTensor>,
) -> Result<Vec<StoredTensor>, AdapterError> {
    let mismatch = |problem: String| AdapterError::Mismatch { path: path.to_owned(), problem };
    let layout = architecture.layout();
    let places: BTreeMap<&str, usize> =
        layout.parameters().iter().enumerate().map(|(place, parameter)| (parameter.name.as_str(), place)).collect();
    let find = |name: &str| {
        let same = || forms(name, &options.prefixes).find_map(|name| places.get(name.as_str()).copied());
        // One version of transformers calls a head `embed_out`, another `lm_head`.
        let head = || places.iter().find(|(other, _)| options.is_head(name) && options.is_head(other)).map(|(_, place)| *place);
        let place = same().or_else(head);
        place.ok_or_else(|| mismatch(format!("the base has no tensor `{}`", printable(name))))
    };
    for (name, whole) in &parts.whole {
        let place = find(name)?;
        let parameter = &layout.parameters()[place];
        if whole.shape != parameter.shape {
            return Err(mismatch(format!(
                "its `{}` has shape {:?}, but the base {:?}: if tokens were added, resize the base in Python, merge the adapter there and save",
                printable(name),
                whole.shape,
                parameter.shape
            )));
        }
        readable(whole, name)?;
        tensors[place] = whole.clone();
    }
    let mut deltas = Vec::new();
    for (module, product) in &parts.products {
        let place = find(&format!("{module}.weight"))?;
        let parameter = &layout.parameters()[place];
        deltas.push((place, delta(module, product, settings, parameter, is_transposed(architecture, parameter)).map_err(mismatch)?));
    }
    let count: usize = deltas.iter().map(|(place, _)| layout.parameters()[*place].len()).sum();
    let (needed, free) = ((size_of::<f32>() * count) as u64, free_memory());
    if needed > free {
        return Err(AdapterError::Memory { path: path.to_owned(), needed, free });
    }
    let mut starts = Vec::new();
    let file = MappedFile::computed(path, count, |mut room| {
        let mut start = 0;
        for (place, delta) in &deltas {
            let (own, rest) = room.split_at_mut(layout.parameters()[*place].len());
            delta.add_to(&tensors[*place], own);
            starts.push(start);
            start += own.len();
            room = rest;
        }
    })?;
    for ((place, _), start) in deltas.iter().zip(starts) {
        let parameter = &layout.parameters()[*place];
        let bytes = size_of::<f32>() * start..size_of::<f32>() * (start + parameter.len());
        tensors[*place] = StoredTensor::dense(&Arc::clone(&file), parameter.shape.clone(), Element::F32, bytes);
    }
    Ok(tensors)
}

/// Refuses tensors of integers and other kinds that are only listed.
fn readable(tensor: &StoredTensor, name: &str) -> Result<(), AdapterError> {
    match tensor.element {
        Element::Other(kind) => {
            Err(tensor.file.tensor_fault(name, format!("has elements of type {kind}: expected F32, F16, BF16 or F64")).into())
        }
        _ => Ok(()),
    }
}

/// Whether the network stores the weight of a layer as `[inputs, outputs]`.
fn is_transposed(architecture: &dyn Architecture, parameter: &Parameter) -> bool {
    match architecture.network() {
        Network::Tokens(model) => model.decoder().transposed().any(|range| *range == parameter.range()),
        _ => false,
    }
}

/// The factors of a module's product, as they stand in the weight; or what does not fit.
fn delta(module: &str, factors: &Product, settings: &Settings, parameter: &Parameter, is_transposed: bool) -> Result<Delta, String> {
    let name = printable(module);
    let (Some(a), Some(b)) = (&factors.a, &factors.b) else {
        return Err(format!("`{name}` has only one of the two factors of its product"));
    };
    let (&[rank, inputs], &[outputs, other]) = (a.shape.as_slice(), b.shape.as_slice()) else {
        return Err(format!("the factors of `{name}` have shapes {:?} and {:?}: matrices are expected", b.shape, a.shape));
    };
    // An embedding's product is that of a layer from tokens to features, and its weight has a row for each token.
    let is_transposed = is_transposed || factors.is_embedding;
    let expected = if is_transposed { [inputs, outputs] } else { [outputs, inputs] };
    if rank != other || rank == 0 || parameter.shape != expected {
        return Err(format!(
            "the factors of `{name}` have shapes {:?} and {:?}, which is no change of a weight of shape {:?}",
            b.shape, a.shape, parameter.shape
        ));
    }
    for factor in [a, b] {
        readable(factor, module).map_err(|error| error.to_string())?;
    }
    let scale = settings.scale(module, rank)? as f32;
    let (a, b) = (read(a), read(b));
    let (left, right) = if is_transposed { (transposed(&a, rank), transposed(&b, outputs)) } else { (b, a) };
    Ok(Delta { left, right, rank, columns: expected[1], scale })
}

fn read(tensor: &StoredTensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.len()];
    tensor.read(0..values.len(), &mut values);
    values
}

/// The transpose of a matrix of so many rows.
fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len() / rows.max(1);
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

impl Delta {
    /// Writes the base's tensor, plus this, into `out`.
    fn add_to(&self, base: &StoredTensor, out: &mut [f32]) {
        let (columns, rank) = (self.columns, self.rank);
        out.par_chunks_mut((ROWS * columns).max(1)).enumerate().for_each(|(block, out)| {
            let rows = out.len() / columns;
            let start = block * ROWS;
            let mut change = vec![0.0; out.len()];
            product(&mut change, &self.left[start * rank..(start + rows) * rank], &self.right, rows, rank, columns);
            base.read(start * columns..start * columns + out.len(), out);
            for (value, change) in out.iter_mut().zip(&change) {
                // Scaled before it is added, as PEFT does it.
                *value += change * self.scale;
            }
        });
    }
}
