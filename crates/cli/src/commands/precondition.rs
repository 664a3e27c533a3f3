//! `precondition`: computes a curvature and saves it.

use std::sync::atomic::AtomicBool;

use basin_volume::prior::Prior;
use basin_volume_models::curvature::{Curvature, RestDiagonal};
use basin_volume_models::memory::size;
use serde_json::json;

use super::{check_file_place, print, print_json, threads};
use crate::args::{CurvatureChoice, PreconditionArgs};
use crate::curvature::{self, Computed, LearnedFor, Session, Settings};
use crate::error::{CommandError, CommandResult};
use crate::problem::Problem;

pub fn run(args: &PreconditionArgs, interrupt: &AtomicBool) -> CommandResult {
    check_file_place("--out", &args.out)?;
    check(args)?;
    let problem = Problem::without_rays(&args.problem, interrupt)?;
    let threads = threads(args.threads);
    let session = Session { threads, budget: args.problem.memory, interrupt };
    let sigma = problem.model.sigma(&problem.moving, args.sigma);
    // Only a learned map depends on the rays that it is for.
    let prior = if args.kind == CurvatureChoice::Learned { Prior::Gaussian { sigma: sigma?.0 } } else { problem.prior };
    let rays = LearnedFor { prior, cutoff: args.cutoff.unwrap_or(CUTOFF), l2_reg: 0.0 };
    let settings = Settings::new(args.kind, args.seed, rays, &problem).with(args.probes, args.rank, args.steps);
    let computed = curvature::compute(&settings, &problem, &session)?;
    curvature::save(&args.out, &computed, &problem)?;
    let Computed { curvature, provenance, time, gradients, relative_error, learned } = &computed;
    let dimension = problem.moving.dimension();
    let trace = curvature.trace(problem.moving.layout());
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
            "relative_error": relative_error,
            "learned": learned.map(|report| json!({
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
    let gain = learned.map_or_else(String::new, |report| {
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
        problem.model.name,
        size(curvature.bytes()),
        trace / largest,
        args.out.display()
    ))
}

/// The cutoff that a map is learned for, nats, unless another is given.
const CUTOFF: f64 = 1e-2;
/// More draws or steps than anyone can mean.
const MOST: usize = 1_000_000_000;

/// Refuses flags of other kinds, and values that cannot be.
fn check(args: &PreconditionArgs) -> CommandResult {
    let learned = &[CurvatureChoice::Learned][..];
    let all_but_learned = &[
        CurvatureChoice::Fisher,
        CurvatureChoice::SquaredGradient,
        CurvatureChoice::Hessian,
        CurvatureChoice::Kronecker,
        CurvatureChoice::LowRank,
    ][..];
    let given = [
        ("--probes", args.probes.is_some(), all_but_learned),
        ("--rank", args.rank.is_some(), &[CurvatureChoice::LowRank][..]),
        ("--steps", args.steps.is_some(), learned),
        ("--cutoff", args.cutoff.is_some(), learned),
        ("--sigma", args.sigma.is_some(), learned),
    ];
    if let Some((flag, _, kinds)) = given.into_iter().find(|(_, is_given, kinds)| *is_given && !kinds.contains(&args.kind)) {
        let kinds: Vec<String> = kinds.iter().map(|kind| kind.name()).collect();
        return Err(CommandError::usage(format!("{flag} is for --kind {}, not for {}: leave it out", kinds.join(", "), args.kind.name())));
    }
    if let Some(cutoff) = args.cutoff.filter(|cutoff| !(*cutoff > 0.0 && cutoff.is_finite())) {
        return Err(CommandError::usage(format!("--cutoff is {cutoff}: expected a finite number of nats > 0")));
    }
    for (flag, value) in [("--probes", args.probes), ("--steps", args.steps)] {
        if let Some(value) = value.filter(|value| value.get() > MOST) {
            return Err(CommandError::usage(format!("{flag} is {value}: expected 1 to {MOST}")));
        }
    }
    Ok(())
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
