//! `precondition`: computes a curvature and saves it.

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;

use basin_volume_models::curvature::{Curvature, RestDiagonal};
use basin_volume_models::memory::size;
use serde_json::json;

use super::{print, print_json};
use crate::args::PreconditionArgs;
use crate::curvature::{self, Computed, Session, Settings};
use crate::error::{CommandError, CommandResult};
use crate::problem::Problem;

pub fn run(args: &PreconditionArgs, interrupt: &AtomicBool) -> CommandResult {
    if args.out.is_dir() {
        return Err(CommandError::usage(format!("--out {} is a folder: expected the name of a file", args.out.display())));
    }
    let problem = Problem::without_rays(&args.problem, interrupt)?;
    let threads = args.threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let session = Session { threads, budget: args.problem.memory, interrupt };
    let settings = Settings::new(args.kind, args.probes, args.rank, args.seed, &problem);
    let computed = curvature::compute(&settings, &problem, &session)?;
    curvature::save(&args.out, &computed, &problem)?;
    let Computed { curvature, provenance, time, gradients, relative_error } = &computed;
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
            "bytes": curvature.bytes(),
        }));
    }
    print(&format!(
        "{} of {} at {dimension} weights: {} in {seconds:.2} s, {gradients} passes over the data\n\
         trace {trace:.6e}, {what} {largest:.6e}, trace over it {:.1}\n\
         Curvature file: {}",
        provenance.kind.name(),
        problem.model.name,
        size(curvature.bytes()),
        trace / largest,
        args.out.display()
    ))
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
