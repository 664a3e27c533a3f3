//! `data`: sets that are made rather than read.

use basin_volume_data::DataError;
use basin_volume_data::cifar::synthetic;

use super::print;
use crate::args::{DataSet, SyntheticCifarArgs};
use crate::error::{CommandError, CommandResult};

pub fn run(set: &DataSet) -> CommandResult {
    match set {
        DataSet::SyntheticCifar(args) => synthetic_cifar(args),
    }
}

fn synthetic_cifar(args: &SyntheticCifarArgs) -> CommandResult {
    synthetic::write(&args.out, args.seed, args.train, args.test).map_err(|error| match error {
        DataError::Images { .. } => CommandError::usage(error.to_string()),
        error => error.into(),
    })?;
    let folder = args.out.display();
    print(&format!(
        "Wrote {} images to train on and {} to test on into {folder}: textured shapes in ten classes, in the binary format of CIFAR-10.\n\
         Train on them with `basin-volume train convnext --data {folder} --out DIR`.",
        args.train, args.test
    ))
}
