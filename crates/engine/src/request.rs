//! What is asked, as plain data: what a command line, a TOML file and keywords of another language all become.
//!
//! The names of the fields, with `_` or `-`, are the names of settings everywhere: in files, in messages and in every front. A field that is not
//! given is left to its default, which may depend on the model.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use basin_volume::spec::{Proposal, SetKind};
use basin_volume_data::tokens::Positions;
use basin_volume_models::cost;
use basin_volume_models::memory::Budget;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::digits::Builtin;
use crate::error::Error;
use crate::spread::ShardChoice;

mod components;

pub use components::ComponentNames;

/// The word for all estimators.
pub const ALL: &str = "all";

/// More samples than anyone can mean.
pub const MOST_SAMPLES: u64 = 1_000_000_000;

/// The cutoff where none is given, nats.
pub const CUTOFF: f64 = 1e-2;

/// How many times the cost of a reference counts where nothing else is said: its set is a little larger than those that are looked at inside it.
pub const REFERENCE_SCALE: f64 = 0.8;

/// The names of those settings that were given.
pub(crate) fn given(settings: &[(&'static str, bool)]) -> Vec<&'static str> {
    settings.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect()
}

/// Values that are words, or numbers, in files and on command lines.
macro_rules! as_words {
    ($($kind:ty),* $(,)?) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let word = self.to_string();
                match word.parse::<f64>() {
                    Ok(number) if number.is_finite() => serializer.serialize_f64(number),
                    _ => serializer.serialize_str(&word),
                }
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum NumberOrWord {
                    Number(f64),
                    Word(String),
                }
                let text = match NumberOrWord::deserialize(deserializer)? {
                    NumberOrWord::Number(number) => number.to_string(),
                    NumberOrWord::Word(word) => word,
                };
                text.parse().map_err(|reason| de::Error::custom(format!("'{text}': {reason}")))
            }
        }
    )*};
}

as_words!(Sigma, DampingChoice, Memory, TimeLimit, Assignment);

/// How the standard deviation of the Gaussian prior is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sigma {
    /// A number.
    Value(f64),
    /// Root mean square of the moving weights.
    Rms,
    /// `1/sqrt(l2 x train size)` of the checkpoint's own training.
    WeightDecay,
}

impl FromStr for Sigma {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rms" => Ok(Self::Rms),
            "weight-decay" => Ok(Self::WeightDecay),
            _ => match text.parse::<f64>() {
                Ok(value) if value > 0.0 && value.is_finite() => Ok(Self::Value(value)),
                _ => Err("expected a number > 0, `rms` or `weight-decay`".to_owned()),
            },
        }
    }
}

impl fmt::Display for Sigma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "{value}"),
            Self::Rms => f.write_str("rms"),
            Self::WeightDecay => f.write_str("weight-decay"),
        }
    }
}

/// How much is added to a curvature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DampingChoice {
    /// `1/(beta sigma^2)` with beta from the saddle point of the quadratic cost.
    Auto,
    /// The same with the beta at which draws of the proposal have the cost of the cutoff.
    Match,
    /// A number.
    Value(f64),
}

impl FromStr for DampingChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "match" => return Ok(Self::Match),
            _ => {}
        }
        match text.parse::<f64>() {
            Ok(value) if value > 0.0 && value.is_finite() => Ok(Self::Value(value)),
            _ => Err("expected a finite number > 0, `auto` or `match`".to_owned()),
        }
    }
}

impl fmt::Display for DampingChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Match => f.write_str("match"),
            Self::Value(value) => write!(f, "{value}"),
        }
    }
}

/// Memory that may be used, in words: `auto`, `low`, or a size with its unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory(pub Budget);

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Budget::Automatic => f.write_str("auto"),
            Budget::Low => f.write_str("low"),
            Budget::Bytes(bytes) => write!(f, "{bytes}B"),
        }
    }
}

/// A time that somebody is ready to wait: `90s`, `30min`, `2h`, `1.5days`, or a number of seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeLimit(pub f64);

impl FromStr for TimeLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = text.find(|c: char| c.is_ascii_alphabetic() && c != 'e').unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let seconds = match unit.trim() {
            "" | "s" | "sec" | "second" | "seconds" => 1.0,
            "m" | "min" | "minute" | "minutes" => 60.0,
            "h" | "hour" | "hours" => 3600.0,
            "d" | "day" | "days" => 86_400.0,
            _ => f64::NAN,
        };
        match number.trim().parse::<f64>().map(|number| number * seconds) {
            Ok(seconds) if seconds > 0.0 && seconds.is_finite() => Ok(Self(seconds)),
            _ => Err("expected a time such as 90s, 30min, 2h or 1day".to_owned()),
        }
    }
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

/// A setting of an estimator by its name, `NAME=VALUE`; with several estimators `ESTIMATOR.NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The name.
    pub name: String,
    /// The value, in the form that JSON files have; words need no quotation marks.
    pub value: String,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

/// The density that the volume is measured under.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PriorKind {
    /// `N(0, sigma^2 I)`.
    #[default]
    Gaussian,
    /// Flat: the result is the log of a volume, not of a probability.
    Lebesgue,
    /// Uniform on the sphere `||w|| = ||c||`.
    Sphere,
}

/// Where forward passes run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// All cores of the processor.
    #[default]
    Cpu,
    /// A graphics card of NVIDIA.
    Cuda,
    /// A graphics processor of Apple.
    Metal,
    /// The processor, by the operations of the other devices instead of its own kernels: to compare the two.
    CpuTensors,
}

impl Device {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::CpuTensors => "cpu-tensors",
        }
    }
}

/// Precision of the weights in forward passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dtype {
    /// Single precision.
    #[default]
    F32,
    /// The upper half of single precision.
    Bf16,
}

impl From<Dtype> for cost::Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What the behaviour is compared on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct DataRequest {
    /// The data; several for the volume on each and on all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<String>,
    /// Field or column of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_key: Option<String>,
    /// Configurations of a data set of the hub, or of a copy of one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data_config: Vec<String>,
    /// Splits of a data set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub split: Vec<String>,
    /// Tokens of the longest sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seq_len: Option<usize>,
    /// Number of sequences; fewer are an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_size: Option<usize>,
    /// Sequences passed over before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip: Option<usize>,
    /// Whether documents are joined and cut into equal pieces.
    /// Where nothing is said, plain text is and everything else is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<bool>,
    /// Folder or hub id whose tokenizer is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// EOS between documents that are joined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token_id: Option<u32>,
}

impl DataRequest {
    /// The data, where only one can be meant.
    ///
    /// # Errors
    /// When there are several.
    pub fn one(&self) -> Result<Option<&str>, Error> {
        match self.data.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            several => Err(Error::usage(format!(
                "`data` is given {} times: only estimate takes several data sets, leave all but one out",
                several.len()
            ))),
        }
    }

    /// The settings given that choose files of a data set.
    #[must_use]
    pub fn dataset_settings(&self) -> Vec<&'static str> {
        given(&[("data_config", !self.data_config.is_empty()), ("split", !self.split.is_empty())])
    }

    /// The settings given that make tokens of text.
    #[must_use]
    pub fn text_settings(&self) -> Vec<&'static str> {
        given(&[
            ("text_key", self.text_key.is_some()),
            ("max_seq_len", self.max_seq_len.is_some()),
            ("val_size", self.val_size.is_some()),
            ("skip", self.skip.is_some()),
            ("chunk", self.chunk.is_some()),
            ("tokenizer", self.tokenizer.is_some()),
            ("eos_token_id", self.eos_token_id.is_some()),
        ])
    }
}

/// Which positions and weights of a model count, and where its cost is computed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct CostSettings {
    /// Positions that count in the mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<Positions>,
    /// Input tokens with this id do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token_id: Option<u32>,
    /// Regular expression for the tensors that move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<String>,
    /// Regular expression for those among them that do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude: Option<String>,
    /// Components of the network, whose weights alone move, by their names.
    #[serde(skip_serializing_if = "ComponentNames::is_empty")]
    pub component: ComponentNames,
    /// Where forward passes run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// Precision of the weights in forward passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
}

/// The cost of a model: on which data, which positions and weights, where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CostRequest {
    /// The data.
    #[serde(flatten)]
    pub data: DataRequest,
    /// The rest.
    #[serde(flatten)]
    pub cost: CostSettings,
}

impl CostRequest {
    /// The same with this data alone.
    #[must_use]
    pub fn on(&self, data: &str) -> Self {
        Self { data: DataRequest { data: vec![data.to_owned()], ..self.data.clone() }, cost: self.cost.clone() }
    }

    /// The settings given that mean something for language models only.
    #[must_use]
    pub fn language_model_settings(&self) -> Vec<&'static str> {
        let own = given(&[("positions", self.cost.positions.is_some()), ("pad_token_id", self.cost.pad_token_id.is_some())]);
        [self.data.dataset_settings(), self.data.text_settings(), own].concat()
    }
}

/// What is said of every sequence beside the whole. Requests also say `true` for its cost, and `false` for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PerSequence {
    /// Its cost at the common radius.
    Cost,
    /// Its own radius on every ray, and its volume.
    Volume,
}

mod per_sequence {
    use serde::{Deserialize, Deserializer, de};

    use super::PerSequence;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Flag(bool),
        Word(String),
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PerSequence>, D::Error> {
        Ok(match Option::<Given>::deserialize(deserializer)? {
            None | Some(Given::Flag(false)) => None,
            Some(Given::Flag(true)) => Some(PerSequence::Cost),
            Some(Given::Word(word)) => match word.as_str() {
                "cost" => Some(PerSequence::Cost),
                "volume" => Some(PerSequence::Volume),
                _ => return Err(de::Error::custom(format!("`per-sequence` is '{word}': expected true, false, cost or volume"))),
            },
        })
    }
}

/// What decides a volume, beside the subject and the estimator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Ask {
    /// The cost at which behaviour counts as changed, nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutoff: Option<f64>,
    /// `l2_reg / 2 ||w - c||^2` is added to the cost.
    pub l2_reg: f64,
    /// Standard deviation of the Gaussian prior.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma: Option<Sigma>,
    /// The prior.
    pub prior: PriorKind,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Power of the curvature `s` in the preconditioner `1/(|s|^exponent + eps)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exponent: Option<f64>,
    /// `eps` there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// Precondition by `(s + damping)^(-1/2)` instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damping: Option<DampingChoice>,
    /// Where the Gaussian lies that directions are drawn from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proposal: Option<Proposal>,
    /// Accepted error of one ray's log-volume due to its radius, nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub radius_tolerance: Option<f64>,
    /// Extra points of each ray that are looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<u32>,
    /// What is said of every part of the data (every sequence) beside the whole.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "per_sequence::deserialize")]
    pub per_sequence: Option<PerSequence>,
    /// Which set chains measure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_kind: Option<SetKind>,
    /// Other settings of the estimators, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<Assignment>,
    /// Number of samples over all shards: rays, probes or draws, sweeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            cutoff: None,
            l2_reg: 0.0,
            sigma: None,
            prior: PriorKind::Gaussian,
            seed: 42,
            exponent: None,
            eps: None,
            damping: None,
            proposal: None,
            radius_tolerance: None,
            profile: None,
            per_sequence: None,
            set_kind: None,
            set: Vec::new(),
            samples: None,
        }
    }
}

impl Ask {
    /// The cutoff, nats.
    #[must_use]
    pub fn cutoff(&self) -> f64 {
        self.cutoff.unwrap_or(CUTOFF)
    }

    /// The settings given that say how curvatures become maps.
    #[must_use]
    pub fn map_settings(&self) -> Vec<&'static str> {
        given(&[("exponent", self.exponent.is_some()), ("eps", self.eps.is_some()), ("damping", self.damping.is_some())])
    }
}

/// With what the work is done; no sample depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Machine {
    /// Worker threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<NonZeroUsize>,
    /// Memory that may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

/// An estimate of the volume of a subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Estimate {
    /// What decides the volume.
    #[serde(flatten)]
    pub ask: Ask,
    /// Name of the estimator, or [`ALL`].
    pub estimator: String,
    /// The model that is the prior's mean; zero without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prior_mean: Option<String>,
    /// Data inside whose set those of several data are looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The cost of the reference counts so many times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_scale: Option<f64>,
    /// Where directions come from, a run each; empty for the subject's own defaults.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preconditioner: Vec<String>,
    /// File for the spectrum of the Fisher matrix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spectrum_out: Option<PathBuf>,
    /// Whether a complete run of chains gets another sweep.
    #[serde(rename = "continue", skip_serializing_if = "is_false")]
    pub extend: bool,
    /// The part of the samples that is computed.
    pub shard: ShardChoice,
    /// Run folder; without one it is named after the question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<PathBuf>,
    /// With all estimators: what is likely to take longer is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<TimeLimit>,
    /// With what.
    #[serde(flatten)]
    pub machine: Machine,
}

/// What is left out of all estimators unless another limit is given, seconds.
pub const TIME_LIMIT: TimeLimit = TimeLimit(3600.0);

impl Default for Estimate {
    fn default() -> Self {
        Self {
            ask: Ask::default(),
            estimator: "radial".to_owned(),
            prior_mean: None,
            reference: None,
            reference_scale: None,
            preconditioner: Vec::new(),
            spectrum_out: None,
            extend: false,
            shard: ShardChoice::default(),
            out: None,
            time_limit: None,
            machine: Machine::default(),
        }
    }
}

/// The estimator of a model where none is asked for: all of them for the small built-in network, rays for everything else.
#[must_use]
pub fn default_estimator(model: &str) -> &'static str {
    if Builtin::of(model) == Some(Builtin::Digits) { ALL } else { "radial" }
}

/// The time limit of a model where none is asked for: the small built-in network is to have its answer within a minute.
#[must_use]
pub fn default_time_limit(model: &str) -> TimeLimit {
    if Builtin::of(model) == Some(Builtin::Digits) { TimeLimit(60.0) } else { TIME_LIMIT }
}

impl Estimate {
    /// Whether every estimator is asked for.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.estimator == ALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back_from_json() {
        let estimate = Estimate {
            ask: Ask {
                sigma: Some(Sigma::Value(0.5)),
                damping: Some(DampingChoice::Match),
                set: vec!["max_evaluations=40".parse().unwrap()],
                ..Ask::default()
            },
            extend: true,
            machine: Machine { threads: NonZeroUsize::new(3), memory: Some("1.5GB".parse().unwrap()) },
            ..Estimate::default()
        };
        let json = serde_json::to_value(&estimate).unwrap();
        assert_eq!((&json["sigma"], &json["damping"], &json["continue"]), (&0.5.into(), &"match".into(), &true.into()));
        assert_eq!((&json["set"][0], &json["memory"]), (&"max_evaluations=40".into(), &"1500000000B".into()));
        assert_eq!(serde_json::from_value::<Estimate>(json).unwrap(), estimate);
        assert_eq!(serde_json::from_str::<Estimate>("{}").unwrap(), Estimate::default());
        let error = serde_json::from_str::<Ask>(r#"{"sigma": "wide"}"#).unwrap_err().to_string();
        assert!(error.contains("'wide': expected a number > 0"), "{error}");
    }

    #[test]
    fn settings_of_text_are_told_from_others() {
        let mut request = CostRequest::default();
        assert!(request.language_model_settings().is_empty());
        request.data.chunk = Some(true);
        request.cost.pad_token_id = Some(1);
        assert_eq!(request.language_model_settings(), ["chunk", "pad_token_id"]);
        request.data.data = vec!["a".to_owned(), "b".to_owned()];
        assert!(request.data.one().is_err() && request.on("a").data.one().unwrap() == Some("a"));
    }
}
