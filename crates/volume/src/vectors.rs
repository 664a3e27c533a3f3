//! Vectors of length `D` where the cost is computed, and what chains do with them.
//!
//! Above about a hundred million weights whatever crosses the bus for every gradient costs more than the gradient: the states of chains, their
//! velocities and gradients live on the device that computes the cost. Estimators know them as [`Vector`]s and work on them by a [`Vectors`],
//! whose form for the computer's own memory is [`Slices`]. (The division of labour is that of nuts-rs' `Math`.)

use std::any::Any;

use rayon::prelude::*;

use crate::direction::{BLOCK, dot};
use crate::objective::ObjectiveError;
use crate::random::NormalVector;

/// Coordinates that one task works on; sums run over fixed chunks, so no bit depends on threads.
pub(crate) const CHUNK: usize = 1 << 14;

/// What stands for a vector on a device: a tensor of a library.
pub type Foreign = dyn Any + Send + Sync;

/// A vector of length `D` in `f32`, in the computer's memory or on a device.
pub enum Vector {
    /// In the computer's memory.
    Slice(Vec<f32>),
    /// Wherever the [`Vectors`] that made it keeps it.
    Foreign(Box<Foreign>),
}

impl std::fmt::Debug for Vector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Slice(values) => f.debug_struct("Slice").field("length", &values.len()).finish(),
            Self::Foreign(_) => f.write_str("Foreign"),
        }
    }
}

/// A [`Vector`] to read.
#[derive(Clone, Copy)]
pub enum View<'a> {
    /// In the computer's memory.
    Slice(&'a [f32]),
    /// Elsewhere.
    Foreign(&'a Foreign),
}

impl Vector {
    /// The vector, to read.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        match self {
            Self::Slice(values) => View::Slice(values),
            Self::Foreign(foreign) => View::Foreign(&**foreign),
        }
    }

    /// The coordinates of a vector in the computer's memory, to write.
    ///
    /// # Panics
    /// If it is elsewhere.
    #[must_use]
    pub fn slice_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Slice(values) => values,
            Self::Foreign(_) => panic!("{ELSEWHERE}"),
        }
    }

    /// What a device keeps for it, to write.
    ///
    /// # Panics
    /// If it is in the computer's memory, or of another type.
    #[must_use]
    pub fn foreign_mut<T: Any>(&mut self) -> &mut T {
        match self {
            Self::Foreign(foreign) => foreign.downcast_mut().expect("a vector of the same library"),
            Self::Slice(_) => panic!("{HERE}"),
        }
    }
}

impl<'a> View<'a> {
    /// The coordinates of a vector in the computer's memory.
    ///
    /// # Panics
    /// If it is elsewhere.
    #[must_use]
    pub fn slice(self) -> &'a [f32] {
        match self {
            Self::Slice(values) => values,
            Self::Foreign(_) => panic!("{ELSEWHERE}"),
        }
    }

    /// What a device keeps for it.
    ///
    /// # Panics
    /// If it is in the computer's memory, or of another type.
    #[must_use]
    pub fn foreign<T: Any>(self) -> &'a T {
        match self {
            Self::Foreign(foreign) => foreign.downcast_ref().expect("a vector of the same library"),
            Self::Slice(_) => panic!("{HERE}"),
        }
    }

    /// Whether both are the same vector, not only equal ones.
    #[must_use]
    pub fn is(self, other: View<'_>) -> bool {
        match (self, other) {
            (Self::Slice(a), View::Slice(b)) => std::ptr::eq(a, b),
            (Self::Foreign(a), View::Foreign(b)) => std::ptr::addr_eq(a, b),
            _ => false,
        }
    }
}

const ELSEWHERE: &str = "a vector on a device has no slice: whoever makes such vectors computes costs and gradients of them too";
const HERE: &str = "a vector in the computer's memory is no tensor of a device";

/// `m c`: where the Gaussian part of a density has its mean.
#[derive(Clone, Copy)]
pub struct Shift<'a> {
    /// `c`, of length `D`.
    pub center: View<'a>,
    /// `m`.
    pub shrinkage: f64,
}

/// A turn in the plane of position and velocity.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Sine of the angle.
    pub sine: f64,
    /// Cosine of the angle.
    pub cosine: f64,
}

/// What chains do with vectors of length `D`, where the cost is computed. All factors are `f64`; inner products are sums in `f64` (a device may
/// sum fixed blocks in `f32` and those in `f64`), the same for equal arguments.
///
/// Operations fail where a device does (no memory left, device lost).
///
/// # Panics
/// Every operation, if a length is not `D`, or a vector is of another implementation.
pub trait Vectors: Sync {
    /// Whether vectors are [`Vector::Slice`]s.
    fn are_slices(&self) -> bool {
        false
    }

    /// A vector of zeros.
    ///
    /// # Errors
    /// As all operations.
    fn zeros(&self, dimension: usize) -> Result<Vector, ObjectiveError>;

    /// A vector of these coordinates.
    ///
    /// # Errors
    /// As all operations.
    fn vector_of(&self, values: Vec<f32>) -> Result<Vector, ObjectiveError>;

    /// Copies the coordinates into the computer's memory.
    ///
    /// # Errors
    /// As all operations.
    fn read(&self, x: View<'_>, out: &mut [f32]) -> Result<(), ObjectiveError>;

    /// Writes a standard normal vector: the bits that [`NormalVector::fill`] gives.
    ///
    /// # Errors
    /// As all operations.
    fn fill_normal(&self, normal: NormalVector, out: &mut Vector) -> Result<(), ObjectiveError>;

    /// `out = 0`.
    ///
    /// # Errors
    /// As all operations.
    fn clear(&self, out: &mut Vector) -> Result<(), ObjectiveError>;

    /// `out = factor (x - m c)`.
    ///
    /// # Errors
    /// As all operations.
    fn offset(&self, out: &mut Vector, x: View<'_>, shift: Shift<'_>, factor: f64) -> Result<(), ObjectiveError>;

    /// `x = m c + factor x`.
    ///
    /// # Errors
    /// As all operations.
    fn place(&self, x: &mut Vector, shift: Shift<'_>, factor: f64) -> Result<(), ObjectiveError>;

    /// `y += factor x`.
    ///
    /// # Errors
    /// As all operations.
    fn add(&self, y: &mut Vector, factor: f64, x: View<'_>) -> Result<(), ObjectiveError>;

    /// `x_i *= factors_i`.
    ///
    /// # Errors
    /// As all operations.
    fn multiply(&self, x: &mut Vector, factors: View<'_>) -> Result<(), ObjectiveError>;

    /// `(z, v) = (z cos + v sin, v cos - z sin)`. In `f64`: cosine and sine rounded to `f32` would let the norm drift.
    ///
    /// # Errors
    /// As all operations.
    fn turn(&self, z: &mut Vector, v: &mut Vector, turn: Turn) -> Result<(), ObjectiveError>;

    /// `sum x_i y_i`.
    ///
    /// # Errors
    /// As all operations.
    fn inner(&self, x: View<'_>, y: View<'_>) -> Result<f64, ObjectiveError>;

    /// `|x - m c|^2`, which must not cancel where `x` is close to `m c`.
    ///
    /// # Errors
    /// As all operations.
    fn distance_squared(&self, x: View<'_>, shift: Shift<'_>) -> Result<f64, ObjectiveError>;

    /// Turns `z` and `v` as [`Vectors::turn`] does, then `w = m c + factor z`.
    ///
    /// # Errors
    /// As all operations.
    fn turn_and_place(
        &self,
        z: &mut Vector,
        v: &mut Vector,
        turn: Turn,
        w: &mut Vector,
        shift: Shift<'_>,
        factor: f64,
    ) -> Result<(), ObjectiveError> {
        self.turn(z, v, turn)?;
        self.offset(w, z.view(), Shift { shrinkage: 0.0, ..shift }, 1.0)?;
        self.place(w, shift, factor)
    }

    /// `v -= factor g`, which may be computed in `f32`.
    ///
    /// # Errors
    /// As all operations.
    fn kick(&self, v: &mut Vector, factor: f64, g: View<'_>) -> Result<(), ObjectiveError> {
        self.add(v, -factor, g)
    }

    /// `v -= time (factor force - z)`.
    ///
    /// # Errors
    /// As all operations.
    fn kick_against(&self, v: &mut Vector, time: f64, factor: f64, force: View<'_>, z: View<'_>) -> Result<(), ObjectiveError> {
        self.add(v, -time * factor, force)?;
        self.add(v, time, z)
    }

    /// `out = c + share (w - c)`.
    ///
    /// # Errors
    /// As all operations.
    fn between(&self, out: &mut Vector, c: View<'_>, share: f64, w: View<'_>) -> Result<(), ObjectiveError> {
        self.offset(out, w, Shift { center: c, shrinkage: 1.0 }, share)?;
        self.add(out, 1.0, c)
    }
}

/// Vectors in the computer's memory, in fixed chunks on rayon's current pool.
#[derive(Debug, Clone, Copy, Default)]
pub struct Slices;

impl Vectors for Slices {
    fn are_slices(&self) -> bool {
        true
    }

    fn zeros(&self, dimension: usize) -> Result<Vector, ObjectiveError> {
        Ok(Vector::Slice(vec![0.0; dimension]))
    }

    fn vector_of(&self, values: Vec<f32>) -> Result<Vector, ObjectiveError> {
        Ok(Vector::Slice(values))
    }

    fn read(&self, x: View<'_>, out: &mut [f32]) -> Result<(), ObjectiveError> {
        out.copy_from_slice(x.slice());
        Ok(())
    }

    fn fill_normal(&self, normal: NormalVector, out: &mut Vector) -> Result<(), ObjectiveError> {
        let out = out.slice_mut();
        let length = out.len();
        out.par_chunks_mut(BLOCK).enumerate().for_each(|(block, out)| {
            let start = block * BLOCK;
            normal.fill(start..(start + BLOCK).min(length), out);
        });
        Ok(())
    }

    fn clear(&self, out: &mut Vector) -> Result<(), ObjectiveError> {
        out.slice_mut().fill(0.0);
        Ok(())
    }

    fn offset(&self, out: &mut Vector, x: View<'_>, shift: Shift<'_>, factor: f64) -> Result<(), ObjectiveError> {
        let m = shift.shrinkage;
        let from = x.slice().par_chunks(CHUNK).zip(shift.center.slice().par_chunks(CHUNK));
        out.slice_mut().par_chunks_mut(CHUNK).zip(from).for_each(|(out, (x, c))| {
            for ((out, &x), &c) in out.iter_mut().zip(x).zip(c) {
                *out = (factor * (f64::from(x) - m * f64::from(c))) as f32;
            }
        });
        Ok(())
    }

    fn place(&self, x: &mut Vector, shift: Shift<'_>, factor: f64) -> Result<(), ObjectiveError> {
        let m = shift.shrinkage;
        x.slice_mut().par_chunks_mut(CHUNK).zip(shift.center.slice().par_chunks(CHUNK)).for_each(|(x, c)| {
            x.iter_mut().zip(c).for_each(|(x, &c)| *x = (m * f64::from(c) + factor * f64::from(*x)) as f32);
        });
        Ok(())
    }

    fn add(&self, y: &mut Vector, factor: f64, x: View<'_>) -> Result<(), ObjectiveError> {
        y.slice_mut().par_chunks_mut(CHUNK).zip(x.slice().par_chunks(CHUNK)).for_each(|(y, x)| {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = (f64::from(*y) + factor * f64::from(x)) as f32);
        });
        Ok(())
    }

    fn multiply(&self, x: &mut Vector, factors: View<'_>) -> Result<(), ObjectiveError> {
        x.slice_mut().par_chunks_mut(CHUNK).zip(factors.slice().par_chunks(CHUNK)).for_each(|(x, factors)| {
            x.iter_mut().zip(factors).for_each(|(x, &factor)| *x *= factor);
        });
        Ok(())
    }

    fn turn(&self, z: &mut Vector, v: &mut Vector, turn: Turn) -> Result<(), ObjectiveError> {
        z.slice_mut().par_chunks_mut(CHUNK).zip(v.slice_mut().par_chunks_mut(CHUNK)).for_each(|(z, v)| {
            for (z, v) in z.iter_mut().zip(v) {
                turned(z, v, turn);
            }
        });
        Ok(())
    }

    fn inner(&self, x: View<'_>, y: View<'_>) -> Result<f64, ObjectiveError> {
        Ok(inner(x.slice(), y.slice()))
    }

    fn distance_squared(&self, x: View<'_>, shift: Shift<'_>) -> Result<f64, ObjectiveError> {
        let m = shift.shrinkage;
        let chunks = x.slice().par_chunks(CHUNK).zip(shift.center.slice().par_chunks(CHUNK));
        let sums: Vec<f64> =
            chunks.map(|(x, c)| x.iter().zip(c).map(|(&x, &c)| (f64::from(x) - m * f64::from(c)).powi(2)).sum::<f64>()).collect();
        Ok(sums.iter().sum())
    }

    /// One pass; `w` follows the turned position before it is rounded.
    fn turn_and_place(
        &self,
        z: &mut Vector,
        v: &mut Vector,
        turn: Turn,
        w: &mut Vector,
        shift: Shift<'_>,
        factor: f64,
    ) -> Result<(), ObjectiveError> {
        // Arrays of a fixed length: the compiler does several coordinates at once.
        const LANES: usize = 16;
        let m = shift.shrinkage;
        let follow = |w: &mut f32, c: f32, z: &mut f32, v: &mut f32| *w = (m * f64::from(c) + factor * turned(z, v, turn)) as f32;
        let pairs = z.slice_mut().par_chunks_mut(CHUNK).zip(v.slice_mut().par_chunks_mut(CHUNK));
        pairs.zip(w.slice_mut().par_chunks_mut(CHUNK)).zip(shift.center.slice().par_chunks(CHUNK)).for_each(|(((z, v), w), c)| {
            let ((z, z_rest), (v, v_rest)) = (z.as_chunks_mut::<LANES>(), v.as_chunks_mut::<LANES>());
            let ((w, w_rest), (c, c_rest)) = (w.as_chunks_mut::<LANES>(), c.as_chunks::<LANES>());
            for (((z, v), w), c) in z.iter_mut().zip(v).zip(w).zip(c) {
                for lane in 0..LANES {
                    follow(&mut w[lane], c[lane], &mut z[lane], &mut v[lane]);
                }
            }
            for (((z, v), w), &c) in z_rest.iter_mut().zip(v_rest).zip(w_rest).zip(c_rest) {
                follow(w, c, z, v);
            }
        });
        Ok(())
    }

    fn kick(&self, v: &mut Vector, factor: f64, g: View<'_>) -> Result<(), ObjectiveError> {
        let factor = factor as f32;
        v.slice_mut().par_chunks_mut(CHUNK).zip(g.slice().par_chunks(CHUNK)).for_each(|(v, g)| {
            v.iter_mut().zip(g).for_each(|(v, g)| *v -= factor * g);
        });
        Ok(())
    }

    fn kick_against(&self, v: &mut Vector, time: f64, factor: f64, force: View<'_>, z: View<'_>) -> Result<(), ObjectiveError> {
        let from = force.slice().par_chunks(CHUNK).zip(z.slice().par_chunks(CHUNK));
        v.slice_mut().par_chunks_mut(CHUNK).zip(from).for_each(|(v, (force, z))| {
            for ((v, &force), &z) in v.iter_mut().zip(force).zip(z) {
                *v = (f64::from(*v) - time * (factor * f64::from(force) - f64::from(z))) as f32;
            }
        });
        Ok(())
    }

    fn between(&self, out: &mut Vector, c: View<'_>, share: f64, w: View<'_>) -> Result<(), ObjectiveError> {
        let from = w.slice().par_chunks(CHUNK).zip(c.slice().par_chunks(CHUNK));
        out.slice_mut().par_chunks_mut(CHUNK).zip(from).for_each(|(out, (w, c))| {
            for ((out, &w), &c) in out.iter_mut().zip(w).zip(c) {
                let c = f64::from(c);
                *out = (c + share * (f64::from(w) - c)) as f32;
            }
        });
        Ok(())
    }
}

/// `sum x_i y_i`, in fixed chunks on rayon's current pool.
pub(crate) fn inner(x: &[f32], y: &[f32]) -> f64 {
    let sums: Vec<f64> = x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK)).map(|(x, y)| dot(x, y)).collect();
    sums.iter().sum()
}

/// Turns a coordinate of position and velocity, and returns that of the position before it is rounded.
#[inline(always)]
fn turned(z: &mut f32, v: &mut f32, turn: Turn) -> f64 {
    let (old, speed) = (f64::from(*z), f64::from(*v));
    let new = turn.cosine * old + turn.sine * speed;
    *v = (turn.cosine * speed - turn.sine * old) as f32;
    *z = new as f32;
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;
    use crate::testkit::Elsewhere;

    /// Vectors on a device do what slices do, but for the rounding of single operations.
    #[test]
    fn composed_operations_are_those_of_slices() {
        let dimension = 2 * CHUNK + 5;
        let values = |index: u64| {
            let mut out = vec![0.0f32; dimension];
            NormalVector::new(Purpose::Trials, 1, index, dimension).fill(0..dimension, &mut out);
            out
        };
        let (device, slices) = (Elsewhere, Slices);
        let all: [&dyn Vectors; 2] = [&slices, &device];
        let run = |vectors: &dyn Vectors| -> Vec<Vec<f32>> {
            let of = |index| vectors.vector_of(values(index)).unwrap();
            let read = |x: &Vector| {
                let mut out = vec![0.0; dimension];
                vectors.read(x.view(), &mut out).unwrap();
                out
            };
            let (c, g) = (of(1), of(2));
            let shift = Shift { center: c.view(), shrinkage: 0.75 };
            let (mut z, mut v, mut w) = (of(3), vectors.zeros(dimension).unwrap(), vectors.zeros(dimension).unwrap());
            vectors.fill_normal(NormalVector::new(Purpose::Momenta, 7, 3, dimension), &mut v).unwrap();
            let mut found = vec![read(&v)];
            let (sine, cosine) = 0.3f64.sin_cos();
            vectors.turn_and_place(&mut z, &mut v, Turn { sine, cosine }, &mut w, shift, 0.2).unwrap();
            found.extend([read(&z), read(&v), read(&w)]);
            vectors.kick(&mut v, 0.4, g.view()).unwrap();
            found.push(read(&v));
            vectors.kick_against(&mut v, 0.1, 2.5, g.view(), z.view()).unwrap();
            found.push(read(&v));
            vectors.multiply(&mut v, c.view()).unwrap();
            vectors.between(&mut w, c.view(), 0.25, g.view()).unwrap();
            found.extend([read(&v), read(&w)]);
            let sums = [vectors.inner(v.view(), g.view()).unwrap(), vectors.distance_squared(g.view(), shift).unwrap()];
            found.push(sums.map(|sum| sum as f32).to_vec());
            vectors.clear(&mut w).unwrap();
            found.push(read(&w));
            found
        };
        let [here, there] = all.map(run);
        assert_eq!(here.len(), there.len());
        assert_eq!(here[0], there[0], "normals have the same bits");
        for (operation, (here, there)) in here.iter().zip(&there).enumerate() {
            let difference = here.iter().zip(there).map(|(a, b)| (a - b).abs() / (1.0 + a.abs())).fold(0.0f32, f32::max);
            assert!(difference < 1e-6, "operation {operation}: {difference}");
        }
    }

    #[test]
    #[should_panic(expected = "a vector on a device has no slice")]
    fn a_vector_on_a_device_has_no_slice() {
        let _ = Elsewhere.zeros(3).unwrap().view().slice();
    }

    #[test]
    fn a_view_is_only_the_same_as_itself() {
        let (a, b) = (Elsewhere.zeros(3).unwrap(), Elsewhere.zeros(3).unwrap());
        let (c, d) = (Slices.zeros(3).unwrap(), Slices.zeros(3).unwrap());
        assert!(a.view().is(a.view()) && c.view().is(c.view()));
        assert!(!a.view().is(b.view()) && !c.view().is(d.view()) && !a.view().is(c.view()));
    }
}
