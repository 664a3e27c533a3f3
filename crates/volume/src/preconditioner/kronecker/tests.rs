//! Kronecker maps against the dense matrices that they stand for.

use super::*;
use crate::preconditioner::{Damping, DiagonalMap};
use crate::random::{NormalVector, Purpose};
use proptest::prelude::*;

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut z = vec![0.0; count];
    NormalVector::new(Purpose::Trials, seed, 0, count).fill(0..count, &mut z);
    z
}

/// `X'X/n` of `n` random rows.
fn covariance(size: usize, samples: usize, seed: u64) -> Vec<f32> {
    let x = numbers(size * samples, seed);
    let entry = |i: usize, j: usize| (0..samples).map(|n| f64::from(x[n * size + i]) * f64::from(x[n * size + j])).sum::<f64>();
    (0..size * size).map(|at| (entry(at / size, at % size) / samples as f64) as f32).collect()
}

/// A 3 x 4 matrix, five others, a 2 x 2 matrix: 21 coordinates.
struct Example {
    factors: [Vec<f32>; 4],
    diagonal: Vec<f32>,
}

const D: usize = 21;

impl Example {
    fn new(seed: u64, samples: usize) -> Self {
        let factor = |size, k| covariance(size, samples, 10 * seed + k);
        let factors = [factor(3, 0), factor(4, 1), factor(2, 2), factor(2, 3)];
        Self { factors, diagonal: numbers(5, seed).iter().map(|x| x * x).collect() }
    }

    fn curvature(&self) -> KroneckerCurvature {
        let [a, b, c, d] = &self.factors;
        KroneckerCurvature::new([
            KroneckerTensor::Product { row_factor: a, column_factor: b, scale: 0.7 },
            KroneckerTensor::Diagonal(&self.diagonal),
            KroneckerTensor::Product { row_factor: c, column_factor: d, scale: 2.0 },
        ])
        .unwrap()
    }

    fn dense(&self) -> Mat<f64> {
        let mut h = Mat::zeros(D, D);
        let [a, b, c, d] = &self.factors;
        for (start, rows, columns, width, height, scale) in [(0, a, b, 4, 3, 0.7), (17, c, d, 2, 2, 2.0)] {
            for i in 0..height * width {
                for j in 0..height * width {
                    let g = f64::from(rows[(i / width) * height + j / width]);
                    h[(start + i, start + j)] = scale * g * f64::from(columns[(i % width) * width + j % width]);
                }
            }
        }
        for (i, &value) in self.diagonal.iter().enumerate() {
            h[(12 + i, 12 + i)] = f64::from(value);
        }
        h
    }
}

fn dense(map: &dyn Preconditioner) -> Mat<f64> {
    let mut entries = Mat::zeros(D, D);
    for column in 0..D {
        let mut unit = vec![0.0f32; D];
        unit[column] = 1.0;
        let mut out = vec![0.0f32; D];
        map.apply(0..D, &unit, &mut out);
        for row in 0..D {
            entries[(row, column)] = map.scale() * f64::from(out[row]);
        }
    }
    entries
}

proptest! {
    /// With fewer samples than coordinates the factors are singular, as those of small batches are.
    #[test]
    fn it_is_a_root_of_the_dense_inverse_with_determinant_one(seed in 0u64..1000, samples in 1usize..6, exponent in -2.0f64..2.0) {
        let example = Example::new(seed, samples);
        let damping = Damping { beta: 10f64.powf(exponent), sigma: 0.9 };
        let map = Kronecker::new(example.curvature(), damping).unwrap();
        prop_assert!(map.log_determinant().abs() < 1e-12);
        let p = dense(&map);
        let log_determinant: f64 = p.svd().unwrap().S().column_vector().iter().map(|s| s.ln()).sum();
        prop_assert!(log_determinant.abs() < 1e-5, "{log_determinant}");
        let h = example.dense();
        let precision = Mat::from_fn(D, D, |i, j| damping.beta * h[(i, j)] + if i == j { damping.sigma.powi(-2) } else { 0.0 });
        let product = &p * p.transpose() * &precision;
        let level = product[(0, 0)];
        let tolerance = 1e-5 * precision.norm_max() * (&p * p.transpose()).norm_max();
        for i in 0..D {
            for j in 0..D {
                let expected = if i == j { level } else { 0.0 };
                prop_assert!((product[(i, j)] - expected).abs() < tolerance, "({i}, {j}): {} {expected}", product[(i, j)]);
            }
        }
        let x = numbers(D, seed + 7);
        let mut y = vec![0.0; D];
        map.apply(0..D, &x, &mut y);
        y.iter_mut().for_each(|y| *y = (f64::from(*y) * map.scale()) as f32);
        map.apply_inverse(&mut y);
        let condition = (precision.norm_max() * D as f64).sqrt() as f32;
        for (x, y) in x.iter().zip(&y) {
            prop_assert!((x - y).abs() < 1e-5 * condition, "{x} {y}");
        }
    }

    #[test]
    fn eigenvalues_and_components_are_those_of_the_dense_matrix(seed in 0u64..1000) {
        let example = Example::new(seed, 5);
        let (h, x) = (example.dense(), numbers(D, seed + 3));
        let curvature = example.curvature();
        let values = curvature.eigenvalues();
        let mut components = x.clone();
        curvature.rotate(&mut components);
        // x' H^k x = sum l^k components^2, k = 0, 1, 2.
        let x = Mat::from_fn(D, 1, |i, _| f64::from(x[i]));
        let hx = &h * &x;
        let moments = [(x.transpose() * &x)[(0, 0)], (x.transpose() * &hx)[(0, 0)], (hx.transpose() * &hx)[(0, 0)]];
        for (k, expected) in moments.into_iter().enumerate() {
            let sum: f64 = values.iter().zip(&components).map(|(&l, &c)| f64::from(l).powi(k as i32) * f64::from(c).powi(2)).sum();
            prop_assert!((sum / expected - 1.0).abs() < 1e-5, "moment {k}: {sum} {expected}");
        }
        let trace: f64 = values.iter().map(|&l| f64::from(l)).sum();
        prop_assert!((trace / (0..D).map(|i| h[(i, i)]).sum::<f64>() - 1.0).abs() < 1e-5);
    }
}

#[test]
fn ranges_need_the_tensors_that_they_touch_and_give_the_same_bits() {
    let map = Kronecker::new(Example::new(3, 5).curvature(), Damping { beta: 5.0, sigma: 1.0 }).unwrap();
    for (range, support) in
        [(0..D, 0..D), (2..3, 0..12), (13..15, 13..15), (11..14, 0..14), (16..18, 16..21), (12..17, 12..17), (5..20, 0..21), (7..7, 7..7)]
    {
        let found = map.support(range.clone());
        assert!(found == support || range.is_empty(), "{range:?}: {found:?}");
    }
    let normals = numbers(D, 4);
    let mut whole = vec![0.0; D];
    map.apply(0..D, &normals, &mut whole);
    for range in [0..1, 2..13, 13..15, 11..19, 20..21] {
        let mut out = vec![0.0; range.len()];
        map.apply(range.clone(), &normals[map.support(range.clone())], &mut out);
        assert_eq!(out, whole[range]);
    }
}

#[test]
fn threads_do_not_change_a_bit_and_rounded_vectors_are_accounted_for() {
    let (height, width) = (300, 70);
    let (g, a) = (covariance(height, 400, 1), covariance(width, 30, 2));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let tensor = KroneckerTensor::Product { row_factor: &g, column_factor: &a, scale: 1.0 };
            let map = Kronecker::new(KroneckerCurvature::new([tensor]).unwrap(), DiagonalMap { exponent: 0.5, eps: 0.1 }).unwrap();
            let mut out = vec![0.0f32; height * width];
            map.apply(0..height * width, &numbers(height * width, 3), &mut out);
            (out.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), map)
        })
    };
    let (one, map) = run(1);
    assert_eq!(one, run(3).0);
    assert!(map.log_determinant().abs() < 1e-9);
    // Determinant of the stored vectors by another decomposition.
    let Part::Product { rows, .. } = &map.curvature.parts[0].1 else { unreachable!("the only part is a product") };
    let stored = Mat::from_fn(height, height, |i, j| f64::from(rows.vectors[i * height + j]));
    let expected: f64 = stored.svd().unwrap().S().column_vector().iter().map(|s| s.ln()).sum();
    assert!((rows.log_determinant - expected).abs() < 1e-11 && expected != 0.0);
}

#[test]
fn bad_factors_are_named() {
    let new = |row_factor: &[f32], diagonal: &[f32]| {
        let product = KroneckerTensor::Product { row_factor, column_factor: &[1.0], scale: 1.0 };
        KroneckerCurvature::new([product, KroneckerTensor::Diagonal(diagonal)]).map(|_| ()).unwrap_err()
    };
    assert!(matches!(new(&[1.0, 2.0], &[]), PreconditionerError::Matrix(_)));
    assert!(matches!(new(&[f32::NAN], &[]), PreconditionerError::NotFinite { index: 0, .. }));
    assert!(matches!(new(&[1.0, 2.0, 2.0, 1.0], &[]), PreconditionerError::Negative { index: 0, .. }));
    assert!(matches!(new(&[1.0], &[1.0, -1.0]), PreconditionerError::Negative { index: 2, .. }));
    assert!(matches!(KroneckerCurvature::new([]).unwrap_err(), PreconditionerError::Empty));
    let tensor = KroneckerTensor::Product { row_factor: &[0.0], column_factor: &[1.0], scale: 1.0 };
    let singular = Kronecker::new(KroneckerCurvature::new([tensor]).unwrap(), DiagonalMap { exponent: 0.5, eps: 0.0 });
    assert!(matches!(singular.unwrap_err(), PreconditionerError::Singular { index: 0, .. }));
}
