//! What a run on a language model or on images needs in memory, decided before it starts: what is kept, what is computed again, or that it cannot fit.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use basin_volume_data::tokens::TokenSequences;
use serde::{Deserialize, Serialize};

use crate::arch::{ConvNextV2Config, LanguageModel};
use crate::cost::{CenterOutputs, ImageKl, LanguageModelKl};
use crate::parameters::{Moving, Parameters};

mod accelerator;
mod container;

pub use accelerator::{Card, DevicePlan};

/// The share of the memory that is free now which an automatic plan may use.
const SHARE: f64 = 0.8;

/// The program itself, tokenizer, allocator, and what is too small to list.
const PROGRAM: u64 = 64 << 20;

/// Bytes that working copies and directions of further rays may take, so that rays are searched at the same time.
const COPIES: u64 = 512 << 20;

/// Rough seconds for one multiply-add of a matrix product and for one coordinate of a direction, on one core: only to compare what it
/// costs to compute something again.
const SECONDS: (f64, f64) = (2e-11, 2e-9);

/// How much memory may be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Four fifths of what the machine has free now.
    #[default]
    Automatic,
    /// As little as possible: nothing is kept that can be computed again.
    Low,
    /// At most this many bytes.
    Bytes(u64),
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        match lower.as_str() {
            "auto" => return Ok(Self::Automatic),
            "low" => return Ok(Self::Low),
            _ => {}
        }
        let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
        let (number, unit) = lower.split_at(digits);
        let unit = match unit.trim() {
            "b" => 1.0,
            "kb" => 1e3,
            "mb" | "m" => 1e6,
            "gb" | "g" => 1e9,
            "tb" | "t" => 1e12,
            "kib" => 1024.0,
            "mib" => 1024.0 * 1024.0,
            "gib" => 1024.0 * 1024.0 * 1024.0,
            _ => f64::NAN,
        };
        match number.parse::<f64>().map(|number| number * unit) {
            Ok(bytes) if (1.0..1e18).contains(&bytes) => Ok(Self::Bytes(bytes as u64)),
            _ => Err("expected auto, low or a size with its unit, such as 1.5GB or 900MB".to_owned()),
        }
    }
}

/// One thing that is in memory during a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What it is.
    pub what: String,
    /// Its size.
    pub bytes: u64,
}

/// What a job keeps beside the cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beside {
    /// What it is.
    pub what: String,
    /// Its size.
    pub bytes: u64,
    /// What would make it smaller: continues `take ...`. Empty where nothing would.
    pub advice: String,
}

/// What is kept, and the forecast that follows from it. The samples do not depend on it, bit for bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What is kept of the center's outputs.
    pub center_outputs: CenterOutputs,
    /// Whether the coordinates of a direction are kept while its ray is searched, or produced again at every evaluation.
    pub keep_directions: bool,
    /// Rays that are searched at the same time.
    pub rays: usize,
    /// The forecast.
    pub items: Vec<Item>,
    /// What may be used.
    pub budget: u64,
    /// What the device keeps that evaluates the cost, where it is not the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DevicePlan>,
}

/// The run does not fit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "the run needs at least {} of {} but {} may be used ({}): take {advice}, or {}",
    size(*needed), .place.name(), size(*budget), .items.iter().map(|item| format!("{} {}", item.what, size(item.bytes))).collect::<Vec<_>>().join(", "),
    .place.remedy()
)]
pub struct MemoryError {
    /// Bytes needed by the smallest plan.
    pub needed: u64,
    /// Bytes allowed.
    pub budget: u64,
    /// What the smallest plan is made of, the largest first.
    pub items: Vec<Item>,
    /// What would make it smaller.
    pub advice: String,
    /// Which memory is meant.
    pub place: Place,
}

/// Whose memory is too small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The processor's.
    Memory,
    /// That of the device which evaluates the cost.
    Device,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Device => "the device's memory",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Memory => "give a larger `memory`",
            Self::Device => "a device with more",
        }
    }
}

impl Budget {
    /// What may be used when so many bytes are free.
    fn bytes(self, free: u64) -> u64 {
        match self {
            Self::Automatic | Self::Low => (free as f64 * SHARE) as u64,
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Bytes of all items together.
fn bytes_of(items: &[Item]) -> u64 {
    items.iter().map(|item| item.bytes).sum()
}

impl MemoryError {
    /// What the smallest plan lacks. What stands beside the cost is named if the cost alone would fit, else `less_data`.
    fn of(smallest: Option<Plan>, budget: u64, beside: &Beside, less_data: &str) -> Self {
        let items = smallest.map_or_else(Vec::new, |plan| plan.items);
        let helps = !beside.advice.is_empty() && bytes_of(&items) - beside.bytes <= budget;
        Self::new(items, budget, Place::Memory, if helps { beside.advice.clone() } else { less_data.to_owned() })
    }

    fn new(mut items: Vec<Item>, budget: u64, place: Place, advice: String) -> Self {
        items.sort_by_key(|item| std::cmp::Reverse(item.bytes));
        Self { needed: bytes_of(&items), budget, items, advice, place }
    }
}

/// Bytes for people: `1.53 GB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        _ if bytes >= 1e9 => format!("{:.2} GB", bytes / 1e9),
        _ if bytes >= 1e6 => format!("{:.0} MB", bytes / 1e6),
        _ => format!("{:.0} kB", bytes / 1e3),
    }
}

impl Plan {
    /// Bytes of the processor's memory together, those of a device that shares it included.
    #[must_use]
    pub fn total(&self) -> u64 {
        let device = self.device.as_ref().filter(|device| device.is_shared);
        bytes_of(&self.items) + device.map_or(0, |device| bytes_of(&device.items))
    }

    /// The first of these plans that fits its budget.
    fn first_that_fits(plans: impl Iterator<Item = Self>, budget: u64, beside: &Beside, less_data: &str) -> Result<Self, MemoryError> {
        let mut smallest = None;
        for plan in plans {
            if plan.total() <= budget {
                return Ok(plan);
            }
            smallest = Some(plan);
        }
        Err(MemoryError::of(smallest, budget, beside, less_data))
    }

    /// Decides what a run keeps. `beside` is what the job keeps beside the cost; `free` is the memory that is free now, in bytes
    /// ([`free_memory`]).
    ///
    /// # Errors
    /// When even the smallest plan exceeds the budget.
    pub fn new(
        model: &LanguageModel,
        moving: &Moving,
        tokens: &TokenSequences,
        beside: &Beside,
        threads: NonZeroUsize,
        budget: Budget,
        free: u64,
    ) -> Result<Self, MemoryError> {
        let bytes = budget.bytes(free);
        let kept = tokens.kept_count() as f64;
        let head = kept * (model.vocabulary() * model.hidden()) as f64 * SECONDS.0;
        let directions = moving.dimension() as f64 * SECONDS.1;
        let mut choices = vec![
            (0.0, CenterOutputs::Logits, true),
            (head, CenterOutputs::States, true),
            (directions, CenterOutputs::Logits, false),
            (head + directions, CenterOutputs::States, false),
        ];
        choices.sort_by(|a, b| a.0.total_cmp(&b.0));
        if budget == Budget::Low {
            choices.drain(..3);
        }
        // Small networks fill the cores with rays of their own; large ones work together on one, because of the copies of the weights.
        let further = (COPIES / (8 * moving.center().dimension() as u64)) as usize;
        let most = if budget == Budget::Low { 1 } else { threads.get().min(1 + further) };
        let all = [most, 1].into_iter().flat_map(|rays| choices.iter().map(move |&(_, outputs, keep)| (outputs, keep, rays)));
        let plans = all.map(|(center_outputs, keep_directions, rays)| {
            let items = items(model, moving, tokens, beside, threads.get(), (center_outputs, keep_directions, rays));
            Self { center_outputs, keep_directions, rays, items, budget: bytes, device: None }
        });
        Self::first_that_fits(plans, bytes, beside, "fewer or shorter sequences")
    }

    /// As [`Plan::new`] for the cost of a classifier on so many images, all of which are kept. Rays are searched at the same time only when
    /// the images are too few to give every thread its own.
    ///
    /// # Errors
    /// When even the smallest plan exceeds the budget.
    pub fn for_images(
        network: &ConvNextV2Config,
        moving: &Moving,
        images: usize,
        beside: &Beside,
        threads: NonZeroUsize,
        budget: Budget,
        free: u64,
    ) -> Result<Self, MemoryError> {
        let bytes = budget.bytes(free);
        let weights = 4 * moving.center().dimension() as u64;
        let most = threads.get() / ImageKl::tiles(images).min(threads.get());
        let choices =
            [(most, true), (1, true), (1, false)].into_iter().filter(|&(rays, keep)| budget != Budget::Low || (rays, keep) == (1, false));
        let plans = choices.map(|(rays, keep)| {
            let items = listed(vec![
                ("center", weights),
                ("working copies of the weights", 2 * rays as u64 * weights),
                ("directions", if keep { 4 * (rays * moving.dimension()) as u64 } else { 0 }),
                (&beside.what, beside.bytes),
                ("images", ImageKl::kept_bytes(network, images) + 4 * (images * network.features()) as u64),
                ("activations", threads.get() as u64 * ImageKl::evaluation_bytes(network)),
                ("program", PROGRAM),
            ]);
            Self { center_outputs: CenterOutputs::Logits, keep_directions: keep, rays, items, budget: bytes, device: None }
        });
        Self::first_that_fits(plans, bytes, beside, "fewer images")
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: &[Item]| items.iter().map(|item| format!("{} {}", item.what, size(item.bytes))).collect::<Vec<_>>().join(", ");
        let outputs = match self.center_outputs {
            CenterOutputs::Logits => "logits",
            CenterOutputs::States => "hidden states",
        };
        let again = |kept: bool, how: &'static str| if kept { "kept" } else { how };
        write!(f, "memory {} of {} allowed ({})", size(self.total()), size(self.budget), list(&self.items))?;
        let Some(device) = &self.device else {
            let rays = if self.rays == 1 { "one ray".to_owned() } else { format!("{} rays", self.rays) };
            let directions = again(self.keep_directions, "made again at every evaluation");
            return write!(f, "; center's {outputs} kept, directions {directions}, {rays} at a time");
        };
        let direction = again(device.keeps_direction, "made again, block by block, at every evaluation");
        let (needed, allowed) =
            (size(bytes_of(&device.items)), device.budget.map_or_else(String::new, |bytes| format!(" of {} allowed", size(bytes))));
        write!(f, "; on the device {needed}{allowed} ({}); center's {outputs} kept, direction {direction}", list(&device.items))
    }
}

fn items(
    model: &LanguageModel,
    moving: &Moving,
    tokens: &TokenSequences,
    beside: &Beside,
    threads: usize,
    (outputs, keep, rays): (CenterOutputs, bool, usize),
) -> Vec<Item> {
    let weights = 4 * moving.center().dimension() as u64;
    let per_ray = threads.div_ceil(rays);
    listed(vec![
        ("center (mapped)", stored_bytes(moving.center())),
        ("working copies of the weights", rays as u64 * weights),
        ("directions", if keep { 4 * (rays * moving.dimension()) as u64 } else { 0 }),
        (&beside.what, beside.bytes),
        (what_is_kept(outputs), LanguageModelKl::center_bytes(model, tokens, outputs)),
        ("activations", rays as u64 * LanguageModelKl::activation_bytes(model, tokens, per_ray)),
        ("program", PROGRAM),
    ])
}

/// The items that are there.
fn listed(items: Vec<(&str, u64)>) -> Vec<Item> {
    items.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(what, bytes)| Item { what: what.to_owned(), bytes }).collect()
}

fn what_is_kept(outputs: CenterOutputs) -> &'static str {
    match outputs {
        CenterOutputs::Logits => "center's logits",
        CenterOutputs::States => "center's hidden states",
    }
}

fn stored_bytes(center: &Parameters) -> u64 {
    center.mapped().map_or(4 * center.dimension() as u64, crate::weights::Center::stored_bytes)
}

/// Memory that is free now, in bytes, page cache included; also limited by the containers that the program runs in.
#[must_use]
pub fn free_memory() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    system.available_memory().min(container::free().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use basin_volume_data::tokens::{ModelLimits, Positions, Provenance};

    use super::*;
    use crate::checkpoint::Checkpoint;

    /// Nothing beside the cost.
    fn alone() -> Beside {
        Beside::default()
    }

    #[test]
    fn budgets_are_read() {
        for (text, expected) in [
            ("auto", Budget::Automatic),
            ("LOW", Budget::Low),
            ("1.5GB", Budget::Bytes(1_500_000_000)),
            ("2 GiB", Budget::Bytes(2 << 30)),
            ("900mb", Budget::Bytes(900_000_000)),
        ] {
            assert_eq!(text.parse::<Budget>().unwrap(), expected, "{text}");
        }
        for text in ["", "12", "-1GB", "much", "1.2.3GB", "0MB", "infGB", "1e40GB"] {
            assert!(text.parse::<Budget>().is_err(), "{text}");
        }
    }

    #[test]
    fn images_have_a_plan_too() {
        let network = crate::train::ConvNextSpec { depths: vec![1], widths: vec![8], ..Default::default() }.network();
        let moving = Moving::from(network.initial_parameters(0));
        let threads = NonZeroUsize::new(4).unwrap();
        let plan = |images, budget| Plan::for_images(&network, &moving, images, &alone(), threads, budget, 1 << 34);
        assert_eq!((plan(1024, Budget::Automatic).unwrap().rays, plan(10, Budget::Automatic).unwrap().rays), (1, 2));
        let low = plan(1024, Budget::Low).unwrap();
        assert!(!low.keep_directions && low.total() < plan(1024, Budget::Automatic).unwrap().total());
        let message = plan(1024, Budget::Bytes(1 << 20)).unwrap_err().to_string();
        assert!(message.contains("take fewer images, or give a larger `memory`") && message.contains("images 25 MB"), "{message}");
    }

    #[test]
    fn a_plan_fits_its_budget_or_says_what_is_missing() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/language_models/gpt_neox_pythia");
        let checkpoint = Checkpoint::load(&folder).unwrap();
        let model = checkpoint.architecture.language_model().unwrap();
        let moving = Moving::from(checkpoint.parameters.clone());
        let limits = ModelLimits { vocabulary: 41, positions: None };
        let tokens = TokenSequences::new("t", vec![vec![3; 32]; 400], limits, None, Positions::All, Provenance::Ids).unwrap();
        let threads = NonZeroUsize::new(2).unwrap();
        let plan = |budget, free| Plan::new(model, &moving, &tokens, &alone(), threads, budget, free);
        let full = plan(Budget::Automatic, 1 << 34).unwrap();
        assert_eq!((full.center_outputs, full.keep_directions), (CenterOutputs::Logits, true));
        let low = plan(Budget::Low, 1 << 34).unwrap();
        assert_eq!((low.center_outputs, low.keep_directions, low.rays), (CenterOutputs::States, false, 1));
        assert!(low.total() < full.total());
        assert_eq!(plan(Budget::Bytes(full.total()), 0).unwrap().total(), full.total());
        let between = plan(Budget::Bytes(full.total() - 1), 0).unwrap();
        assert!(between.total() < full.total());
        let error = plan(Budget::Bytes(low.total() - 1), 0).unwrap_err();
        assert_eq!((error.needed, error.budget), (low.total(), low.total() - 1));
        let message = error.to_string();
        assert!(message.contains("working copies of the weights") && message.contains("`memory`"), "{message}");
        assert!(free_memory() > 1 << 20);
        assert!(!full.to_string().contains("on the device"), "{full}");
    }
}
