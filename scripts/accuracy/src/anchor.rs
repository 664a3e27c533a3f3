//! The same volume with the spring at another place.
//!
//! Chains that have forgotten the center measure the mass of the behaviour. Then it must not matter where the spring of their ladder is attached: this
//! study attaches it to a state that another annealing settled in, and leaves the cost, a divergence from the center's outputs, as it is. Ladders
//! from two places share nothing but the last density.

use std::path::PathBuf;

use anyhow::{Context, bail};
use basin_volume::estimator::annealed::states::read_states;
use basin_volume::estimator::annealed::{AnnealedEstimate, Phase};
use basin_volume::prior::Prior;
use basin_volume::question::Question;
use basin_volume::spec::AnnealedSpec;
use basin_volume_data::digits;
use basin_volume_models::checkpoint::Checkpoint;
use basin_volume_models::parameters::Moving;
use clap::Args;
use serde::Serialize;

use crate::method::anneal;
use crate::output::{Output, progress};

/// What the digits network is measured with.
#[derive(Args)]
pub struct Settings {
    /// Folder of a network of the digits (as `train digits` writes it)
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// States of the chains of another run (`states/NUMBER.safetensors` in its folder)
    #[arg(long, value_name = "FILE")]
    states: PathBuf,
    /// Which of its chains
    #[arg(long, default_value_t = 0)]
    chain: usize,
    /// The first so many training inputs
    #[arg(long, default_value_t = 256)]
    inputs: usize,
    /// The cutoff, nats
    #[arg(long, default_value_t = 0.01)]
    cutoff: f64,
    /// The seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Trajectories at a rung, at least
    #[arg(long, default_value_t = 8)]
    trajectories: u32,
    /// Gradients of a chain at a rung, at least
    #[arg(long, default_value_t = 420)]
    effort: u32,
}

/// One line of the file.
#[derive(Serialize)]
struct Record {
    states: PathBuf,
    chain: usize,
    seed: u64,
    sigma: f64,
    /// Cost and distance of the anchor from the center.
    cost: f64,
    distance_squared: f64,
    result: AnnealedEstimate,
}

/// Runs the study. Sigma is the root of the mean square of the network's weights.
pub fn run(settings: &Settings, mut output: Output) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::load(&settings.checkpoint)?;
    let training = checkpoint.training.as_ref().and_then(|training| training.classifier());
    let (split_seed, train_rows) = training.map_or((0, digits::TRAIN_ROWS), |training| (training.split_seed, training.train_size));
    let all = digits::split(split_seed, train_rows)?.train;
    if settings.inputs == 0 || settings.inputs > all.rows() {
        bail!("--inputs is {}: expected 1 to {}", settings.inputs, all.rows());
    }
    let data = all.select(&(0..settings.inputs).collect::<Vec<_>>())?;
    let moving = Moving::from(checkpoint.parameters.clone());
    let center = checkpoint.parameters.values().into_owned();
    let squared = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let sigma = (squared(&mut center.iter().map(|&w| f64::from(w))) / center.len() as f64).sqrt();
    let place = settings.states.display();
    let states = read_states(&settings.states)?.with_context(|| format!("{place} is not there: expected states of chains"))?;
    let Some(anchor) = states.weights.get(settings.chain).filter(|anchor| anchor.len() == center.len()) else {
        bail!("{place} has no chain {} of {} weights: give the states of a run on this network", settings.chain, center.len());
    };
    let objective = basin_volume_models::cost::for_rows(checkpoint.architecture.network(), moving, &data)?;
    let cost = objective.cost_at(anchor)?.nats;
    let distance_squared = squared(&mut anchor.iter().zip(&center).map(|(a, c)| f64::from(a - c)));
    progress(&format!("the anchor has cost {cost:.5}, is {distance_squared:.1} (squared) from the center, sigma {sigma:.5}"));
    let question = Question::new(Prior::Gaussian { sigma }, settings.cutoff, 0.0, settings.seed)?;
    let spec = AnnealedSpec {
        trajectories: settings.trajectories,
        effort: settings.effort,
        patience: 8,
        spacing: 0.4,
        settle: 2,
        ..AnnealedSpec::default()
    };
    let mut seen = 0;
    let result = anneal(&*objective, &center, Some(anchor), question, &spec, &mut |estimate| {
        let rungs = &estimate.details.rungs;
        if rungs.len() > seen {
            seen = rungs.len();
            // The stays of the way inward stand in the order of the rungs, the newest first.
            let inward = rungs.iter().find(|rung| rung.phase == Phase::Inward);
            let Some(rung) = inward.or(rungs.last()) else { return };
            progress(&format!(
                "{:?} rung {}: beta {:.3e}, gamma {:.3e}, cost {:.2e}, pull {:.0}, log-volume {:.1}, so far {} gradients",
                rung.phase, rung.rung, rung.beta, rung.localization, rung.mean_cost, rung.pull, rung.log_laplace, estimate.gradients
            ));
        }
    })?;
    let text = format!(
        "| anchor | cost there | log-probability | interval | outward | inward | trust | overlap with the center | gradients |\n|---|---|---|---|---|---|---|---|---|\n\
         | {}, chain {} | {cost:.5} | {:.1} | [{:.1}, {:.1}] | {:.1} | {:.1} | {} | {:.3} | {} |\n",
        place,
        settings.chain,
        result.log_probability.unwrap_or(f64::NAN),
        result.low,
        result.high.unwrap_or(f64::NAN),
        result.details.outward.first().copied().unwrap_or(f64::NAN),
        result.details.inward.first().copied().unwrap_or(f64::NAN),
        if result.is_answer() { "answer" } else { "not an answer" },
        result.details.overlap,
        result.gradients,
    );
    let record =
        Record { states: settings.states.clone(), chain: settings.chain, seed: settings.seed, sigma, cost, distance_squared, result };
    output.run(&record)?;
    output.finish(&text)
}
