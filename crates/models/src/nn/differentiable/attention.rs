//! Causal attention over sequences that lie one after the other, with rotary positions, windows, soft caps and grouped heads.

mod composed;
mod shape;

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use self::shape::Part;
pub(crate) use self::shape::{Angles, AttentionShape, Packing};
use super::{Way, elements, elements_of};
use crate::nn::attention::{self as kernel, Gradients, Head};

/// The attended values `[positions, heads * width]`. `sources` are queries `[positions, heads * width]`, keys and values
/// `[positions, key_value_heads * width]`, or the one tensor that packs them; `lengths` are those of the sequences.
pub(crate) fn attention(
    way: Way,
    shape: AttentionShape,
    packing: Packing,
    sources: &[Tensor],
    lengths: &Arc<[usize]>,
    angles: Option<&Arc<Angles>>,
) -> Result<Tensor> {
    match sources {
        [queries, keys, values] if packing == Packing::Separate && way == Way::Kernels => {
            let operation = Operation::new(shape, packing, lengths, angles);
            queries.contiguous()?.apply_op3(&keys.contiguous()?, &values.contiguous()?, operation)
        }
        [packed] if packing != Packing::Separate && way == Way::Kernels => {
            packed.contiguous()?.apply_op1(Operation::new(shape, packing, lengths, angles))
        }
        _ => composed::attention(shape, packing, sources, lengths, angles.map(Arc::as_ref)),
    }
}

struct Operation {
    shape: AttentionShape,
    packing: Packing,
    lengths: Arc<[usize]>,
    pairs: usize,
    /// `[positions, pairs]` each.
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

/// One sequence and one head of keys and values: what a task works on.
#[derive(Debug, Clone, Copy)]
struct Task {
    start: usize,
    length: usize,
    shared: usize,
}

impl Operation {
    fn new(shape: AttentionShape, packing: Packing, lengths: &Arc<[usize]>, angles: Option<&Arc<Angles>>) -> Self {
        let table = |function: fn(f64) -> f64| angles.map_or_else(Vec::new, |angles| angles.table(function).map(|x| x as f32).collect());
        let pairs = angles.map_or(0, |angles| angles.pairs);
        Self { shape, packing, lengths: Arc::clone(lengths), pairs, cosines: table(f64::cos), sines: table(f64::sin) }
    }

    fn tasks(&self) -> Vec<Task> {
        let mut start = 0;
        let mut tasks = Vec::new();
        for &length in self.lengths.iter() {
            tasks.extend((0..self.shape.key_value_heads).map(|shared| Task { start, length, shared }));
            start += length;
        }
        tasks
    }

    fn positions(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The features of one head at the positions of a sequence, `[length, width]`.
    fn gather(&self, source: &[f32], part: Part, head: usize, task: Task) -> Vec<f32> {
        let (stride, offset) = self.shape.place(self.packing, part, head);
        let width = self.shape.width;
        let mut values = Vec::with_capacity(task.length * width);
        for position in task.start..task.start + task.length {
            values.extend_from_slice(&source[position * stride + offset..][..width]);
        }
        if part != Part::Values {
            self.rotate(&mut values, task, 1.0);
        }
        values
    }

    /// Turns the pairs of `[length, width]` by their angles, or back for the direction -1.
    fn rotate(&self, values: &mut [f32], task: Task, direction: f32) {
        if self.pairs == 0 {
            return;
        }
        let pairs = self.pairs;
        for (row, position) in values.chunks_exact_mut(self.shape.width).zip(task.start..) {
            let angles = position * pairs..(position + 1) * pairs;
            let (first, second) = row[..2 * pairs].split_at_mut(pairs);
            let turns = self.cosines[angles.clone()].iter().zip(&self.sines[angles]);
            for ((x, y), (&cosine, &sine)) in first.iter_mut().zip(second).zip(turns) {
                let sine = direction * sine;
                (*x, *y) = (*x * cosine - *y * sine, *y * cosine + *x * sine);
            }
        }
    }

    fn head(&self, sources: [&[f32]; 3], task: Task) -> Head {
        let group = self.shape.group();
        Head {
            queries: (0..group).map(|i| self.gather(sources[0], Part::Queries, task.shared * group + i, task)).collect(),
            keys: self.gather(sources[1], Part::Keys, task.shared, task),
            values: self.gather(sources[2], Part::Values, task.shared, task),
        }
    }

    fn check(&self, sources: [&[f32]; 3]) -> Result<()> {
        let parts = [Part::Queries, Part::Keys, Part::Values];
        for (source, part) in sources.into_iter().zip(parts) {
            let (stride, _) = self.shape.place(self.packing, part, 0);
            if source.len() != self.positions() * stride {
                candle_core::bail!("attention over {} positions needs {stride} features at each", self.positions());
            }
        }
        Ok(())
    }

    fn forward(&self, sources: [&[f32]; 3]) -> Result<(CpuStorage, Shape)> {
        self.check(sources)?;
        let (tasks, width, group) = (self.tasks(), self.shape.width, self.shape.group());
        let attended: Vec<Vec<Vec<f32>>> =
            tasks.par_iter().map(|&task| kernel::forward(&self.shape, &self.head(sources, task), task.length)).collect();
        let features = self.shape.heads * width;
        let mut values = vec![0.0f32; self.positions() * features];
        for (task, heads) in tasks.iter().zip(&attended) {
            for (index, head) in heads.iter().enumerate() {
                scatter(&mut values, (features, (task.shared * group + index) * width), task.start, width, head);
            }
        }
        Ok((CpuStorage::F32(values), (self.positions(), features).into()))
    }

    /// Gradients in the layout of the sources: three buffers, or one.
    fn backward(&self, sources: [&[f32]; 3], gradient: &Tensor) -> Result<Vec<Vec<f32>>> {
        let gradient = gradient.contiguous()?;
        let slopes = elements_of(&gradient)?;
        let (tasks, width, group) = (self.tasks(), self.shape.width, self.shape.group());
        let features = self.shape.heads * width;
        let results: Vec<Gradients> = tasks
            .par_iter()
            .map(|&task| {
                let outgoing: Vec<Vec<f32>> = (0..group)
                    .map(|index| {
                        let offset = (task.shared * group + index) * width;
                        let rows = task.start..task.start + task.length;
                        rows.flat_map(|position| &slopes[position * features + offset..][..width]).copied().collect()
                    })
                    .collect();
                let mut results = kernel::backward(&self.shape, &self.head(sources, task), &outgoing, task.length);
                results.queries.iter_mut().for_each(|queries| self.rotate(queries, task, -1.0));
                self.rotate(&mut results.keys, task, -1.0);
                results
            })
            .collect();
        let mut buffers: Vec<Vec<f32>> = match self.packing {
            Packing::Separate => sources.iter().map(|source| vec![0.0; source.len()]).collect(),
            Packing::Stacked | Packing::Interleaved => vec![vec![0.0; sources[0].len()]],
        };
        let last = buffers.len() - 1;
        for (task, result) in tasks.iter().zip(&results) {
            for (index, queries) in result.queries.iter().enumerate() {
                let place = self.shape.place(self.packing, Part::Queries, task.shared * group + index);
                scatter(&mut buffers[0], place, task.start, width, queries);
            }
            let keys = self.shape.place(self.packing, Part::Keys, task.shared);
            scatter(&mut buffers[1.min(last)], keys, task.start, width, &result.keys);
            let values = self.shape.place(self.packing, Part::Values, task.shared);
            scatter(&mut buffers[last], values, task.start, width, &result.values);
        }
        Ok(buffers)
    }
}

/// Writes `[length, width]` to its features from the position `start` on.
fn scatter(target: &mut [f32], (stride, offset): (usize, usize), start: usize, width: usize, values: &[f32]) {
    for (row, position) in values.chunks_exact(width).zip(start..) {
        target[position * stride + offset..][..width].copy_from_slice(row);
    }
}

impl CustomOp1 for Operation {
    fn name(&self) -> &'static str {
        "packed_attention"
    }

    fn cpu_fwd(&self, packed: &CpuStorage, shape: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward([elements(packed, shape)?; 3])
    }

    fn bwd(&self, packed: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let source = elements_of(packed)?;
        let mut buffers = self.backward([&source; 3], gradient)?;
        Ok(Some(Tensor::from_vec(buffers.remove(0), packed.shape(), packed.device())?))
    }
}

impl CustomOp3 for Operation {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        queries: &CpuStorage,
        queries_shape: &Layout,
        keys: &CpuStorage,
        keys_shape: &Layout,
        values: &CpuStorage,
        values_shape: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward([elements(queries, queries_shape)?, elements(keys, keys_shape)?, elements(values, values_shape)?])
    }

    fn bwd(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let sources = (elements_of(queries)?, elements_of(keys)?, elements_of(values)?);
        let mut buffers = self.backward([&sources.0, &sources.1, &sources.2], gradient)?.into_iter();
        let mut next = |like: &Tensor| buffers.next().map(|values| Tensor::from_vec(values, like.shape(), like.device())).transpose();
        Ok((next(queries)?, next(keys)?, next(values)?))
    }
}
