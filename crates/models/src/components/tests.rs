//! Components of every family: the parts have every weight once, and those of a head are its head's alone.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::arch::{ConvNextV2Config, LanguageModel, MlpConfig, from_config};
use crate::checkpoint::Checkpoint;
use crate::parameters::{Moving, Parameters};

fn chosen(components: &Components, names: &[&str]) -> Chosen {
    components.chosen(names).unwrap_or_else(|error| panic!("{names:?}: {error}"))
}

/// Whether some sets have every coordinate of another once.
fn is_partition(whole: &Chosen, parts: &[Chosen]) -> bool {
    let mut union = Chosen::default();
    parts.iter().for_each(|part| union.extend(part));
    union == *whole && parts.iter().map(Chosen::count).sum::<usize>() == whole.count()
}

/// The language models of the fixtures, of every family.
fn checkpoints() -> Vec<(String, Checkpoint)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/language_models");
    let mut all: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    let load = |path: std::path::PathBuf| {
        let checkpoint = Checkpoint::load(&path).ok()?;
        checkpoint.architecture.language_model()?;
        Some((path.file_name()?.to_string_lossy().into_owned(), checkpoint))
    };
    all.into_iter().filter_map(load).collect()
}

#[test]
fn the_parts_of_every_language_model_have_every_weight_once() {
    let mut families = std::collections::BTreeSet::new();
    for (name, checkpoint) in checkpoints() {
        let model = checkpoint.architecture.language_model().unwrap();
        families.insert(checkpoint.architecture.model_type());
        let (components, heads) = (Components::of(model), model.decoder().heads);
        let is_tied = model.decoder().head.weight == model.decoder().embedding;
        let all = Chosen::of_names(&model.layout, |_| true);
        let mut parts: Vec<Chosen> = ["embed", "attn", "mlp"].iter().map(|name| chosen(&components, &[name])).collect();
        // Norms without factors (some OPT) have no weights.
        parts.extend(components.chosen(&["norms"]).ok());
        if is_tied {
            let message = components.chosen(&["unembed"]).unwrap_err().to_string();
            assert!(message.starts_with("`unembed` is tied to `embed`"), "{name}: {message}");
        } else {
            parts.push(chosen(&components, &["unembed"]));
        }
        assert!(is_partition(&all, &parts), "{name}: {}", components.words());
        let layers = model.decoder().layers.len();
        assert_eq!(chosen(&components, &["full"]), all);
        for layer in 0..layers {
            let whole = chosen(&components, &[&format!("l{layer}")]);
            let mut union = chosen(&components, &[&format!("l{layer} attn"), &format!("L{layer}.mlp")]);
            if let Ok(norms) = components.chosen(&[format!("l{layer} norms")]) {
                union.extend(&norms);
            }
            assert_eq!(whole, union, "{name}");
            // The heads (of queries, or groups of them that share keys), the output's bias and the norms that all heads share are the attention.
            let word = if heads.keys < heads.queries { "g" } else { "h" };
            let mut parts: Vec<Chosen> = (0..heads.keys).map(|head| chosen(&components, &[&format!("l{layer}{word}{head}")])).collect();
            let attention = &model.decoder().layers[layer].attention;
            let shared =
                [&attention.query_norm, &attention.key_norm].into_iter().flatten().flat_map(|norm| norm.weight.iter().chain(&norm.bias));
            let shared = shared.filter(|range| range.len() == heads.width).chain(&attention.output.bias);
            parts.extend(shared.map(|range| Chosen::of_range(&model.layout, range)));
            assert!(is_partition(&chosen(&components, &[&format!("l{layer} attn")]), &parts), "{name} {layer}");
            if heads.keys < heads.queries {
                let group = heads.queries / heads.keys;
                let range = chosen(&components, &[&format!("l{layer}h0-h{}", group - 1)]);
                assert_eq!(range, chosen(&components, &[&format!("l{layer}g0")]), "{name}");
            }
        }
    }
    assert!(families.len() >= 14, "{families:?}");
}

/// What each head adds to the states behind the first layer's attention, by plain loops over the tensors as `transformers` reads them: which heads
/// of the *first layer's attention weights* a change of weights reaches.
///
/// The test needs no forward pass of its own: with the output matrix's columns of one head zeroed, nothing that the head computes is seen, so
/// moving the head's queries, keys and values must leave all logits as they are; and with all others zeroed the same move must change them.
fn check_head(name: &str, checkpoint: &Checkpoint, model: &LanguageModel) {
    let (decoder, components) = (model.decoder(), Components::of(model));
    let (heads, layout) = (decoder.heads, &model.layout);
    let group = heads.queries / heads.keys;
    let ids: Vec<u32> = (0..7u32).map(|i| (5 * i + 3) % decoder.vocabulary as u32).collect();
    let output = &decoder.layers[0].attention.output;
    let columns = Chosen::of_range(layout, &output.weight);
    let center = checkpoint.parameters.values().into_owned();
    let parameters = || Parameters::new(layout.clone(), center.clone());
    for head in 0..heads.queries {
        let own = chosen(&components, &[&format!("l0h{head}")]);
        let read = own.intersection(&columns);
        assert_eq!(read.count(), heads.width * decoder.hidden, "{name}: columns of the output");
        // The output's columns of the heads whose number `is_meant` has, zeroed: by hand, input by input.
        let silenced = |is_meant: &dyn Fn(usize) -> bool| {
            let mut weights = center.clone();
            let matrix = &mut weights[output.weight.clone()];
            for input in (0..output.inputs).filter(|input| is_meant(input / heads.width)) {
                for out in 0..output.outputs {
                    matrix[if output.transposed { input * output.outputs + out } else { out * output.inputs + input }] = 0.0;
                }
            }
            weights
        };
        let logits = |weights: &[f32]| model.logits_exact(weights, &ids).unwrap();
        // What moves of the head beside what reads it.
        let moving = Moving::of(parameters(), &own).unwrap();
        let kept = Moving::of(parameters(), &read).unwrap();
        let moved = |weights: &[f32]| {
            let mut values = vec![0.0f32; moving.dimension()];
            moving.gather(weights, &mut values);
            values.iter_mut().enumerate().for_each(|(i, value)| *value += 0.3 * (1.0 + i as f32).sin());
            let mut result = weights.to_vec();
            moving.scatter(&values, &mut result);
            let mut reading = vec![0.0f32; kept.dimension()];
            kept.gather(weights, &mut reading);
            kept.scatter(&reading, &mut result);
            result
        };
        // Other heads of its group read the same keys and values.
        let of_group = |other: usize| other / group == head / group;
        let without = silenced(&|other| of_group(other));
        let difference = |one: &[f64], two: &[f64]| one.iter().zip(two).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let shares_norm = decoder.layers[0].attention.query_norm.as_ref().is_some_and(|norm| norm.width > heads.width);
        if !shares_norm {
            assert!(difference(&logits(&without), &logits(&moved(&without))) < 1e-9, "{name}: head {head} reaches other heads");
        }
        let alone = silenced(&|other| other != head);
        assert!(difference(&logits(&alone), &logits(&moved(&alone))) > 1e-6, "{name}: head {head} is not reached");
        // With the columns of all others zeroed, zeroing what the component says are its own leaves nothing of the attention.
        let mut none = alone.clone();
        kept.scatter(&vec![0.0; kept.dimension()], &mut none);
        assert_eq!(none, silenced(&|_| true), "{name}: the columns of head {head}");
    }
}

#[test]
fn what_a_component_moves_of_a_head_reaches_no_other_head() {
    let mut kinds = std::collections::BTreeSet::new();
    for (name, checkpoint) in checkpoints() {
        let model = checkpoint.architecture.language_model().unwrap();
        kinds.insert(checkpoint.architecture.model_type());
        check_head(&name, &checkpoint, model);
    }
    assert!(["gpt2", "gpt_neox", "llama", "phi3"].iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
}

#[test]
fn layers_of_perceptrons_and_stages_of_images_have_every_weight_once() {
    let network = MlpConfig::from_widths(vec![4, 5, 6, 3]).unwrap();
    let components = Components::of(&network);
    assert_eq!(components.words(), "l0-l2");
    let all = Chosen::of_names(&network.layout(), |_| true);
    assert!(is_partition(&all, &["l0", "l1", "l2"].map(|name| chosen(&components, &[name]))));
    assert_eq!(chosen(&components, &["l0-l2"]), all);
    assert_eq!(chosen(&components, &["l1"]), Chosen::of_names(&network.layout(), |name| name.starts_with("layers.1.")));
    assert_eq!(components.names_of(Kind::Layers).unwrap(), ["l0", "l1", "l2"]);
    let message = components.names_of(Kind::Heads).unwrap_err().to_string();
    assert_eq!(message, "the model has no heads: its components are l0-l2");

    let config = json!({"model_type": "convnextv2", "image_size": 8, "patch_size": 1, "hidden_sizes": [4, 6], "depths": [2, 1]});
    let network = ConvNextV2Config::read(&config).unwrap();
    let components = Components::of(&network);
    assert_eq!(components.words(), "stage0 (with block0-block1), stage1 (with reduction, block0), stem, norms, classifier");
    let all = Chosen::of_names(&network.layout(), |_| true);
    let mut parts = ["stem", "stage0", "stage1", "classifier"].map(|name| chosen(&components, &[name])).to_vec();
    parts.push(Chosen::of_names(&network.layout(), |name| name.starts_with("convnextv2.layernorm")));
    assert!(is_partition(&all, &parts));
    let block = Chosen::of_names(&network.layout(), |name| name.contains("stages.0.layers.1."));
    assert_eq!(chosen(&components, &["stage0.block1"]), block);
    assert_eq!(components.names_of(Kind::Layers).unwrap(), ["stage0 block0", "stage0 block1", "stage1 block0"]);
    assert_eq!(chosen(&components, &["norms"]), Chosen::of_names(&network.layout(), crate::arch::convnextv2::is_norm));
}

#[test]
fn what_is_not_there_is_refused_with_what_is() {
    let config = json!({"model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true});
    let model = from_config(&config).unwrap();
    let components = Components::of(model.as_ref());
    let known = "l0-l1 (each with attn, mlp, norms, h0-h3, g0-g1), embed, attn, mlp, norms, unembed (tied to embed)";
    assert_eq!(components.words(), known);
    for name in ["l2", "l0h4", "l0-l7", "l1g2", "l0 stage1", "h0", "l", "nothing", "l0 attn mlp", "?", "l0h3-h5"] {
        let message = components.chosen(&[name]).unwrap_err().to_string();
        assert!(message.starts_with(&format!("the model has no `{name}`: its components are {known}")), "{message}");
        assert!(message.contains("`model.embed_tokens.weight[0:8, :]`") && message.lines().count() == 1, "{message}");
    }
    assert_eq!(components.chosen::<&str>(&[]).unwrap_err(), ComponentError::Nothing);
    assert_eq!(components.chosen(&[" , "]).unwrap_err(), ComponentError::Nothing);
    assert_eq!(chosen(&components, &["l0 attn, l1 attn"]), chosen(&components, &["attn"]));
    assert_eq!(chosen(&components, &["l0-1 mlp"]), chosen(&components, &["l0 mlp", "l1.mlp"]));
    assert_eq!(components.names_of(Kind::Heads).unwrap()[..5], ["l0h0", "l0h1", "l0h2", "l0h3", "l1h0"]);
    assert_eq!(components.names_of(Kind::Mlps).unwrap(), ["l0 mlp", "l1 mlp"]);
    let slice = chosen(&components, &["model.layers.0.self_attn.q_proj.weight[4:8]"]);
    assert_eq!(slice.intersection(&chosen(&components, &["l0h1"])).count(), slice.count());
}

/// With the other coordinates fixed at the center, a quadratic cost is that of the block of its matrix, and the set below a cutoff an ellipsoid of
/// volume `V_d (2 eps)^(d/2) / sqrt(det H_SS)`.
#[test]
fn a_component_of_an_ellipsoid_is_an_ellipsoid() {
    use std::sync::Arc;

    use basin_volume::direction::DirectionFamily;
    use basin_volume::objective::RayPoint;
    use basin_volume::preconditioner::Identity;

    let layout = ParameterLayout::new([("a".to_owned(), vec![3, 4]), ("b".to_owned(), vec![2])]);
    let mut chosen = slices::of_tensor(&layout, "a[0:2, 1:3]").unwrap().unwrap();
    chosen.extend(&slices::of_tensor(&layout, "b[1]").unwrap().unwrap());
    // Rows 0 and 1, columns 1 and 2 of `a`, and the last of `b`.
    let places = [1usize, 2, 5, 6, 13];
    let (count, cutoff) = (14usize, 0.02f64);
    let entry = |i: usize, j: usize| ((i * 7 + j * 3) as f64 * 0.9).sin() * 0.4;
    let matrix: Vec<f64> = (0..count * count)
        .map(|k| {
            let (i, j) = (k / count, k % count);
            (0..count).map(|m| entry(i, m) * entry(j, m)).sum::<f64>() + if i == j { 1.0 } else { 0.0 }
        })
        .collect();
    let center: Vec<f32> = (0..count).map(|i| (i as f32 * 1.1).cos()).collect();
    let moving = Moving::of(Parameters::new(layout, center.clone()), &chosen).unwrap();
    assert_eq!(moving.dimension(), places.len());
    // det H_SS by elimination.
    let size = places.len();
    let mut block: Vec<f64> =
        places.iter().flat_map(|&i| places.iter().map(move |&j| (i, j))).map(|(i, j)| matrix[i * count + j]).collect();
    let mut log_det = 0.0;
    for pivot in 0..size {
        let diagonal = block[pivot * size + pivot];
        log_det += diagonal.ln();
        for row in pivot + 1..size {
            let factor = block[row * size + pivot] / diagonal;
            (pivot..size).for_each(|column| block[row * size + column] -= factor * block[pivot * size + column]);
        }
    }
    // V_5 = 8 pi^2 / 15.
    let ball = (8.0 * std::f64::consts::PI.powi(2) / 15.0).ln();
    let exact = ball + 0.5 * size as f64 * (2.0 * cutoff).ln() - 0.5 * log_det;
    let mut own = vec![0.0; size];
    moving.fill(0..size, &mut own);
    let family = DirectionFamily::new(7, size, Arc::new(Identity));
    let (mut sum, rays) = (0.0, 40_000u64);
    let mut weights = Vec::new();
    moving.prepare(&mut weights);
    for ray in 0..rays {
        moving.write_point(&family.direction(ray, &own, None, true), RayPoint::straight(1.0), &mut weights);
        let step: Vec<f64> = weights.iter().zip(&center).map(|(&w, &c)| f64::from(w) - f64::from(c)).collect();
        assert!((0..count).all(|i| places.contains(&i) || step[i] == 0.0));
        let cost: f64 = (0..count).map(|i| step[i] * (0..count).map(|j| matrix[i * count + j] * step[j]).sum::<f64>()).sum::<f64>() / 2.0;
        let norm = step.iter().map(|x| x * x).sum::<f64>().sqrt();
        sum += (norm * (cutoff / cost).sqrt()).powi(size as i32);
    }
    let found = ball + (sum / rays as f64).ln();
    assert!((found - exact).abs() < 0.03, "{found} is not {exact}");
}

/// The curvature of a component is that of the whole model at its coordinates: the diagonal's entries, and rows and columns of the factors.
#[test]
fn the_curvature_of_a_head_is_its_part_of_the_whole() {
    use basin_volume_data::tokens::Positions;

    use crate::cost::language_model_tests::tokens;
    use crate::cost::{CenterOutputs, LanguageModelKl};
    use crate::curvature::{Curvature, Silent, fisher_diagonal, kronecker};

    let (_, checkpoint) = checkpoints().into_iter().find(|(name, _)| name == "gpt2").unwrap();
    let model = checkpoint.architecture.language_model().unwrap();
    let chosen = chosen(&Components::of(model), &["l1h1"]);
    let whole = Moving::from(checkpoint.parameters.clone());
    let part = Moving::of(checkpoint.parameters.clone(), &chosen).unwrap();
    let tokens = tokens(&[5, 7], None, Positions::All);
    let cost = |moving: &Moving| LanguageModelKl::new(model, moving.clone(), &tokens, CenterOutputs::Logits).unwrap();
    let (all, own) = (cost(&whole), cost(&part));
    let diagonal = |cost: &LanguageModelKl| match fisher_diagonal(cost, 1, 3, &mut Silent).unwrap() {
        Curvature::Diagonal { values } => values,
        other => panic!("{other:?}"),
    };
    let mut expected = vec![0.0; part.dimension()];
    part.gather(&diagonal(&all), &mut expected);
    assert_eq!(diagonal(&own), expected);
    let Curvature::Kronecker { blocks, .. } = kronecker(&own, 1, 3, &mut Silent).unwrap() else { panic!() };
    let Curvature::Kronecker { blocks: of_all, .. } = kronecker(&all, 1, 3, &mut Silent).unwrap() else { panic!() };
    for tensor in part.tensors() {
        let Some(block) = blocks.iter().find(|block| block.parameter == tensor.own.name) else { continue };
        let full = of_all.iter().find(|block| block.parameter == tensor.whole.name).unwrap();
        let side = full.column_factor.len().isqrt();
        let columns: Vec<usize> = tensor.block.columns.numbers().collect();
        let (last, first) = (columns[columns.len() - 1], columns[0]);
        assert_eq!(block.column_factor.len(), columns.len().pow(2));
        assert_eq!(block.column_factor[columns.len() - 1], full.column_factor[first * side + last]);
    }
    assert_eq!(blocks.len(), 2, "{:?}", blocks.iter().map(|block| &block.parameter).collect::<Vec<_>>());
}
