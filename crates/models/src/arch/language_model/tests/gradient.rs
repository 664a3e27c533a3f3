use candle_core::{DType, Device, Tensor};

use super::*;
use crate::arch::decoder::differentiable::TensorHead;
use crate::arch::language_model::{GradientError, Tape, TensorTarget};
use crate::parameters::Parameter;

/// Kernels, or composed operations in a type, with flat vectors on the outside.
enum AnyTape<'a> {
    Kernels(Tape<'a>),
    Composed(&'a LanguageModel, Vec<Tensor>),
}

fn tensors(model: &LanguageModel, weights: &[f32], dtype: DType) -> Vec<Tensor> {
    let tensor = |(parameter, values): (&Parameter, &[f32])| {
        Tensor::from_slice(values, parameter.shape.as_slice(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    };
    model.layout.unflatten(weights).map(tensor).collect()
}

impl<'a> AnyTape<'a> {
    fn new(model: &'a LanguageModel, weights: &'a [f32], dtype: Option<DType>) -> Self {
        match dtype {
            None => Self::Kernels(model.tape(weights).unwrap()),
            Some(dtype) => Self::Composed(model, tensors(model, weights, dtype)),
        }
    }

    fn states(&self, ids: &[u32], lengths: &[usize]) -> Vec<f32> {
        match self {
            Self::Kernels(tape) => tape.states(ids, lengths).unwrap(),
            Self::Composed(model, weights) => {
                let tape = model.tensor_tape(weights.clone(), vec![true; weights.len()], &Device::Cpu).unwrap();
                tape.states(ids, lengths).unwrap().to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
            }
        }
    }

    /// The loss; its gradient is added.
    fn add_gradient(&self, batch: TokenBatch<'_>, target: Target<'_>, gradient: &mut [f32]) -> Result<f64, GradientError> {
        let (model, weights) = match self {
            Self::Kernels(tape) => return tape.add_gradient(batch, target, gradient),
            Self::Composed(model, weights) => (model, weights),
        };
        let dtype = weights[0].dtype();
        let tape = model.tensor_tape(weights.clone(), vec![true; weights.len()], &Device::Cpu)?;
        let upload = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu)?.to_dtype(dtype);
        let (head, states);
        let target = match target {
            Target::Labels(labels) => TensorTarget::Labels(labels),
            Target::Drawn(draws) => TensorTarget::Drawn(draws),
            Target::Center(center) => {
                let (vocabulary, width) = (model.vocabulary(), model.decoder.head_inputs());
                let bias = center.bias.map(|bias| upload(bias, &[vocabulary])).transpose()?;
                let cap = model.decoder.logit_cap.map(f64::from);
                head = TensorHead { weight: upload(center.head, &[vocabulary, width])?, bias, cap };
                states = upload(center.states, &[center.states.len() / width, width])?;
                TensorTarget::Center(&head, &states)
            }
        };
        let (loss, gradients) = tape.gradient(batch, target)?;
        for (parameter, tensor) in model.layout.parameters().iter().zip(gradients) {
            let values = tensor.unwrap().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            gradient[parameter.range()].iter_mut().zip(values).for_each(|(total, value)| *total += value);
        }
        Ok(loss)
    }

    fn loss(&self, batch: TokenBatch<'_>, target: Target<'_>) -> f64 {
        match self {
            Self::Kernels(tape) => tape.loss(batch, target).unwrap(),
            Self::Composed(model, _) => self.add_gradient(batch, target, &mut vec![0.0; model.dimension()]).unwrap(),
        }
    }
}

/// Weights of the positions: different ones, some zero.
fn position_weights(count: usize) -> Vec<f32> {
    (0..count).map(|i| if i % 5 == 3 { 0.0 } else { 0.05 + (i % 3) as f32 * 0.02 }).collect()
}

/// The point where divergences are differentiated: every tensor moved by a few percent of its size.
fn moved(layout: &ParameterLayout, weights: &[f32]) -> Vec<f32> {
    let mut point = weights.to_vec();
    for parameter in layout.parameters() {
        let values = &mut point[parameter.range()];
        let rms = (values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / values.len() as f64).sqrt().max(0.05);
        for (index, value) in values.iter_mut().enumerate() {
            *value += (0.1 * rms * ((index * 31 + parameter.offset) as f64 * 0.77).sin()) as f32;
        }
    }
    point
}

/// A center for a target.
fn center<'a>(model: &LanguageModel, weights: &'a [f32], states: &'a [f32]) -> Target<'a> {
    let head = &model.decoder.head;
    Target::Center(Center { head: &weights[head.weight.clone()], bias: head.bias.clone().map(|range| &weights[range]), states })
}

/// The logits of states, in double precision.
fn logits(model: &LanguageModel, weights: &[f32], states: &[f32]) -> Vec<f64> {
    let (decoder, width) = (&model.decoder, model.decoder.head_inputs());
    let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    let weight = tensor(&weights[decoder.head.weight.clone()], &[decoder.vocabulary, width]);
    let bias = decoder.head.bias.clone().map(|range| tensor(&weights[range], &[decoder.vocabulary]));
    let head = TensorHead { weight, bias, cap: decoder.logit_cap.map(f64::from) };
    head.logits(&tensor(states, &[states.len() / width, width])).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// What one fixture is differentiated on.
struct Problem<'a> {
    model: &'a LanguageModel,
    sequences: &'a [Vec<u32>],
    labels: Vec<u32>,
    weights: Vec<f32>,
    /// Log-probabilities of the center, all positions.
    center: Vec<Vec<f64>>,
    divergence: bool,
}

impl Problem<'_> {
    fn log_probabilities(&self, weights: &[f32]) -> Vec<Vec<f64>> {
        let logits = self.sequences.iter().flat_map(|ids| self.model.logits_exact(weights, ids).unwrap()).collect::<Vec<f64>>();
        logits.chunks(self.model.vocabulary()).map(log_softmax).collect()
    }

    /// The loss by the f64 oracle.
    fn exact(&self, weights: &[f32]) -> f64 {
        let rows = self.log_probabilities(weights);
        let losses = rows.iter().enumerate().map(|(position, log_q)| {
            let loss = if self.divergence {
                let log_p = &self.center[position];
                log_p.iter().zip(log_q).map(|(p, q)| p.exp() * ((q - p).exp_m1() - (q - p))).sum::<f64>()
            } else {
                -log_q[self.labels[position] as usize]
            };
            f64::from(self.weights[position]) * loss
        });
        losses.sum()
    }

    /// Largest error of the gradient over all tensors, relative to the change it should predict; names the tensors above the bound.
    fn check(&self, point: &[f32], gradient: &[f32], bound: f64, report: &mut Vec<String>) {
        for parameter in self.model.layout.parameters() {
            let slopes = &gradient[parameter.range()];
            let norm = slopes.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            let count = slopes.len() as f64;
            // Along the gradient, so that there is something to see, and across it.
            let direction = |(index, &slope): (usize, &f32)| {
                let along = if norm > 0.0 { f64::from(slope) / norm } else { 0.0 };
                along + ((index * 17 + 5) as f64 * 0.61).sin() * (2.0 / count).sqrt()
            };
            let direction: Vec<f64> = slopes.iter().enumerate().map(direction).collect();
            let at = |step: f64| {
                let mut moved = point.to_vec();
                let mut predicted = 0.0;
                for ((weight, direction), slope) in moved[parameter.range()].iter_mut().zip(&direction).zip(slopes) {
                    let before = f64::from(*weight);
                    *weight = (before + step * direction) as f32;
                    // What the rounded step should change, to first order.
                    predicted += (f64::from(*weight) - before) * f64::from(*slope);
                }
                (self.exact(&moved), predicted)
            };
            // A small step, because relu has kinks; the oracle has the digits for it.
            let step = 5e-5;
            let ((up, predicted_up), (down, predicted_down)) = (at(step), at(-step));
            let (change, predicted) = ((up - down) / step, (predicted_up - predicted_down) / step);
            // Keys' biases do not matter without rotary positions: their gradient is zero but for rounding.
            let error = (change - predicted).abs();
            if error.is_nan() || error > bound * change.abs() + 1e-6 {
                report.push(format!("{}: the loss changes by {change:e}, the gradient says {predicted:e}", parameter.name));
            }
        }
    }
}

fn check_all(dtype: Option<DType>, forward_bound: f64, bound: f64) {
    let mut failures = Vec::new();
    for case in cases() {
        let golden = load(&case);
        let model = golden.architecture.language_model().unwrap();
        let ids: Vec<u32> = golden.sequences.concat();
        let lengths: Vec<usize> = golden.sequences.iter().map(Vec::len).collect();
        let labels: Vec<u32> = ids.iter().map(|id| (id * 5 + 3) % model.vocabulary() as u32).collect();
        let weights = position_weights(ids.len());
        let point = moved(&model.layout, &golden.weights);
        let at_center = AnyTape::new(model, &golden.weights, dtype);
        let states = at_center.states(&ids, &lengths);
        let logits = logits(model, &golden.weights, &states);
        let exact: Vec<f64> = golden.sequences.iter().flat_map(|ids| model.logits_exact(&golden.weights, ids).unwrap()).collect();
        let (difference, nats) = distance(&logits, &exact, model.vocabulary());
        let (golden_difference, _) = distance(&logits, &golden.logits.concat(), model.vocabulary());
        if difference > forward_bound || nats > 1e-11 || golden_difference > 1e-5 {
            failures.push(format!("{case}: logits differ by {difference:e} of their range, {nats:e} nats"));
        }

        let tape = AnyTape::new(model, &point, dtype);
        let batch = TokenBatch { ids: &ids, lengths: &lengths, weights: &weights };
        for divergence in [false, true] {
            let mut problem = Problem {
                model,
                sequences: &golden.sequences,
                labels: labels.clone(),
                weights: weights.clone(),
                center: Vec::new(),
                divergence,
            };
            problem.center = problem.log_probabilities(&golden.weights);
            let target = if divergence { center(model, &golden.weights, &states) } else { Target::Labels(&labels) };
            let mut gradient = vec![0.0f32; point.len()];
            let loss = tape.add_gradient(batch, target, &mut gradient).unwrap();
            let exact = problem.exact(&point);
            let alone = tape.loss(batch, target);
            let error = (loss / exact - 1.0).abs();
            if error.is_nan() || error > 1e-4 || loss != alone {
                failures.push(format!("{case}, divergence {divergence}: the loss is {loss}, {alone} alone, should be {exact}"));
            }
            let mut report = Vec::new();
            problem.check(&point, &gradient, bound, &mut report);
            failures.extend(report.into_iter().map(|line| format!("{case}, divergence {divergence}: {line}")));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn kernels_have_the_gradient_of_every_tensor_of_every_family() {
    check_all(None, 1e-5, 1e-3);
}

#[test]
fn composed_operations_have_the_gradient_of_every_tensor_of_every_family() {
    check_all(Some(DType::F64), 2e-6, 1e-3);
}

#[test]
fn the_center_is_a_minimum_and_threads_do_not_matter() {
    let golden = load("gpt_neox_pythia");
    let model = golden.architecture.language_model().unwrap();
    let ids: Vec<u32> = golden.sequences.concat();
    let lengths: Vec<usize> = golden.sequences.iter().map(Vec::len).collect();
    let weights = vec![1.0; ids.len()];
    let batch = TokenBatch { ids: &ids, lengths: &lengths, weights: &weights };
    let tape = model.tape(&golden.weights).unwrap();
    let states = tape.states(&ids, &lengths).unwrap();
    let target = center(model, &golden.weights, &states);
    let mut gradient = vec![0.0f32; golden.weights.len()];
    assert_eq!(tape.add_gradient(batch, target, &mut gradient).unwrap(), 0.0);
    assert!(gradient.iter().all(|&slope| slope == 0.0));

    let (architecture, weights) = long_model();
    let model = architecture.language_model().unwrap();
    let ids: Vec<u32> = (0..447).map(|i| i * 31 % 50).collect();
    let lengths = [300usize, 1, 130, 16];
    let ones = vec![1.0; ids.len()];
    let run = || {
        let mut gradient = vec![0.0f32; weights.len()];
        let batch = TokenBatch { ids: &ids, lengths: &lengths, weights: &ones };
        let loss = model.tape(&weights).unwrap().add_gradient(batch, Target::Labels(&ids), &mut gradient).unwrap();
        (loss, gradient)
    };
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let one = pool(1).install(run);
    for threads in [2, 3] {
        assert!(pool(threads).install(run) == one, "{threads} threads");
    }
}

#[test]
fn gradients_add_up_over_sequences() {
    let golden = load("llama_untied");
    let model = golden.architecture.language_model().unwrap();
    let tape = model.tape(&golden.weights).unwrap();
    let ids: Vec<u32> = golden.sequences.concat();
    let lengths: Vec<usize> = golden.sequences.iter().map(Vec::len).collect();
    let weights = position_weights(ids.len());
    let (mut whole, mut parts) = (vec![0.0f32; golden.weights.len()], vec![0.0f32; golden.weights.len()]);
    let batch = TokenBatch { ids: &ids, lengths: &lengths, weights: &weights };
    let loss = tape.add_gradient(batch, Target::Labels(&ids), &mut whole).unwrap();
    let (mut sum, mut start) = (0.0, 0);
    for &length in &lengths {
        let range = start..start + length;
        let batch = TokenBatch { ids: &ids[range.clone()], lengths: &[length], weights: &weights[range.clone()] };
        sum += tape.add_gradient(batch, Target::Labels(&ids[range]), &mut parts).unwrap();
        start += length;
    }
    assert!((loss / sum - 1.0).abs() < 1e-6);
    let scale = whole.iter().fold(0.0f32, |scale, slope| scale.max(slope.abs()));
    assert!(whole.iter().zip(&parts).all(|(x, y)| (x - y).abs() < 1e-5 * scale));
}

#[test]
fn wrong_lengths_are_named() {
    let golden = load("llama_untied");
    let model = golden.architecture.language_model().unwrap();
    let tape = model.tape(&golden.weights).unwrap();
    let message = |ids: &[u32], weights: &[f32], target: Target<'_>| {
        let lengths = [ids.len()];
        tape.loss(TokenBatch { ids, lengths: &lengths, weights }, target).unwrap_err().to_string()
    };
    let center = center(model, &golden.weights, &[0.0]);
    let outside = [model.vocabulary() as u32];
    for (found, expected) in [
        (message(&[1, 2], &[1.0], Target::Labels(&[1, 2])), "the list of weights has 1 entries: expected 2"),
        (message(&[1, 2], &[1.0; 2], Target::Labels(&[1])), "the list of labels has 1 entries"),
        (message(&[1], &[1.0], Target::Labels(&outside)), "is not in the vocabulary"),
        (message(&[1, 2], &[1.0; 2], center), "the center's states has 1 entries"),
    ] {
        assert!(found.contains(expected), "`{found}` should contain `{expected}`");
    }
}

#[test]
fn labels_are_drawn_from_the_outputs() {
    for case in ["gpt_neox_pythia", "gemma2", "phi"] {
        let golden = load(case);
        let model = golden.architecture.language_model().unwrap();
        let ids = &golden.sequences[0];
        let lengths = [ids.len()];
        let position = ids.len() - 1;
        let mut weights = vec![0.0f32; ids.len()];
        weights[position] = 1.0;
        let batch = TokenBatch { ids, lengths: &lengths, weights: &weights };
        let log_q = log_softmax(&model.logits_exact(&golden.weights, ids).unwrap()[position * model.vocabulary()..]);
        for dtype in [None, Some(DType::F32)] {
            let tape = AnyTape::new(model, &golden.weights, dtype);
            // The losses of equally spaced draws are those of all labels, each as often as it is probable.
            let count = 400;
            let losses = (0..count).map(|i| {
                let draws = vec![(f64::from(i) + 0.5) / f64::from(count); ids.len()];
                tape.loss(batch, Target::Drawn(&draws))
            });
            let mean = losses.sum::<f64>() / f64::from(count);
            let entropy: f64 = log_q.iter().map(|log_q| -log_q.exp() * log_q).sum();
            assert!((mean / entropy - 1.0).abs() < 0.1, "{case}: {mean} not {entropy}");
            for (label, draw) in [(0, 0.0), (model.vocabulary() - 1, 1.0 - 1e-12)] {
                let draws = vec![draw; ids.len()];
                let (mut drawn, mut given) = (vec![0.0f32; golden.weights.len()], vec![0.0f32; golden.weights.len()]);
                let labels = vec![label as u32; ids.len()];
                let first = tape.add_gradient(batch, Target::Drawn(&draws), &mut drawn).unwrap();
                let second = tape.add_gradient(batch, Target::Labels(&labels), &mut given).unwrap();
                assert!(first == second && drawn == given, "{case}: {first}, {second}");
            }
        }
    }
}

/// The loss and the gradients that the fixture script takes from transformers.
#[test]
fn the_newer_families_have_the_gradients_of_transformers() {
    let (mut failures, mut report) = (Vec::new(), String::new());
    for case in cases() {
        let Ok(bytes) = std::fs::read(folder().join(&case).join("gradient.safetensors")) else { continue };
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let golden = load(&case);
        let model = golden.architecture.language_model().unwrap();
        let ids: Vec<u32> = golden.sequences.concat();
        let lengths: Vec<usize> = golden.sequences.iter().map(Vec::len).collect();
        let labels: Vec<u32> = ids.iter().map(|id| (id * 5 + 3) % model.vocabulary() as u32).collect();
        let weights = position_weights(ids.len());
        let batch = TokenBatch { ids: &ids, lengths: &lengths, weights: &weights };
        for (dtype, bound) in [(None, 1e-5), (Some(DType::F64), 3e-6)] {
            let mut gradient = vec![0.0f32; golden.weights.len()];
            AnyTape::new(model, &golden.weights, dtype).add_gradient(batch, Target::Labels(&labels), &mut gradient).unwrap();
            let mut worst = (0.0, "");
            for parameter in model.layout.parameters() {
                let data = tensors.tensor(&parameter.name).unwrap();
                let expected: Vec<f64> = data.data().as_chunks::<4>().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect();
                let found = &gradient[parameter.range()];
                let length = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
                let error = length(&mut found.iter().zip(&expected).map(|(&x, y)| f64::from(x) - y));
                let relative = error / length(&mut expected.iter().copied());
                if relative > worst.0 || relative.is_nan() {
                    worst = (relative, parameter.name.as_str());
                }
            }
            report += &format!("{case}, {dtype:?}: gradients {:.1e} ({})\n", worst.0, worst.1);
            if worst.0.is_nan() || worst.0 > bound {
                failures.push(case.clone());
            }
        }
    }
    assert!(report.lines().count() == 32 && failures.is_empty(), "{failures:?} failed:\n{report}");
    if let Some(path) = std::env::var_os("PARITY_REPORT") {
        std::fs::write(Path::new(&path).with_extension("gradients"), report).unwrap();
    }
}
