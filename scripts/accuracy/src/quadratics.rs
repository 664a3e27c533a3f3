//! Ellipsoids: all estimators, spectra, dimensions, and centers at and beside the prior's mode.

use basin_volume::random::{NormalVector, Purpose};
use basin_volume::spec::{Proposal, SetKind};
use basin_volume::testkit::{Ellipsoid, Truth};

use crate::Selection;
use crate::method::{Annealed, Curvature, Method, Rays, Spectral};
use crate::output::Output;
use crate::problem::Problem;
use crate::table;

const CUTOFF: f64 = 0.01;
const SIGMA: f64 = 1.0;
const DIMENSIONS: [usize; 5] = [100, 1000, 10_000, 100_000, 1_000_000];

#[derive(Debug, Clone, Copy)]
enum Spectrum {
    /// `i^-alpha`.
    Power(f64),
    Flat,
    /// A tenth of the eigenvalues 1, the others 1e-3.
    TwoLevel,
}

impl Spectrum {
    const ALL: [Self; 5] = [Self::Power(2.0), Self::Power(1.5), Self::Power(1.0), Self::Flat, Self::TwoLevel];

    fn name(self) -> String {
        match self {
            Self::Power(alpha) => format!("i^-{alpha}"),
            Self::Flat => "flat".to_owned(),
            Self::TwoLevel => "two levels".to_owned(),
        }
    }

    fn eigenvalues(self, dimension: usize) -> Vec<f64> {
        let eigenvalue = |i: usize| match self {
            Self::Power(alpha) => ((i + 1) as f64).powf(-alpha),
            Self::Flat => 1.0,
            Self::TwoLevel => {
                if 10 * i < dimension {
                    1.0
                } else {
                    1e-3
                }
            }
        };
        (0..dimension).map(eigenvalue).collect()
    }
}

/// `c = 0`, or one draw of `N(0, 0.09 I)`.
fn center(is_zero: bool, dimension: usize) -> Vec<f32> {
    let mut values = vec![0.0f32; dimension];
    if !is_zero {
        NormalVector::new(Purpose::Trials, 1, 0, dimension).fill(0..dimension, &mut values);
        values.iter_mut().for_each(|z| *z *= 0.3);
    }
    values
}

/// How far the spectral estimator goes.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Settings {
    /// Lanczos steps of a probe at most: the smallest eigenvalue that k of them resolve falls like 1/k^2
    #[arg(long, value_name = "N", default_value_t = 120)]
    steps: usize,
    /// Probes of the spectral estimator
    #[arg(long, value_name = "N", default_value_t = 64)]
    probes: u64,
}

fn methods(Settings { steps, probes }: Settings) -> Vec<Box<dyn Method>> {
    let rays = |error: f64, proposal: Proposal| Rays { curvature: Curvature::Diagonal { error }, proposal, count: 100, profile: 0 };
    vec![
        Box::new(Rays { curvature: Curvature::None, proposal: Proposal::Centered, count: 100, profile: 0 }),
        Box::new(rays(0.0, Proposal::Centered)),
        Box::new(rays(0.0, Proposal::Shifted)),
        Box::new(rays(0.1, Proposal::Shifted)),
        Box::new(rays(0.5, Proposal::Shifted)),
        Box::new(Spectral { steps, probes }),
        Box::new(Annealed::new(SetKind::Basin)),
    ]
}

/// Runs the study.
pub fn run(selection: &Selection, settings: Settings, mut output: Output) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for dimension in DIMENSIONS.into_iter().filter(|dimension| selection.has(*dimension)) {
        for spectrum in Spectrum::ALL {
            for is_zero in [true, false] {
                let name = format!("{}, {}", spectrum.name(), if is_zero { "c = 0" } else { "c ~ 0.3 N" });
                if !Selection::contains(selection.body.as_ref(), &name) {
                    continue;
                }
                let body = Ellipsoid::new(spectrum.eigenvalues(dimension), center(is_zero, dimension));
                let truth = Truth::same(body.true_log_probability(SIGMA, CUTOFF));
                let problem = Problem::new(&body, body.eigenvalues().to_vec(), SIGMA, CUTOFF, truth);
                for method in methods(settings) {
                    rows.extend(table::row(&name, &problem, &*method, selection, &mut output)?);
                }
                output.tables(&tables(&rows))?;
            }
        }
    }
    let text = tables(&rows);
    output.finish(&text)
}

fn tables(rows: &[table::Row]) -> String {
    format!("{}\n{}", table::short(rows), table::long(rows))
}
