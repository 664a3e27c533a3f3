//! What the device of a `--device` run keeps, and whether it fits there.

use super::{Beside, Budget, Item, MemoryError, PROGRAM, Place, Plan, bytes_of, listed, stored_bytes};
use crate::arch::LanguageModel;
use crate::cost::{CardMemory, CenterOutputs, DeviceForecast, OnDevice, Precision};
use crate::parameters::Moving;
use basin_volume_data::tokens::TokenSequences;

/// The share of a card's free memory that a plan may use: its allocator leaves gaps.
const SHARE: f64 = 0.9;

/// Bytes of the center's logits that are kept at most; beyond, the head is applied again.
const LOGITS: u64 = 4 << 30;

/// The device of a run, and what is asked of it.
#[derive(Debug, Clone, Copy)]
pub struct Card {
    /// Of the forward pass.
    pub precision: Precision,
    /// Its memory.
    pub memory: CardMemory,
    /// Gradients that are computed at once; none for rays alone.
    pub gradients: Option<u64>,
    /// Bytes of the vectors of chains.
    pub vectors: u64,
}

/// What the device of a run keeps.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DevicePlan {
    /// The forecast.
    pub items: Vec<Item>,
    /// What may be used there, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
    /// Whether its memory is the processor's, whose budget counts for both.
    pub is_shared: bool,
    /// Whether a direction stays there while its ray is searched.
    pub keeps_direction: bool,
}

impl Plan {
    /// As [`Plan::new`] for a cost that a device evaluates: one ray keeps it busy. `budget` and `free` are for the memory of the processor,
    /// which counts for the device too where they share it.
    ///
    /// The device keeps the center as it is stored, the weights along the ray, and of the rest what fits, the dearest first: the center's
    /// logits if they take at most 4 GiB (else the states before the head), and the direction (else it is made again, block by block, at
    /// every evaluation).
    ///
    /// # Errors
    /// When even the smallest plan exceeds the budget, or what is free on the device.
    pub fn on_accelerator(
        model: &LanguageModel,
        moving: &Moving,
        tokens: &TokenSequences,
        beside: &Beside,
        card: Card,
        budget: Budget,
        free: u64,
    ) -> Result<Self, MemoryError> {
        let mut forecast = DeviceForecast::new(model, moving, tokens, card.precision, card.gradients);
        forecast.vectors = card.vectors;
        let on_processor = listed(vec![
            ("center (mapped)", stored_bytes(moving.center())),
            // The rounding noise is measured at weights on the processor.
            ("working copy of the weights", 4 * moving.center().dimension() as u64),
            ("upload", 4 * forecast.largest),
            (&beside.what, beside.bytes),
            ("program", PROGRAM),
        ]);
        plan(model, &forecast, on_processor, beside, card, (budget, free))
    }

    /// What a device keeps from evaluation to evaluation, if one is planned for.
    #[must_use]
    pub fn on_device(&self) -> OnDevice {
        let direction = self.device.as_ref().is_none_or(|device| device.keeps_direction);
        OnDevice { center_outputs: self.center_outputs, direction }
    }
}

fn plan(
    model: &LanguageModel,
    forecast: &DeviceForecast,
    on_processor: Vec<Item>,
    beside: &Beside,
    card: Card,
    (budget, free): (Budget, u64),
) -> Result<Plan, MemoryError> {
    let bytes = budget.bytes(free);
    let host = bytes_of(&on_processor);
    let (allowed, own) = match card.memory {
        CardMemory::Shared => (bytes.saturating_sub(host), None),
        CardMemory::Own(free) => {
            let allowed = free.map(|free| (free as f64 * SHARE) as u64);
            (allowed.unwrap_or(u64::MAX), allowed)
        }
    };
    let of_plan = |keeps: OnDevice, items: Vec<Item>| Plan {
        center_outputs: keeps.center_outputs,
        // Whatever needs its coordinates at once keeps them anyway; the device has the others.
        keep_directions: false,
        rays: 1,
        items: on_processor.clone(),
        budget: bytes,
        device: Some(DevicePlan { items, budget: own, is_shared: card.memory == CardMemory::Shared, keeps_direction: keeps.direction }),
    };
    let (logits, states) = (CenterOutputs::Logits, CenterOutputs::States);
    let can_keep_logits = budget != Budget::Low && forecast.logits(model) <= LOGITS;
    let mut choices = vec![(logits, true), (states, true), (logits, false), (states, false)];
    choices.retain(|(outputs, _)| can_keep_logits || *outputs == states);
    if budget == Budget::Low {
        choices.retain(|(_, direction)| !direction);
    }
    let mut smallest = Vec::new();
    for (center_outputs, direction) in choices {
        let keeps = OnDevice { center_outputs, direction };
        let items = listed(forecast.items(model, keeps));
        if bytes_of(&items) <= allowed && host <= bytes {
            return Ok(of_plan(keeps, items));
        }
        smallest = items;
    }
    let less = if beside.advice.is_empty() { "fewer or shorter sequences" } else { &beside.advice };
    if card.memory == CardMemory::Shared {
        let items = on_processor.into_iter().chain(smallest).collect();
        return Err(MemoryError::new(items, bytes, Place::Memory, less.to_owned()));
    }
    if host > bytes {
        return Err(MemoryError::of(Some(of_plan(OnDevice { center_outputs: states, direction: false }, smallest)), bytes, beside, less));
    }
    let less = if card.precision == Precision::F32 { format!("{less} or `dtype=bf16`") } else { less.to_owned() };
    Err(MemoryError::new(smallest, allowed, Place::Device, less))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use basin_volume_data::tokens::{ModelLimits, Positions, Provenance};
    use serde_json::json;

    use super::*;
    use crate::arch::from_config;
    use crate::checkpoint::Checkpoint;

    const AUTOMATIC: Budget = Budget::Automatic;

    fn card(precision: Precision, free: u64) -> Card {
        Card { precision, memory: CardMemory::Own(Some((free as f64 / SHARE).ceil() as u64)), gradients: None, vectors: 0 }
    }

    fn on_card(plan: &Plan) -> &DevicePlan {
        plan.device.as_ref().unwrap()
    }

    #[test]
    fn a_card_keeps_what_fits_and_a_small_one_is_refused() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/language_models/gpt_neox_pythia");
        let checkpoint = Checkpoint::load(&folder).unwrap();
        let model = checkpoint.architecture.language_model().unwrap();
        let moving = Moving::from(checkpoint.parameters.clone());
        let limits = ModelLimits { vocabulary: 41, positions: None };
        let tokens = TokenSequences::new("t", vec![vec![3; 32]; 400], limits, None, Positions::All, Provenance::Ids).unwrap();
        let plan = |card, budget, free| Plan::on_accelerator(model, &moving, &tokens, &Beside::default(), card, budget, free);
        let on = |precision, free| plan(card(precision, free), AUTOMATIC, 1 << 34);
        let (single, half) = (on(Precision::F32, 1 << 40).unwrap(), on(Precision::Bf16, 1 << 40).unwrap());
        assert_eq!((single.rays, single.center_outputs, single.on_device().direction), (1, CenterOutputs::Logits, true));
        let bytes = |plan: &Plan, what: &str| on_card(plan).items.iter().find(|item| item.what == what).map_or(0, |item| item.bytes);
        let weights = 4 * moving.center().dimension() as u64;
        assert_eq!((bytes(&single, "weights along the ray"), bytes(&half, "weights along the ray")), (weights, weights / 2));
        let low = plan(card(Precision::F32, 1 << 40), Budget::Low, 1 << 34).unwrap();
        assert_eq!(low.on_device(), OnDevice { center_outputs: CenterOutputs::States, direction: false });
        // Every plan fits into exactly what it needs, and less makes the next one.
        let mut kept = Vec::new();
        let mut needed = bytes_of(&on_card(&single).items);
        let refusal = loop {
            match on(Precision::F32, needed) {
                Ok(plan) => {
                    let found = bytes_of(&on_card(&plan).items);
                    assert!(found <= needed);
                    needed = found - 100;
                    kept.push(plan.on_device());
                }
                Err(error) => break error,
            }
        };
        assert!(kept.len() >= 3 && !kept.last().unwrap().direction, "{kept:?}");
        let message = refusal.to_string();
        assert!(message.contains("of the device's memory") && message.contains("`dtype=bf16`"), "{message}");
        // On the processor's own memory both are counted together.
        let shared = Card { memory: CardMemory::Shared, ..card(Precision::F32, 0) };
        let together = single.total() + bytes_of(&on_card(&single).items);
        assert!(!on_card(&single).is_shared);
        let exact = plan(shared, Budget::Bytes(together), 0).unwrap();
        assert_eq!((exact.on_device(), exact.total(), on_card(&exact).budget), (single.on_device(), together, None));
        assert_ne!(plan(shared, Budget::Bytes(together - 1), 0).unwrap().on_device(), single.on_device());
        let message = plan(shared, Budget::Bytes(PROGRAM), 0).unwrap_err().to_string();
        assert!(message.contains("`memory`") && message.contains("center as stored"), "{message}");
        // Gradients come on top.
        let with = plan(Card { gradients: Some(2), vectors: 123, ..card(Precision::F32, 1 << 40) }, AUTOMATIC, 1 << 34).unwrap();
        assert_eq!((bytes(&with, "gradients"), bytes(&with, "states of chains")), (4 * weights, 123));
        assert!(bytes(&with, "activations with gradients") > 0 && bytes(&with, "weights along the ray") == 2 * weights);
    }

    #[test]
    fn seven_billion_weights_in_bf16_with_a_copy_in_f32_fit_into_80_gb() {
        let config = json!({
            "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": false, "hidden_act": "silu"
        });
        let architecture = from_config(&config).unwrap();
        let model = architecture.language_model().unwrap();
        let weights = model.dimension() as u64;
        assert_eq!(weights, 6_738_415_616);
        // Eight sequences of 512 tokens, around a center that is stored in half precision.
        let forecast = DeviceForecast {
            center: 2 * weights,
            weights,
            moving: weights,
            largest: 32_000 * 4096,
            size: 4,
            kept: 4096,
            positions: 4096,
            longest: 512,
            together: (2048, 512),
            gradients: None,
            vectors: 0,
        };
        let fit = |gigabytes: u64| {
            plan(model, &forecast, Vec::new(), &Beside::default(), card(Precision::F32, gigabytes * 1_000_000_000), (AUTOMATIC, 1 << 40))
        };
        let total = |plan: &Plan| bytes_of(&on_card(plan).items) as f64 / 1e9;
        // All of it, and without the direction: 13.5 + 27 + 27 GB of weights, then 13.5 + 27.
        let (roomy, tight) = (fit(72).unwrap(), fit(48).unwrap());
        assert!(roomy.on_device().direction && (69.5..69.6).contains(&total(&roomy)), "{roomy}");
        assert!(!tight.on_device().direction && (42.6..42.7).contains(&total(&tight)), "{tight}");
        assert!(tight.to_string().contains("direction made again, block by block, at every evaluation"), "{tight}");
        let message = fit(40).unwrap_err().to_string();
        assert!(message.contains("center as stored 13.48 GB") && message.contains("weights along the ray 26.95 GB"), "{message}");
        // Gradients of so many weights in single precision need more than such a card has.
        let with = DeviceForecast { gradients: Some(1), ..forecast };
        let needed = bytes_of(&listed(with.items(model, OnDevice { center_outputs: CenterOutputs::States, direction: false })));
        assert!((120_000_000_000..128_000_000_000).contains(&needed), "{needed}");
    }
}
