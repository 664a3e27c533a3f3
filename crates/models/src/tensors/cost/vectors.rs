//! The vectors of chains as tensors: positions, velocities and gradients stay where the cost is computed.

use std::ops::Range;

use basin_volume::objective::ObjectiveError;
use basin_volume::random::NormalVector;
use basin_volume::vectors::{Shift, Turn, Vector, Vectors, View};
use candle_core::{DType, Device, Result, Tensor};

use super::normals;
use crate::cost::{CostError, PIECE};

/// Terms of an inner product that are summed on the device; the sums of these blocks are added in `f64`, in order.
const BLOCK: usize = 1 << 14;

/// [`Vector::Foreign`]s that are tensors `[D]`, `f32`, on one device. No two share their memory, so they are written in place, a piece at a
/// time; every number is computed in `f64` where the device has it, and rounded once.
#[derive(Debug)]
pub(super) struct TensorVectors {
    device: Device,
    precise: DType,
}

fn of(view: View<'_>) -> &Tensor {
    view.foreign()
}

/// Writes `[D]` piece by piece.
fn write(out: &Tensor, value: impl Fn(Range<usize>) -> Result<Tensor>) -> Result<()> {
    let length = out.elem_count();
    for start in (0..length).step_by(PIECE) {
        let range = start..(start + PIECE).min(length);
        out.slice_set(&value(range)?.to_dtype(DType::F32)?, 0, start)?;
    }
    Ok(())
}

fn told<T>(result: Result<T>) -> std::result::Result<T, ObjectiveError> {
    result.map_err(|error| ObjectiveError::new(CostError::from(error)))
}

impl TensorVectors {
    pub(super) fn new(device: &Device) -> Self {
        let precise = if device.is_metal() { DType::F32 } else { DType::F64 };
        Self { device: device.clone(), precise }
    }

    fn part(&self, x: &Tensor, range: &Range<usize>) -> Result<Tensor> {
        x.narrow(0, range.start, range.len())?.to_dtype(self.precise)
    }

    /// `x - m c` in a range.
    fn shifted(&self, x: &Tensor, shift: Shift<'_>, range: &Range<usize>) -> Result<Tensor> {
        self.part(x, range)? - (self.part(of(shift.center), range)? * shift.shrinkage)?
    }

    /// The sum of `[n]` numbers over all pieces of a vector.
    fn sum(&self, length: usize, value: impl Fn(&Range<usize>) -> Result<Tensor>) -> Result<f64> {
        let mut total = 0.0;
        for start in (0..length).step_by(PIECE) {
            let values = value(&(start..(start + PIECE).min(length)))?;
            let blocks = values.elem_count() / BLOCK;
            let mut sums = Vec::new();
            if blocks > 0 {
                sums.push(values.narrow(0, 0, blocks * BLOCK)?.reshape((blocks, BLOCK))?.sum(1)?);
            }
            let rest = values.elem_count() - blocks * BLOCK;
            if rest > 0 {
                sums.push(values.narrow(0, blocks * BLOCK, rest)?.sum_keepdim(0)?);
            }
            for sum in sums {
                total += sum.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?.iter().sum::<f64>();
            }
        }
        Ok(total)
    }
}

impl Vectors for TensorVectors {
    fn zeros(&self, dimension: usize) -> std::result::Result<Vector, ObjectiveError> {
        Ok(Vector::Foreign(Box::new(told(Tensor::zeros(dimension, DType::F32, &self.device))?)))
    }

    fn vector_of(&self, values: Vec<f32>) -> std::result::Result<Vector, ObjectiveError> {
        let length = values.len();
        Ok(Vector::Foreign(Box::new(told(Tensor::from_vec(values, length, &self.device))?)))
    }

    fn read(&self, x: View<'_>, out: &mut [f32]) -> std::result::Result<(), ObjectiveError> {
        out.copy_from_slice(&told(of(x).to_vec1::<f32>())?);
        Ok(())
    }

    fn fill_normal(&self, normal: NormalVector, out: &mut Vector) -> std::result::Result<(), ObjectiveError> {
        told(write(out.foreign_mut(), |range| normals::normals(normal, range, &self.device)))
    }

    fn clear(&self, out: &mut Vector) -> std::result::Result<(), ObjectiveError> {
        told(write(out.foreign_mut(), |range| Tensor::zeros(range.len(), DType::F32, &self.device)))
    }

    fn offset(&self, out: &mut Vector, x: View<'_>, shift: Shift<'_>, factor: f64) -> std::result::Result<(), ObjectiveError> {
        told(write(out.foreign_mut(), |range| self.shifted(of(x), shift, &range)? * factor))
    }

    fn place(&self, x: &mut Vector, shift: Shift<'_>, factor: f64) -> std::result::Result<(), ObjectiveError> {
        let x: &mut Tensor = x.foreign_mut();
        told(write(x, |range| (self.part(of(shift.center), &range)? * shift.shrinkage)? + (self.part(x, &range)? * factor)?))
    }

    fn add(&self, y: &mut Vector, factor: f64, x: View<'_>) -> std::result::Result<(), ObjectiveError> {
        let y: &mut Tensor = y.foreign_mut();
        told(write(y, |range| self.part(y, &range)? + (self.part(of(x), &range)? * factor)?))
    }

    fn multiply(&self, x: &mut Vector, factors: View<'_>) -> std::result::Result<(), ObjectiveError> {
        let x: &mut Tensor = x.foreign_mut();
        told(write(x, |range| self.part(x, &range)? * self.part(of(factors), &range)?))
    }

    fn turn(&self, z: &mut Vector, v: &mut Vector, turn: Turn) -> std::result::Result<(), ObjectiveError> {
        let (z, v): (&mut Tensor, &mut Tensor) = (z.foreign_mut(), v.foreign_mut());
        let both = |range: &Range<usize>| -> Result<[Tensor; 2]> {
            let (old, speed) = (self.part(z, range)?, self.part(v, range)?);
            let new = ((&old * turn.cosine)? + (&speed * turn.sine)?)?;
            Ok([new, ((speed * turn.cosine)? - (old * turn.sine)?)?])
        };
        let length = z.elem_count();
        let pieces = (0..length).step_by(PIECE).map(|start| start..(start + PIECE).min(length));
        for range in pieces {
            let [new, speed] = told(both(&range))?;
            for (vector, values) in [(&*z, new), (&*v, speed)] {
                told(values.to_dtype(DType::F32).and_then(|values| vector.slice_set(&values, 0, range.start)))?;
            }
        }
        Ok(())
    }

    fn inner(&self, x: View<'_>, y: View<'_>) -> std::result::Result<f64, ObjectiveError> {
        told(self.sum(of(x).elem_count(), |range| self.part(of(x), range)? * self.part(of(y), range)?))
    }

    fn distance_squared(&self, x: View<'_>, shift: Shift<'_>) -> std::result::Result<f64, ObjectiveError> {
        told(self.sum(of(x).elem_count(), |range| self.shifted(of(x), shift, range)?.sqr()))
    }
}

#[cfg(test)]
mod tests {
    use basin_volume::random::Purpose;
    use basin_volume::vectors::Slices;

    use super::*;

    /// More than a piece, and no multiple of a block.
    const D: usize = PIECE + BLOCK + 77;

    /// Every operation on three vectors of normals, its results and what came of the vectors.
    fn all(vectors: &dyn Vectors) -> (Vec<f64>, Vec<Vec<f32>>) {
        let normal = |index: u64| {
            let mut vector = vectors.zeros(D).unwrap();
            vectors.fill_normal(NormalVector::new(Purpose::Momenta, 3, index, D), &mut vector).unwrap();
            vector
        };
        let (mut x, mut y, c, mut out) = (normal(0), normal(1), normal(2), vectors.zeros(D).unwrap());
        let turn = Turn { sine: 0.6, cosine: 0.8 };
        let mut numbers = vec![vectors.inner(x.view(), y.view()).unwrap(), vectors.inner(x.view(), x.view()).unwrap()];
        let mut copies = Vec::new();
        let mut copy = |vector: &Vector| {
            let mut values = vec![0.0f32; D];
            vectors.read(vector.view(), &mut values).unwrap();
            copies.push(values);
        };
        let shift = |m: f64| Shift { center: c.view(), shrinkage: m };
        copy(&x);
        numbers.push(vectors.distance_squared(x.view(), shift(0.9)).unwrap());
        vectors.turn(&mut x, &mut y, turn).unwrap();
        copy(&x);
        vectors.offset(&mut out, x.view(), shift(0.3), 1.7).unwrap();
        copy(&out);
        vectors.place(&mut out, shift(0.4), 0.5).unwrap();
        vectors.add(&mut out, -0.25, y.view()).unwrap();
        copy(&out);
        vectors.multiply(&mut out, y.view()).unwrap();
        vectors.turn_and_place(&mut x, &mut y, turn, &mut out, shift(0.2), 1.1).unwrap();
        vectors.kick(&mut y, 0.3, out.view()).unwrap();
        vectors.kick_against(&mut y, 0.2, 0.7, x.view(), out.view()).unwrap();
        copy(&y);
        vectors.between(&mut out, c.view(), 0.3, x.view()).unwrap();
        copy(&out);
        let given = vectors.vector_of((0..D).map(|i| i as f32).collect()).unwrap();
        numbers.push(vectors.inner(given.view(), c.view()).unwrap());
        vectors.clear(&mut out).unwrap();
        copy(&out);
        (numbers, copies)
    }

    #[test]
    fn tensors_do_what_slices_do() {
        let ((numbers, vectors), (exact, slices)) = (all(&TensorVectors::new(&Device::Cpu)), all(&Slices));
        for (found, expected) in numbers.iter().zip(&exact) {
            assert!((found / expected - 1.0).abs() < 1e-10, "{numbers:?} not {exact:?}");
        }
        assert_eq!(vectors.len(), slices.len());
        for (number, (found, expected)) in vectors.iter().zip(&slices).enumerate() {
            // What is one operation has the same bits; some slices are written in one pass, and rounded once less.
            let worst = found.iter().zip(expected).map(|(x, y)| (x - y).abs()).fold(0.0f32, f32::max);
            assert!(worst < if number < 4 { 1e-30 } else { 3e-6 }, "vector {number}: {worst:e}");
        }
        assert!(vectors[6].iter().all(|&x| x == 0.0));
    }
}
