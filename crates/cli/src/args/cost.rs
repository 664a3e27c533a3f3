//! Flags that choose data, the weights that move and where costs are computed.

use basin_volume_data::tokens::Positions;
use basin_volume_engine::request::{self, ComponentNames, CostRequest, CostSettings, DataRequest};
use clap::{Args, ValueEnum};

/// Heading of the flags that turn text into tokens.
const TEXT: &str = "Text (language models)";
/// Heading of the flags that say what is perturbed, where and how.
const COST: &str = "Weights and cost";

/// On which data, which positions and weights count, and where the cost is computed.
#[derive(Debug, Clone, Args)]
pub struct CostFlags {
    #[command(flatten)]
    pub data: DataFlags,
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
    /// Move only the weights of a part of the network: a layer `l3`, `l3.attn`, `l3.mlp`, a head `l3h1`, heads that share their keys `l3g0`, `embed`,
    /// `unembed`, `norms`, a stage and block `stage1.block2` of images, a tensor or a slice `layers.0.weight[0:16, :]`. Ranges `l0-l2`;
    /// several, separated by commas or given again, move together. `inspect` lists those of a model.
    #[arg(long, value_name = "NAME", help_heading = COST)]
    pub component: Vec<String>,
    /// Where the cost and its gradients are computed. [default: cpu]
    #[arg(long, value_enum, help_heading = COST)]
    pub device: Option<Device>,
    /// Precision of the weights in forward passes; what follows the logits is f64 in any case. [default: f32]
    #[arg(long, value_enum, help_heading = COST)]
    pub dtype: Option<Precision>,
}

/// Takes over what was typed.
macro_rules! take {
    ($from:expr, $to:expr; $($field:ident),* $(,)?) => {
        $(if $from.$field.is_some() { $to.$field.clone_from(&$from.$field); })*
    };
}
pub(super) use take;

impl DataFlags {
    /// Writes what was typed into a request.
    pub fn apply(&self, request: &mut DataRequest) {
        take!(self, request; text_key, chunk, max_seq_len, val_size, skip, tokenizer, eos_token_id);
        for (typed, to) in
            [(&self.data, &mut request.data), (&self.data_config, &mut request.data_config), (&self.split, &mut request.split)]
        {
            if !typed.is_empty() {
                to.clone_from(typed);
            }
        }
    }
}

impl CostFlags {
    /// Writes what was typed into the settings of a cost.
    pub fn apply(&self, settings: &mut CostSettings) {
        take!(self, settings; pad_token_id, parameters, exclude);
        if !self.component.is_empty() {
            settings.component = ComponentNames::new(self.component.clone());
        }
        settings.positions = self.positions.map(Into::into).or(settings.positions);
        settings.device = self.device.map(Into::into).or(settings.device);
        settings.dtype = self.dtype.map(Into::into).or(settings.dtype);
    }

    /// What was typed.
    pub fn request(&self) -> CostRequest {
        let mut request = CostRequest::default();
        self.data.apply(&mut request.data);
        self.apply(&mut request.cost);
        request
    }
}

/// What the behaviour is compared on.
#[derive(Debug, Clone, Args)]
pub struct DataFlags {
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
    /// Join the documents, EOS before each, and cut chunks of exactly --max-seq-len tokens; --chunk=false takes one sequence a document.
    /// [default: chunks of .txt files, documents of all others]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "true|false", help_heading = TEXT)]
    pub chunk: Option<bool>,
    /// Folder with a tokenizer.json, or model of the hub, whose tokenizer is used. [default: the model's own; .gguf files need one]
    #[arg(long, value_name = "PATH|ID", help_heading = TEXT)]
    pub tokenizer: Option<String>,
    /// EOS between the documents of --chunk. [default: as the model's files say]
    #[arg(long, value_name = "ID", help_heading = TEXT)]
    pub eos_token_id: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PositionsChoice {
    /// Every position whose input token is not the pad token.
    All,
    /// Of those, the last of every sequence.
    Last,
}

/// The same words for the command line and for requests.
macro_rules! same_words {
    ($from:ident, $to:path; $($word:ident),*) => {
        impl From<$from> for $to {
            fn from(choice: $from) -> Self {
                match choice {
                    $($from::$word => Self::$word,)*
                }
            }
        }
    };
}
pub(super) use same_words;

same_words!(PositionsChoice, Positions; All, Last);
same_words!(Device, request::Device; Cpu, Cuda, Metal, CpuTensors);
same_words!(Precision, request::Dtype; F32, Bf16);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// All cores of the processor.
    Cpu,
    /// A graphics card of NVIDIA.
    Cuda,
    /// A graphics processor of Apple.
    Metal,
    /// The processor, by the operations of the other devices: slower, to compare with them.
    CpuTensors,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// Single precision.
    F32,
    /// The upper half of single precision.
    Bf16,
}
