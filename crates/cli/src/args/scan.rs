//! What a scan was asked for. Everything that decides a single run is a flag of `estimate`, taken over from there.

use std::any::TypeId;
use std::path::PathBuf;

use basin_volume::run::shard::Shard;
use clap::builder::ValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, ValueEnum};

use super::{EstimateArgs, EstimatorChoice};

/// What is varied from point to point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScanKind {
    /// Nothing: the distribution of the log-volumes of rays. 1000 samples.
    Histogram,
    /// The cutoff, 1e-6 to 1e2: also the slope of the log-volume, the learning coefficient.
    Cutoff,
    /// The step of the training: every checkpoint in the folder MODEL, or the revisions stepN of the hub.
    Checkpoints,
    /// The exponent of the preconditioner's map, 0 to 1.
    Exponent,
    /// The eps of the preconditioner's map, 1e-9 to 1.
    Epsilon,
    /// The standard deviation of the prior, a quarter to four times that of the model.
    Sigma,
    /// The number of rays, 10 to 1000: each the beginning of one run.
    Samples,
}

impl ScanKind {
    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Histogram => "histogram",
            Self::Cutoff => "cutoff",
            Self::Checkpoints => "checkpoints",
            Self::Exponent => "exponent",
            Self::Epsilon => "epsilon",
            Self::Sigma => "sigma",
            Self::Samples => "samples",
        }
    }

    /// The flag of `estimate` that a value of the grid stands for.
    pub fn replaced_flag(self) -> Option<&'static str> {
        match self {
            Self::Cutoff => Some("cutoff"),
            Self::Exponent => Some("exponent"),
            Self::Epsilon => Some("eps"),
            Self::Sigma => Some("sigma"),
            Self::Histogram | Self::Checkpoints | Self::Samples => None,
        }
    }

    /// What one of its values is called.
    pub fn value_name(self) -> &'static str {
        if self == Self::Checkpoints { "step" } else { self.name() }
    }
}

/// Arguments of `scan`.
#[derive(Debug, Args)]
pub struct ScanArgs {
    // First, because every other field takes its values out of what was parsed.
    #[command(flatten)]
    pub given: Given,
    /// What is varied.
    #[arg(value_name = "SCAN", value_enum)]
    pub kind: Option<ScanKind>,
    /// The models, each as for `estimate`, with NAME= before it for a name of its own in tables and figures: `poisoned=runs/poisoned`.
    #[arg(value_name = "[NAME=]MODEL")]
    pub targets: Vec<String>,
    /// The values, increasing, separated by commas; of sigma also multiples of the model's own, such as 0.5x. [default: the grids of the
    /// paper; the steps that there are]
    #[arg(long, value_name = "VALUES", value_delimiter = ',')]
    pub grid: Vec<String>,
    /// Estimators, separated by commas or repeated. [default: radial]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub estimator: Vec<EstimatorChoice>,
    /// As for `estimate`; may be repeated. With `:shifted` behind it its Gaussian is shifted, as by --proposal shifted for all of them:
    /// `none,fisher,fisher:shifted`. [default: that of `estimate`; for exponent and epsilon none,adam2]
    #[arg(long, value_name = "none|adam1|adam2|CURVATURE|FILE", value_delimiter = ',')]
    pub preconditioner: Vec<String>,
    /// Compute only a share of the samples of all points, i of n (i from 0 to n-1), into a folder of its own; join the folders with `merge`.
    #[arg(long, value_name = "i/n", default_value = "0/1")]
    pub shard: Shard,
    /// Folder of the scan; the same command again continues it. [default: runs/scan-SCAN-HASH under the current folder]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Take the scan from a TOML file, whose keys are the names of these flags beside `scan` and `targets`; flags on the command line count more.
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// Write the scan as a TOML file to standard output, and compute nothing.
    #[arg(long)]
    pub print_config: bool,
    /// Print the table as JSON alone on standard output.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `estimate` that a scan has in another form, or not at all.
const NOT_TAKEN_OVER: [&str; 9] = ["model", "estimator", "preconditioner", "shard", "out", "json", "extend", "spectrum_out", "profile"];

/// One flag or argument with its values, in words.
#[derive(Debug, Clone, PartialEq)]
pub struct Flag {
    /// The long name; `scan` and `targets` for the two that have none.
    pub name: String,
    /// The values; none for a switch.
    pub values: Vec<String>,
    /// Whether the values are numbers.
    pub is_number: bool,
    /// Whether there may be several values.
    pub is_list: bool,
    /// Whether it was typed, and is not a default.
    pub is_typed: bool,
    /// Whether `estimate` knows it.
    pub is_estimates: bool,
}

/// All flags of a scan with their values: those of `estimate` by definition of that command, so that no flag is named twice.
#[derive(Debug, Clone)]
pub struct Given(pub Vec<Flag>);

/// The name of an argument in files.
fn name(arg: &Arg) -> Option<String> {
    match arg.get_id().as_str() {
        "kind" => Some("scan".to_owned()),
        "targets" => Some("targets".to_owned()),
        _ => arg.get_long().map(str::to_owned),
    }
}

fn taken_over() -> Vec<Arg> {
    let estimate = EstimateArgs::augment_args(Command::new("estimate"));
    let arguments = estimate.get_arguments().filter(|arg| !NOT_TAKEN_OVER.contains(&arg.get_id().as_str()));
    // In the help they follow what is the scan's own.
    arguments.enumerate().map(|(k, arg)| arg.clone().display_order(1000 + k)).collect()
}

/// The names that a file may have, with whether each is a switch.
pub fn known_names() -> Vec<(String, bool)> {
    let scan = ScanArgs::augment_args(Command::new("scan"));
    let is_of_files = |arg: &&Arg| !["config", "print_config", "json", "help"].contains(&arg.get_id().as_str());
    let mut arguments: Vec<&Arg> = scan.get_arguments().filter(is_of_files).collect();
    arguments.sort_by_key(|arg| arg.get_display_order());
    arguments.into_iter().filter_map(|arg| Some((name(arg)?, !arg.get_action().takes_values()))).collect()
}

impl Args for Given {
    fn augment_args(command: Command) -> Command {
        command.args(taken_over())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let estimates: Vec<String> = taken_over().iter().map(|arg| arg.get_id().to_string()).collect();
        let scan = ScanArgs::augment_args(Command::new("scan"));
        let flag = |arg: &Arg| {
            let id = arg.get_id().as_str();
            let source = matches.value_source(id)?;
            let is_switch = !arg.get_action().takes_values();
            if is_switch && source == ValueSource::DefaultValue {
                return None;
            }
            let raw = || matches.get_raw(id).into_iter().flatten();
            Some(Flag {
                name: name(arg)?,
                values: if is_switch { Vec::new() } else { raw().map(|value| value.to_string_lossy().into_owned()).collect() },
                is_number: id == "grid" || is_number(arg.get_value_parser()),
                is_list: matches!(arg.get_action(), clap::ArgAction::Append) || id == "targets",
                is_typed: source != ValueSource::DefaultValue,
                is_estimates: estimates.iter().any(|own| own == id),
            })
        };
        Ok(Self(scan.get_arguments().filter_map(flag).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn is_number(parser: &ValueParser) -> bool {
    let id = parser.type_id();
    [TypeId::of::<f64>(), TypeId::of::<u64>(), TypeId::of::<u32>(), TypeId::of::<usize>()].iter().any(|number| id == *number)
        || id == TypeId::of::<std::num::NonZeroUsize>()
}
