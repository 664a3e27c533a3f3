//! The saddle point of a quadratic cost under the Gaussian prior.
//!
//! For the cost `1/2 (w-c)' H (w-c)` with eigenvalues `l_i >= 0` of `H`, components `c_i` of the center in its eigenvectors, and the prior
//! `N(0, s^2 I)`,
//!
//! ```text
//! A(beta)   = ln E_prior exp(-beta C) = -1/2 sum ln(1 + beta s^2 l_i) - 1/2 sum beta l_i c_i^2 / (1 + beta s^2 l_i)
//! -A'(beta) = E_beta[C]   = 1/2 sum s^2 l_i / (1 + beta s^2 l_i)  +  1/2 sum l_i c_i^2 / (1 + beta s^2 l_i)^2
//! A''(beta) = Var_beta[C] = 1/2 sum (s^2 l_i)^2 / (1 + beta s^2 l_i)^2  +  sum s^2 l_i^2 c_i^2 / (1 + beta s^2 l_i)^3
//! ```
//!
//! (a non-central Gaussian integral per eigenvector; `_beta` is the prior tilted by `exp(-beta C)`). The mean cost falls from its value
//! under the prior to zero; the saddle point is the beta at which it is the cutoff.

use rayon::prelude::*;

/// Eigenvalues with the same curvature: a `multiplicity` of them, and the sum of the squares of the center's components there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mode {
    /// How many; need not be whole (a spectral density has weights).
    pub multiplicity: f64,
    /// The eigenvalue `l >= 0`, in nats per squared unit of weight.
    pub curvature: f64,
    /// Sum of `c_i^2` over them; 0 for a cost around the mode of the prior.
    pub center_squared: f64,
}

impl Mode {
    /// One eigenvalue.
    #[must_use]
    pub fn single(curvature: impl Into<f64>, center: impl Into<f64>) -> Self {
        Self { multiplicity: 1.0, curvature: curvature.into(), center_squared: center.into().powi(2) }
    }
}

/// Why there is no saddle point.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SaddlePointError {
    /// A setting is out of range.
    #[error("`{name}` is {value}: expected a finite number > 0")]
    Setting {
        /// `cutoff` or `sigma`.
        name: &'static str,
        /// The given value.
        value: f64,
    },
    /// A mode with a number that none has.
    #[error("mode {index} of the spectrum has {name} {value}: expected a finite number >= 0")]
    Mode {
        /// Its position.
        index: usize,
        /// `multiplicity`, `curvature` or `center squared`.
        name: &'static str,
        /// The value.
        value: f64,
    },
}

/// The tilted prior at one beta.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tilted {
    /// Inverse temperature, per nat.
    pub beta: f64,
    /// `A(beta)`, nats.
    pub log_laplace: f64,
    /// `E_beta[C]`, nats.
    pub mean_cost: f64,
    /// `Var_beta[C]`, squared nats.
    pub cost_variance: f64,
}

/// A quadratic cost by its spectrum, under the prior `N(0, sigma^2 I)`. The modes come from a function of their number, so that none
/// of a hundred million needs to be stored; sums run over fixed blocks in parallel, and do not depend on the number of threads.
#[derive(Debug, Clone)]
pub struct QuadraticCost<F> {
    count: usize,
    mode: F,
    sigma: f64,
}

/// Modes that are summed by one task.
const BLOCK: usize = 1 << 14;
/// Relative error of beta that is accepted; the curve is smooth, and Newton's last step squares the error.
const TOLERANCE: f64 = 1e-12;

impl<F: Fn(usize) -> Mode + Sync> QuadraticCost<F> {
    /// The modes `0..count`.
    ///
    /// # Errors
    /// If sigma is not a finite number above zero, or a mode has a number that is NaN, infinite or negative.
    pub fn new(count: usize, sigma: f64, mode: F) -> Result<Self, SaddlePointError> {
        if !(sigma > 0.0 && sigma.is_finite()) {
            return Err(SaddlePointError::Setting { name: "sigma", value: sigma });
        }
        let fault = |index: usize| {
            let Mode { multiplicity, curvature, center_squared } = mode(index);
            let named = [("multiplicity", multiplicity), ("curvature", curvature), ("center squared", center_squared)];
            named.into_iter().find(|(_, value)| !(*value >= 0.0 && value.is_finite())).map(|(name, value)| (index, name, value))
        };
        match (0..count).into_par_iter().find_map_first(fault) {
            Some((index, name, value)) => Err(SaddlePointError::Mode { index, name, value }),
            None => Ok(Self { count, mode, sigma }),
        }
    }

    /// Logarithm of the Laplace transform, mean and variance of the cost at `beta >= 0`.
    #[must_use]
    pub fn tilted(&self, beta: f64) -> Tilted {
        let variance = self.sigma * self.sigma;
        let starts: Vec<usize> = (0..self.count).step_by(BLOCK).collect();
        let sums: Vec<[f64; 3]> = starts
            .into_par_iter()
            .map(|start| {
                let mut sums = [0.0f64; 3];
                for index in start..(start + BLOCK).min(self.count) {
                    let Mode { multiplicity, curvature, center_squared } = (self.mode)(index);
                    let x = variance * curvature;
                    let shrink = 1.0 / beta.mul_add(x, 1.0);
                    let shift = curvature * center_squared * shrink;
                    sums[0] -= 0.5 * (multiplicity * (beta * x).ln_1p() + beta * shift);
                    sums[1] += 0.5 * (multiplicity * x * shrink + shift * shrink);
                    sums[2] += 0.5 * multiplicity * (x * shrink).powi(2) + x * shift * shrink * shrink;
                }
                sums
            })
            .collect();
        let total = |k: usize| sums.iter().map(|sum| sum[k]).sum::<f64>();
        Tilted { beta, log_laplace: total(0), mean_cost: total(1), cost_variance: total(2) }
    }

    /// The beta at which the mean cost is the cutoff; beta = 0 when the prior's own mean cost is not above it.
    ///
    /// Newton's method on `ln E_beta[C]` as a function of `ln beta`, whose slope lies between -2 and 0, inside a bracket that is halved
    /// when a step leaves it.
    ///
    /// # Errors
    /// If the cutoff is not a finite number above zero.
    pub fn saddle_point(&self, cutoff: f64) -> Result<Tilted, SaddlePointError> {
        if !(cutoff > 0.0 && cutoff.is_finite()) {
            return Err(SaddlePointError::Setting { name: "cutoff", value: cutoff });
        }
        let prior = self.tilted(0.0);
        if prior.mean_cost <= cutoff {
            return Ok(prior);
        }
        // x/(1 + beta x) <= 1/beta and x/(1 + beta x)^2 <= 1/(4 beta) bound the mean cost by a number over beta.
        let mut high = (self.ceiling() / cutoff).ln();
        // E_beta >= E_0 / (1 + beta x_max)^2: up to this beta the mean cost is not below the cutoff. Rounding may cross the two bounds, and
        // close to the prior the root minus one may vanish.
        let steepest = self.sigma * self.sigma * self.largest();
        let mut low = (((prior.mean_cost / cutoff).sqrt() - 1.0) / steepest).ln().min(high - 1e-6).max(-700.0);
        let mut position = 0.5 * (low + high);
        let mut tilted = self.tilted(position.exp());
        for _ in 0..200 {
            let excess = (tilted.mean_cost / cutoff).ln();
            if excess == 0.0 {
                break;
            }
            if excess > 0.0 {
                low = low.max(position);
            } else {
                high = high.min(position);
            }
            let slope = -tilted.beta * tilted.cost_variance / tilted.mean_cost;
            let newton = position - excess / slope;
            let next = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
            let step = (next - position).abs();
            position = next;
            tilted = self.tilted(position.exp());
            if step < TOLERANCE || high - low < TOLERANCE {
                break;
            }
        }
        Ok(tilted)
    }

    fn fold(&self, term: impl Fn(Mode) -> f64 + Sync, join: fn(f64, f64) -> f64) -> f64 {
        let starts: Vec<usize> = (0..self.count).step_by(BLOCK).collect();
        let block = |start: usize| (start..(start + BLOCK).min(self.count)).map(|i| term((self.mode)(i))).fold(0.0, join);
        starts.into_par_iter().map(block).collect::<Vec<f64>>().into_iter().fold(0.0, join)
    }

    fn ceiling(&self) -> f64 {
        let term = |mode: Mode| {
            if mode.curvature == 0.0 { 0.0 } else { 0.5 * mode.multiplicity + 0.125 * mode.center_squared / (self.sigma * self.sigma) }
        };
        self.fold(term, |a, b| a + b)
    }

    fn largest(&self) -> f64 {
        self.fold(|mode| mode.curvature, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A flat spectrum around the origin: n/2 x/(1 + beta x) = cutoff in closed form.
    #[test]
    fn a_flat_spectrum_has_a_closed_form() {
        for (n, l, sigma, cutoff) in [(10.0, 2.0, 0.3, 0.01), (1e8, 1e-9, 1.4, 1e-4), (3.0, 1e12, 1e-3, 1e-9), (5.0, 1.0, 1.0, 2.4999)] {
            let x: f64 = sigma * sigma * l;
            let cost = QuadraticCost::new(1, sigma, |_| Mode { multiplicity: n, curvature: l, center_squared: 0.0 }).unwrap();
            let expected = n / (2.0 * cutoff) - 1.0 / x;
            let found = cost.saddle_point(cutoff).unwrap();
            assert!((found.beta / expected - 1.0).abs() < 1e-9 * (1.0 + 1.0 / (expected * x)), "{found:?} {expected}");
            let log_laplace = -0.5 * n * (expected * x).ln_1p();
            assert!((found.log_laplace / log_laplace - 1.0).abs() < 1e-8);
        }
    }

    #[test]
    fn single_modes_and_multiplicities_agree_and_threads_do_not_change_a_bit() {
        let count = 3 * BLOCK + 17;
        let value = |i: usize| 10f32.powf(-((i % 13) as f32));
        let center = |i: usize| ((i % 13) as f32 - 5.0) * 0.1;
        let single = QuadraticCost::new(count, 0.7, |i| Mode::single(value(i), center(i))).unwrap();
        let many = QuadraticCost::new(13, 0.7, |i| {
            let copies = ((count - i).div_ceil(13)) as f64;
            let mode = Mode::single(value(i), center(i));
            Mode { multiplicity: copies, center_squared: copies * mode.center_squared, ..mode }
        })
        .unwrap();
        let solve = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| single.saddle_point(0.01).unwrap())
        };
        let found = solve(1);
        assert_eq!(found, solve(3));
        assert!((found.beta / many.saddle_point(0.01).unwrap().beta - 1.0).abs() < 1e-9);
        assert!((found.mean_cost / 0.01 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn wide_cutoffs_give_the_prior_and_bad_numbers_are_named() {
        let cost = QuadraticCost::new(2, 1.0, |_| Mode::single(1.0, 0.0)).unwrap();
        assert_eq!(cost.saddle_point(1.0).unwrap().beta, 0.0);
        assert_eq!(cost.saddle_point(5.0).unwrap().beta, 0.0);
        assert!(cost.saddle_point(1.0 - 1e-9).unwrap().beta > 0.0);
        let flat = QuadraticCost::new(2, 1.0, |_| Mode::single(0.0, 3.0)).unwrap();
        assert_eq!(flat.saddle_point(0.1).unwrap().beta, 0.0);
        assert_eq!(cost.saddle_point(0.0).unwrap_err(), SaddlePointError::Setting { name: "cutoff", value: 0.0 });
        let error = QuadraticCost::new(3, 1.0, |i| Mode::single(if i == 2 { -1.0 } else { 0.0 }, 0.0)).map(|_| ()).unwrap_err();
        assert_eq!(error, SaddlePointError::Mode { index: 2, name: "curvature", value: -1.0 });
        assert!(QuadraticCost::new(3, 0.0, |_| Mode::single(1.0, 0.0)).is_err());
    }

    proptest! {
        /// Against a dense grid of the definition, and derivatives against differences.
        #[test]
        fn the_solution_lies_between_its_neighbours_on_a_grid(
            spectrum in prop::collection::vec((-9.0f64..6.0, -3.0f64..3.0, 1u32..50), 1..30),
            sigma in 0.01f64..3.0,
            share in 1e-6f64..0.999,
        ) {
            let modes: Vec<Mode> = spectrum
                .iter()
                .map(|&(exponent, center, copies)| {
                    let multiplicity = f64::from(copies);
                    Mode { multiplicity, curvature: 10f64.powf(exponent), center_squared: multiplicity * center * center }
                })
                .collect();
            let mean = |beta: f64| -> f64 {
                modes
                    .iter()
                    .map(|m| {
                        let shrink = 1.0 + beta * sigma * sigma * m.curvature;
                        0.5 * (m.multiplicity * sigma * sigma * m.curvature / shrink + m.curvature * m.center_squared / (shrink * shrink))
                    })
                    .sum()
            };
            let cutoff = share * mean(0.0);
            let cost = QuadraticCost::new(modes.len(), sigma, |i| modes[i]).unwrap();
            let found = cost.saddle_point(cutoff).unwrap();
            prop_assert!((found.mean_cost / cutoff - 1.0).abs() < 1e-9, "{found:?}");
            // The grid's cell in which the mean cost crosses the cutoff holds the solution.
            let grid: Vec<f64> = (0..4000).map(|k| 10f64.powf(-20.0 + 0.015 * f64::from(k))).collect();
            let cell = grid.windows(2).find(|w| mean(w[0]) >= cutoff && mean(w[1]) < cutoff).unwrap();
            prop_assert!(found.beta >= cell[0] * (1.0 - 1e-9) && found.beta <= cell[1] * (1.0 + 1e-9));
            // A' = -mean, A'' = variance.
            let h = 1e-4 * found.beta;
            let (above, below) = (cost.tilted(found.beta + h), cost.tilted(found.beta - h));
            let slope = (above.log_laplace - below.log_laplace) / (2.0 * h);
            let noise = 1e-12 * (above.log_laplace.abs() + 1e-300) / h;
            prop_assert!((slope + found.mean_cost).abs() < 1e-6 * found.mean_cost + noise);
            let bend = (above.mean_cost - below.mean_cost) / (2.0 * h);
            prop_assert!((bend + found.cost_variance).abs() < 1e-6 * found.cost_variance + 1e-12 * found.mean_cost / h);
        }
    }
}
