use candle_core::{DType, Device, Result, Tensor, Var};

use super::*;
use crate::nn::attention::AttentionShape;
use crate::nn::{ActivationFunction, NormKind};

fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|i| ((i * 7919 + seed * 104_729) as f64 * 0.618).sin() * 1.5).collect();
    // Rounded to f32, so that both types see the same numbers.
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
}

/// Value and gradients of `sum(output * probe)` in one type.
fn gradients(inputs: &[Tensor], dtype: DType, operation: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> (Vec<f64>, Vec<Vec<f64>>) {
    let flat = |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let variables: Vec<Tensor> =
        inputs.iter().map(|input| Var::from_tensor(&input.to_dtype(dtype).unwrap()).unwrap().into_inner()).collect();
    let output = operation(&variables).unwrap();
    let probe = numbers(output.dims(), 77).to_dtype(dtype).unwrap();
    let store = (&output * probe).unwrap().sum_all().unwrap().backward().unwrap();
    let gradients = variables.iter().map(|variable| flat(store.get(variable).expect("a gradient for every input"))).collect();
    (flat(&output), gradients)
}

/// In `f32` against `f64`, whose gradients are checked against differences.
fn compare(name: &str, inputs: &[Tensor], operation: &dyn Fn(&[Tensor]) -> Result<Tensor>) {
    let (values, found) = gradients(inputs, DType::F32, operation);
    let (exact, expected) = gradients(inputs, DType::F64, operation);
    let close = |what: &str, found: &[f64], expected: &[f64]| {
        let scale = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt();
        assert_eq!(found.len(), expected.len());
        for (index, (x, y)) in found.iter().zip(expected).enumerate() {
            assert!((x - y).abs() <= 2e-5 * scale.max(y.abs()), "{name}, {what} {index}: {x} not {y} (typical {scale})");
        }
    };
    close("output", &values, &exact);
    for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
        close(&format!("gradient {number}, element"), found, expected);
    }
    for (number, (input, expected)) in inputs.iter().zip(&expected).enumerate() {
        let direction = numbers(input.dims(), 991).to_dtype(DType::F64).unwrap();
        let at = |step: f64| {
            let moved: Vec<Tensor> = (inputs.iter().enumerate())
                .map(|(other, tensor)| {
                    let tensor = tensor.to_dtype(DType::F64).unwrap();
                    if other == number { (tensor + (&direction * step).unwrap()).unwrap() } else { tensor }
                })
                .collect();
            let output = operation(&moved).unwrap();
            let probe = numbers(output.dims(), 77).to_dtype(DType::F64).unwrap();
            (output * probe).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
        };
        let step = 1e-5;
        let difference = (at(step) - at(-step)) / (2.0 * step);
        let along: f64 = direction.flatten_all().unwrap().to_vec1::<f64>().unwrap().iter().zip(expected).map(|(d, g)| d * g).sum();
        assert!((difference - along).abs() <= 1e-6 * difference.abs().max(1.0), "{name}, input {number}: {difference} not {along}");
    }
}

#[test]
fn dense_layers() {
    for (positions, width, outputs) in [(1, 3, 5), (70, 33, 48), (129, 64, 7)] {
        let (inputs, bias) = (numbers(&[positions, width], 1), numbers(&[outputs], 2));
        for transposed in [false, true] {
            let shape = if transposed { [width, outputs] } else { [outputs, width] };
            let weight = numbers(&shape, 3);
            compare("linear", &[inputs.clone(), weight.clone()], &|t| linear(&t[0], &t[1], None, transposed));
            let all = [inputs.clone(), weight, bias.clone()];
            compare("linear with bias", &all, &|t| linear(&t[0], &t[1], Some(&t[2]), transposed));
        }
    }
}

#[test]
fn norms() {
    for (positions, features, width) in [(1, 8, 8), (131, 24, 24), (67, 30, 10)] {
        let (inputs, weight, bias) = (numbers(&[positions, features], 1), numbers(&[width], 2), numbers(&[width], 3));
        for kind in [NormKind::Layer, NormKind::Rms, NormKind::RmsPlusOne] {
            let name = format!("{kind:?} over {width} of {features}");
            compare(&name, std::slice::from_ref(&inputs), &|t| norm(kind, 1e-3, width, None, None, &t[0]));
            compare(&name, &[inputs.clone(), weight.clone()], &|t| norm(kind, 1e-3, width, Some(&t[1]), None, &t[0]));
            let all = [inputs.clone(), weight.clone(), bias.clone()];
            compare(&name, &all, &|t| norm(kind, 1e-3, width, Some(&t[1]), Some(&t[2]), &t[0]));
        }
    }
}

#[test]
fn activations() {
    use ActivationFunction::{Gelu, GeluTanh, QuickGelu, Relu, Silu, Tanh};
    for function in [Relu, Silu, Gelu, GeluTanh, QuickGelu, Tanh] {
        compare(&format!("{function:?}"), &[numbers(&[131, 150], 4)], &|t| activation(function, &t[0]));
    }
}

/// Heads, key-value heads, width; lengths; window; cap; rotated pairs.
type Case = ((usize, usize, usize), &'static [usize], Option<usize>, Option<f32>, usize);

const CASES: [Case; 5] = [
    ((2, 2, 6), &[1, 5, 5], None, None, 2),
    ((4, 2, 8), &[150, 3, 65], None, None, 4),
    ((4, 1, 5), &[140, 140], Some(70), None, 0),
    ((2, 2, 4), &[133], None, Some(1.5), 1),
    ((6, 3, 4), &[90, 70], Some(3), Some(2.0), 2),
];

fn case((heads, lengths, window, cap, pairs): Case) -> (AttentionShape, &'static [usize], Option<Angles>, usize) {
    let shape = AttentionShape { heads: heads.0, key_value_heads: heads.1, width: heads.2, scale: 0.7, cap, window };
    let positions: usize = lengths.iter().sum();
    let angles = (pairs > 0).then(|| {
        let places = lengths.iter().flat_map(|&length| 0..length);
        Angles {
            pairs,
            factor: 1.0,
            angles: places.flat_map(|place| (0..pairs).map(move |i| place as f64 * 0.3 / (i + 1) as f64)).collect(),
        }
    });
    (shape, lengths, angles, positions)
}

#[test]
fn attention_over_tiles_windows_and_groups() {
    for (number, settings) in CASES.into_iter().enumerate() {
        let (shape, lengths, angles, positions) = case(settings);
        let (all, shared) = (shape.heads * shape.width, shape.key_value_heads * shape.width);
        let sources = [numbers(&[positions, all], 1), numbers(&[positions, shared], 2), numbers(&[positions, shared], 3)];
        compare(&format!("attention {number}"), &sources, &|t| attention(shape, Packing::Separate, t, lengths, angles.as_ref()));
        let packed = [numbers(&[positions, all + 2 * shared], 4)];
        compare(&format!("stacked attention {number}"), &packed, &|t| attention(shape, Packing::Stacked, t, lengths, angles.as_ref()));
        if shape.heads == shape.key_value_heads {
            let name = format!("interleaved attention {number}");
            compare(&name, &packed, &|t| attention(shape, Packing::Interleaved, t, lengths, angles.as_ref()));
        }
    }
}
