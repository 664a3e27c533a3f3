//! `inspect`: what a model is.

use std::sync::atomic::AtomicBool;

use basin_volume_models::checkpoint::TrainingRecord;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::{print, print_json};
use crate::args::{InspectArgs, SigmaChoice};
use crate::error::CommandResult;
use crate::target::Model;

pub fn run(args: &InspectArgs, interrupt: &AtomicBool) -> CommandResult {
    let model = Model::resolve(&args.model, interrupt)?;
    let checkpoint = &model.checkpoint;
    let parameters = &checkpoint.parameters;
    let moments = checkpoint.moments()?;
    let weight_decay = model.sigma(Some(SigmaChoice::WeightDecay)).ok().map(|(sigma, _)| sigma);
    if args.json {
        let tensors: Vec<_> =
            parameters.layout().parameters().iter().map(|p| json!({ "name": p.name, "shape": p.shape, "offset": p.offset })).collect();
        return print_json(&json!({
            "folder": checkpoint.folder,
            "model": model.record(),
            "dimension": parameters.dimension(),
            "rms": parameters.rms(),
            "weight_decay_sigma": weight_decay,
            "center_norm_squared": parameters.sum_of_squares(),
            "adam_moments": moments.is_some(),
            "training": checkpoint.training,
            "parameters": tensors,
        }));
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["parameter", "shape", "weights", "rms"]);
    let mut scratch = Vec::new();
    for parameter in parameters.layout().parameters() {
        let values = parameters.slice(parameter.range(), &mut scratch);
        let squares: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let shape: Vec<String> = parameter.shape.iter().map(usize::to_string).collect();
        let rms = (squares / parameter.len() as f64).sqrt();
        table.add_row([parameter.name.clone(), shape.join(" x "), parameter.len().to_string(), format!("{rms:.5}")]);
    }
    for column in 2..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut lines = vec![
        format!("{} ({}) in {}", model.name, checkpoint.architecture.model_type(), checkpoint.folder.display()),
        table.to_string(),
        format!("dimension D           {}", parameters.dimension()),
        format!("sigma = rms           {:.6}", parameters.rms()),
        match weight_decay {
            Some(sigma) => format!("sigma = weight-decay  {sigma:.6}"),
            None => "sigma = weight-decay  unknown (no l2 penalty recorded)".to_owned(),
        },
        format!("||c||                 {:.6}", parameters.sum_of_squares().sqrt()),
        format!("weights sha256        {}", parameters.hash()),
        format!("Adam moments          {}", moments.map_or("none".to_owned(), |m| format!("after {} steps", m.step))),
    ];
    if let Some(training) = checkpoint.training.as_ref().and_then(TrainingRecord::language_model) {
        lines.push(format!(
            "trained on            {} ({} tokens), seed {}, step {} of {}: train loss {:.4}, held-out loss {:.4} nats per token",
            training.text, training.tokens, training.seed, training.step, training.total_steps, training.train_loss, training.held_out_loss,
        ));
    }
    if let Some(training) = checkpoint.training.as_ref().and_then(TrainingRecord::classifier) {
        lines.push(format!(
            "trained on            {} ({} rows), l2 {}, seed {}: train accuracy {:.2} %, test accuracy {:.2} %",
            training.dataset,
            training.train_size,
            training.l2,
            training.seed,
            100.0 * training.train_accuracy,
            100.0 * training.test_accuracy,
        ));
    }
    print(&lines.join("\n"))
}
