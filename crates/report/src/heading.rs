//! What was measured on which data, in a line.

use std::fmt;

use basin_volume::prior::Prior;
use basin_volume::run::manifest::Manifest;

/// The name of the model or of the data.
#[must_use]
pub fn problem_name(manifest: &Manifest, key: &str) -> String {
    let problem = &manifest.spec.problem;
    problem.get(key).and_then(|m| m.get("name")).and_then(|n| n.as_str()).unwrap_or("?").to_owned()
}

/// What was measured on which data, in a line.
pub(crate) struct Heading<'a> {
    /// What was asked.
    pub manifest: &'a Manifest,
    /// Name of the data.
    pub data: &'a str,
    /// What the number is the log of.
    pub quantity: &'a str,
}

impl fmt::Display for Heading<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let question = self.manifest.spec.question;
        let model = problem_name(self.manifest, "model");
        write!(f, "Local volume of {model} on {}: {}, cutoff {} nats", self.data, self.quantity, question.cutoff())?;
        match question.prior() {
            Prior::Gaussian { sigma } => write!(f, ", sigma {sigma:.6}"),
            _ => Ok(()),
        }
    }
}
