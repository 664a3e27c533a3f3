//! `profile`: the cost along one ray.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use basin_volume::direction::Direction;
use basin_volume::estimator::radial::RadialEstimator;
use basin_volume::prior::Prior;
use basin_volume::run::folder::write_json;
use basin_volume::run::record::null_as_infinity;
use basin_volume::spec::{Proposal, RadialSpec};
use basin_volume_models::parameters::ParameterLayout;
use comfy_table::{Table, presets};
use rayon::ThreadPoolBuilder;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde::Serialize;

use super::{check_file_place, make_folder_of, print, print_json, threads};
use crate::args::ProfileArgs;
use crate::curvature::Session;
use crate::error::{CommandError, CommandResult};
use crate::plot::{self, RayProfile, profile::Series};
use crate::preconditioning::{Preconditioning, check_maps, check_proposal};
use crate::present::{align_right, nats};
use crate::problem::{Problem, radial_error};

/// The cost along one ray, as written to `profile.json`.
#[derive(Serialize)]
struct Profile {
    /// Index of the direction.
    index: u64,
    /// First `t` with cost = cutoff; `null` if there is none.
    radius: Option<f64>,
    /// Norm of v.
    norm: f64,
    /// Log-volume of the ray, nats; `null` if infinite.
    #[serde(with = "null_as_infinity")]
    log_volume: f64,
    outcome: &'static str,
    cutoff: f64,
    points: Vec<Point>,
}

#[derive(Serialize)]
struct Point {
    /// Distance in units of v (an angle under the spherical prior).
    t: f64,
    /// Distance in weight space (the same angle under the spherical prior).
    distance: f64,
    /// Cost in nats; `null` if not finite.
    cost: Option<f64>,
}

pub fn run(args: &ProfileArgs, interrupt: &AtomicBool) -> CommandResult {
    if !(args.extent > 0.0 && args.extent.is_finite()) {
        return Err(CommandError::usage(format!("--extent is {}: expected a finite number > 0", args.extent)));
    }
    let threads = threads(args.threads);
    ThreadPoolBuilder::new().num_threads(threads.get()).build()?.install(|| profile(args, threads, interrupt))
}

fn profile(args: &ProfileArgs, threads: NonZeroUsize, interrupt: &AtomicBool) -> CommandResult {
    let problem = Problem::resolve(&args.problem, &args.rays, interrupt)?;
    let session = Session { threads, budget: args.problem.memory, interrupt };
    let proposal = args.rays.proposal.map_or_else(Proposal::default, Into::into);
    check_maps(&args.rays.map_flags(), std::slice::from_ref(&args.preconditioner))?;
    if let Some(path) = &args.save_direction {
        check_file_place("--save-direction", path)?;
    }
    check_proposal(&args.preconditioner, &problem, &args.rays, proposal)?;
    let preconditioning = Preconditioning::resolve(&args.preconditioner, &problem, (&args.rays, proposal), &session, None)?;
    preconditioning.check(proposal, args.rays.proposal.is_some())?;
    let settings = RadialSpec { radius_tolerance: args.rays.radius_tolerance, proposal, ..RadialSpec::default() };
    let radial = problem.radial(&args.rays, &preconditioning);
    let resources = problem.resources(std::slice::from_ref(&preconditioning), proposal, threads, args.problem.memory)?;
    let objective = problem.objective(&resources)?;
    let estimator = RadialEstimator::new(&*objective, radial, settings, None, resources.directions).map_err(radial_error)?;
    let sample = estimator.sample(args.index)?;
    let direction = estimator.direction(args.index);
    let is_sphere = matches!(problem.prior, Prior::Sphere);
    // Without a crossing the ray is shown as far as the search looked.
    let reach = if sample.radius.is_finite() { sample.radius } else { sample.evaluated_radius };
    let mut points = Vec::new();
    for k in 1..=args.points {
        let t = args.extent * reach * f64::from(k) / f64::from(args.points);
        let cost = estimator.cost(&direction, t)?.nats;
        points.push(Point { t, distance: if is_sphere { t } else { t * direction.norm() }, cost: cost.is_finite().then_some(cost) });
    }
    let profile = Profile {
        index: args.index,
        radius: sample.radius.is_finite().then_some(sample.radius),
        norm: direction.norm(),
        log_volume: sample.log_volume,
        outcome: sample.outcome.name(),
        cutoff: args.rays.cutoff,
        points,
    };
    if let Some(path) = &args.save_direction {
        save_direction(path, &direction, problem.moving.layout(), args)?;
    }
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
        write_json(&out.join("profile.json"), &profile)?;
        let figure = RayProfile {
            title: format!("Cost along ray {} ({}): {}", args.index, preconditioning.spec.label(), problem.model.name),
            distance_label: if is_sphere { "angle from the center  (radians)" } else { "distance from the center, ||w \u{2212} c||" }
                .to_owned(),
            cutoff: args.rays.cutoff,
            series: vec![Series {
                label: Some(format!("ray {}", args.index)),
                color: 0,
                points: profile.points.iter().filter_map(|p| Some((p.distance, p.cost?))).collect(),
                radius: profile.radius.map(|r| if is_sphere { r } else { r * direction.norm() }),
            }],
        };
        plot::save(&figure, out, "profile")?;
    }
    if args.json { print_json(&profile) } else { print(&text(&profile)) }
}

fn text(profile: &Profile) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["t", "distance", "cost (nats)", "t / radius", ""]);
    let mut previous_below = true;
    for point in &profile.points {
        let below = point.cost.is_some_and(|cost| cost < profile.cutoff);
        let mark = match (previous_below, below) {
            (true, false) => "crosses the cutoff",
            (false, true) => "back under the cutoff",
            _ => "",
        };
        previous_below = below;
        table.add_row([
            format!("{:.6}", point.t),
            format!("{:.6}", point.distance),
            point.cost.map_or("not finite".to_owned(), |cost| format!("{cost:.6e}")),
            profile.radius.map_or("\u{2013}".to_owned(), |radius| format!("{:.3}", point.t / radius)),
            mark.to_owned(),
        ]);
    }
    align_right(&mut table, 0..4);
    format!(
        "Ray {}: radius {}, ||v|| {:.6}, log-volume {} nats, {}\n{table}",
        profile.index,
        profile.radius.map_or("infinite".to_owned(), |radius| format!("{radius:.9}")),
        profile.norm,
        nats(profile.log_volume),
        profile.outcome,
    )
}

/// One f32 tensor per moving parameter; `w = c + t v` at distance `t`.
fn save_direction(path: &Path, direction: &Direction, layout: &ParameterLayout, args: &ProfileArgs) -> CommandResult {
    let mut values = vec![0.0f32; direction.dimension()];
    direction.fill(0..direction.dimension(), &mut values);
    let bytes: Vec<u8> = values.iter().flat_map(|&y| ((f64::from(y) * direction.scale()) as f32).to_le_bytes()).collect();
    let mut tensors = Vec::new();
    for parameter in layout.parameters() {
        let range = parameter.range();
        let view = TensorView::new(Dtype::F32, parameter.shape.clone(), &bytes[4 * range.start..4 * range.end])?;
        tensors.push((parameter.name.as_str(), view));
    }
    let metadata = [("index".to_owned(), args.index.to_string()), ("seed".to_owned(), args.rays.seed.to_string())];
    make_folder_of(path)?;
    serialize_to_file(tensors, Some(metadata.into_iter().collect()), path)
        .with_context(|| format!("cannot write the direction to {}", path.display()))?;
    Ok(())
}
