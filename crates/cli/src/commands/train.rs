//! `train`: a checkpoint folder.

mod convnext;
mod lm;

use basin_volume_engine::digits::train_digits;
use basin_volume_engine::error::Error;
use basin_volume_engine::request::Machine;
use basin_volume_models::checkpoint::{Checkpoint, TrainingRecord};
use basin_volume_models::train::TrainSpec;

use super::{Context, print};
use crate::args::{Recipe, TrainDigitsArgs};

pub fn run(recipe: &Recipe, context: &Context) -> Result<(), Error> {
    match recipe {
        Recipe::Digits(args) => digits(args, context),
        Recipe::Convnext(args) => convnext::run(args, context),
        Recipe::Lm(args) => lm::run(args, context),
    }
}

fn digits(args: &TrainDigitsArgs, context: &Context) -> Result<(), Error> {
    train_digits(&spec(args), &args.out, &context.session(Machine::default(), context.screen()))?;
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
