use basin_volume::center::Center;

use super::*;
use crate::curvature::diagonal::tests::within_errors;
use crate::curvature::testkit::{expected_squares, language, perceptron};
use crate::curvature::{Silent, fisher_diagonal};
use crate::parameters::Moving;

fn parts(curvature: Curvature) -> (Vec<KroneckerBlock>, Vec<f32>) {
    match curvature {
        Curvature::Kronecker { blocks, diagonal } => (blocks, diagonal),
        other => panic!("Kronecker factors, not {other:?}"),
    }
}

fn factors(model: &dyn Scores, probes: usize, seed: u64) -> (Vec<KroneckerBlock>, Vec<f32>) {
    let curvature = kronecker(model, probes, seed, &mut Silent).unwrap();
    curvature.validate(model.moving().layout()).unwrap();
    parts(curvature)
}

fn diagonal(model: &dyn Scores, probes: usize, seed: u64) -> Vec<f32> {
    let Curvature::Diagonal { values } = fisher_diagonal(model, probes, seed, &mut Silent).unwrap() else { panic!("a diagonal") };
    values
}

#[test]
fn one_row_has_exactly_such_blocks() {
    let net = perceptron(&[9, 7, 6, 4], 1);
    let fisher = net.fisher();
    let dimension = net.cost.dimension();
    let largest = fisher.iter().copied().fold(0.0, f64::max);
    let (blocks, _) = factors(&net.cost, 1, 0);
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        let parameter = net.cost.moving().layout().parameters().iter().find(|p| p.name == block.parameter).unwrap();
        let columns = parameter.shape[1];
        for (i, k) in (0..parameter.len()).flat_map(|i| (0..parameter.len()).map(move |k| (i, k))) {
            let factor = |values: &[f32], size: usize, a: usize, b: usize| f64::from(values[a * size + b]);
            let rows = factor(&block.row_factor, parameter.shape[0], i / columns, k / columns);
            let found = block.scale * rows * factor(&block.column_factor, columns, i % columns, k % columns);
            let expected = fisher[(parameter.offset + i) * dimension + parameter.offset + k];
            assert!(
                (found - expected).abs() < 1e-4 * expected.abs() + 1e-6 * largest,
                "{} {i} {k}: {found} not {expected}",
                block.parameter
            );
        }
    }
}

#[test]
fn factors_are_means_over_rows_and_the_rest_is_the_diagonal() {
    let rows = 130;
    let net = perceptron(&[9, 7, 4], rows);
    let (blocks, rest) = factors(&net.cost, 1, 0);
    let mut sums: Vec<(Vec<f64>, Vec<f64>)> =
        blocks.iter().map(|block| (vec![0.0; block.row_factor.len()], vec![0.0; block.column_factor.len()])).collect();
    for row in 0..rows {
        let data = net.data.select(&[row]).unwrap();
        let single = crate::cost::MlpKl::new(net.cost.network().clone(), net.cost.parameters().clone(), &data).unwrap();
        for (sums, block) in sums.iter_mut().zip(factors(&single, 1, 0).0) {
            let share = 1.0 / rows as f64;
            sums.0.iter_mut().zip(&block.row_factor).for_each(|(sum, &x)| *sum += share * f64::from(x));
            sums.1.iter_mut().zip(&block.column_factor).for_each(|(sum, &x)| *sum += share * f64::from(x));
        }
    }
    for (block, (rows, columns)) in blocks.iter().zip(&sums) {
        for (found, expected) in block.row_factor.iter().zip(rows).chain(block.column_factor.iter().zip(columns)) {
            assert!((f64::from(*found) - expected).abs() < 1e-4 * expected.abs() + 1e-6, "{found} not {expected}");
        }
    }
    let all = diagonal(&net.cost, 1, 0);
    let biases: Vec<f32> = [63..70, 98..102].into_iter().flat_map(|range| all[range].to_vec()).collect();
    assert_eq!(rest, biases);
}

#[test]
fn one_token_has_the_diagonal_of_its_factors_in_every_family() {
    for name in ["gpt_neox_pythia", "gpt2", "llama_untied", "gemma2", "opt_after_projected", "phi", "qwen3", "olmo2", "mistral_full"] {
        let language = language(name, &[1], None);
        let (blocks, rest) = factors(&language.cost, 3, 9);
        let all = diagonal(&language.cost, 3, 9);
        let largest = all.iter().copied().fold(0.0, f32::max);
        let mut others = Vec::new();
        let mut next = blocks.iter().peekable();
        for (parameter, values) in language.cost.moving().layout().unflatten(&all) {
            let Some(block) = next.next_if(|block| block.parameter == parameter.name) else {
                others.extend_from_slice(values);
                continue;
            };
            let [rows, columns] = parameter.shape[..] else { panic!("a matrix") };
            for (index, value) in values.iter().enumerate() {
                let (row, column) = (index / columns, index % columns);
                let found = block.row_factor[row * (rows + 1)] * block.column_factor[column * (columns + 1)];
                assert!((found - value).abs() < 1e-3 * value + 1e-7 * largest, "{name} {} {index}: {found} not {value}", parameter.name);
            }
        }
        assert!(next.next().is_none() && blocks.len() >= 4 && others == rest, "{name}: {} blocks", blocks.len());
    }
}

#[test]
fn gradients_of_several_positions_are_scaled_as_the_fisher_matrix() {
    // No attention comes behind the last layer: gradients of different positions are uncorrelated, and the factor's diagonal is that of
    // the bias.
    let lengths = [12, 5];
    let language = language("gpt_neox_pythia", &lengths, None);
    let layout = language.cost.moving().layout();
    let (mut place, mut name) = (0..0, String::new());
    for parameter in layout.parameters().iter().filter(|p| p.name.contains("mlp.dense_4h_to_h")) {
        if parameter.name.ends_with("bias") {
            place = parameter.range();
        } else {
            name = parameter.name.clone();
        }
    }
    let chosen: Vec<usize> = place.collect();
    let expected = expected_squares(&language.scores(&lengths, &chosen));
    let run = |run: u64| {
        let (blocks, _) = factors(&language.cost, 20, 31 * run);
        let block = blocks.iter().find(|block| block.parameter == name).unwrap();
        block.row_factor.iter().step_by(chosen.len() + 1).copied().collect()
    };
    within_errors(&(0..24).map(run).collect::<Vec<Vec<f32>>>(), &expected);
}

#[test]
fn inputs_of_several_positions_are_averaged() {
    // The projection behind the embedding reads its rows.
    let lengths = [12, 5];
    let language = language("opt_after_projected", &lengths, None);
    let (blocks, _) = factors(&language.cost, 2, 3);
    let block = blocks.iter().find(|block| block.parameter.contains("project_in")).unwrap();
    let size = block.column_factor.len().isqrt();
    let decoder = language.model().decoder();
    let center = language.checkpoint.parameters.values();
    let table = &center[decoder.embedding.clone()];
    let data = crate::cost::language_model_tests::tokens(&lengths, None, basin_volume_data::tokens::Positions::All);
    let mut expected = vec![0.0; size * size];
    for &id in data.ids() {
        let row = &table[id as usize * size..][..size];
        for (entry, (i, j)) in expected.iter_mut().zip((0..size).flat_map(|i| (0..size).map(move |j| (i, j)))) {
            *entry += f64::from(decoder.embedding_scale).powi(2) * f64::from(row[i]) * f64::from(row[j]) / 17.0;
        }
    }
    for (found, expected) in block.column_factor.iter().zip(&expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-5 * expected.abs() + 1e-7, "{found} not {expected}");
    }
}

#[test]
fn threads_do_not_matter_and_a_choice_without_matrices_is_refused() {
    let net = perceptron(&[9, 7, 6, 4], 300);
    let language = language("gpt2", &[20, 30], Some("mlp"));
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let run = || (factors(&net.cost, 1, 0), factors(&language.cost, 2, 5));
    let one = pool(1).install(run);
    assert!(pool(3).install(run) == one);
    assert_eq!(one.1.0.len(), 2 * language.model().decoder().layers.len());
    assert_eq!(factor_bytes(&net.cost), 4 * (81 + 2 * 49 + 2 * 36 + 16));
    let chosen = Moving::matching(net.cost.parameters().clone(), Some("bias"), None).unwrap();
    let biases = crate::cost::MlpKl::new(net.cost.network().clone(), chosen, &net.data).unwrap();
    let message = kronecker(&biases, 1, 0, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("without the matrix") && !message.contains('\n'), "{message}");
}
