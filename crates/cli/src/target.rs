//! What MODEL and DATA mean.

mod data;
mod digits;
mod hub;
mod images;
mod model;
mod moving;
mod split;
mod text;

pub use data::{Data, resolve_data};
pub use digits::train_digits;
pub use images::read_set;
pub use model::Model;
pub use moving::{choose, part_of};
pub use text::{ids, resolve as resolve_tokens};

use serde_json::{Map, Value, json};

use basin_volume_models::parameters::Moving;

use crate::args::ProblemArgs;
use crate::error::CommandError;

/// What identifies model, data and cost in a manifest: everything that decides the samples, and nothing that does not.
pub fn problem_record(model: &Model, moving: &Moving, args: &ProblemArgs, data: &Data) -> Map<String, Value> {
    let mut record = Map::new();
    record.insert("model".to_owned(), model.record());
    record.insert("data".to_owned(), data.record());
    record.insert("cost".to_owned(), json!(format!("mean over the {} of KL(center || perturbed), nats", data.unit())));
    if !moving.is_whole() {
        let tensors = moving.layout().parameters().len();
        record.insert("moving".to_owned(), json!({ "parameters": args.parameters, "exclude": args.exclude, "tensors": tensors }));
    }
    // On the CPU nothing is written, so that runs of earlier versions go on.
    if let Some(device) = args.device_record() {
        record.insert("device".to_owned(), device);
    }
    record
}

/// What a command without data says: only language models have no default.
pub fn data_needed(model: &Model) -> CommandError {
    CommandError::usage(format!("{} is a language model, so --data has no default: {}", model.name, text::EXAMPLE))
}

/// A line for the user on standard error.
#[expect(clippy::print_stderr, reason = "the binary talks to its user")]
pub fn eprintln_status(text: &str) {
    eprintln!("{text}");
}
