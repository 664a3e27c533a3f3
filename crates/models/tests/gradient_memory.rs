//! The memory of a language model's gradient: the forecast holds, and it grows with the tokens, not with their square. Alone in its program,
//! because it measures all that is allocated.

use basin_volume::objective::Differentiable;
use basin_volume_data::tokens::{ModelLimits, Positions, Provenance, TokenSequences};
use basin_volume_models::arch::from_config;
use basin_volume_models::cost::{CenterOutputs, LanguageModelKl};
use basin_volume_models::parameters::Parameters;
use peak_alloc::PeakAlloc;
use serde_json::json;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

#[test]
fn the_forecast_holds_and_is_linear_in_the_tokens() {
    let config = json!({"model_type": "llama", "vocab_size": 600, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 80, "max_position_embeddings": 4096});
    let architecture = from_config(&config).unwrap();
    let model = architecture.language_model().unwrap();
    let layout = architecture.layout();
    let weights: Vec<f32> = (0..layout.dimension()).map(|i| ((i * i % 7919) as f32 * 0.37).sin() * 0.2).collect();
    let moved: Vec<f32> = weights.iter().map(|weight| weight * 1.01).collect();
    let limits = ModelLimits { vocabulary: 600, positions: Some(4096) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let mut taken = Vec::new();
    for length in [512usize, 2048, 4096] {
        let ids = (0..length).map(|i| (i * 31 % 600) as u32).collect::<Vec<u32>>();
        let tokens = TokenSequences::new("t", [ids], limits, None, Positions::All, Provenance::Ids).unwrap();
        let parameters = Parameters::new(layout.clone(), weights.clone());
        let cost = LanguageModelKl::new(model, parameters, &tokens, CenterOutputs::Logits).unwrap();
        let mut gradient = vec![0.0f32; weights.len()];
        // What the products keep on every thread, whatever their sizes.
        pool.install(|| cost.cost_of_weights(&moved));
        let before = ALLOCATED.current_usage();
        ALLOCATED.reset_peak_usage();
        let nats = pool.install(|| cost.gradient(&moved, 0..1, &mut gradient)).unwrap();
        let peak = ALLOCATED.peak_usage() - before;
        let forecast = LanguageModelKl::gradient_bytes(model, &tokens, 1) as usize;
        assert!(nats > 0.0 && nats.is_finite());
        assert!(peak <= forecast && forecast < 2 * peak, "{length} tokens: {peak} bytes, forecast {forecast}");
        taken.push(peak);
    }
    let slope = |from: usize, to: usize, tokens: usize| (taken[to] - taken[from]) as f64 / tokens as f64;
    let (first, second) = (slope(0, 1, 2048 - 512), slope(1, 2, 4096 - 2048));
    assert!((second / first - 1.0).abs() < 0.1, "bytes for each more token: {first}, then {second}");
}
