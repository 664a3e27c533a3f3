use std::sync::Arc;

use basin_volume::direction::Direction;
use basin_volume::objective::Differentiable;

use super::*;
use crate::arch::convnextv2::tests::{CASES, Golden, compare};
use crate::curvature::{Curvature, Labels, Scores, Silent, fisher_diagonal, kronecker};

pub(crate) fn cost(golden: &Golden) -> ImageKl {
    ImageKl::new(golden.config.clone(), golden.checkpoint.parameters.clone(), &golden.dataset()).unwrap()
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log = largest + logits.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
    logits.iter().map(|x| x - log).collect()
}

/// Log-probabilities of all images in `f64`.
fn exact(golden: &Golden, weights: &[f32]) -> Vec<Vec<f64>> {
    golden.tensor("inputs").chunks(golden.config.features()).map(|image| log_softmax(&golden.config.logits_exact(weights, image))).collect()
}

#[test]
fn cost_and_gradient_are_those_of_f64_and_torch() {
    for case in CASES {
        let golden = Golden::load(case);
        let cost = cost(&golden);
        let (center, moved) = (golden.weights(), golden.moved());
        assert_eq!(cost.cost_of_weights(&center).nats, 0.0);
        let pairs = exact(&golden, &center).into_iter().zip(exact(&golden, &moved));
        let sum: f64 = pairs.flat_map(|(p, q)| p.into_iter().zip(q)).map(|(p, q)| p.exp() * (p - q)).sum();
        let expected = sum / golden.labels.len() as f64;
        let found = cost.cost_at(&moved).unwrap();
        assert!((found.nats - expected).abs() < 5.0 * found.resolution + 1e-12, "{case}: {found:?} not {expected}");
        assert!(found.resolution < 1e-4 * expected, "{case}: {found:?}");
        let mut gradient = vec![f32::NAN; center.len()];
        let nats = cost.gradient(&moved, 0..cost.parts(), &mut gradient).unwrap();
        assert!((nats - found.nats).abs() < 1e-5 * found.nats);
        compare(&golden.config.layout(), &gradient, &golden.flat("divergence"), 5e-5);
    }
}

#[test]
fn parts_add_up_and_bits_do_not_depend_on_threads() {
    let golden = Golden::load("three_stages");
    let data = golden.dataset();
    // Several tiles, the last of them short.
    let data = data.select(&(0..37).map(|i| i * 5 % data.rows()).collect::<Vec<_>>()).unwrap();
    let cost = ImageKl::new(golden.config.clone(), golden.checkpoint.parameters.clone(), &data).unwrap();
    let moved = golden.moved();
    let mut whole = vec![0.0; moved.len()];
    let nats = cost.gradient(&moved, 0..37, &mut whole).unwrap();
    let (mut sum, mut parts, mut part) = (0.0, vec![0.0f32; moved.len()], vec![0.0; moved.len()]);
    for range in [0..3, 3..3, 3..17, 17..18, 18..37] {
        sum += cost.gradient(&moved, range, &mut part).unwrap();
        parts.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part);
    }
    assert!((sum - nats).abs() < 1e-12);
    compare(&golden.config.layout(), &parts, &whole, 1e-5);
    let direction = Direction::from_values(moved.clone(), 0.01, &golden.weights());
    let evaluate = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut gradient = vec![0.0; moved.len()];
            let nats = cost.likelihood_gradient(&moved, 1..36, 5, &mut gradient).unwrap();
            (cost.cost(&direction, RayPoint::straight(1.0)).unwrap(), nats.to_bits(), gradient)
        })
    };
    let one = evaluate(1);
    assert!(one == evaluate(2) && one == evaluate(3) && one.0.nats > 0.0);
}

#[test]
fn chosen_tensors_move_alone() {
    let golden = Golden::load("three_stages");
    let whole = cost(&golden);
    let moving = Moving::matching(golden.checkpoint.parameters.clone(), Some("stages.1|classifier"), None).unwrap();
    let part = ImageKl::new(golden.config.clone(), moving.clone(), &golden.dataset()).unwrap();
    let mut own = vec![0.0; moving.dimension()];
    moving.gather(&golden.moved(), &mut own);
    let mut all = golden.weights();
    moving.scatter(&own, &mut all);
    assert_eq!(part.cost_at(&own).unwrap(), whole.cost_at(&all).unwrap());
    let (mut gradient, mut full, mut expected) = (vec![0.0; own.len()], vec![0.0; all.len()], vec![0.0; own.len()]);
    part.gradient(&own, 0..11, &mut gradient).unwrap();
    whole.gradient(&all, 0..11, &mut full).unwrap();
    moving.gather(&full, &mut expected);
    assert_eq!(gradient, expected);
}

#[test]
fn squared_scores_are_those_of_differences_and_moments_have_their_trace() {
    let golden = Golden::load("patches");
    let cost = cost(&golden);
    let center = golden.weights();
    let chosen: Vec<usize> = (0..40).map(|i| i * 97 % center.len()).collect();
    let at = |weights: &[f32]| exact(&golden, weights);
    let base = at(&center);
    let scores: Vec<Vec<Vec<f64>>> = chosen
        .iter()
        .map(|&index| {
            let (mut up, mut down) = (center.clone(), center.clone());
            up[index] += 1e-3;
            down[index] -= 1e-3;
            let step = f64::from(up[index]) - f64::from(down[index]);
            at(&up).iter().zip(at(&down)).map(|(u, d)| u.iter().zip(d).map(|(u, d)| (u - d) / step).collect()).collect()
        })
        .collect();
    let images = golden.labels.len() as f64;
    // Labels of the data.
    let mut squares = vec![0.0; center.len()];
    for batch in cost.batches() {
        let labels = Labels::Data { rows: Some(&golden.labels), probes: 3, seed: 1 };
        cost.add_squared_scores(batch, labels, &mut Vec::new(), &mut squares).unwrap();
    }
    for (&index, scores) in chosen.iter().zip(&scores) {
        let expected: f64 = scores.iter().zip(&golden.labels).map(|(s, &label)| s[label as usize].powi(2)).sum::<f64>() / images;
        assert!((f64::from(squares[index]) - expected).abs() < 2e-3 * expected + 1e-9, "{index}: {} not {expected}", squares[index]);
    }
    // Labels of the model: within the scatter of many draws.
    let Curvature::Diagonal { values } = fisher_diagonal(&cost, 400, 3, &mut Silent).unwrap() else { panic!("a diagonal") };
    let expected: f64 = scores
        .iter()
        .map(|scores| {
            let image = |(s, l): (&Vec<f64>, &Vec<f64>)| s.iter().zip(l).map(|(s, l)| l.exp() * s * s).sum::<f64>();
            scores.iter().zip(&base).map(image).sum::<f64>() / images
        })
        .sum();
    let found: f64 = chosen.iter().map(|&index| f64::from(values[index])).sum();
    assert!((found / expected - 1.0).abs() < 0.1, "{found} not {expected}");
    // Factors of every linear layer. The traces of single positions: that of the head has one position, so it is exact.
    let Curvature::Kronecker { blocks, .. } = kronecker(&cost, 20, 3, &mut Silent).unwrap() else { panic!("factors") };
    assert_eq!(blocks.len(), 1 + 3 * 2 + 1 + 1);
    let layout = golden.config.layout();
    for block in &blocks {
        let parameter = layout.parameters().iter().find(|parameter| parameter.name == block.parameter).unwrap();
        let (rows, columns) = (block.row_factor.len().isqrt(), block.column_factor.len().isqrt());
        assert_eq!((rows, rows * columns), (parameter.shape[0], parameter.len()), "{}", parameter.name);
    }
    // The first layer's inputs are the images' own patches.
    let first = &blocks[0];
    let width = first.column_factor.len().isqrt();
    let patches = golden.config.patches(golden.tensor("inputs"));
    let count = patches.len() / width;
    for (row, column) in [(0, 0), (1, 5), (width - 1, 2)] {
        let expected: f64 = patches.chunks(width).map(|p| f64::from(p[row]) * f64::from(p[column])).sum::<f64>() / count as f64;
        assert!((f64::from(first.column_factor[row * width + column]) - expected).abs() < 1e-4, "{row} {column}");
    }
    let labels = |rows| Labels::Data { rows, probes: 1, seed: 0 };
    for (rows, expected) in [(None, "has none"), (Some(&[1u32, 2][..]), "there are 2 for 11"), (Some(&[9u32; 11][..]), "the label 9")] {
        let error = cost.add_squared_scores(0..11, labels(rows), &mut Vec::new(), &mut squares).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn data_of_another_size_or_class_is_refused() {
    let golden = Golden::load("patches");
    let build = |data: &Dataset| {
        ImageKl::new(golden.config.clone(), golden.checkpoint.parameters.clone(), data).err().map(|error| error.to_string()).unwrap()
    };
    let message = build(&Dataset::new("small", 64, vec![0.0; 640], None).unwrap());
    assert!(message.contains("64 features") && message.contains("16 x 16 pixels with 3 colors, 768 features"), "{message}");
    let message = build(&Dataset::new("labels", 768, vec![0.0; 2 * 768], Some(vec![1, 7])).unwrap());
    assert!(message.contains("image 1 of the dataset labels has the label 7 but the network has 5 classes"), "{message}");
    let mut broken = golden.weights();
    broken[3] = f32::INFINITY;
    let parameters = Parameters::new(golden.config.layout(), broken);
    let error = ImageKl::new(golden.config.clone(), parameters, &golden.dataset()).unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
    let scores: Arc<dyn Scores> = Arc::new(cost(&golden));
    assert_eq!(scores.positions(), 11);
}
