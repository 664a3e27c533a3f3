//! What was asked, written before the first sample and compared at every resume and merge.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shard::Shard;
use crate::random;
use crate::spec::RunSpec;

/// Name of the format, in every manifest.
pub const FORMAT: &str = "basin-volume run";

/// Version of the run folder's format that this code reads and writes.
pub const FORMAT_VERSION: u32 = 2;

/// What the pilot rays of the radial estimator found; part of the manifest, so that every shard starts its searches from the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pilot {
    /// Median radius of the pilot rays (the largest radius that matters for a ray that is unbounded).
    pub radius: f64,
    /// Median of `d ln C / d ln t` there.
    pub slope: f64,
    /// Median of the second derivative of `ln C` by `ln t` there.
    pub curvature: f64,
    /// Cost evaluations spent on them.
    pub evaluations: u32,
}

/// With what samples were computed. Directions are the same everywhere; what a cost comes to in float32 may differ in its last digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The program.
    pub software: String,
    /// Operating system and kind of processor.
    pub system: String,
    /// Where the cost was evaluated: `cpu`, or the name of a device.
    pub device: String,
    /// Worker threads.
    pub threads: usize,
}

impl Origin {
    /// This program on this machine.
    #[must_use]
    pub fn here(device: &str, threads: usize) -> Self {
        let system = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
        Self { software: software(), system, device: device.to_owned(), threads }
    }

    fn words(&self) -> String {
        let Self { software, system, device, threads } = self;
        let threads = if *threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
        format!("{software}, {system}, {device}, {threads}")
    }
}

/// Samples that two folders had both computed when they were joined.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Doubled {
    /// How many.
    pub samples: u64,
    /// By how much the log-volumes of one differ at most, nats.
    pub largest_difference: f64,
}

/// This program and its version, as all that it writes names it.
#[must_use]
pub fn software() -> String {
    format!("basin-volume {}", env!("CARGO_PKG_VERSION"))
}

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Version of the directions that its samples lie in ([`random::VERSION`]): samples of two
    /// versions have nothing to do with each other, whatever their seeds and indices. Manifests of
    /// version 1 do not say it.
    #[serde(default = "unsaid_directions")]
    pub directions: u32,
    /// Version of the program that began the run.
    pub software: String,
    /// What decides the answer.
    #[serde(flatten)]
    pub spec: RunSpec,
    /// Standard deviation of the Gaussian prior; `null` under another prior.
    pub sigma: Option<f64>,
    /// `||c||^2`.
    pub center_norm_squared: f64,
    /// `||q||^2` of the samples' `dual_dot`: only under a preconditioned spherical prior (`||P^-1 c||^2 / ||c||^2`) and for a shifted proposal
    /// (`||P^-1 mu||^2 / s^2`), where `log_volume` depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dual_norm_squared: Option<f64>,
    /// Where every search of the radial estimator starts; other estimators have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pilot: Option<Pilot>,
    /// Number of samples (records of the estimator) asked for, over all shards. A run may be extended: this is the only field that may grow.
    pub samples: u64,
    /// The part computed in this folder.
    pub shard: Shard,
    /// With what its samples were computed, each kind once; not compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<Origin>,
    /// Of joined folders: samples that several had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubled: Option<Doubled>,
    /// How the answer was asked for in words of the layer above (for instance how sigma was chosen); not compared.
    pub notes: serde_json::Map<String, Value>,
}

impl Manifest {
    /// A manifest of the current format.
    #[must_use]
    pub fn new(spec: RunSpec, center_norm_squared: f64, pilot: Option<Pilot>, samples: u64, shard: Shard) -> Self {
        Self {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            directions: random::VERSION,
            software: software(),
            sigma: spec.question.sigma(),
            spec,
            center_norm_squared,
            dual_norm_squared: None,
            pilot,
            samples,
            shard,
            origins: Vec::new(),
            doubled: None,
            notes: serde_json::Map::new(),
        }
    }

    /// Takes over with what the samples of another folder were computed.
    pub(crate) fn add_origins(&mut self, other: &Self) {
        for origin in &other.origins {
            if !self.origins.contains(origin) {
                self.origins.push(origin.clone());
            }
        }
    }

    /// What is to be known of the samples: those of this shard that are missing beside the `found` ones, all other shards, and whether programs or
    /// machines of several kinds computed them.
    #[must_use]
    pub fn words_on_samples(&self, found: usize) -> Vec<String> {
        let mut words = Vec::new();
        let missing = self.shard.indices(self.samples).count().saturating_sub(found);
        if missing > 0 {
            words.push(format!(
                "{missing} of the samples asked for are not computed yet: repeat the estimate, or merge the shards that are missing."
            ));
        }
        if !self.shard.is_all() {
            words.push(format!("This is shard {} alone: join the shards with merge.", self.shard));
        }
        if self.origins.len() > 1 {
            let origins = self.origins.iter().map(Origin::words).collect::<Vec<_>>().join("; ");
            let agree = match self.doubled {
                Some(Doubled { samples, largest_difference }) => {
                    format!("{samples} were computed twice, and their log-volumes differ by {largest_difference:.1e} nats at most")
                }
                None => "no sample was computed twice, so how far they agree is not known".to_owned(),
            };
            words.push(format!("The samples were computed in {} ways ({origins}): {agree}.", self.origins.len()));
        }
        words
    }

    /// What decides the samples of two runs and differs between them: `path: theirs in the folder, ours asked for` for each difference.
    #[must_use]
    pub fn differences(&self, asked: &Self, compare_shard: bool) -> Vec<String> {
        let say = |path: &str, here: &str, asked: &str| format!("{path}: {here} in the folder, {asked} asked for");
        let mut found = self.differences_in_words(asked, &say);
        if compare_shard && self.shard != asked.shard {
            found.push(say("shard", &self.shard.to_string(), &asked.shard.to_string()));
        }
        found
    }

    /// The same for two folders: `path: this, that`.
    #[must_use]
    pub fn between(&self, other: &Self) -> Vec<String> {
        self.differences_in_words(other, &|path, this, that| format!("{path}: {this}, {that}"))
    }

    fn differences_in_words(&self, asked: &Self, say: &dyn Fn(&str, &str, &str) -> String) -> Vec<String> {
        let (here, there) = (self.spec.estimator.name(), asked.spec.estimator.name());
        if here != there {
            // Their settings have nothing in common.
            return vec![say("estimator", here, there)];
        }
        let mut found = Vec::new();
        if self.directions != asked.directions {
            found.push(say("directions", &self.directions.to_string(), &asked.directions.to_string()));
        }
        let json = |spec: &RunSpec| {
            let mut value = serde_json::to_value(spec).unwrap_or(Value::Null);
            forget_where(&mut value);
            value
        };
        differences("", &json(&self.spec), &json(&asked.spec), &mut |path, here, asked| found.push(say(path, here, asked)));
        found
    }
}

/// A cost is the same wherever it is evaluated with the same precision, which is float32 where nothing is said.
fn forget_where(spec: &mut Value) {
    let Some(problem) = spec.get_mut("problem").and_then(Value::as_object_mut) else { return };
    let Some(device) = problem.get_mut("device").and_then(Value::as_object_mut) else { return };
    device.remove("kind");
    if device.get("precision").and_then(Value::as_str).is_none_or(|precision| matches!(precision, "f32" | "float32")) {
        problem.remove("device");
    }
}

fn unsaid_directions() -> u32 {
    1
}

fn differences(path: &str, here: &Value, asked: &Value, found: &mut dyn FnMut(&str, &str, &str)) {
    match (here, asked) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differences(&path, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), found);
            }
        }
        (a, b) if a != b => found(path, &shorten(a), &shorten(b)),
        _ => {}
    }
}

fn shorten(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { text.chars().take(57).chain("...".chars()).collect() } else { text }
}
