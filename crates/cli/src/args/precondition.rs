//! Flags of `precondition`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use basin_volume_engine::curvature::{RECIPES, recipe_names};
use basin_volume_engine::request::Sigma;
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};

use super::{CostFlags, MachineFlags};

/// The kinds with their names in files, which are understood too.
fn kinds() -> PossibleValuesParser {
    let value = |name: &'static str| {
        let kind = RECIPES.iter().find(|recipe| recipe.name() == name).map(|recipe| recipe.kind()).filter(|kind| *kind != name);
        kind.into_iter().fold(PossibleValue::new(name), PossibleValue::alias)
    };
    PossibleValuesParser::new(recipe_names().into_iter().map(value))
}

/// Flags of `precondition`.
#[derive(Debug, Args)]
pub struct PreconditionArgs {
    /// As for `estimate`.
    #[arg(value_name = "MODEL")]
    pub model: String,
    #[command(flatten)]
    pub cost: CostFlags,
    /// What to compute: the diagonal of the Fisher matrix (labels drawn from the model), the mean squared gradient of the loss on the labels of the
    /// data, the diagonal of the Hessian of the cost (by random probes), Kronecker factors per linear layer (K-FAC), leading eigenvectors with a
    /// diagonal for the rest, or a diagonal map learned for the mean log-volume of the rays.
    #[arg(long, value_parser = kinds())]
    pub kind: String,
    /// The .safetensors file to write; an existing file is replaced.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Draws of labels per position, or probes of the Hessian's diagonal. [default: 1; 32 for hessian]
    #[arg(long, value_name = "N")]
    pub probes: Option<NonZeroUsize>,
    /// Number of eigenvectors of low-rank. [default: 16, or as many as there are weights]
    #[arg(long, value_name = "K")]
    pub rank: Option<NonZeroUsize>,
    /// Steps of learned: a radius search and a gradient each. [default: 200]
    #[arg(long, value_name = "N")]
    pub steps: Option<NonZeroUsize>,
    /// The cutoff that learned is for, in nats. [default: 0.01]
    #[arg(long, value_name = "EPS")]
    pub cutoff: Option<f64>,
    /// The Gaussian prior's standard deviation that learned is for, as for `estimate`.
    #[arg(long, value_name = "VALUE|rms|weight-decay")]
    pub sigma: Option<Sigma>,
    /// Seed of labels, probes, the first vector and the rays of learned.
    #[arg(long, value_name = "S", default_value_t = 42)]
    pub seed: u64,
    #[command(flatten)]
    pub machine: MachineFlags,
    /// Print a summary as JSON alone on standard output.
    #[arg(long)]
    pub json: bool,
}
