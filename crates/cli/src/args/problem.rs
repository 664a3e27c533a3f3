//! Flags that choose model, data and the weights that move.

use basin_volume_data::tokens::Positions;
use basin_volume_models::cost::{self, Accelerator};
use basin_volume_models::memory::Budget;
use clap::{Args, ValueEnum};

use crate::error::CommandError;

/// Heading of the flags that turn text into tokens.
const TEXT: &str = "Text (language models)";
/// Heading of the flags that say what is perturbed, where and how.
const COST: &str = "Weights and cost";

/// Which model and data, and which weights move.
#[derive(Debug, Clone, Args)]
pub struct ProblemArgs {
    /// `digits` (trained on first use), a checkpoint folder, a .gguf file, or a model of the Hugging Face hub: owner/name or
    /// owner/name@revision.
    #[arg(value_name = "MODEL")]
    pub model: String,
    #[command(flatten)]
    pub data: DataArgs,
    /// Positions that count in the mean: all, or the last of every sequence; pad tokens never count. [default: all]
    #[arg(long, value_enum, help_heading = TEXT)]
    pub positions: Option<PositionsChoice>,
    /// Input tokens with this id do not count. [default: the tokenizer's pad token, none for token ids]
    #[arg(long, value_name = "ID", help_heading = TEXT)]
    pub pad_token_id: Option<u32>,
    /// Move only the tensors whose names match, e.g. `layers\.[0-3]\.`; the others stay at the center.
    #[arg(long, value_name = "REGEX", help_heading = COST)]
    pub parameters: Option<String>,
    /// Of those, leave out the tensors whose names match, e.g. `bias$`.
    #[arg(long, value_name = "REGEX", help_heading = COST)]
    pub exclude: Option<String>,
    /// Memory that may be used: `auto` (four fifths of what is free), `low` (as little as possible), or a size such as 1.5GB. Decides what
    /// is kept and what is computed again; the samples do not depend on it. For language models and images. [default: auto]
    #[arg(long, value_name = "auto|low|SIZE", help_heading = COST)]
    pub memory: Option<Budget>,
    /// Where forward passes run. [default: cpu]
    #[arg(long, value_enum, help_heading = COST)]
    pub device: Option<Device>,
    /// Precision of the weights in forward passes; what follows the logits is f64 in any case. [default: f32]
    #[arg(long, value_enum, help_heading = COST)]
    pub dtype: Option<Precision>,
}

/// What the behaviour is compared on.
#[derive(Debug, Clone, Args)]
pub struct DataArgs {
    /// For image classifiers `cifar:DIR:PART:N`, the first N images of `val` (the default), `clean`, `poison` or `train` of a set in one of the
    /// formats of CIFAR-10. For digits networks `digits` or `digits:train` (the training inputs; the default), `digits:test`, either with :N for the first N of them, or a .safetensors file with a
    /// tensor `inputs` [rows, features]. For language models a .jsonl, .csv, .parquet or .txt file or a folder of them, a data set of
    /// the hub (owner/name[@revision]), or a .json file of token ids [[1, 2], [3]]; no default. Given twice or more, `estimate` also finds the
    /// volume where the behaviour is the same on all of them, and how the volumes depend on each other.
    #[arg(long, value_name = "DATA")]
    pub data: Vec<String>,
    /// Field or column of the text. [default: text]
    #[arg(long, value_name = "KEY", help_heading = TEXT)]
    pub text_key: Option<String>,
    /// Configuration of a data set of the hub, or of a copy of one; several, separated by commas, are joined. [default: `default`, or the only one]
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = TEXT)]
    pub data_config: Vec<String>,
    /// Split of a data set of the hub, or of a copy of one; several, separated by commas, are joined. [default: the only one]
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = TEXT)]
    pub split: Vec<String>,
    /// Tokens of the longest sequence; documents are cut there. [default: 2048, or the model's positions if they are fewer]
    #[arg(long, value_name = "N", help_heading = TEXT)]
    pub max_seq_len: Option<usize>,
    /// Number of sequences; fewer are an error. [default: 10, or as many as there are]
    #[arg(long, value_name = "N", help_heading = TEXT)]
    pub val_size: Option<usize>,
    /// Sequences passed over before the first. [default: 0]
    #[arg(long, value_name = "N", help_heading = TEXT)]
    pub skip: Option<usize>,
    /// Join the documents, EOS before each, and cut chunks of exactly --max-seq-len tokens; else one sequence a document.
    #[arg(long, help_heading = TEXT)]
    pub chunk: bool,
    /// Folder with a tokenizer.json, or model of the hub, whose tokenizer is used. [default: the model's own; .gguf files need one]
    #[arg(long, value_name = "PATH|ID", help_heading = TEXT)]
    pub tokenizer: Option<String>,
    /// EOS between the documents of --chunk. [default: as the model's files say]
    #[arg(long, value_name = "ID", help_heading = TEXT)]
    pub eos_token_id: Option<u32>,
}

impl DataArgs {
    /// The data, where only one can be meant.
    pub fn one(&self) -> Result<Option<&str>, CommandError> {
        match self.data.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            several => Err(CommandError::usage(format!(
                "--data is given {} times: only estimate takes several data sets, leave all but one out",
                several.len()
            ))),
        }
    }

    /// The flags given that choose files of a data set.
    pub fn dataset_flags(&self) -> Vec<&'static str> {
        given(&[("--data-config", !self.data_config.is_empty()), ("--split", !self.split.is_empty())])
    }

    /// The flags given that make tokens of text.
    pub fn text_flags(&self) -> Vec<&'static str> {
        given(&[
            ("--text-key", self.text_key.is_some()),
            ("--max-seq-len", self.max_seq_len.is_some()),
            ("--val-size", self.val_size.is_some()),
            ("--skip", self.skip.is_some()),
            ("--chunk", self.chunk),
            ("--tokenizer", self.tokenizer.is_some()),
            ("--eos-token-id", self.eos_token_id.is_some()),
        ])
    }
}

impl ProblemArgs {
    /// The same with this data alone.
    pub fn on(&self, data: &str) -> Self {
        Self { data: DataArgs { data: vec![data.to_owned()], ..self.data.clone() }, ..self.clone() }
    }

    /// The flags given that mean something for language models only.
    pub fn language_model_flags(&self) -> Vec<&'static str> {
        let own = given(&[
            ("--positions", self.positions.is_some()),
            ("--pad-token-id", self.pad_token_id.is_some()),
            ("--memory", self.memory.is_some()),
        ]);
        [self.data.dataset_flags(), self.data.text_flags(), own].concat()
    }

    /// Refuses flags of language models for the built-in network, before it is trained on first use.
    pub fn check_builtin(&self) -> Result<(), CommandError> {
        match self.language_model_flags().first() {
            Some(flag) if self.model == "digits" => {
                Err(CommandError::usage(format!("{flag} is for language models, but digits is of the type \"mlp\"")))
            }
            _ => Ok(()),
        }
    }

    /// The accelerator asked for; `None` for the CPU. Refuses devices and precisions that this program was not built with.
    pub fn accelerator(&self) -> Result<Option<Accelerator>, CommandError> {
        let (accelerator, name) = match self.device {
            None | Some(Device::Cpu) => {
                if self.dtype == Some(Precision::Bf16) {
                    return Err(CommandError::usage(
                        "--dtype bf16 needs a device that multiplies it, which the CPU does not: use --dtype f32",
                    ));
                }
                return Ok(None);
            }
            Some(Device::Cuda) => (Accelerator::Cuda, "cuda"),
            Some(Device::Metal) => (Accelerator::Metal, "metal"),
        };
        if !accelerator.is_built() {
            return Err(CommandError::usage(format!(
                "--device {name} is not part of this build: use --device cpu, or build with `cargo build --release --features {name}`"
            )));
        }
        Ok(Some(accelerator))
    }

    /// Accelerator and precision for a manifest: they decide the last digits. `None` for the CPU.
    pub fn device_record(&self) -> Option<serde_json::Value> {
        let name = match self.device? {
            Device::Cpu => return None,
            Device::Cuda => "cuda",
            Device::Metal => "metal",
        };
        let precision = if self.dtype == Some(Precision::Bf16) { "bf16" } else { "f32" };
        Some(serde_json::json!({ "kind": name, "precision": precision }))
    }

    /// The precision of forward passes.
    pub fn precision(&self) -> cost::Precision {
        match self.dtype {
            None | Some(Precision::F32) => cost::Precision::F32,
            Some(Precision::Bf16) => cost::Precision::Bf16,
        }
    }
}

/// The names of the flags that were given.
pub fn given(flags: &[(&'static str, bool)]) -> Vec<&'static str> {
    flags.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PositionsChoice {
    /// Every position whose input token is not the pad token.
    All,
    /// Of those, the last of every sequence.
    Last,
}

impl From<PositionsChoice> for Positions {
    fn from(choice: PositionsChoice) -> Self {
        match choice {
            PositionsChoice::All => Self::All,
            PositionsChoice::Last => Self::Last,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// All cores of the processor.
    Cpu,
    /// A graphics card of NVIDIA.
    Cuda,
    /// A graphics processor of Apple.
    Metal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// Single precision.
    F32,
    /// The upper half of single precision.
    Bf16,
}
