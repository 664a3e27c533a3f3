//! Sets of images.

use std::path::Path;

use basin_volume_data::Dataset;
use basin_volume_data::cifar::{Cifar, Part};
use basin_volume_data::tensors;
use basin_volume_models::checkpoint::TrainingRecord;

use crate::error::Error;
use crate::model::Model;

/// How images are given.
const EXAMPLE: &str = "give cifar:DIR, cifar:DIR:val:1024 (or clean, poison, train), or a .safetensors file with a tensor `inputs`";

/// What stands before the folder of a set.
const PREFIX: &str = "cifar:";

/// The images that DATA means; None when it means something else.
pub(crate) fn resolve(data: Option<&str>, model: &Model) -> Option<Result<Dataset, Error>> {
    let classifies = model.images().is_some();
    match data {
        Some(data) if data.starts_with(PREFIX) => {
            let training = model.checkpoint.training.as_ref();
            let of_images = training.and_then(TrainingRecord::images).map(|training| training.split_seed);
            let seed = of_images.or_else(|| training.and_then(TrainingRecord::classifier).map(|training| training.split_seed));
            Some(part(data, seed.unwrap_or(0)))
        }
        None if classifies => Some(Err(Error::usage(format!("{} classifies images, so `data` has no default: {EXAMPLE}", model.name)))),
        Some(path) if classifies && Path::new(path).is_file() => Some(tensors::read(Path::new(path)).map_err(Into::into)),
        Some(other) if classifies => Some(Err(Error::usage(format!("`data={other}` is no set of images: {EXAMPLE}")))),
        _ => None,
    }
}

/// Reads the set in a folder, which may be given as `cifar:DIR`.
///
/// # Errors
/// When it is none, or incomplete.
pub fn read_set(text: &str) -> Result<Cifar, Error> {
    Ok(Cifar::read(Path::new(text.strip_prefix(PREFIX).unwrap_or(text)))?)
}

/// `cifar:DIR[:PART][:N]`; a folder may have colons in its name.
fn part(data: &str, seed: u64) -> Result<Dataset, Error> {
    let mut rest = data.strip_prefix(PREFIX).unwrap_or(data);
    let mut most = None;
    let mut chosen = None;
    if !Path::new(rest).exists() {
        if let Some((before, count)) = rest.rsplit_once(':')
            && let Ok(count) = count.parse::<usize>()
        {
            (rest, most) = (before, Some(count));
        }
        if !Path::new(rest).exists()
            && let Some((before, name)) = rest.rsplit_once(':')
        {
            let part = name.parse::<Part>().map_err(|()| {
                Error::usage(format!("`data={data}`: '{name}' is no part of the set: expected train, clean, poison or val, and a number"))
            })?;
            (rest, chosen) = (before, Some(part));
        }
        if !Path::new(rest).exists() {
            return Err(Error::usage(format!("there is no set of images '{rest}': {EXAMPLE}")));
        }
    }
    let set = read_set(rest)?;
    set.part(chosen.unwrap_or(Part::Val), seed, most).map_err(|error| Error::usage(format!("`data={data}`: {error}")))
}
