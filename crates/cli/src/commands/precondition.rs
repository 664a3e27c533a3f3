//! `precondition`: computes a curvature and saves it.

use basin_volume::prior::Prior;
use basin_volume::question::Question;
use basin_volume_engine::curvature::{self, Computed, RECIPES, Recipe, Settings, recipe};
use basin_volume_engine::error::Error;
use basin_volume_engine::files::check_file_place;
use basin_volume_engine::loaded::Loaded;
use basin_volume_engine::request::CUTOFF;
use basin_volume_engine::subject::Subject;
use basin_volume_models::curvature::{Curvature, RestDiagonal};
use basin_volume_models::memory::size;
use serde_json::json;

use super::{Context, print, print_json};
use crate::args::PreconditionArgs;

/// More draws or steps than anyone can mean.
const MOST: usize = 1_000_000_000;

pub fn run(args: &PreconditionArgs, context: &Context) -> Result<(), Error> {
    check_file_place("out", &args.out)?;
    let recipe = recipe(&args.kind).ok_or_else(|| Error::usage(format!("there is no curvature '{}'", args.kind)))?;
    let question = check(args, recipe)?;
    let session = context.session(args.machine.machine(), context.screen());
    let loaded = Loaded::load(&args.model, &args.cost.request(), &session)?;
    // Only a map for a question depends on the rays that it is for.
    let question = if recipe.is_for_question() {
        let prior = Prior::Gaussian { sigma: loaded.sigma(args.sigma)?.sigma };
        Question::new(prior, question.cutoff(), 0.0, question.seed())?
    } else {
        question
    };
    let settings = Settings::new(recipe, question, &loaded).with(args.probes, args.rank, args.steps);
    let computed = curvature::compute(recipe, &settings, &loaded, &session)?;
    curvature::save(&args.out, &computed, &loaded)?;
    let Computed { found, provenance, time } = &computed;
    let (curvature, gradients) = (&found.curvature, found.gradients);
    let dimension = loaded.moving.dimension();
    let trace = curvature.trace(loaded.moving.layout());
    let (what, largest) = largest(curvature);
    let seconds = time.as_secs_f64();
    if args.json {
        return print_json(&json!({
            "file": args.out,
            "provenance": provenance,
            "dimension": dimension,
            "hash": curvature.hash(),
            "seconds": seconds,
            "gradients": gradients,
            "trace": trace,
            "largest": largest,
            "effective_dimension": trace / largest,
            "relative_error": found.relative_error,
            "learned": found.learned.map(|report| json!({
                "before": report.before,
                "after": report.after,
                "gain": report.gain.0,
                "gain_standard_error": report.gain.1,
                "kept_first": report.kept_first,
                "evaluations": report.evaluations,
            })),
            "bytes": curvature.bytes(),
        }));
    }
    let gain = found.learned.map_or_else(String::new, |report| {
        let (gain, error) = report.gain;
        let end = if report.kept_first { "; the Fisher map is kept" } else { "" };
        format!(
            "\ngain over the damped Fisher map {gain:.1} nats per ray (standard error {error:.1}, {} held-out rays, from {:.1} to {:.1}){end}",
            report.compared, report.before, report.after
        )
    });
    print(&format!(
        "{} of {} at {dimension} weights: {} in {seconds:.2} s, {gradients} passes over the data\n\
         trace {trace:.6e}, {what} {largest:.6e}, trace over it {:.1}{gain}\n\
         Curvature file: {}",
        provenance.kind,
        loaded.model.name,
        size(curvature.bytes()),
        trace / largest,
        args.out.display()
    ))
}

/// Refuses flags of other kinds, and values that cannot be.
fn check(args: &PreconditionArgs, recipe: &dyn Recipe) -> Result<Question, Error> {
    let given = [
        ("probes", args.probes.is_some()),
        ("rank", args.rank.is_some()),
        ("steps", args.steps.is_some()),
        ("cutoff", args.cutoff.is_some()),
        ("sigma", args.sigma.is_some()),
    ];
    if let Some((setting, _)) = given.into_iter().find(|(setting, is_given)| *is_given && !recipe.takes().contains(setting)) {
        let kinds: Vec<&str> = RECIPES.iter().filter(|other| other.takes().contains(&setting)).map(|other| other.name()).collect();
        let (kinds, own) = (kinds.join(", "), recipe.name());
        return Err(Error::usage(format!("`{setting}` is for `kind={kinds}`, not for {own}: leave it out")));
    }
    for (setting, value) in [("probes", args.probes), ("steps", args.steps)] {
        if let Some(value) = value.filter(|value| value.get() > MOST) {
            return Err(Error::usage(format!("`{setting}` is {value}: expected 1 to {MOST}")));
        }
    }
    Ok(Question::new(Prior::Lebesgue, args.cutoff.unwrap_or(CUTOFF), 0.0, args.seed)?)
}

/// The largest number that the form shows without a decomposition, with its name.
fn largest(curvature: &Curvature) -> (&'static str, f64) {
    let most = |values: &[f32]| values.iter().fold(0.0f64, |m, &x| m.max(f64::from(x)));
    let on_diagonal = |factor: &[f32]| {
        let size = factor.len().isqrt();
        factor.iter().step_by(size + 1).fold(0.0f64, |m, &x| m.max(f64::from(x)))
    };
    match curvature {
        Curvature::Diagonal { values } => ("largest entry", most(values)),
        Curvature::Factors { values } => ("largest factor", most(values)),
        Curvature::LowRankDiagonal { eigenvalues, rest, .. } => {
            let rest = match rest {
                RestDiagonal::Uniform(value) => f64::from(*value),
                RestDiagonal::PerWeight(values) => most(values),
            };
            ("largest eigenvalue", most(eigenvalues).max(rest))
        }
        Curvature::Kronecker { blocks, diagonal } => {
            let block = blocks.iter().map(|b| b.scale * on_diagonal(&b.row_factor) * on_diagonal(&b.column_factor));
            ("largest diagonal entry", block.fold(most(diagonal), f64::max))
        }
    }
}
