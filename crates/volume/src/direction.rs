//! Random directions as pure functions of (seed, index), in fixed blocks, with norms and inner products in `f64`.
//!
//! Every coordinate is a pure function of seed, index and its place ([`crate::random`]), so any
//! worker can produce any part of any direction, in any order, and the bits are the same. Sums run
//! over the elements of a block in a fixed order and then over the blocks in order, so they do not
//! depend on threads either.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use crate::center::Center;
use crate::preconditioner::Preconditioner;
use crate::random::{Lanes, NormalVector, Operations, Purpose, Task};

/// Number of coordinates that one task works on, and that sums run over before the sums of blocks
/// are added.
pub const BLOCK: usize = 1 << 16;

/// Indices of the pilot directions, which calibrate the search and are never samples.
pub const PILOT_INDICES: [u64; 3] = [u64::MAX, u64::MAX - 1, u64::MAX - 2];

/// The numbers `n = z + q` that a map is applied to: standard normals, moved by a shift if there is one.
#[derive(Debug, Clone)]
struct ShiftedNormals {
    normals: NormalVector,
    shift: Option<Arc<[f32]>>,
}

impl ShiftedNormals {
    fn fill(&self, range: Range<usize>, out: &mut [f32]) {
        self.normals.fill(range.clone(), out);
        if let Some(shift) = &self.shift {
            out.iter_mut().zip(&shift[range]).for_each(|(n, q)| *n += q);
        }
    }
}

/// `sum x_i y_i` in `f64`, in a fixed order (16 running sums, then those in order).
///
/// # Panics
/// If the lengths differ.
#[must_use]
pub fn dot(x: &[f32], y: &[f32]) -> f64 {
    assert_eq!(x.len(), y.len(), "inner product of vectors of different length");
    Lanes::widest().run(Dot(x, y))
}

/// The plain loops of [`dot`], compiled for each kind of vector instructions: the order of the sums
/// is the same for all.
struct Dot<'a>(&'a [f32], &'a [f32]);

impl Task for Dot<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<L: Operations>(self, _: L) -> f64 {
        const SUMS: usize = 16;
        let mut sums = [0.0f64; SUMS];
        let (x_chunks, x_rest) = self.0.as_chunks::<SUMS>();
        let (y_chunks, y_rest) = self.1.as_chunks::<SUMS>();
        for (a, b) in x_chunks.iter().zip(y_chunks) {
            for lane in 0..SUMS {
                sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
            }
        }
        let mut rest = 0.0f64;
        for (&a, &b) in x_rest.iter().zip(y_rest) {
            rest += f64::from(a) * f64::from(b);
        }
        sums.iter().sum::<f64>() + rest
    }
}

/// The family of directions of one run: `v_i = P u_i` with `u_i = n_i / ||n_i||`, `n_i = z_i + q` and `z_i` standard normal.
///
/// Without a shift `q` the `u_i` are uniform on the unit sphere. With one they are the directions of the Gaussian `N(q, I)`, so that `v_i` is
/// the direction of a draw of `N(s P q, s^2 P P')`, whatever `s`. The shift is added in `f32`: `n_i` is the vector as rounded, and everything
/// that is derived from it is derived from that.
#[derive(Debug, Clone)]
pub struct DirectionFamily {
    seed: u64,
    dimension: usize,
    preconditioner: Arc<dyn Preconditioner>,
    shift: Option<Arc<[f32]>>,
    buffers: Arc<Buffers>,
}

/// Coordinate buffers of directions that are gone, kept for the next ones: fresh pages of memory cost as much as filling them.
#[derive(Debug, Default)]
struct Buffers(Mutex<Vec<Vec<f32>>>);

impl Buffers {
    fn take(&self, length: usize) -> Vec<f32> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.pop().filter(|buffer| buffer.len() == length).unwrap_or_else(|| vec![0.0; length])
    }

    fn give_back(&self, buffer: Vec<f32>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Sums over all blocks of one direction, before the scale is applied.
#[derive(Debug, Clone, Copy, Default)]
struct BlockSums {
    normal_squared: f64,
    value_squared: f64,
    value_center: f64,
    normal_dual: f64,
}

impl DirectionFamily {
    /// Directions in `dimension` coordinates.
    #[must_use]
    pub fn new(seed: u64, dimension: usize, preconditioner: Arc<dyn Preconditioner>) -> Self {
        Self { seed, dimension, preconditioner, shift: None, buffers: Arc::default() }
    }

    /// The family whose normal vectors are moved by `shift` (`q`, length `D`).
    ///
    /// # Panics
    /// If the length is wrong.
    #[must_use]
    pub fn shifted(self, shift: Arc<[f32]>) -> Self {
        assert_eq!(shift.len(), self.dimension, "the shift must have one entry per coordinate");
        Self { shift: Some(shift), ..self }
    }

    /// The shift `q`, if there is one.
    #[must_use]
    pub fn shift(&self) -> Option<&[f32]> {
        self.shift.as_deref()
    }

    /// Number of coordinates, `D`.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The map `P`.
    #[must_use]
    pub fn preconditioner(&self) -> &dyn Preconditioner {
        &*self.preconditioner
    }

    /// Direction number `index` with its geometry relative to `center`.
    ///
    /// `dual` is an optional second vector (length `D`); its inner product with the unit vector `u` is reported as
    /// [`Direction::dual_dot`]. Of a shifted family that is the shift, if no other is given. `keep` stores the coordinates (4 bytes each); without it they are produced again at every use.
    /// Blocks are produced in parallel on rayon's current pool.
    #[must_use]
    pub fn direction(&self, index: u64, center: &dyn Center, dual: Option<&[f32]>, keep: bool) -> Direction {
        let normals =
            ShiftedNormals { normals: NormalVector::new(Purpose::Directions, self.seed, index, self.dimension), shift: self.shift.clone() };
        let dual = dual.or(self.shift.as_deref());
        let blocks = || (0..self.dimension).step_by(BLOCK).map(|start| start..(start + BLOCK).min(self.dimension));
        let elementwise = blocks().all(|block| self.preconditioner.support(block.clone()) == block);
        let keep = keep || !elementwise;
        let mut values = if keep { self.buffers.take(self.dimension) } else { Vec::new() };
        if !elementwise {
            fill_values(&*self.preconditioner, &normals, 0..self.dimension, &mut values);
        }
        let is_identity = self.preconditioner.is_identity();
        // One block: `out` receives (or holds) the coordinates of y, `scratch` first n, then the center.
        let measure = |scratch: &mut Vec<f32>, block: usize, out: &mut [f32]| -> BlockSums {
            let range = block * BLOCK..block * BLOCK + out.len();
            scratch.resize(out.len(), 0.0);
            let mut sums = BlockSums::default();
            let drawn = if is_identity { &mut *out } else { &mut scratch[..] };
            normals.fill(range.clone(), drawn);
            sums.normal_squared = dot(drawn, drawn);
            if let Some(dual) = dual {
                sums.normal_dual = dot(drawn, &dual[range.clone()]);
            }
            if elementwise && !is_identity {
                self.preconditioner.apply(range.clone(), scratch, out);
            }
            sums.value_squared = if is_identity { sums.normal_squared } else { dot(out, out) };
            center.center(range, scratch);
            sums.value_center = dot(out, scratch);
            sums
        };
        let sums: Vec<BlockSums> = if keep {
            let chunks = values.par_chunks_mut(BLOCK).enumerate();
            chunks.map_init(Vec::new, |scratch, (block, out)| measure(scratch, block, out)).collect()
        } else {
            let lengths: Vec<usize> = blocks().map(|block| block.len()).collect();
            let buffers = || (Vec::new(), vec![0.0f32; self.dimension.min(BLOCK)]);
            lengths
                .into_par_iter()
                .enumerate()
                .map_init(buffers, |(scratch, out), (block, length)| measure(scratch, block, &mut out[..length]))
                .collect()
        };
        let total = |part: fn(&BlockSums) -> f64| sums.iter().map(part).sum::<f64>();
        let normal_norm = total(|s| s.normal_squared).sqrt();
        let scale = self.preconditioner.scale() / normal_norm;
        Direction {
            identity: next_identity(),
            index,
            scale,
            norm: scale * total(|s| s.value_squared).sqrt(),
            center_dot: scale * total(|s| s.value_center),
            dual_dot: total(|s| s.normal_dual) / normal_norm,
            dimension: self.dimension,
            seed: (is_identity && self.shift.is_none()).then_some(self.seed),
            values: if keep {
                Values::Stored { values, buffers: Some(Arc::clone(&self.buffers)) }
            } else {
                Values::Regenerated { normals, preconditioner: Arc::clone(&self.preconditioner) }
            },
        }
    }
}

fn next_identity() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Drop for Direction {
    fn drop(&mut self) {
        if let Values::Stored { values, buffers: Some(buffers) } = &mut self.values {
            buffers.give_back(std::mem::take(values));
        }
    }
}

/// Coordinates `range` of `y = M n`.
fn fill_values(preconditioner: &dyn Preconditioner, normals: &ShiftedNormals, range: Range<usize>, out: &mut [f32]) {
    if preconditioner.is_identity() {
        return normals.fill(range, out);
    }
    let support = preconditioner.support(range.clone());
    let mut scratch = vec![0.0f32; support.len()];
    // Maps that mix coordinates ask for all normals at once: their blocks are drawn in parallel.
    let first = support.start.next_multiple_of(BLOCK).min(support.end);
    let (head, blocks) = scratch.split_at_mut(first - support.start);
    normals.fill(support.start..first, head);
    blocks.par_chunks_mut(BLOCK).enumerate().for_each(|(block, out)| {
        let start = first + block * BLOCK;
        normals.fill(start..start + out.len(), out);
    });
    preconditioner.apply(range, &scratch, out);
}

/// One direction `v = scale * y`: the coordinates `y` in `f32`, everything derived from them in `f64`.
///
/// The scale is kept apart so that neither the normalisation nor the step `t` is ever rounded to `f32`.
#[derive(Debug)]
pub struct Direction {
    identity: u64,
    index: u64,
    dimension: usize,
    /// That of the family, where the coordinates are its normals as they are.
    seed: Option<u64>,
    scale: f64,
    norm: f64,
    center_dot: f64,
    dual_dot: f64,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Stored { values: Vec<f32>, buffers: Option<Arc<Buffers>> },
    Regenerated { normals: ShiftedNormals, preconditioner: Arc<dyn Preconditioner> },
}

impl Direction {
    /// A direction given by its coordinates: `v = scale * values`. `center` are the center's coordinates.
    ///
    /// # Panics
    /// If the lengths differ.
    #[must_use]
    pub fn from_values(values: Vec<f32>, scale: f64, center: &[f32]) -> Self {
        assert_eq!(values.len(), center.len(), "the direction must be as long as the center");
        let blocks = |other: &[f32]| values.chunks(BLOCK).zip(other.chunks(BLOCK)).map(|(x, y)| dot(x, y)).sum::<f64>();
        Self {
            identity: next_identity(),
            seed: None,
            index: 0,
            dimension: values.len(),
            scale,
            norm: scale.abs() * blocks(&values).sqrt(),
            center_dot: scale * blocks(center),
            dual_dot: 0.0,
            values: Values::Stored { values, buffers: None },
        }
    }

    /// A number that no other direction of this process has: for objectives that keep a copy on a device.
    #[must_use]
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// Index of the direction in its family.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The seed with which the coordinates `y` are normals of [`Purpose::Directions`] and this [`Direction::index`], so that a device can make them
    /// itself; none where a map or a shift has changed them, or they were given.
    #[must_use]
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// Number of coordinates, `D`.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The factor between the coordinates of [`Direction::fill`] and `v`.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// `||v||`.
    #[must_use]
    pub fn norm(&self) -> f64 {
        self.norm
    }

    /// `v . c`.
    #[must_use]
    pub fn center_dot(&self) -> f64 {
        self.center_dot
    }

    /// `u . q` for the shift of the family, or the dual vector given to [`DirectionFamily::direction`]; zero without either.
    #[must_use]
    pub fn dual_dot(&self) -> f64 {
        self.dual_dot
    }

    /// The stored coordinates `y` (`v = scale * y`), if this direction keeps them.
    #[must_use]
    pub fn stored(&self) -> Option<&[f32]> {
        match &self.values {
            Values::Stored { values, .. } => Some(values),
            Values::Regenerated { .. } => None,
        }
    }

    /// Writes the coordinates `range` of `y` into `out`; `v = scale * y`.
    ///
    /// # Panics
    /// If `out` has another length than `range`, or the range leaves the vector.
    pub fn fill(&self, range: Range<usize>, out: &mut [f32]) {
        match &self.values {
            Values::Stored { values, .. } => out.copy_from_slice(&values[range]),
            Values::Regenerated { normals, preconditioner } => fill_values(&**preconditioner, normals, range, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preconditioner::{Diagonal, DiagonalMap, Identity};

    const D: usize = 3 * BLOCK + 1234;

    fn center() -> Vec<f32> {
        (0..D).map(|i| (i as f32 * 0.37).sin()).collect()
    }

    fn family(seed: u64) -> DirectionFamily {
        let curvature: Vec<f32> = (0..D).map(|i| 1e-4 + (i as f32 * 0.11).cos().abs()).collect();
        let diagonal = Diagonal::from_curvature(&curvature, DiagonalMap::default()).unwrap();
        DirectionFamily::new(seed, D, Arc::new(diagonal))
    }

    fn bits(direction: &Direction) -> Vec<u32> {
        let mut out = vec![0.0; D];
        direction.fill(0..D, &mut out);
        out.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn threads_order_and_storage_do_not_change_a_bit() {
        let (center, family) = (center(), family(5));
        let dual: Vec<f32> = (0..D).map(|i| (i % 7) as f32).collect();
        let run = |threads: usize, keep: bool| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| family.direction(11, &center, Some(&dual), keep))
        };
        let reference = run(1, true);
        for (threads, keep) in [(1, false), (2, true), (3, false)] {
            let other = run(threads, keep);
            assert_eq!(reference.norm().to_bits(), other.norm().to_bits());
            assert_eq!(reference.center_dot().to_bits(), other.center_dot().to_bits());
            assert_eq!(reference.dual_dot().to_bits(), other.dual_dot().to_bits());
            assert_eq!(reference.scale().to_bits(), other.scale().to_bits());
            assert_eq!(bits(&reference), bits(&other));
        }
        // Any range, in any order, with a shift as well.
        let shift: Arc<[f32]> = (0..D).map(|i| 0.3 * (i as f32 * 0.7).sin()).collect();
        let shifted = family.clone().shifted(Arc::clone(&shift));
        let (kept, again) = (shifted.direction(11, &center, None, true), shifted.direction(11, &center, None, false));
        assert_eq!(bits(&kept), bits(&again));
        assert_eq!((kept.norm().to_bits(), kept.dual_dot().to_bits()), (again.norm().to_bits(), again.dual_dot().to_bits()));
        assert_ne!(bits(&kept), bits(&reference));
        let regenerated = run(1, false);
        let whole = bits(&reference);
        for range in [0..1, D - 1..D, BLOCK - 3..BLOCK + 5, 100..2 * BLOCK + 1, 7..7] {
            let mut out = vec![0.0; range.len()];
            regenerated.fill(range.clone(), &mut out);
            assert_eq!(out.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), whole[range]);
        }
    }

    #[test]
    fn norms_agree_with_compensated_sums() {
        let (center, family) = (center(), family(5));
        let direction = family.direction(0, &center, None, true);
        let y = direction.stored().unwrap();
        let compensated = |term: &dyn Fn(usize) -> f64| {
            let (mut sum, mut lost) = (0.0f64, 0.0f64);
            for i in 0..D {
                let value = term(i) - lost;
                let next = sum + value;
                lost = (next - sum) - value;
                sum = next;
            }
            sum
        };
        let norm = direction.scale() * compensated(&|i| f64::from(y[i]).powi(2)).sqrt();
        assert!((direction.norm() / norm - 1.0).abs() < 1e-14);
        let dot = direction.scale() * compensated(&|i| f64::from(y[i]) * f64::from(center[i]));
        assert!((direction.center_dot() - dot).abs() < 1e-12 * norm * center.len() as f64);
        let explicit = Direction::from_values(y.to_vec(), direction.scale(), &center);
        assert!((explicit.norm() / direction.norm() - 1.0).abs() < 1e-14);
    }

    #[test]
    fn the_identity_gives_unit_vectors_of_independent_normals() {
        let center = center();
        let family = DirectionFamily::new(1, D, Arc::new(Identity));
        let first = family.direction(0, &center, None, true);
        let second = family.direction(1, &center, None, true);
        assert!((first.norm() - 1.0).abs() < 1e-14);
        // scale = 1 / ||z|| and ||z||^2 is chi-square: mean D, sd sqrt(2 D).
        let squared = first.scale().powi(-2);
        assert!((squared - D as f64).abs() < 5.0 * (2.0 * D as f64).sqrt());
        let overlap = dot(first.stored().unwrap(), second.stored().unwrap()) * first.scale() * second.scale();
        assert!(overlap.abs() < 5.0 / (D as f64).sqrt());
        assert_ne!(bits(&first), bits(&DirectionFamily::new(2, D, Arc::new(Identity)).direction(0, &center, None, true)));
    }

    #[test]
    fn a_shift_moves_the_normals_before_the_map() {
        let (center, family) = (center(), family(5));
        let shift: Arc<[f32]> = (0..D).map(|i| 0.3 * (i as f32 * 0.7).sin()).collect();
        let direction = family.clone().shifted(Arc::clone(&shift)).direction(4, &center, None, true);
        let mut n = vec![0.0f32; D];
        NormalVector::new(Purpose::Directions, 5, 4, D).fill(0..D, &mut n);
        n.iter_mut().zip(shift.iter()).for_each(|(n, q)| *n += q);
        let norm = n.chunks(BLOCK).map(|block| dot(block, block)).sum::<f64>().sqrt();
        let along = n.chunks(BLOCK).zip(shift.chunks(BLOCK)).map(|(n, q)| dot(n, q)).sum::<f64>() / norm;
        assert!((direction.dual_dot() / along - 1.0).abs() < 1e-12);
        assert!((direction.scale() * norm / family.preconditioner().scale() - 1.0).abs() < 1e-12);
        let mut mapped = vec![0.0f32; D];
        family.preconditioner().apply(0..D, &n, &mut mapped);
        assert_eq!(direction.stored().unwrap(), mapped);
    }
}
