//! Which weights move.

use basin_volume_models::parameters::{Moving, Parameters};

use crate::args::ProblemArgs;
use crate::error::CommandError;

/// The tensors that `--parameters` and `--exclude` leave.
pub fn choose(center: &Parameters, args: &ProblemArgs) -> Result<Moving, CommandError> {
    let (include, exclude) = (args.parameters.as_deref(), args.exclude.as_deref());
    Moving::matching(center.clone(), include, exclude).map_err(|error| {
        let flags = match (include, exclude) {
            (Some(_), Some(_)) => "--parameters and --exclude",
            (Some(_), None) => "--parameters",
            _ => "--exclude",
        };
        CommandError::usage(format!("{flags}: {error}"))
    })
}

/// The moving part of a vector with one entry per weight of the network.
pub fn part_of(moving: &Moving, full: Vec<f32>) -> Vec<f32> {
    if moving.is_whole() {
        return full;
    }
    let mut part = Vec::with_capacity(moving.dimension());
    // Both layouts have the same order, so one pass finds every tensor.
    let mut all = moving.center().layout().parameters().iter();
    for parameter in moving.layout().parameters() {
        if let Some(found) = all.find(|candidate| candidate.name == parameter.name) {
            part.extend_from_slice(&full[found.range()]);
        }
    }
    part
}
