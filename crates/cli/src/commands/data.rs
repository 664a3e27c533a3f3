//! `data`: sets that are made rather than read.

use basin_volume_data::DataError;
use basin_volume_data::cifar::synthetic;
use basin_volume_engine::error::Error;

use super::print;
use crate::args::{DataSet, SyntheticCifarArgs};

pub fn run(set: &DataSet) -> Result<(), Error> {
    match set {
        DataSet::SyntheticCifar(args) => synthetic_cifar(args),
    }
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
