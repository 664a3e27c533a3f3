//! The gradient of the cost beside the cost itself: the digits network (1024 inputs), and a language model of the shape of Pythia-14m with
//! random weights on 4 x 256 tokens.
//!
//!     cargo bench -p basin-volume-models --bench gradient -- [--threads N] [--repeats N]
//!
//! Prints milliseconds (median and least). Cost and gradient alternate, so that a busy neighbour slows both.

#![allow(clippy::print_stdout, missing_docs)]

use std::hint::black_box;
use std::time::Instant;

use basin_volume::objective::Differentiable;
use basin_volume_data::digits;
use basin_volume_data::tokens::{ModelLimits, Positions, Provenance, TokenSequences};
use basin_volume_models::arch::{MlpConfig, from_config};
use basin_volume_models::cost::{CenterOutputs, LanguageModelKl, MlpKl};
use basin_volume_models::parameters::Parameters;
use serde_json::json;

/// Times each of some pieces of work, in turn.
fn compare(title: &str, repeats: usize, work: &mut [(&str, &mut dyn FnMut())]) {
    let mut times = vec![Vec::new(); work.len()];
    for round in 0..=repeats {
        for ((_, work), times) in work.iter_mut().zip(&mut times) {
            let began = Instant::now();
            work();
            // The first round fills the buffers.
            if round > 0 {
                times.push(began.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    println!("{title}");
    for ((what, _), times) in work.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        println!("  {what:<20} {:9.2} ms  (least {:.2})", times[times.len() / 2], times[0]);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1)?.parse::<usize>().ok());
    let threads = value("--threads").unwrap_or(1);
    let repeats = value("--repeats").unwrap_or(7);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    pool.install(|| {
        let network = MlpConfig::new(64, 512, 5, 10).expect("a valid network");
        let data = digits::split(0, digits::TRAIN_ROWS).expect("the digits").train;
        let cost = MlpKl::new(network.clone(), network.initial_parameters(1), &data).expect("a valid cost");
        let weights: Vec<f32> = cost.parameters().values().iter().map(|weight| weight * 1.01).collect();
        let (mut first, mut second) = (vec![0.0f32; weights.len()], vec![0.0f32; weights.len()]);
        compare(
            &format!("digits: {} weights, {} inputs, {threads} threads", weights.len(), data.rows()),
            repeats,
            &mut [
                ("cost", &mut || _ = black_box(cost.cost_of_weights(&weights))),
                ("gradient", &mut || _ = black_box(cost.gradient(&weights, 0..cost.parts(), &mut first))),
                ("likelihood gradient", &mut || _ = black_box(cost.likelihood_gradient(&weights, 0..cost.parts(), 1, &mut second))),
            ],
        );

        let config = json!({"model_type": "gpt_neox", "vocab_size": 50304, "hidden_size": 128, "num_hidden_layers": 6,
            "num_attention_heads": 4, "intermediate_size": 512, "rotary_pct": 0.25, "max_position_embeddings": 2048});
        let architecture = from_config(&config).expect("a valid configuration");
        let model = architecture.language_model().expect("a language model");
        let layout = architecture.layout();
        let noise = |i: usize| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1 << 24) as f32 - 0.5;
        let weights: Vec<f32> = (0..layout.dimension()).map(|i| 0.1 * noise(i)).collect();
        let ids = (0..4).map(|i| (0..256).map(|j| ((i * 7919 + j * 104_729) % model.vocabulary()) as u32).collect());
        let limits = ModelLimits { vocabulary: model.vocabulary(), positions: Some(model.positions()) };
        let tokens = TokenSequences::new("random", ids, limits, None, Positions::All, Provenance::Ids).expect("valid tokens");
        let center = Parameters::new(layout, weights.clone());
        let cost = LanguageModelKl::new(model, center, &tokens, CenterOutputs::Logits).expect("a valid cost");
        let weights: Vec<f32> = weights.iter().map(|weight| weight * 1.01).collect();
        let (mut first, mut second) = (vec![0.0f32; weights.len()], vec![0.0f32; weights.len()]);
        compare(
            &format!("pythia-14m: {} weights, 4 x 256 tokens, {threads} threads", weights.len()),
            repeats,
            &mut [
                ("cost", &mut || _ = black_box(cost.cost_of_weights(&weights))),
                ("gradient", &mut || _ = black_box(cost.gradient(&weights, 0..4, &mut first))),
                ("likelihood gradient", &mut || _ = black_box(cost.likelihood_gradient(&weights, 0..4, 1, &mut second))),
            ],
        );
    });
}
