use candle_core::{DType, Device, Tensor};

use super::*;
use crate::arch::decoder::{CenterSource, CenterSpace, CenterTile, Keep};
use crate::parameters::Parameter;
use crate::tensors::{TensorHead, TensorTape, TensorTarget, Tensors};

/// What the outputs are compared with.
#[derive(Debug, Clone, Copy)]
enum TapeTarget<'a> {
    Labels(&'a [u32]),
    Drawn(&'a [f64]),
    /// The same model with these weights.
    Center(&'a [f32]),
}

/// The tape of the devices, on the CPU, with flat vectors on the outside.
struct Tape<'a> {
    model: &'a LanguageModel,
    tape: TensorTape<'a>,
    head: TensorHead,
    dtype: DType,
}

impl<'a> Tape<'a> {
    fn new(model: &'a LanguageModel, weights: &[f32], dtype: DType) -> Self {
        let tensor = |(parameter, values): (&Parameter, &[f32])| {
            Tensor::from_slice(values, parameter.shape.as_slice(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
        };
        let tensors: Vec<Tensor> = model.layout.unflatten(weights).map(tensor).collect();
        let all: Vec<Option<Tensor>> = tensors.iter().cloned().map(Some).collect();
        let all = Tensors { layout: &model.layout, tensors: &all, taps: None };
        let head = model.decoder.tensor_head(all).unwrap();
        let moves = vec![true; tensors.len()];
        Self { model, tape: TensorTape::new(model, tensors, moves, &Device::Cpu).unwrap(), head, dtype }
    }

    /// Logits `[positions, vocabulary]`.
    fn logits(&self, ids: &[u32], lengths: &[usize]) -> Vec<f64> {
        let logits = self.head.logits(&self.tape.states(ids, lengths).unwrap()).unwrap();
        logits.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    /// The sum over positions of weight times loss (nats) and its gradient, flat in the layout's order.
    fn gradient(&self, batch: TokenBatch<'_>, target: TapeTarget<'_>) -> (f64, Vec<f64>) {
        let (center, states);
        let target = match target {
            TapeTarget::Labels(labels) => TensorTarget::Labels(labels),
            TapeTarget::Drawn(draws) => TensorTarget::Drawn(draws),
            TapeTarget::Center(weights) => {
                center = Tape::new(self.model, weights, self.dtype);
                states = center.tape.states(batch.ids, batch.lengths).unwrap();
                TensorTarget::Center(&center.head, &states)
            }
        };
        let (loss, gradients) = self.tape.gradient(batch, target, None).unwrap();
        let values =
            |tensor: Option<Tensor>| tensor.unwrap().to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        (loss, gradients.into_iter().flat_map(values).collect())
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

/// The center's outputs at the positions that count.
struct PlainCenter {
    /// Of each of these, the logits.
    logits: Vec<Vec<f32>>,
}

impl PlainCenter {
    fn new(model: &LanguageModel, center: &[f32], ids: &[u32], lengths: &[usize], weights: &[f32]) -> Self {
        let logits = model.logits(center, ids, lengths).unwrap();
        let rows = logits.chunks(model.vocabulary()).zip(weights).filter(|(_, weight)| **weight != 0.0);
        Self { logits: rows.map(|(row, _)| row.to_vec()).collect() }
    }
}

impl CenterSource for PlainCenter {
    fn tile<'a>(&'a self, counted: std::ops::Range<usize>, columns: usize, space: &'a mut CenterSpace) -> CenterTile<'a> {
        let rows = &self.logits[counted];
        *space = CenterSpace::default();
        space.logits = vec![0.0; rows[0].len() * columns];
        for (column, row) in rows.iter().enumerate() {
            row.iter().enumerate().for_each(|(entry, &logit)| space.logits[entry * columns + column] = logit);
            let largest = (0..row.len()).max_by(|&i, &j| row[i].total_cmp(&row[j])).unwrap();
            space.favorites.push(largest);
            space.favorite_logits.push(row[largest]);
            space.logarithms.push(row.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln() as f32);
        }
        space.favorites.resize(columns, 0);
        space.favorite_logits.resize(columns, 0.0);
        space.logarithms.resize(columns, 0.0);
        let probability = |column: usize| {
            let logits = space.logits[column..].iter().step_by(columns);
            logits.map(|&logit| f64::from(logit - space.logarithms[column]).exp()).sum::<f64>()
        };
        space.probabilities = (0..columns).map(probability).collect();
        let CenterSpace { logits, logarithms, probabilities, favorites, favorite_logits, .. } = space;
        CenterTile { logits, logarithms, probabilities, favorites, favorite_logits }
    }
}

/// Loss and gradient by the reverse pass.
fn reverse(model: &LanguageModel, weights: &[f32], batch: TokenBatch<'_>, target: Target<'_>) -> (f64, Vec<f32>) {
    let mut gradient = vec![0.0f32; weights.len()];
    let (sequences, mut space) = (model.sequences(batch).unwrap(), GradientSpace::default());
    let loss = model.add_gradient(weights, &sequences, target, None, &mut space, &mut gradient).unwrap();
    (loss, gradient)
}

fn rounded(gradient: Vec<f64>) -> Vec<f32> {
    gradient.into_iter().map(|slope| slope as f32).collect()
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

/// The gradient of every tensor against differences of the `f64` oracle: that of the reverse pass, or that of candle's tape in `f64`.
fn check_all(on_tape: bool, bound: f64) {
    let mut failures = Vec::new();
    for case in cases() {
        let golden = load(&case);
        let model = golden.architecture.language_model().unwrap();
        let ids: Vec<u32> = golden.sequences.concat();
        let lengths: Vec<usize> = golden.sequences.iter().map(Vec::len).collect();
        let labels: Vec<u32> = ids.iter().map(|id| (id * 5 + 3) % model.vocabulary() as u32).collect();
        let weights = position_weights(ids.len());
        let point = moved(&model.layout, &golden.weights);
        if on_tape {
            let logits = Tape::new(model, &golden.weights, DType::F64).logits(&ids, &lengths);
            let exact: Vec<f64> = golden.sequences.iter().flat_map(|ids| model.logits_exact(&golden.weights, ids).unwrap()).collect();
            let (difference, nats) = distance(&logits, &exact, model.vocabulary());
            let (golden_difference, _) = distance(&logits, &golden.logits.concat(), model.vocabulary());
            if difference > 2e-6 || nats > 1e-11 || golden_difference > 1e-5 {
                failures.push(format!("{case}: logits differ by {difference:e} of their range, {nats:e} nats"));
            }
        }
        let center = PlainCenter::new(model, &golden.weights, &ids, &lengths, &weights);
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
            let (loss, gradient) = if on_tape {
                let target = if divergence { TapeTarget::Center(&golden.weights) } else { TapeTarget::Labels(&labels) };
                let (loss, gradient) = Tape::new(model, &point, DType::F64).gradient(batch, target);
                (loss, rounded(gradient))
            } else {
                let target = if divergence { Target::Center(&center) } else { Target::Labels(&labels) };
                let (loss, gradient) = reverse(model, &point, batch, target);
                let alone = model.loss(&point, &model.sequences(batch).unwrap(), target, &mut GradientSpace::default()).unwrap();
                assert_eq!(loss, alone, "{case}, divergence {divergence}");
                (loss, gradient)
            };
            let exact = problem.exact(&point);
            let error = (loss / exact - 1.0).abs();
            if error.is_nan() || error > 1e-4 {
                failures.push(format!("{case}, divergence {divergence}: the loss is {loss}, should be {exact}"));
            }
            let mut report = Vec::new();
            problem.check(&point, &gradient, bound, &mut report);
            failures.extend(report.into_iter().map(|line| format!("{case}, divergence {divergence}: {line}")));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_reverse_pass_has_the_gradient_of_every_tensor_of_every_family() {
    check_all(false, 1e-3);
}

#[test]
fn the_tape_has_the_gradient_of_every_tensor_of_every_family() {
    check_all(true, 1e-3);
}

/// Element by element, where differences see two directions of a tensor.
#[test]
fn the_reverse_pass_is_the_tape_of_every_family() {
    let mut failures = Vec::new();
    for case in cases() {
        let golden = load(&case);
        let model = golden.architecture.language_model().unwrap();
        let ids: Vec<u32> = golden.sequences.concat();
        let lengths: Vec<usize> = golden.sequences.iter().map(Vec::len).collect();
        let labels: Vec<u32> = ids.iter().map(|id| (id * 5 + 3) % model.vocabulary() as u32).collect();
        let draws: Vec<f64> = (0..ids.len()).map(|i| (i as f64 * 0.618_034).fract()).collect();
        let weights = position_weights(ids.len());
        let point = moved(&model.layout, &golden.weights);
        let batch = TokenBatch { ids: &ids, lengths: &lengths, weights: &weights };
        let center = PlainCenter::new(model, &golden.weights, &ids, &lengths, &weights);
        let tape = Tape::new(model, &point, DType::F64);
        let targets = [
            ("labels", Target::Labels(&labels), TapeTarget::Labels(&labels)),
            ("draws", Target::Drawn(&draws), TapeTarget::Drawn(&draws)),
            ("center", Target::Center(&center), TapeTarget::Center(&golden.weights)),
        ];
        for (what, target, same) in targets {
            let (loss, gradient) = reverse(model, &point, batch, target);
            let (expected_loss, expected) = tape.gradient(batch, same);
            if (loss / expected_loss - 1.0).abs() > 1e-4 {
                failures.push(format!("{case}, {what}: the loss is {loss} not {expected_loss}"));
            }
            let all = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt();
            for parameter in model.layout.parameters() {
                let range = parameter.range();
                let size = (expected[range.clone()].iter().map(|x| x * x).sum::<f64>() / range.len() as f64).sqrt();
                let error =
                    gradient[range.clone()].iter().zip(&expected[range]).map(|(&x, y)| (f64::from(x) - y).abs()).fold(0.0, f64::max);
                // Some gradients are zero but for rounding.
                if error.is_nan() || error > 1e-4 * size + 1e-6 * all {
                    failures.push(format!("{case}, {what}, {}: off by {error:e} of {size:e}", parameter.name));
                }
            }
            let alone = |threads: usize, keep: Keep| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let sequences = model.sequences(batch).unwrap().keeping(keep);
                let mut again = vec![0.0f32; point.len()];
                let mut space = GradientSpace::default();
                let loss = pool.install(|| model.add_gradient(&point, &sequences, target, None, &mut space, &mut again)).unwrap();
                (loss, again)
            };
            for (threads, keep) in [(1, Keep::Everything), (1, Keep::Inputs), (4, Keep::Inputs)] {
                if alone(threads, keep) != (loss, gradient.clone()) {
                    failures.push(format!("{case}, {what}: other bits with {threads} threads, {keep:?}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Of several strips of several tiles, with a bias, and with a soft limit of the logits and a head that is the embedding.
#[test]
fn large_vocabularies_have_the_gradient_of_the_tape_and_the_same_bits_on_any_number_of_threads() {
    for case in ["phi", "gemma2"] {
        let mut config = json_file(&folder().join(case).join("config.json"));
        config["vocab_size"] = json!(5000);
        let architecture = from_config(&config).unwrap();
        let model = architecture.language_model().unwrap();
        let center: Vec<f32> = (0..model.dimension()).map(|i| ((i * i % 7919) as f32 * 0.37).sin() * 0.3).collect();
        let point = moved(&model.layout, &center);
        let ids: Vec<u32> = (0..40).map(|i| i * 997 % 5000).collect();
        let lengths = [17usize, 23];
        let draws: Vec<f64> = (0..ids.len()).map(|i| (i as f64 * 0.618_034).fract()).collect();
        let weights = position_weights(ids.len());
        let batch = TokenBatch { ids: &ids, lengths: &lengths, weights: &weights };
        let outputs = PlainCenter::new(model, &center, &ids, &lengths, &weights);
        let tape = Tape::new(model, &point, DType::F64);
        let targets = [
            (Target::Labels(&ids), TapeTarget::Labels(&ids)),
            (Target::Drawn(&draws), TapeTarget::Drawn(&draws)),
            (Target::Center(&outputs), TapeTarget::Center(&center)),
        ];
        for (number, (target, same)) in targets.into_iter().enumerate() {
            let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (loss, gradient) = pool(1).install(|| reverse(model, &point, batch, target));
            for threads in [2, 4] {
                assert!(pool(threads).install(|| reverse(model, &point, batch, target)) == (loss, gradient.clone()), "{threads} threads");
            }
            let (expected_loss, expected) = tape.gradient(batch, same);
            assert!((loss / expected_loss - 1.0).abs() < 1e-5, "{case}, {number}: {loss} not {expected_loss}");
            for parameter in model.layout.parameters() {
                let rows = gradient[parameter.range()].iter().zip(&expected[parameter.range()]);
                let (error, size) =
                    rows.fold((0.0f64, 0.0f64), |(error, size), (&x, y)| (error + (f64::from(x) - y).powi(2), size + y * y));
                assert!(error.sqrt() < 2e-5 * size.sqrt(), "{case}, {number}, {}: {error:e} of {size:e}", parameter.name);
            }
        }
    }
}

/// Where the outputs are so far from the center's that the sums of the divergence leave no digits of the normalizer.
#[test]
fn outputs_far_from_the_center_have_the_gradient_of_the_tape() {
    let golden = load("gpt_neox_pythia");
    let model = golden.architecture.language_model().unwrap();
    let ids = &golden.sequences[0];
    let (lengths, weights) = ([ids.len()], vec![1.0f32; ids.len()]);
    let batch = TokenBatch { ids, lengths: &lengths, weights: &weights };
    for factor in [8.0f32, 60.0] {
        let mut point = golden.weights.clone();
        point[model.decoder.head.weight.clone()].iter_mut().for_each(|weight| *weight *= factor);
        // Once the center is the flat one, once the point.
        for (center, point) in [(&golden.weights, &point), (&point, &golden.weights)] {
            let outputs = PlainCenter::new(model, center, ids, &lengths, &weights);
            let (loss, gradient) = reverse(model, point, batch, Target::Center(&outputs));
            let (expected_loss, expected) = Tape::new(model, point, DType::F64).gradient(batch, TapeTarget::Center(center));
            let rows = gradient.iter().zip(&expected);
            let (error, size) = rows.fold((0.0f64, 0.0f64), |(error, size), (&x, y)| (error + (f64::from(x) - y).powi(2), size + y * y));
            assert!((loss / expected_loss - 1.0).abs() < 1e-4, "{factor}: {loss} not {expected_loss}");
            assert!(error.sqrt() < 1e-4 * size.sqrt(), "{factor}: {error:e} of {size:e}");
        }
    }
}

#[test]
fn a_watcher_sees_inputs_and_slopes_whose_products_are_the_gradients() {
    for case in ["gpt2", "gpt_neox_pythia", "phi3", "opt_after_projected", "qwen3"] {
        let golden = load(case);
        let model = golden.architecture.language_model().unwrap();
        let ids: Vec<u32> = golden.sequences.concat();
        let lengths: Vec<usize> = golden.sequences.iter().map(Vec::len).collect();
        let weights = position_weights(ids.len());
        let batch = TokenBatch { ids: &ids, lengths: &lengths, weights: &weights };
        let seen = std::sync::Mutex::new(Vec::new());
        let watcher = |place: usize, inputs: &[f32], slopes: &[f32]| seen.lock().unwrap().push((place, inputs.to_vec(), slopes.to_vec()));
        let mut gradient = vec![0.0f32; golden.weights.len()];
        let (sequences, mut space) = (model.sequences(batch).unwrap(), GradientSpace::default());
        model.add_gradient(&golden.weights, &sequences, Target::Labels(&ids), Some(&watcher), &mut space, &mut gradient).unwrap();
        let seen = seen.into_inner().unwrap();
        let layers = model.decoder.dense_layers();
        assert_eq!(seen.len(), layers.len(), "{case}");
        for linear in layers {
            let (_, inputs, slopes) = seen.iter().find(|(place, ..)| *place == linear.weight.start).unwrap();
            let own = &gradient[linear.weight.clone()];
            let size = own.iter().fold(0.0f32, |size, slope| size.max(slope.abs()));
            for (row, column) in [(0, 0), (linear.outputs - 1, linear.inputs / 2), (linear.outputs / 2, linear.inputs - 1)] {
                let rows = slopes.chunks_exact(linear.outputs).zip(inputs.chunks_exact(linear.inputs));
                let expected: f32 = rows.map(|(slopes, inputs)| slopes[row] * inputs[column]).sum();
                let place = if linear.transposed { column * linear.outputs + row } else { row * linear.inputs + column };
                assert!((own[place] - expected).abs() <= 1e-5 * size, "{case}: {} not {expected}", own[place]);
            }
        }
    }
}

#[test]
fn neither_threads_nor_what_is_kept_change_a_bit() {
    let (architecture, weights) = long_model();
    let model = architecture.language_model().unwrap();
    let ids: Vec<u32> = (0..447).map(|i| i * 31 % 50).collect();
    let lengths = [300usize, 1, 130, 16];
    let ones = vec![1.0; ids.len()];
    let batch = TokenBatch { ids: &ids, lengths: &lengths, weights: &ones };
    let run = |keep: Keep| {
        let mut gradient = vec![0.0f32; weights.len()];
        let sequences = model.sequences(batch).unwrap().keeping(keep);
        let mut space = GradientSpace::default();
        let loss = model.add_gradient(&weights, &sequences, Target::Labels(&ids), None, &mut space, &mut gradient).unwrap();
        (loss, gradient)
    };
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let one = pool(1).install(|| run(Keep::Everything));
    for threads in [1, 2, 3, 4] {
        for keep in [Keep::Everything, Keep::Inputs] {
            assert!(pool(threads).install(|| run(keep)) == one, "{threads} threads, {keep:?}");
        }
    }
    let (loss, expected) = Tape::new(model, &weights, DType::F64).gradient(batch, TapeTarget::Labels(&ids));
    assert!((one.0 / loss - 1.0).abs() < 1e-5, "{} not {loss}", one.0);
    for parameter in model.layout.parameters() {
        let rows = one.1[parameter.range()].iter().zip(&expected[parameter.range()]);
        let (error, size) = rows.fold((0.0f64, 0.0f64), |(error, size), (&x, y)| (error + (f64::from(x) - y).powi(2), size + y * y));
        assert!((error / size).sqrt() < 1e-5, "{}: {:e}", parameter.name, (error / size).sqrt());
    }
}

#[test]
fn gradients_add_up_over_sequences() {
    let golden = load("llama_untied");
    let model = golden.architecture.language_model().unwrap();
    let ids: Vec<u32> = golden.sequences.concat();
    let lengths: Vec<usize> = golden.sequences.iter().map(Vec::len).collect();
    let weights = position_weights(ids.len());
    let batch = TokenBatch { ids: &ids, lengths: &lengths, weights: &weights };
    let (loss, whole) = reverse(model, &golden.weights, batch, Target::Labels(&ids));
    let (mut sum, mut start, mut parts) = (0.0, 0, vec![0.0f32; whole.len()]);
    for &length in &lengths {
        let range = start..start + length;
        let batch = TokenBatch { ids: &ids[range.clone()], lengths: &[length], weights: &weights[range.clone()] };
        let (own, gradient) = reverse(model, &golden.weights, batch, Target::Labels(&ids[range]));
        sum += own;
        parts.iter_mut().zip(gradient).for_each(|(total, slope)| *total += slope);
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
    let message = |ids: &[u32], weights: &[f32], target: Target<'_>| {
        let lengths = [ids.len()];
        let sequences = model.sequences(TokenBatch { ids, lengths: &lengths, weights });
        let loss = sequences.and_then(|sequences| model.loss(&golden.weights, &sequences, target, &mut GradientSpace::default()));
        loss.unwrap_err().to_string()
    };
    let outside = [model.vocabulary() as u32];
    for (found, expected) in [
        (message(&[1, 2], &[1.0], Target::Labels(&[1, 2])), "the list of weights has 1 entries: expected 2"),
        (message(&[1, 2], &[1.0; 2], Target::Labels(&[1])), "the list of labels has 1 entries"),
        (message(&[1, 2], &[1.0; 2], Target::Drawn(&[0.5])), "the list of draws has 1 entries"),
        (message(&[1], &[1.0], Target::Labels(&outside)), "is not in the vocabulary"),
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
        let sequences = model.sequences(batch).unwrap();
        let mut space = GradientSpace::default();
        // The losses of equally spaced draws are those of all labels, each as often as it is probable.
        let count = 400;
        let losses = (0..count).map(|i| {
            let draws = vec![(f64::from(i) + 0.5) / f64::from(count); ids.len()];
            model.loss(&golden.weights, &sequences, Target::Drawn(&draws), &mut space).unwrap()
        });
        let mean = losses.sum::<f64>() / f64::from(count);
        let entropy: f64 = log_q.iter().map(|log_q| -log_q.exp() * log_q).sum();
        assert!((mean / entropy - 1.0).abs() < 0.1, "{case}: {mean} not {entropy}");
        for (label, draw) in [(0, 0.0), (model.vocabulary() - 1, 1.0 - 1e-12)] {
            let (draws, labels) = (vec![draw; ids.len()], vec![label as u32; ids.len()]);
            let drawn = reverse(model, &golden.weights, batch, Target::Drawn(&draws));
            assert!(drawn == reverse(model, &golden.weights, batch, Target::Labels(&labels)), "{case}");
        }
        // The same of the tape, in the type of devices.
        let tape = Tape::new(model, &golden.weights, DType::F32);
        let losses = (0..count).map(|i| {
            let draws = vec![(f64::from(i) + 0.5) / f64::from(count); ids.len()];
            tape.gradient(batch, TapeTarget::Drawn(&draws)).0
        });
        let mean = losses.sum::<f64>() / f64::from(count);
        assert!((mean / entropy - 1.0).abs() < 0.1, "{case}: {mean} not {entropy} on the tape");
        for (label, draw) in [(0, 0.0), (model.vocabulary() - 1, 1.0 - 1e-12)] {
            let (draws, labels) = (vec![draw; ids.len()], vec![label as u32; ids.len()]);
            assert!(tape.gradient(batch, TapeTarget::Drawn(&draws)) == tape.gradient(batch, TapeTarget::Labels(&labels)), "{case}");
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
        let tape = Tape::new(model, &golden.weights, DType::F64);
        let exact = rounded(tape.gradient(batch, TapeTarget::Labels(&labels)).1);
        let own = reverse(model, &golden.weights, batch, Target::Labels(&labels)).1;
        for (way, gradient, bound) in [("reverse pass", own, 1e-5), ("tape", exact, 3e-6)] {
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
            report += &format!("{case}, {way}: gradients {:.1e} ({})\n", worst.0, worst.1);
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
