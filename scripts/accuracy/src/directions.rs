//! The normals that directions are made of, against those of the books: moments, tails, the
//! distribution function, and correlations between everything that a number is a function of.

use std::fmt::Write;

use basin_volume::random::{NormalVector, Purpose};
use rayon::prelude::*;
use serde::Serialize;
use statrs::function::erf::erfc;

use crate::output::{Output, progress};

/// What the study is made of.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Settings {
    /// Numbers, rounded up to whole vectors of 1,048,576
    #[arg(long, default_value_t = 1_000_000_000, value_name = "N")]
    numbers: u64,
    /// Seed of the vectors
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    seed: u64,
}

/// Coordinates of a vector.
const LENGTH: usize = 1 << 20;

/// Vectors whose sums are in memory at the same time.
const BATCH: u64 = 64;

/// Powers whose means are compared, up to this one.
const MOMENTS: usize = 6;

/// `E z^k` and `Var z^k` for `k` from 1.
const EXPECTED: [(f64, f64); MOMENTS] = [(0.0, 1.0), (1.0, 2.0), (0.0, 15.0), (3.0, 96.0), (0.0, 945.0), (15.0, 10_170.0)];

const TAILS: [f64; 10] = [1.0, 2.0, 3.0, 4.0, 4.5, 5.0, 5.5, 6.0, 6.25, 6.5];

/// Bins of the distribution function, between -8 and 8.
const BINS: usize = 1 << 14;

const LIMIT: f64 = 8.0;

/// Distances of coordinates whose products are compared; those up to 3 share a counter, or half of
/// one.
const LAGS: [usize; 8] = [1, 2, 3, 4, 5, 8, 64, 65_536];

/// What a vector is compared with, coordinate by coordinate.
const OTHERS: [&str; 3] = ["next index", "next seed", "another purpose"];

#[derive(Clone)]
struct Sums {
    powers: [f64; MOMENTS],
    beyond: [u64; TAILS.len()],
    bins: Vec<u64>,
    /// Sums of `x y` and of `(x^2 - 1)(y^2 - 1)`, and the number of their terms.
    products: [[f64; 2]; LAGS.len() + OTHERS.len()],
    terms: [u64; LAGS.len() + OTHERS.len()],
}

impl Sums {
    fn none() -> Self {
        let none = [0; LAGS.len() + OTHERS.len()];
        Self {
            powers: [0.0; MOMENTS],
            beyond: [0; TAILS.len()],
            bins: vec![0; BINS],
            products: none.map(|_| [0.0; 2]),
            terms: none.map(|_| 0),
        }
    }

    fn of(seed: u64, index: u64) -> Self {
        let draw = |purpose, seed, index| {
            let mut z = vec![0.0f32; LENGTH];
            NormalVector::new(purpose, seed, index, LENGTH).fill(0..LENGTH, &mut z);
            z
        };
        let z = draw(Purpose::Directions, seed, index);
        let others =
            [draw(Purpose::Directions, seed, index + 1), draw(Purpose::Directions, seed + 1, index), draw(Purpose::Momenta, seed, index)];
        let mut sums = Self::none();
        for &x in &z {
            let x = f64::from(x);
            let mut power = 1.0;
            for sum in &mut sums.powers {
                power *= x;
                *sum += power;
            }
            for (count, tail) in sums.beyond.iter_mut().zip(TAILS) {
                *count += u64::from(x.abs() > tail);
            }
            sums.bins[((x + LIMIT) * (BINS as f64 / (2.0 * LIMIT))) as usize] += 1;
        }
        let partners = LAGS.iter().map(|&lag| &z[lag..]).chain(others.iter().map(Vec::as_slice));
        for ((sums, terms), partner) in sums.products.iter_mut().zip(&mut sums.terms).zip(partners) {
            for (&x, &y) in z.iter().zip(partner) {
                let (x, y) = (f64::from(x), f64::from(y));
                sums[0] += x * y;
                sums[1] += (x * x - 1.0) * (y * y - 1.0);
            }
            *terms += partner.len() as u64;
        }
        sums
    }

    fn add(&mut self, other: &Self) {
        self.powers.iter_mut().zip(&other.powers).for_each(|(sum, more)| *sum += more);
        self.beyond.iter_mut().zip(&other.beyond).for_each(|(sum, more)| *sum += more);
        self.bins.iter_mut().zip(&other.bins).for_each(|(sum, more)| *sum += more);
        self.terms.iter_mut().zip(&other.terms).for_each(|(sum, more)| *sum += more);
        for (sums, more) in self.products.iter_mut().zip(&other.products) {
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
    }
}

/// One statistic.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    found: f64,
    expected: f64,
    /// Standard deviations between the two; for the distribution function its own statistic.
    deviations: f64,
}

/// `P(z > t)`.
fn upper_tail(t: f64) -> f64 {
    0.5 * erfc(t / std::f64::consts::SQRT_2)
}

fn rows(sums: &Sums, numbers: u64) -> Vec<Row> {
    let n = numbers as f64;
    let mut rows = Vec::new();
    for (k, (sum, (expected, variance))) in sums.powers.iter().zip(EXPECTED).enumerate() {
        let found = sum / n;
        rows.push(Row { what: format!("mean of z^{}", k + 1), found, expected, deviations: (found - expected) / (variance / n).sqrt() });
    }
    for (&count, tail) in sums.beyond.iter().zip(TAILS) {
        let (found, probability) = (count as f64, 2.0 * upper_tail(tail));
        let expected = n * probability;
        let deviations = (found - expected) / (expected * (1.0 - probability)).sqrt();
        rows.push(Row { what: format!("count of abs(z) > {tail}"), found, expected, deviations });
    }
    let edge = |bin: usize| -LIMIT + 2.0 * LIMIT * bin as f64 / BINS as f64;
    let (mut below, mut farthest, mut squares, mut cells) = (0u64, 0.0f64, 0.0, 0u32);
    for (bin, &count) in sums.bins.iter().enumerate() {
        // Differences of the smaller tail: those of the larger one would cancel.
        let (low, high) = (edge(bin), edge(bin + 1));
        let probability = if low >= 0.0 { upper_tail(low) - upper_tail(high) } else { upper_tail(-high) - upper_tail(-low) };
        below += count;
        farthest = farthest.max((below as f64 / n - upper_tail(-high)).abs());
        if n * probability >= 10.0 {
            squares += (count as f64 - n * probability).powi(2) / (n * probability);
            cells += 1;
        }
    }
    // Mean and standard deviation of Kolmogorov's distribution.
    let farthest = farthest * n.sqrt();
    rows.push(Row {
        what: "Kolmogorov-Smirnov, sqrt(n) D".to_owned(),
        found: farthest,
        expected: 0.8687,
        deviations: (farthest - 0.8687) / 0.2603,
    });
    let cells = f64::from(cells);
    let deviations = (squares - cells) / (2.0 * cells).sqrt();
    rows.push(Row { what: format!("chi-square of {cells} cells"), found: squares, expected: cells, deviations });
    let names = LAGS.iter().map(|lag| format!("coordinates {lag} apart")).chain(OTHERS.map(str::to_owned));
    for ((name, products), terms) in names.zip(&sums.products).zip(&sums.terms) {
        for (sum, (of, variance)) in products.iter().zip([("z", 1.0), ("z^2", 4.0f64)]) {
            let found = sum / *terms as f64 / variance.sqrt();
            let deviations = found * (*terms as f64).sqrt();
            rows.push(Row { what: format!("correlation of {of}, {name}"), found, expected: 0.0, deviations });
        }
    }
    rows
}

fn study(settings: &Settings, tell: impl Fn(u64, u64)) -> (Vec<Row>, u64) {
    let vectors = settings.numbers.div_ceil(LENGTH as u64);
    let mut sums = Sums::none();
    for first in (0..vectors).step_by(BATCH as usize) {
        let batch: Vec<Sums> = (first..vectors.min(first + BATCH)).into_par_iter().map(|index| Sums::of(settings.seed, index)).collect();
        batch.iter().for_each(|more| sums.add(more));
        tell(vectors.min(first + BATCH), vectors);
    }
    let numbers = vectors * LENGTH as u64;
    (rows(&sums, numbers), numbers)
}

/// The table.
pub fn run(settings: &Settings, mut output: Output) -> anyhow::Result<()> {
    let (rows, numbers) = study(settings, |done, all| progress(&format!("{done} of {all} vectors")));
    let mut text =
        format!("{numbers} numbers, seed {}\n\n| statistic | found | expected | deviations |\n|---|---|---|---|\n", settings.seed);
    for row in &rows {
        output.run(row)?;
        let (found, expected) = if row.what.starts_with("count") && row.expected >= 100.0 {
            (format!("{:.0}", row.found), format!("{:.0}", row.expected))
        } else if row.what.starts_with("correlation") {
            (format!("{:.1e}", row.found), "0".to_owned())
        } else {
            (format!("{:.6}", row.found), format!("{:.6}", row.expected))
        };
        writeln!(text, "| {} | {found} | {expected} | {:+.2} |", row.what, row.deviations)?;
    }
    output.finish(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_million_numbers_are_those_of_a_normal() {
        let (rows, numbers) = study(&Settings { numbers: 4_000_000, seed: 5 }, |_, _| {});
        assert_eq!((numbers, rows.len()), (4 << 20, MOMENTS + TAILS.len() + 2 + 2 * (LAGS.len() + OTHERS.len())));
        for row in rows {
            // A count of few is not normal.
            if row.what.starts_with("count") && row.expected < 10.0 {
                assert!(row.found <= row.expected + 10.0, "{row:?}");
            } else {
                assert!(row.deviations.abs() < 4.5, "{row:?}");
            }
        }
    }
}
