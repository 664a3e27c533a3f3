//! `data`: sets that have a name, or are made rather than read.

use basin_volume_data::DataError;
use basin_volume_data::cifar::synthetic;
use basin_volume_engine::error::Error;

use basin_volume_engine::data::tasks::TASKS;
use basin_volume_report::plain_table;

use super::print;
use crate::args::{DataSet, SyntheticCifarArgs};

pub fn run(set: &DataSet) -> Result<(), Error> {
    match set {
        DataSet::SyntheticCifar(args) => synthetic_cifar(args),
        DataSet::List => list(),
    }
}

fn list() -> Result<(), Error> {
    let rows = TASKS.iter().map(|task| {
        let part = task.config.map_or_else(|| task.split.to_owned(), |config| format!("{config}, {}", task.split));
        [task.name, task.id, &part, task.text_key, task.about].map(str::to_owned).to_vec()
    });
    let table = plain_table(&["name", "data set of the hub", "part", "text", "what it holds"], &[], rows);
    print(&format!(
        "{table}\n\nAsk for one with `--data NAME`; another part or field of it with --data-config, --split and --text-key. \
         `random:64:128` are 64 sequences of 128 random tokens, `random-letters:50:50` 50 texts of 50 random letters; a third \
         number is their seed."
    ))
}

fn synthetic_cifar(args: &SyntheticCifarArgs) -> Result<(), Error> {
    synthetic::write(&args.out, args.seed, args.train, args.test).map_err(|error| match error {
        DataError::Images { .. } => Error::usage(error.to_string()),
        other => other.into(),
    })?;
    let folder = args.out.display();
    print(&format!(
        "Wrote {} images to train on and {} to test on into {folder}: textured shapes in ten classes, in the binary format of CIFAR-10.\n\
         Train on them with `basin-volume train convnext --data {folder} --out DIR`.",
        args.train, args.test
    ))
}
