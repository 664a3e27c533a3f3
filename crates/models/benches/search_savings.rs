//! How many evaluations of a language model's cost each part of the radius search saves.
//!
//!     cargo bench -p basin-volume-models --bench search_savings -- MODEL_FOLDER TOKENS.json [--rays N]
//!
//! Searches the same rays (identity preconditioner, cutoff 0.01) from different starts, at 1e-5 and 1e-7 relative error of the radius, and
//! prints the mean and median number of full evaluations. Also tells whether a search on a subset of the sequences could replace the pilot
//! radius: the spread of `ln(radius on all / radius on the subset)` beside that of `ln radius` itself.

#![allow(clippy::print_stdout, missing_docs)]

use std::path::Path;
use std::sync::Arc;

use basin_volume::center::Center;
use basin_volume::direction::{DirectionFamily, PILOT_INDICES};
use basin_volume::objective::{Objective, RayPoint};
use basin_volume::preconditioner::Identity;
use basin_volume::radius_search::{Crossing, RadiusSearch, SearchSettings};
use basin_volume_data::tokens::{ModelLimits, Positions, Provenance, TokenSequences, read_json};
use basin_volume_models::checkpoint::Checkpoint;
use basin_volume_models::cost::{CenterOutputs, LanguageModelKl};

const CUTOFF: f64 = 1e-2;

fn search(cost: &LanguageModelKl, family: &DirectionFamily, index: u64, start: f64, slope: f64, relative: f64) -> Crossing {
    let direction = family.direction(index, cost, None, true);
    let dimension = cost.dimension() as f64;
    let settings = SearchSettings {
        cutoff: CUTOFF,
        dimension,
        tolerance_nats: relative * dimension,
        start,
        slope,
        curvature: 0.0,
        max_radius: 1e6,
        max_evaluations: 80,
    };
    RadiusSearch::new(settings).run(|t| cost.cost(&direction, RayPoint::straight(t))).expect("no failure")
}

fn spread(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [model, tokens, ..] = arguments.as_slice() else {
        println!("nothing to do: give a model folder and a file of token ids");
        return;
    };
    let rays = arguments.iter().position(|a| a == "--rays").and_then(|i| arguments.get(i + 1)?.parse().ok()).unwrap_or(40u64);
    let checkpoint = Checkpoint::load(Path::new(model)).expect("a model");
    let network = checkpoint.architecture.language_model().expect("a language model");
    let limits = ModelLimits { vocabulary: network.vocabulary(), positions: Some(network.positions()) };
    let all = read_json(Path::new(tokens), limits, None, Positions::All).expect("token ids");
    let cost = |tokens: &TokenSequences| {
        LanguageModelKl::new(network, checkpoint.parameters.clone(), tokens, CenterOutputs::Logits).expect("a valid cost")
    };
    let full = cost(&all);
    let family = DirectionFamily::new(42, full.dimension(), Arc::new(Identity));
    let pilots: Vec<Crossing> = PILOT_INDICES.iter().map(|&index| search(&full, &family, index, 1.0, 2.0, 2e-3)).collect();
    let mut radii: Vec<f64> = pilots.iter().map(|p| p.radius).collect();
    radii.sort_by(f64::total_cmp);
    let (pilot, slope) = (radii[1], pilots[1].slope);
    for relative in [1e-5, 1e-7] {
        println!("relative error of the radius {relative:e}: evaluations per ray, mean (median)");
        for (what, start, slope) in [
            ("start at t = 1, slope 1", 1.0, 1.0),
            ("start at t = 1, slope 2", 1.0, 2.0),
            ("pilot radius, slope 1", pilot, 1.0),
            ("pilot radius, slope 2", pilot, 2.0),
            ("pilot radius and slope", pilot, slope),
        ] {
            let mut counts: Vec<u32> = (0..rays).map(|i| search(&full, &family, i, start, slope, relative).evaluations).collect();
            counts.sort_unstable();
            let mean = counts.iter().map(|&c| f64::from(c)).sum::<f64>() / counts.len() as f64;
            println!("  {what:<26} {mean:.2} ({})", counts[counts.len() / 2]);
        }
    }
    let own: Vec<f64> = (0..rays).map(|i| search(&full, &family, i, pilot, slope, 1e-5).radius.ln()).collect();
    println!("spread of ln radius over the rays: {:.4}", spread(&own));
    for count in [1, all.count() / 4, all.count() / 2] {
        if count == 0 || count >= all.count() {
            continue;
        }
        let sequences = (0..count).map(|i| all.sequence(i).ids.to_vec());
        let subset = TokenSequences::new("subset", sequences, limits, None, Positions::All, Provenance::Ids).expect("valid tokens");
        let part = cost(&subset);
        let differences: Vec<f64> =
            (0..rays).map(|i| own[i as usize] - search(&part, &family, i, pilot, slope, 1e-5).radius.ln()).collect();
        println!("spread of ln(radius / radius on {count} of {} sequences): {:.4}", all.count(), spread(&differences));
    }
}
