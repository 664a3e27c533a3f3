//! One evaluation of a language model's KL cost, at the shapes of released models with random weights.
//!
//!     cargo bench -p basin-volume-models --bench language_model_cost -- [SHAPE ...] [--threads N] [--repeats N] [--json]
//!
//! Prints milliseconds (median and least) of: writing the weights, the body, body and head (the whole evaluation), and one direction with
//! its norms. `scripts/bench/language_models.py` runs it beside PyTorch.

#![allow(clippy::print_stdout, missing_docs)]

#[path = "common/timing.rs"]
mod timing;

use std::hint::black_box;
use std::sync::Arc;

use basin_volume::center::Center;
use basin_volume::direction::DirectionFamily;
use basin_volume::objective::RayPoint;
use basin_volume::preconditioner::Identity;
use basin_volume_data::tokens::{ModelLimits, Positions, Provenance, TokenSequences};
use basin_volume_models::arch::from_config;
use basin_volume_models::cost::{CenterOutputs, LanguageModelKl};
use basin_volume_models::parameters::{Moving, Parameters};
use serde_json::{Value, json};

use timing::time;

/// Name, configuration, sequences and their length.
fn shapes() -> Vec<(&'static str, Value, usize, usize)> {
    let pythia = |hidden: usize, layers: usize, heads: usize| {
        json!({"model_type": "gpt_neox", "vocab_size": 50304, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
            "intermediate_size": 4 * hidden, "rotary_pct": 0.25, "use_parallel_residual": true, "max_position_embeddings": 2048})
    };
    let smollm = json!({"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "rope_theta": 100000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "max_position_embeddings": 2048});
    vec![
        ("pythia-14m", pythia(128, 6, 4), 4, 256),
        ("pythia-14m-long", pythia(128, 6, 4), 1, 2048),
        ("pythia-70m", pythia(512, 6, 8), 4, 256),
        ("pythia-160m", pythia(768, 12, 12), 4, 256),
        ("smollm2-135m", smollm, 2, 256),
    ]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1)?.parse::<usize>().ok());
    let threads = value("--threads").unwrap_or(1);
    let repeats = value("--repeats").unwrap_or(7);
    let as_json = arguments.iter().any(|a| a == "--json");
    let names: Vec<&str> = shapes().iter().map(|s| s.0).filter(|name| arguments.iter().any(|a| a == name)).collect();
    for (name, config, sequences, length) in shapes() {
        if !names.is_empty() && !names.contains(&name) {
            continue;
        }
        let architecture = from_config(&config).expect("a valid configuration");
        let model = architecture.language_model().expect("a language model");
        let layout = architecture.layout();
        // Norms near one, matrices small: activations stay of order one.
        let mut weights = vec![0.0f32; layout.dimension()];
        for parameter in layout.parameters() {
            let norm = parameter.name.contains("norm") && parameter.name.ends_with("weight");
            for (i, weight) in weights[parameter.range()].iter_mut().enumerate() {
                let noise = ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1 << 24) as f32 - 0.5;
                *weight = if norm { 1.0 + 0.1 * noise } else { 0.1 * noise };
            }
        }
        let ids = (0..sequences).map(|i| (0..length).map(|j| ((i * 7919 + j * 104_729) % model.vocabulary()) as u32).collect());
        let limits = ModelLimits { vocabulary: model.vocabulary(), positions: Some(model.positions()) };
        let tokens = TokenSequences::new(name, ids, limits, None, Positions::All, Provenance::Ids).expect("valid tokens");
        let moving = Moving::from(Parameters::new(layout.clone(), weights.clone()));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let (results, dimension) = pool.install(|| {
            let cost = LanguageModelKl::new(model, moving, &tokens, CenterOutputs::Logits).expect("a valid cost");
            let family = DirectionFamily::new(1, cost.dimension(), Arc::new(Identity));
            let direction = family.direction(0, &cost, None, true);
            let point = RayPoint::straight(1e-2);
            let generate = time(2, || _ = black_box(family.direction(1, &cost, None, true)));
            let write = time(repeats, || cost.moving().write_point(&direction, point, &mut weights));
            let body = time(repeats, || _ = black_box(cost.body_only(&weights)));
            let whole = time(repeats, || _ = black_box(cost.cost_of_weights(&weights)));
            let states = LanguageModelKl::new(model, cost.moving().clone(), &tokens, CenterOutputs::States).expect("a valid cost");
            let again = time(repeats.min(3), || _ = black_box(states.cost_of_weights(&weights)));
            (
                [("direction", generate), ("write", write), ("body", body), ("evaluation", whole), ("evaluation_low", again)],
                cost.dimension(),
            )
        });
        if as_json {
            let times: serde_json::Map<String, Value> =
                results.iter().map(|(what, (median, least))| ((*what).to_owned(), json!({"median": median, "least": least}))).collect();
            println!("{}", json!({"shape": name, "threads": threads, "dimension": dimension, "tokens": sequences * length, "ms": times}));
        } else {
            println!("{name}: {dimension} weights, {sequences} x {length} tokens, {threads} threads");
            for (what, (median, least)) in results {
                println!("  {what:<16} {median:9.2} ms  (least {least:.2})");
            }
        }
    }
}
