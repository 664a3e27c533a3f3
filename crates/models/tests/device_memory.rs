//! The forecast of what a device has to hold, beside what candle's tensors really take on the processor.

use std::sync::Arc;

use basin_volume::center::Center;
use basin_volume::direction::DirectionFamily;
use basin_volume::objective::{Differentiable, Objective, RayPoint};
use basin_volume::preconditioner::Identity;
use basin_volume_data::tokens::{ModelLimits, Positions, Provenance, TokenSequences};
use basin_volume_models::arch::from_config;
use basin_volume_models::cost::{Accelerator, LanguageModelTensorKl, Precision};
use basin_volume_models::memory::{Beside, Budget, Card, Item, Plan};
use basin_volume_models::parameters::{Moving, Parameters};
use peak_alloc::PeakAlloc;
use serde_json::{Value, json};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Networks that are mostly vocabulary, mostly attention, and mostly multilayer perceptron.
fn networks() -> Vec<(&'static str, Value)> {
    let config = |vocabulary, hidden, inner, layers, heads| {
        json!({
            "model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": heads / 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": true, "hidden_act": "silu"
        })
    };
    vec![("vocabulary", config(8000, 32, 64, 1, 2)), ("attention", config(100, 64, 64, 2, 8)), ("multilayer", config(100, 64, 1024, 2, 2))]
}

#[test]
fn the_forecast_covers_what_is_taken() {
    for (name, config) in networks() {
        let architecture = from_config(&config).unwrap();
        let model = architecture.language_model().unwrap();
        let values = (0..model.dimension()).map(|i| (i as f32 * 0.71).sin() * 0.05).collect();
        let moving = Moving::from(Parameters::new(architecture.layout(), values));
        let sequences = [8usize, 256, 256, 200].map(|n| (0..n).map(|j| ((j * 13 + j * j) % 100) as u32).collect());
        let limits = ModelLimits { vocabulary: model.vocabulary(), positions: Some(512) };
        let tokens = TokenSequences::new("t", sequences, limits, None, Positions::All, Provenance::Ids).unwrap();
        for gradients in [None, Some(1)] {
            let card = Card { precision: Precision::F32, memory: Accelerator::Processor.memory(), gradients, vectors: 0 };
            let plan = Plan::on_accelerator(model, &moving, &tokens, &Beside::default(), card, Budget::Low, 1 << 36).unwrap();
            let keeps = plan.on_device();
            assert!(!keeps.direction);
            let forecast: u64 = plan.device.as_ref().unwrap().items.iter().map(|Item { bytes, .. }| bytes).sum();
            let before = MEMORY.current_usage();
            let taken = taken(gradients.is_some(), before, || {
                LanguageModelTensorKl::on(Accelerator::Processor, Precision::F32, model, moving.clone(), &tokens, keeps).unwrap()
            });
            let share = taken as f64 / forecast as f64;
            assert!((0.2..1.0).contains(&share), "{name}, gradients {gradients:?}: {taken} bytes are {share} of the forecast\n{plan}");
        }
    }
}

/// The most that an evaluation, and a gradient, have in memory beyond `before`.
fn taken(with_gradient: bool, before: usize, cost: impl FnOnce() -> LanguageModelTensorKl) -> usize {
    let cost = cost();
    let mut weights = vec![0.0f32; cost.dimension()];
    cost.center(0..weights.len(), &mut weights);
    let family = DirectionFamily::new(1, cost.dimension(), Arc::new(Identity));
    let direction = family.direction(0, &weights, None, false);
    let mut gradient = vec![0.0f32; weights.len()];
    let own = 8 * weights.len();
    MEMORY.reset_peak_usage();
    cost.cost(&direction, RayPoint::straight(0.1)).unwrap();
    if with_gradient {
        cost.gradient(&weights, 0..cost.parts(), &mut gradient).unwrap();
    }
    MEMORY.peak_usage() - before - own
}
