//! What a scan is asked for, as plain data: the same in a TOML file, on a command line and in keywords.

use std::path::PathBuf;

use basin_volume::spec::Proposal;
use basin_volume_models::components::Kind;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::grid::{self, GridValue};
use super::points::{Point, parts};
use crate::error::Error;
use crate::estimators::{Family, family, volumes};
use crate::preconditioning::SHIFTED;
use crate::request::{ALL, Ask, CostRequest, CostSettings, DataRequest, Estimate, Machine, Sigma, given};
use crate::spread::ShardChoice;

/// The names that a scan may have in a file, in the order in which they are written.
pub const SETTINGS: [&str; 41] = [
    "scan",
    "targets",
    "grid",
    "estimator",
    "preconditioner",
    "samples",
    "out",
    "shard",
    "data",
    "text-key",
    "data-config",
    "split",
    "max-seq-len",
    "val-size",
    "skip",
    "chunk",
    "tokenizer",
    "eos-token-id",
    "positions",
    "pad-token-id",
    "parameters",
    "exclude",
    "component",
    "of",
    "device",
    "dtype",
    "memory",
    "threads",
    "cutoff",
    "l2-reg",
    "sigma",
    "prior",
    "exponent",
    "eps",
    "damping",
    "proposal",
    "seed",
    "radius-tolerance",
    "per-sequence",
    "set-kind",
    "set",
];

/// Settings that say where and how fast, not what.
const NOT_DECISIVE: [&str; 4] = ["out", "shard", "threads", "memory"];

/// Rays of a histogram, unless something else is asked for.
const HISTOGRAM_SAMPLES: u64 = 1000;

/// What is varied from point to point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScanKind {
    /// Nothing: the distribution of the log-volumes of rays.
    Histogram,
    /// Nothing but the model: several of one shape beside each other.
    Models,
    /// The cutoff.
    Cutoff,
    /// The step of the training.
    Checkpoints,
    /// The exponent of the preconditioner's map.
    Exponent,
    /// The eps of the preconditioner's map.
    Epsilon,
    /// The standard deviation of the prior.
    Sigma,
    /// The number of rays.
    Samples,
    /// Which part of the network moves.
    Components,
}

impl ScanKind {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Histogram => "histogram",
            Self::Models => "models",
            Self::Cutoff => "cutoff",
            Self::Checkpoints => "checkpoints",
            Self::Exponent => "exponent",
            Self::Epsilon => "epsilon",
            Self::Sigma => "sigma",
            Self::Samples => "samples",
            Self::Components => "components",
        }
    }

    /// The setting that a value of the grid stands for.
    #[must_use]
    pub fn replaced(self) -> Option<&'static str> {
        match self {
            Self::Cutoff => Some("cutoff"),
            Self::Exponent => Some("exponent"),
            Self::Epsilon => Some("eps"),
            Self::Sigma => Some("sigma"),
            Self::Histogram | Self::Models | Self::Checkpoints | Self::Samples | Self::Components => None,
        }
    }

    /// Whether every model has one point.
    #[must_use]
    pub fn has_no_values(self) -> bool {
        matches!(self, Self::Histogram | Self::Models | Self::Components)
    }

    /// What one of its values is called.
    #[must_use]
    pub fn value_name(self) -> &'static str {
        if self == Self::Checkpoints { "step" } else { self.name() }
    }
}

/// A scan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Scan {
    /// What is varied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scan: Option<ScanKind>,
    /// The models, each by its name or as `NAME=MODEL`.
    pub targets: Vec<String>,
    /// The values; empty for the usual ones.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "write_values", deserialize_with = "read_values")]
    pub grid: Vec<String>,
    /// The parts of a scan of components; those of the smallest kind that the network has if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<Kind>,
    /// Estimators; empty for the radial one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub estimator: Vec<String>,
    /// Preconditioners of rays, with `:shifted` behind them where their Gaussian is shifted; empty for the usual ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preconditioner: Vec<String>,
    /// What decides the volumes.
    #[serde(flatten)]
    pub ask: Ask,
    /// On which data.
    #[serde(flatten)]
    pub data: DataRequest,
    /// Which positions and weights.
    #[serde(flatten)]
    pub cost: CostSettings,
    /// The part of the samples of all points that is computed.
    pub shard: ShardChoice,
    /// Folder of the scan; without one it is named after what is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<PathBuf>,
    /// With what.
    #[serde(flatten)]
    pub machine: Machine,
    /// What is no setting of a scan.
    #[serde(flatten, skip_serializing)]
    unknown: Map<String, Value>,
}

/// A number as files have it: whole ones without a point.
fn number(text: &str) -> Option<Value> {
    text.parse::<u64>().map(Value::from).ok().or_else(|| text.parse::<f64>().ok().filter(|x| x.is_finite()).map(Value::from))
}

fn write_values<S: Serializer>(values: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|text| number(text).unwrap_or_else(|| Value::String(text.clone()))))
}

fn read_values<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let values = Vec::<Value>::deserialize(deserializer)?;
    values
        .into_iter()
        .map(|value| match value {
            Value::String(text) => Ok(text),
            Value::Number(number) => Ok(number.to_string()),
            other => Err(serde::de::Error::custom(format!("{other} is neither a number nor a word"))),
        })
        .collect()
}

impl Scan {
    /// Several models beside each other, each as it is asked for alone.
    ///
    /// # Errors
    /// For what is about a single run.
    pub fn of_models(models: &[String], estimate: Estimate, estimator: Option<String>, cost: CostRequest) -> Result<Self, Error> {
        let single = [
            ("profile", estimate.ask.profile.is_some()),
            ("spectrum_out", estimate.spectrum_out.is_some()),
            ("continue", estimate.extend),
            ("time_limit", estimate.time_limit.is_some()),
            ("prior_mean", estimate.prior_mean.is_some()),
            ("reference", estimate.reference.is_some() || estimate.reference_scale.is_some()),
        ];
        if let Some(setting) = given(&single).first() {
            return Err(Error::usage(format!("`{setting}` is for one model, and {} are given: leave it out", models.len())));
        }
        Ok(Self {
            scan: Some(ScanKind::Models),
            targets: models.to_vec(),
            ask: estimate.ask,
            estimator: estimator.into_iter().collect(),
            preconditioner: estimate.preconditioner,
            data: cost.data,
            cost: cost.cost,
            shard: estimate.shard,
            out: estimate.out,
            machine: estimate.machine,
            ..Self::default()
        })
    }

    /// A scan from names and values, as a file has them.
    ///
    /// # Errors
    /// When a name is none of [`SETTINGS`], or a value does not fit.
    pub fn from_settings(settings: Map<String, Value>) -> Result<Self, Error> {
        if let Some(name) = settings.keys().find(|name| !SETTINGS.contains(&name.as_str())) {
            return Err(Error::usage(format!("there is no setting '{name}': expected {}", SETTINGS.join(", "))));
        }
        // One after the other, so that the message can name the one that does not fit.
        for (name, value) in &settings {
            let alone = Map::from_iter([(name.clone(), value.clone())]);
            if let Err(error) = serde_json::from_value::<Self>(Value::Object(alone)) {
                return Err(Error::usage(format!("{name} cannot be {value}: {error}")));
            }
        }
        Ok(serde_json::from_value(Value::Object(settings))?)
    }

    /// The scan by names and values, with the usual grid and estimator where none are given. Without the default of what the grid gives: read again, it
    /// would contradict the grid.
    ///
    /// # Errors
    /// When a value cannot be written.
    pub fn settings(&self) -> Result<Map<String, Value>, Error> {
        let mut filled = self.clone();
        if let Some(values) = self.scan.filter(|_| self.grid.is_empty()).and_then(grid::default_grid) {
            filled.grid = values;
        }
        if self.estimator.is_empty() {
            filled.estimator = vec!["radial".to_owned()];
        }
        if self.scan.and_then(ScanKind::replaced) != Some("cutoff") {
            filled.ask.cutoff = Some(self.ask.cutoff());
        }
        let Value::Object(mut all) = serde_json::to_value(&filled)? else { return Ok(Map::new()) };
        all.retain(|name, _| SETTINGS.contains(&name.as_str()));
        Ok(all)
    }

    /// The same as a TOML file, in the order of [`SETTINGS`].
    ///
    /// # Errors
    /// When a value cannot be written.
    pub fn to_toml(&self) -> Result<String, Error> {
        to_toml(&self.settings()?)
    }

    /// Those of them that decide the results.
    pub(crate) fn decisive_settings(&self) -> Result<Map<String, Value>, Error> {
        let mut settings = self.settings()?;
        settings.retain(|name, _| !NOT_DECISIVE.contains(&name.as_str()));
        Ok(settings)
    }

    /// What is varied.
    ///
    /// # Errors
    /// When nothing says it, or of which model.
    pub fn kind(&self) -> Result<ScanKind, Error> {
        let kind = self.scan.ok_or_else(|| Error::usage("say what is varied: one of the kinds of `scan`, and of which model"))?;
        if self.targets.is_empty() {
            return Err(Error::usage(format!("scan {} of which model? Give one or several", kind.name())));
        }
        Ok(kind)
    }

    /// The estimators asked for.
    ///
    /// # Errors
    /// When one is named twice or is not known.
    pub fn families(&self) -> Result<Vec<&'static dyn Family>, Error> {
        if self.estimator.iter().any(|name| name == ALL) {
            return Ok(volumes());
        }
        let mut names: Vec<&str> = self.estimator.iter().map(String::as_str).collect();
        if names.is_empty() {
            names.push("radial");
        }
        if let Some(twice) = names.iter().enumerate().find(|(k, name)| names[..*k].contains(name)) {
            return Err(Error::usage(format!("`estimator` names {} twice", twice.1)));
        }
        let families = names.into_iter().map(family).collect::<Result<Vec<_>, Error>>()?;
        match families.iter().find(|family| !family.capabilities().volume) {
            Some(other) => Err(Error::usage(format!(
                "a scan compares volumes, and `estimator={0}` measures none: estimate every point with `estimator={0}` by itself",
                other.name()
            ))),
            None => Ok(families),
        }
    }

    /// Refuses what can be seen to be wrong without a model.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self, kind: ScanKind, families: &[&'static dyn Family]) -> Result<(), Error> {
        let ask = &self.ask;
        let given = [
            ("cutoff", ask.cutoff.is_some()),
            ("exponent", ask.exponent.is_some()),
            ("eps", ask.eps.is_some()),
            ("sigma", ask.sigma.is_some()),
        ];
        if let Some((name, _)) = given.into_iter().find(|(name, is_given)| *is_given && kind.replaced() == Some(*name)) {
            return Err(Error::usage(format!("`{name}` is what the scan varies: give its values as `grid`")));
        }
        let has_rays = families.iter().any(|family| family.capabilities().preconditioners);
        if !has_rays && !self.preconditioner.is_empty() {
            return Err(Error::usage("`preconditioner` belongs to `estimator=radial`: leave it out, or add radial"));
        }
        if !has_rays && kind == ScanKind::Samples {
            return Err(Error::usage("a scan of the samples counts rays: it needs `estimator=radial`"));
        }
        if matches!(kind, ScanKind::Exponent | ScanKind::Epsilon) {
            let has_map = self.preconditioner.is_empty() || self.preconditioner.iter().any(|name| name != "none");
            if !has_rays || !has_map {
                let name = kind.name();
                return Err(Error::usage(format!(
                    "a scan of the {name} varies the preconditioner of rays: it needs `estimator=radial` and a `preconditioner` such as adam2"
                )));
            }
        }
        if kind != ScanKind::Components && self.of.is_some() {
            return Err(Error::usage(format!(
                "`of` says which parts a scan of components compares: leave it out of a scan of {}",
                kind.name()
            )));
        }
        if kind == ScanKind::Components && !self.cost.component.is_empty() {
            return Err(Error::usage("`component` is what a scan of components varies: choose its kind with `of`"));
        }
        if kind == ScanKind::Samples && ask.samples.is_some() {
            return Err(Error::usage("`samples` is what a scan of the samples varies: give the numbers as `grid`"));
        }
        ask.check()
    }

    /// The values of the grid that is asked for, or of the usual one.
    pub(super) fn values(&self, kind: ScanKind) -> Result<Vec<GridValue>, Error> {
        let texts = if self.grid.is_empty() { grid::default_grid(kind).unwrap_or_default() } else { self.grid.clone() };
        grid::parse(kind, &texts)
    }

    /// The cost of every model.
    #[must_use]
    pub fn cost_request(&self) -> CostRequest {
        CostRequest { data: self.data.clone(), cost: self.cost.clone() }
    }

    /// The estimate of a point: what is asked of all, with what the point stands for.
    pub(super) fn estimate(&self, kind: ScanKind, point: &Point, is_alone: bool) -> Result<Estimate, Error> {
        let mut ask = self.ask.clone();
        let mut preconditioner = Vec::new();
        if let Some((name, is_shifted)) = point.preconditioner.as_deref().map(parts) {
            preconditioner.push(name.to_owned());
            if is_shifted {
                if ask.proposal.is_some() {
                    return Err(Error::usage(format!(
                        "`proposal` is for all preconditioners: leave it out, or write {name} without '{SHIFTED}'"
                    )));
                }
                ask.proposal = Some(Proposal::Shifted);
            }
        }
        // Rays, probes and chains are not the same thing.
        let of_rays = family(&point.estimator)?.capabilities().preconditioners;
        ask.samples = match kind {
            ScanKind::Samples => self.values(kind)?.last().map(|value| value.number as u64),
            ScanKind::Histogram => self.ask.samples.or(of_rays.then_some(HISTOGRAM_SAMPLES)),
            _ => self.ask.samples,
        }
        .filter(|_| of_rays || (is_alone && self.ask.samples.is_some()));
        // What rays alone have is nothing to the others.
        if !is_alone && !of_rays {
            ask = Ask { proposal: None, radius_tolerance: None, per_sequence: None, exponent: None, eps: None, damping: None, ..ask };
        }
        if let Some(value) = point.value.filter(|_| !point.is_multiple) {
            match kind {
                ScanKind::Cutoff => ask.cutoff = Some(value),
                ScanKind::Exponent => ask.exponent = Some(value),
                ScanKind::Epsilon => ask.eps = Some(value),
                ScanKind::Sigma => ask.sigma = Some(Sigma::Value(value)),
                ScanKind::Histogram | ScanKind::Models | ScanKind::Checkpoints | ScanKind::Samples | ScanKind::Components => {}
            }
        }
        Ok(Estimate { ask, estimator: point.estimator.clone(), preconditioner, machine: self.machine, ..Estimate::default() })
    }
}

/// Settings by name as a TOML file.
pub(super) fn to_toml(settings: &Map<String, Value>) -> Result<String, Error> {
    let mut text = String::new();
    for name in SETTINGS {
        if let Some(value) = settings.get(name) {
            let value =
                toml::Value::try_from(value).map_err(|error| Error::failed(format!("{name} cannot be written as TOML: {error}")))?;
            text += &format!("{name} = {value}\n");
        }
    }
    Ok(text)
}

/// What two scans differ in: `name: theirs in the folder, ours asked for`. Lists may have grown, and so may the number of samples.
pub(super) fn differences(folder: &Map<String, Value>, asked: &Map<String, Value>) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = folder.keys().chain(asked.keys()).collect();
    let show = |value: &Value| if value.is_null() { "nothing".to_owned() } else { value.to_string() };
    names
        .into_iter()
        .filter_map(|name| {
            let (here, ours) = (folder.get(name).unwrap_or(&Value::Null), asked.get(name).unwrap_or(&Value::Null));
            let has_grown = match (name.as_str(), here, ours) {
                ("targets" | "grid" | "estimator" | "preconditioner", Value::Array(here), Value::Array(ours)) => {
                    here.iter().all(|value| ours.contains(value))
                }
                ("samples", here, ours) => here.as_u64() <= ours.as_u64(),
                _ => false,
            };
            (here != ours && !has_grown).then(|| format!("{name}: {} in the folder, {} asked for", show(here), show(ours)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: Value) -> Scan {
        let Value::Object(settings) = text else { panic!("an object") };
        Scan::from_settings(settings).unwrap()
    }

    fn refusal(text: Value) -> String {
        let Value::Object(settings) = text else { panic!("an object") };
        Scan::from_settings(settings).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let asked = scan(serde_json::json!({
            "scan": "cutoff", "targets": ["a=one", "two"], "grid": [1e-6, "0.5"], "preconditioner": ["none", "adam2"], "samples": 30,
            "sigma": 0.04, "set": ["max_evaluations=40"], "chunk": true, "estimator": ["radial", "spectral"], "memory": "1.5GB",
        }));
        let settings = asked.settings().unwrap();
        let text = asked.to_toml().unwrap();
        assert!(text.starts_with("scan = \"cutoff\"\ntargets = [\"a=one\", \"two\"]\ngrid = ["), "{text}");
        assert_eq!((&settings["grid"][0], &settings["samples"], &settings["chunk"]), (&1e-6.into(), &30.into(), &true.into()));
        assert!(!settings.contains_key("cutoff") && settings["seed"] == 42);
        let again = Scan::from_settings(settings.clone()).unwrap();
        assert_eq!(again.settings().unwrap(), settings);
        assert!(!asked.decisive_settings().unwrap().contains_key("memory"));
    }

    #[test]
    fn every_name_is_known_and_others_are_refused() {
        for (text, expected) in [
            (serde_json::json!({ "sampels": 3 }), "there is no setting 'sampels': expected scan, targets, grid, estimator, preconditioner"),
            (serde_json::json!({ "scan": "cutof" }), "scan cannot be \"cutof\": unknown variant `cutof`"),
            (serde_json::json!({ "samples": "many" }), "samples cannot be \"many\": invalid type: string \"many\", expected u64"),
            (serde_json::json!({ "chunk": 3 }), "chunk cannot be 3: invalid type: integer `3`, expected a boolean"),
            (serde_json::json!({ "grid": [[1]] }), "grid cannot be [[1]]: [1] is neither a number nor a word"),
            (serde_json::json!({ "model": "a" }), "there is no setting 'model'"),
            (serde_json::json!({ "profile": 3 }), "there is no setting 'profile'"),
        ] {
            let message = refusal(text);
            assert!(message.starts_with(expected), "{message}");
        }
        // Every known name is somebody's: none is left over.
        let all: Map<String, Value> = SETTINGS.iter().map(|name| ((*name).to_owned(), serde_json::json!({}))).collect();
        for (name, value) in all {
            let alone = Map::from_iter([(name.clone(), value)]);
            assert!(serde_json::from_value::<Scan>(Value::Object(alone)).is_err(), "{name}");
        }
    }

    #[test]
    fn scans_may_grow_but_not_change() {
        let settings = |text| scan(text).decisive_settings().unwrap();
        let first = settings(serde_json::json!({ "scan": "cutoff", "targets": ["a"], "grid": [0.1, 1], "samples": 10 }));
        let grown =
            settings(serde_json::json!({ "scan": "cutoff", "targets": ["a", "b"], "grid": [0.01, 0.1, 1], "samples": 20, "threads": 1 }));
        assert!(differences(&first, &grown).is_empty());
        assert_eq!(differences(&grown, &first).len(), 3);
        let other = settings(serde_json::json!({ "scan": "cutoff", "targets": ["a"], "grid": [0.1, 1], "samples": 10, "seed": 3 }));
        assert_eq!(differences(&first, &other), ["seed: 42 in the folder, 3 asked for"]);
    }
}
