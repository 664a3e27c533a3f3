//! `inspect`: what a model is, and what it would be measured on.

use std::ops::Range;

use basin_volume::direction::BLOCK;
use basin_volume_engine::data::{Data, resolve_data};
use basin_volume_engine::digits::Builtin;
use basin_volume_engine::error::Error;
use basin_volume_engine::estimate::{self, PartForecast};
use basin_volume_engine::loaded::{Loaded, Placement, check_builtin};
use basin_volume_engine::model::{Model, text_of};
use basin_volume_engine::request::{ALL, Estimate, Sigma};
use basin_volume_engine::resources::Needs;
use basin_volume_engine::session::Session;
use basin_volume_models::checkpoint::TrainingRecord;
use basin_volume_models::components::Components;
use basin_volume_models::parameters::{Moving, Parameter, Parameters};
use basin_volume_report::plain_table;
use serde_json::{Value, json};

use super::{Context, print, print_json};
use crate::args::InspectArgs;

pub fn run(args: &InspectArgs, context: &Context) -> Result<(), Error> {
    let request = args.cost.request();
    let session = context.session(args.machine.machine(), context.screen());
    let placement = Placement::of(&request, &session)?;
    let data = request.data.one()?;
    check_builtin(&args.model, &request, &session)?;
    let model = Model::resolve(&args.model, &session)?;
    let moving = model.moving(&request)?;
    // A description needs no data; those of the built-in networks are at hand.
    let is_plain = request.language_model_settings().is_empty() && session.memory.is_none() && Builtin::of(&args.model).is_none();
    let data = match (data, model.language_model()) {
        (None, None) if is_plain => None,
        _ => resolve_data(&request, &model, &session)?,
    };
    let plan = match &data {
        Some(data) => Loaded::plan(&model, &moving, data, placement, &Needs::default(), &session)?,
        None => None,
    };
    if args.json {
        let mut description = description(&model, &moving, data.as_ref())?;
        if let Some(plan) = plan {
            description["memory"] = json!(plan);
        }
        if let Some(data) = data {
            let forecasts = forecasts(&Loaded::of(model, moving, data, placement, &request), &session)?;
            let seconds = |part: &PartForecast| json!({ "what": part.words, "seconds": [part.forecast.least, part.forecast.most] });
            description["forecasts"] = forecasts.iter().map(seconds).collect();
        }
        return print_json(&description);
    }
    let mut text = text(&model, &moving, data.as_ref())?;
    if let Some(plan) = plan {
        text += &format!("\nwithout preconditioner: {plan}");
    }
    // What is known already is not kept waiting for.
    print(&text)?;
    let Some(data) = data else { return Ok(()) };
    for PartForecast { words, forecast } in forecasts(&Loaded::of(model, moving, data, placement, &request), &session)? {
        print(&format!("forecast for {words}: {} on {} threads", forecast.words(), session.threads))?;
    }
    Ok(())
}

/// How long every estimator would take with its own settings.
fn forecasts(subject: &Loaded, session: &Session) -> Result<Vec<PartForecast>, Error> {
    estimate::forecasts(&Estimate { estimator: ALL.to_owned(), ..Estimate::default() }, subject, session)
}

fn description(model: &Model, moving: &Moving, data: Option<&Data>) -> Result<Value, Error> {
    let checkpoint = &model.checkpoint;
    let tensors: Vec<_> =
        moving.layout().parameters().iter().map(|p| json!({ "name": p.name, "shape": p.shape, "offset": p.offset })).collect();
    let mut description = json!({
        "folder": text_of(&checkpoint.folder),
        "model": model.record(),
        "provenance": model.provenance(),
        "files": model.files().iter().map(|file| text_of(file)).collect::<Vec<_>>(),
        "dimension": moving.dimension(),
        "rms": moving.rms(),
        "weight_decay_sigma": model.sigma(moving, Sigma::WeightDecay).ok().map(|found| found.sigma),
        "center_norm_squared": moving.sum_of_squares(),
        "weights_not_moving": moving.center().dimension() - moving.dimension(),
        "adam_moments": checkpoint.moments()?.is_some(),
        "training": checkpoint.training,
        "parameters": tensors,
        "components": Components::of(checkpoint.architecture.as_ref()).words(),
    });
    if let Some(network) = model.language_model() {
        description["language_model"] = json!({
            "vocabulary": network.vocabulary(),
            "positions": network.positions(),
            "hidden": network.hidden(),
            "has_tokenizer": has_tokenizer(model),
        });
    }
    if let Some(data) = data {
        description["data"] = data.record();
        if let Data::Tokens(tokens) = data {
            description["data"]["longest_sequence"] = json!(tokens.sequences.longest());
            description["data"]["provenance"] = data.provenance();
        }
    }
    Ok(description)
}

fn text(model: &Model, moving: &Moving, data: Option<&Data>) -> Result<String, Error> {
    let checkpoint = &model.checkpoint;
    let mut lines = vec![
        format!("{} ({}) in {}", model.name, checkpoint.architecture.model_type(), checkpoint.folder.display()),
        table(moving.center(), model.language_model().is_some()),
    ];
    if let Some(origin) = &model.origin {
        lines.push(format!("hub                   {}, revision {}, commit {}", origin.id, origin.revision, origin.commit));
    }
    if let Some(base) = &checkpoint.base {
        let hub = model.base_origin.as_ref().map_or(String::new(), |origin| format!(" ({}, revision {})", origin.id, origin.revision));
        lines.push(format!("adapter of            {}{hub}", base.display()));
    }
    if let Some(network) = model.language_model() {
        lines.push(format!(
            "vocabulary            {}, positions {}, hidden width {}",
            network.vocabulary(),
            network.positions(),
            network.hidden()
        ));
        lines.push(format!("tokenizer             {}", if has_tokenizer(model) { "tokenizer.json" } else { "none here: set --tokenizer" }));
        let files = match model.files().len() {
            1 => "one file".to_owned(),
            count => format!("{count} files"),
        };
        lines.push(format!("stored as             {} in {files}", model.stored().join(", ")));
    }
    lines.push(format!("components            {}", Components::of(checkpoint.architecture.as_ref()).words()));
    lines.push(format!("dimension D           {}", moving.dimension()));
    if !moving.is_whole() {
        let (own, all) = (moving.tensors_touched(), moving.center().layout().parameters().len());
        lines.push(format!(
            "                      in {own} of {all} tensors; the other {} weights stay",
            moving.center().dimension() - moving.dimension()
        ));
    }
    lines.push(format!("sigma = rms           {:.6}", moving.rms()));
    let weight_decay = model.sigma(moving, Sigma::WeightDecay).ok();
    lines.push(match weight_decay {
        Some(found) => format!("sigma = weight-decay  {:.6}", found.sigma),
        None => "sigma = weight-decay  unknown (no l2 penalty recorded)".to_owned(),
    });
    lines.push(format!("||c||                 {:.6}", moving.sum_of_squares().sqrt()));
    lines.push(format!("weights sha256        {}", checkpoint.parameters.hash()));
    lines.push(format!("Adam moments          {}", checkpoint.moments()?.map_or("none".to_owned(), |m| format!("after {} steps", m.step))));
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
    if let Some(training) = checkpoint.training.as_ref().and_then(TrainingRecord::images) {
        let poison = if training.poison_size > 0 { format!(" and {} poisoned ones", training.poison_size) } else { String::new() };
        lines.push(format!(
            "trained on            {} images{poison}, seed {}, step {} of {}: clean accuracy {:.2} %, held-out accuracy {:.2} %",
            training.train_size,
            training.seed,
            training.step,
            training.total_steps,
            100.0 * training.train_accuracy,
            100.0 * training.test_accuracy,
        ));
    }
    match data {
        None => {}
        Some(Data::Rows(data)) => {
            lines.push(format!("data                  {}: {} rows of {} features", data.name(), data.rows(), data.features()));
            lines.push(format!("data sha256           {}", data.hash()));
        }
        Some(Data::Tokens(tokens)) => {
            let sequences = &tokens.sequences;
            lines.push(format!(
                "data                  {}: {} sequences of up to {} tokens, {} tokens in all",
                tokens.name,
                sequences.count(),
                sequences.longest(),
                sequences.ids().len(),
            ));
            let pad = sequences.pad().map_or_else(|| "no pad token".to_owned(), |pad| format!("pad token {pad}"));
            lines.push(format!("kept positions        {} ({pad})", sequences.kept_count()));
            lines.push(format!("token ids sha256      {}", sequences.hash()));
        }
    }
    Ok(lines.join("\n"))
}

fn has_tokenizer(model: &Model) -> bool {
    model.checkpoint.tokenizer_folder().join("tokenizer.json").is_file()
}

/// Tensors that differ only in the number of their layer.
struct Group {
    first: Parameter,
    /// The name around the layer's number; none for a tensor that stands in no numbered layer.
    around: Option<(String, String)>,
    layers: Vec<usize>,
    squares: f64,
}

/// A row for each tensor, or for all tensors of the same name and shape in different layers.
fn table(parameters: &Parameters, by_layer: bool) -> String {
    let mut groups: Vec<Group> = Vec::new();
    let mut block = vec![0.0f32; BLOCK.min(parameters.dimension())];
    for parameter in parameters.layout().parameters() {
        let squares = sum_of_squares(parameters, parameter.range(), &mut block);
        let layer = if by_layer { layer_of(&parameter.name) } else { None };
        let (around, number) = layer.map_or((None, 0), |(before, number, after)| (Some((before, after)), number));
        let same = |group: &&mut Group| group.around.is_some() && group.around == around && group.first.shape == parameter.shape;
        match groups.iter_mut().find(same) {
            Some(group) => {
                group.layers.push(number);
                group.squares += squares;
            }
            None => groups.push(Group { first: parameter.clone(), around, layers: vec![number], squares }),
        }
    }
    let rows = groups.into_iter().map(|group| {
        let (count, size) = (group.layers.len(), group.first.len());
        let shape: Vec<String> = group.first.shape.iter().map(usize::to_string).collect();
        let name = match &group.around {
            Some((before, after)) if count > 1 => format!("{before}{}{after}", ranges(&group.layers)),
            _ => group.first.name.clone(),
        };
        let weights = if count > 1 { format!("{count} x {size}") } else { size.to_string() };
        vec![name, shape.join(" x "), weights, format!("{:.5}", (group.squares / (count * size) as f64).sqrt())]
    });
    plain_table(&["parameter", "shape", "weights", "rms"], &[2, 3], rows)
}

fn sum_of_squares(parameters: &Parameters, range: Range<usize>, block: &mut [f32]) -> f64 {
    let mut sum = 0.0;
    for start in range.clone().step_by(block.len().max(1)) {
        let part = start..(start + block.len()).min(range.end);
        let values = &mut block[..part.len()];
        parameters.fill(part, values);
        sum += values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    }
    sum
}

/// What stands before and after the first number between dots.
fn layer_of(name: &str) -> Option<(String, usize, String)> {
    let mut start = 0;
    for part in name.split('.') {
        if let Ok(number) = part.parse() {
            return Some((name[..start].to_owned(), number, name[start + part.len()..].to_owned()));
        }
        start += part.len() + 1;
    }
    None
}

/// `0-5`, or `0,2,4` for numbers with gaps.
fn ranges(numbers: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = numbers;
    while let Some(&first) = rest.first() {
        let length = rest.iter().enumerate().take_while(|(index, number)| **number == first + index).count();
        if !text.is_empty() {
            text.push(',');
        }
        text += &if length > 1 { format!("{first}-{}", first + length - 1) } else { first.to_string() };
        rest = &rest[length..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_told_from_the_rest_of_a_name() {
        let parts = |name| layer_of(name).map(|(before, number, after)| format!("{before}|{number}|{after}"));
        assert_eq!(parts("gpt_neox.layers.12.mlp.bias").as_deref(), Some("gpt_neox.layers.|12|.mlp.bias"));
        assert_eq!(parts("h.3.ln_1.weight").as_deref(), Some("h.|3|.ln_1.weight"));
        assert_eq!(parts("lm_head.weight"), None);
        assert_eq!(ranges(&[0, 1, 2, 3]), "0-3");
        assert_eq!(ranges(&[0, 2, 3, 7]), "0,2-3,7");
    }
}
