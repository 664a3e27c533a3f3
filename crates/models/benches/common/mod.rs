//! What several benchmarks measure.

use basin_volume_data::tokens::{ModelLimits, Positions, Provenance, TokenSequences};
use basin_volume_models::arch::from_config;
use basin_volume_models::cost::{CenterOutputs, LanguageModelKl};
use basin_volume_models::parameters::Parameters;
use serde_json::json;

/// The cost of a network of the shape of Pythia-14m with pseudorandom weights on 4 x 256 tokens, and weights beside its center.
pub fn pythia_14m() -> (LanguageModelKl, Vec<f32>) {
    let config = json!({"model_type": "gpt_neox", "vocab_size": 50304, "hidden_size": 128, "num_hidden_layers": 6,
        "num_attention_heads": 4, "intermediate_size": 512, "rotary_pct": 0.25, "max_position_embeddings": 2048});
    let architecture = from_config(&config).expect("a valid configuration");
    let model = architecture.language_model().expect("a language model");
    let layout = architecture.layout();
    let noise = |i: usize| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1 << 24) as f32 - 0.5;
    let weights: Vec<f32> = (0..layout.dimension()).map(|i| 0.1 * noise(i)).collect();
    let beside = weights.iter().map(|weight| weight * 1.01).collect();
    let ids = (0..4).map(|i| (0..256).map(|j| ((i * 7919 + j * 104_729) % model.vocabulary()) as u32).collect());
    let limits = ModelLimits { vocabulary: model.vocabulary(), positions: Some(model.positions()) };
    let tokens = TokenSequences::new("random", ids, limits, None, Positions::All, Provenance::Ids).expect("valid tokens");
    let cost = LanguageModelKl::new(model, Parameters::new(layout, weights), &tokens, CenterOutputs::Logits).expect("a valid cost");
    (cost, beside)
}
