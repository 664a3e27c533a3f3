//! `train convnext`: a classifier of images.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, anyhow};
use basin_volume_models::checkpoint::{CURVE, Checkpoint, ImageTraining, TrainingRecord};
use basin_volume_models::memory::size;
use basin_volume_models::train::{ConvNextSpec, RandAugment, TrainError, train_convnext};
use rayon::ThreadPoolBuilder;
use serde_json::Value;

use crate::args::TrainConvnextArgs;
use crate::commands::{print, threads};
use crate::curvature::allowed;
use crate::error::{CommandError, CommandResult, training_error};
use crate::plot::{self, LossCurve};
use crate::progress::TrainingProgress;
use crate::target::{eprintln_status, read_set};

pub fn run(args: &TrainConvnextArgs, interrupt: &AtomicBool) -> CommandResult {
    let spec = spec(args)?;
    spec.check().map_err(architecture_error)?;
    let data = read_set(&args.data)?;
    let threads = threads(args.threads).get();
    let images = (data.train.pixels.len() + data.test.pixels.len()) as u64;
    let (needed, allowed) = (spec.bytes(threads) + images, allowed(args.memory));
    if needed > allowed {
        return Err(anyhow!(
            "the training needs {} of memory but {} may be used: take fewer --threads, smaller --widths, or give a larger --memory",
            size(needed),
            size(allowed)
        )
        .into());
    }
    eprintln_status(&format!(
        "{} images to train on, {} to test on; memory {} of {} allowed",
        data.train.count(),
        data.test.count(),
        size(needed),
        size(allowed)
    ));
    let mut observer = TrainingProgress::new(interrupt).counting(spec.batch_size, "images");
    let pool = ThreadPoolBuilder::new().num_threads(threads).build()?;
    let result = pool.install(|| train_convnext(&spec, &data, &args.out, &mut observer));
    observer.finish();
    let checkpoint = result.map_err(training_error)?;
    let training = checkpoint.training.as_ref().and_then(TrainingRecord::images);
    let training = training.ok_or_else(|| anyhow!("the checkpoint {} lost its training record", args.out.display()))?;
    let figures = draw(&args.out, &checkpoint).with_context(|| format!("the curve of {} was not drawn", args.out.display()))?;
    print(&format!("Trained {} weights into {}\n{}\n{figures}", checkpoint.parameters.dimension(), args.out.display(), summary(training)))
}

/// The configuration's settings by the names of the flags that they come from.
fn architecture_error(error: TrainError) -> CommandError {
    let TrainError::Architecture(error) = error else { return training_error(error) };
    let names = [
        ("`hidden_sizes`", "--widths"),
        ("hidden_sizes", "--widths"),
        ("`depths`", "--depths"),
        ("`drop_path_rate`", "--drop-path"),
        ("`patch_size`", "--patch-size"),
    ];
    CommandError::usage(names.iter().fold(error.to_string(), |text, (setting, flag)| text.replace(setting, flag)))
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

fn spec(args: &TrainConvnextArgs) -> Result<ConvNextSpec, CommandError> {
    let betas: [f64; 2] =
        args.betas.as_slice().try_into().map_err(|_| CommandError::usage("--betas: expected two numbers, such as 0.9,0.95"))?;
    let rand_augment = args.rand_augment.as_deref().map(|numbers| match *numbers {
        [operations, magnitude] => Ok(RandAugment { operations, magnitude }),
        _ => Err(CommandError::usage("--rand-augment: expected operations per image and their magnitude, such as 2,9")),
    });
    let rand_augment = rand_augment.transpose()?;
    if args.no_augment && rand_augment.is_some() {
        return Err(CommandError::usage("--rand-augment goes with flips and cuts, which --no-augment leaves out: give one of the two"));
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
fn draw(out: &Path, last: &Checkpoint) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(out.join(CURVE))?;
    let mut losses = Vec::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line)?;
        if let (Some(step), Some(loss)) = (line["step"].as_f64(), line["loss"].as_f64()) {
            losses.push((step, loss));
        }
    }
    let mut records: Vec<ImageTraining> = Vec::new();
    for entry in out.read_dir()? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-")) {
            let text = std::fs::read_to_string(path.join("config.json"))?;
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
    let figure = LossCurve {
        title: "Loss in training".to_owned(),
        losses,
        checkpoints: vec![
            ("clean images".to_owned(), of(|record| Some(record.train_loss))),
            ("held-out images".to_owned(), of(|record| Some(record.test_loss))),
            ("poisoned images".to_owned(), of(|record| record.poison_loss)),
        ],
    };
    let paths = plot::save(&figure, out, "curve")?;
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
