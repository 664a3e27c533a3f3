//! The table of the sequences of a run, beside its result.

use basin_volume::estimator::radial::PartResult;
use basin_volume::run::folder;

use super::Rays;
use crate::error::{Context, Error};
use crate::estimators::Run;

/// Name of the table in a run folder.
const TABLE: &str = "sequences.csv";

/// Writes the table of the sequences, those of the largest volume first, if the run has volumes of its own for them.
pub(super) fn write(run: &Run) -> Result<(), Error> {
    let Some(parts) = run.details::<Rays>().and_then(|rays| rays.result.parts.as_ref()) else { return Ok(()) };
    let path = run.folder.join(TABLE);
    let made = || -> Result<Vec<u8>, csv::Error> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["sequence", "tokens", "log_volume", "low", "high", "mean_log_volume", "standard_error", "trust", "text"])?;
        let real = |value: Option<f64>| value.map_or_else(String::new, |x| x.to_string());
        for part in PartResult::sorted(parts) {
            writer.write_record([
                part.index.to_string(),
                part.tokens.map_or_else(String::new, |tokens| tokens.to_string()),
                real(part.log_volume),
                real(part.interval.0),
                real(part.interval.1),
                real(part.mean_log_volume),
                real(part.standard_error),
                part.trust.words().to_owned(),
                part.text.clone().unwrap_or_default(),
            ])?;
        }
        writer.into_inner().map_err(|error| error.into_error().into())
    };
    let bytes = made().context(|| format!("the table {} cannot be written", path.display()))?;
    Ok(folder::write_atomically(&path, &bytes)?)
}
