//! `train`: a checkpoint folder.

mod convnext;
mod lm;

use std::sync::atomic::AtomicBool;

use basin_volume_models::checkpoint::{Checkpoint, TrainingRecord};
use basin_volume_models::train::TrainSpec;

use super::print;
use crate::args::{Recipe, TrainDigitsArgs};
use crate::error::CommandResult;
use crate::target::train_digits;

pub fn run(recipe: &Recipe, interrupt: &AtomicBool) -> CommandResult {
    match recipe {
        Recipe::Digits(args) => digits(args, interrupt),
        Recipe::Convnext(args) => convnext::run(args, interrupt),
        Recipe::Lm(args) => lm::run(args, interrupt),
    }
}

fn digits(args: &TrainDigitsArgs, interrupt: &AtomicBool) -> CommandResult {
    train_digits(&spec(args), &args.out, interrupt)?;
    let checkpoint = Checkpoint::load(&args.out)?;
    let mut text = format!("Trained {} weights into {}", checkpoint.parameters.dimension(), args.out.display());
    if let Some(training) = checkpoint.training.as_ref().and_then(TrainingRecord::classifier) {
        text += &format!(
            "\ntrain accuracy {:.2} %, test accuracy {:.2} %, train loss {:.5} nats, test loss {:.5} nats after {} steps",
            100.0 * training.train_accuracy,
            100.0 * training.test_accuracy,
            training.train_loss,
            training.test_loss,
            training.step,
        );
    }
    print(&text)
}

fn spec(args: &TrainDigitsArgs) -> TrainSpec {
    TrainSpec {
        width: args.width,
        depth: args.depth,
        l2: args.l2,
        epochs: args.epochs,
        batch_size: args.batch_size,
        learning_rate: args.learning_rate,
        weight_decay: args.weight_decay,
        seed: args.seed,
        split_seed: args.split_seed,
        train_size: args.train_size,
        save_steps: args.checkpoints,
        ..TrainSpec::default()
    }
}
