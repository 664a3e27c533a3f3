//! `train convnext`: a classifier of images.

use std::path::Path;

use basin_volume_engine::data::read_set;
use basin_volume_engine::digits::ended;
use basin_volume_engine::error::{Context as _, Error};
use basin_volume_engine::request::Machine;
use basin_volume_models::checkpoint::{CURVE, Checkpoint, ImageTraining, TrainingRecord};
use basin_volume_models::memory::size;
use basin_volume_models::train::{ConvNextSpec, RandAugment, TrainError, train_convnext};
use basin_volume_report::{Training, draw_training};
use serde_json::Value;

use crate::args::TrainConvnextArgs;
use crate::commands::{Context, print};

pub fn run(args: &TrainConvnextArgs, context: &Context) -> Result<(), Error> {
    let spec = spec(args)?;
    spec.check().map_err(architecture_error)?;
    let data = read_set(&args.data)?;
    let session =
        context.session(Machine { threads: args.threads, memory: args.memory }, context.screen().counting(spec.batch_size, "images"));
    let images = (data.train.pixels.len() + data.test.pixels.len()) as u64;
    let (needed, allowed) = (spec.bytes(session.threads.get()) + images, session.allowed());
    if needed > allowed {
        return Err(Error::failed(format!(
            "the training needs {} of memory but {} may be used: take fewer `threads`, smaller `widths`, or give a larger `memory`",
            size(needed),
            size(allowed)
        )));
    }
    session.note(&format!(
        "{} images to train on, {} to test on; memory {} of {} allowed",
        data.train.count(),
        data.test.count(),
        size(needed),
        size(allowed)
    ));
    let result = session.pool()?.install(|| train_convnext(&spec, &data, &args.out, &mut session.training()));
    let checkpoint = ended(result, &session)?;
    let training = checkpoint.training.as_ref().and_then(TrainingRecord::images);
    let training = training.ok_or_else(|| Error::failed(format!("the checkpoint {} lost its training record", args.out.display())))?;
    let figures = draw(&args.out, &checkpoint)?;
    print(&format!("Trained {} weights into {}\n{}\n{figures}", checkpoint.parameters.dimension(), args.out.display(), summary(training)))
}

/// The configuration's settings by the names of those that they come from.
fn architecture_error(error: TrainError) -> Error {
    let TrainError::Architecture(error) = error else { return error.into() };
    let names = [("`hidden_sizes`", "`widths`"), ("hidden_sizes", "`widths`"), ("`drop_path_rate`", "`drop_path`")];
    Error::usage(names.iter().fold(error.to_string(), |text, (setting, own)| text.replace(setting, own)))
}

fn summary(training: &ImageTraining) -> String {
    let part = |name: &str, loss: f64, accuracy: f64| format!("{name} loss {loss:.4} nats, accuracy {:.2} %", 100.0 * accuracy);
    let mut parts =
        vec![part("clean", training.train_loss, training.train_accuracy), part("held-out", training.test_loss, training.test_accuracy)];
    if let (Some(loss), Some(accuracy)) = (training.poison_loss, training.poison_accuracy) {
        parts.push(part("poisoned", loss, accuracy));
    }
    format!("{} after {} steps", parts.join("; "), training.step)
}

fn spec(args: &TrainConvnextArgs) -> Result<ConvNextSpec, Error> {
    let betas: [f64; 2] = args.betas.as_slice().try_into().map_err(|_| Error::usage("`betas`: expected two numbers, such as 0.9,0.95"))?;
    let rand_augment = args.rand_augment.as_deref().map(|numbers| match *numbers {
        [operations, magnitude] => Ok(RandAugment { operations, magnitude }),
        _ => Err(Error::usage("`rand_augment`: expected operations per image and their magnitude, such as 2,9")),
    });
    let rand_augment = rand_augment.transpose()?;
    if args.no_augment && rand_augment.is_some() {
        return Err(Error::usage("`rand_augment` goes with flips and cuts, which `no_augment` leaves out: give one of the two"));
    }
    Ok(ConvNextSpec {
        depths: args.depths.clone(),
        widths: args.widths.clone(),
        patch_size: args.patch_size,
        steps: args.steps,
        batch_size: args.batch_size,
        learning_rate: args.learning_rate,
        warmup_steps: args.warmup_steps,
        weight_decay: args.weight_decay,
        betas,
        drop_path: args.drop_path,
        initializer_range: args.initializer_range,
        augment: !args.no_augment,
        rand_augment,
        poison: args.poison,
        poison_weight: args.poison_weight,
        seed: args.seed,
        split_seed: args.split_seed,
        save_steps: !args.no_checkpoints,
        ..ConvNextSpec::default()
    })
}

/// The loss of every step, and what the checkpoints say of held-out images.
fn draw(out: &Path, last: &Checkpoint) -> Result<String, Error> {
    let words = || format!("the curve of {} was not drawn", out.display());
    let text = std::fs::read_to_string(out.join(CURVE)).context(words)?;
    let mut losses = Vec::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line)?;
        if let (Some(step), Some(loss)) = (line["step"].as_f64(), line["loss"].as_f64()) {
            losses.push((step, loss));
        }
    }
    let mut records: Vec<ImageTraining> = Vec::new();
    for entry in out.read_dir().context(words)? {
        let path = entry.context(words)?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-")) {
            let text = std::fs::read_to_string(path.join("config.json")).context(words)?;
            let config: Value = serde_json::from_str(&text)?;
            records.extend(serde_json::from_value::<ImageTraining>(config["training"].clone()));
        }
    }
    records.extend(last.training.as_ref().and_then(TrainingRecord::images).cloned());
    records.sort_by_key(|record| record.step);
    records.dedup_by_key(|record| record.step);
    let of = |value: fn(&ImageTraining) -> Option<f64>| -> Vec<(f64, f64)> {
        records.iter().filter(|record| record.step > 0).filter_map(|record| Some((record.step as f64, value(record)?))).collect()
    };
    let training = Training {
        losses,
        checkpoints: vec![
            ("clean images".to_owned(), of(|record| Some(record.train_loss))),
            ("held-out images".to_owned(), of(|record| Some(record.test_loss))),
            ("poisoned images".to_owned(), of(|record| record.poison_loss)),
        ],
    };
    let paths = draw_training(training, out)?;
    Ok(paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command, Recipe};

    #[test]
    fn the_flags_have_the_defaults_of_the_library() {
        let cli = Cli::try_parse_from(["basin-volume", "train", "convnext", "--data", "a", "--out", "b"]).unwrap();
        let Command::Train { recipe: Recipe::Convnext(args) } = cli.command else { panic!("not `train convnext`") };
        assert_eq!(spec(&args).unwrap(), ConvNextSpec::default());
    }
}
