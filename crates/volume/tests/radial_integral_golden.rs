//! The radial integral against 60-digit values. The generator is `scripts/fixtures/radial_integral.py`.

use std::fmt::Write as _;
use std::path::Path;

use basin_volume::double_double::DoubleDouble;
use basin_volume::radial_integral::{
    RayGeometry, gaussian_log_volume, lebesgue_log_volume, log_power_gaussian_integral, sphere_log_volume,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    header: Header,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Header {
    count: usize,
    digits: u32,
}

#[derive(Deserialize, Debug)]
struct Case {
    dimension: f64,
    #[serde(flatten)]
    inputs: Inputs,
    value: String,
}

/// A radius of `None` is infinite.
#[derive(Deserialize, Debug)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Inputs {
    Gaussian { norm: f64, center_dot: f64, center_norm_squared: f64, sigma: f64, radius: Option<f64> },
    Power { a: f64, b: f64, radius: Option<f64> },
    Lebesgue { radius: f64 },
    Sphere { angle: f64 },
}

impl Case {
    fn compute(&self) -> f64 {
        let dimension = self.dimension;
        match self.inputs {
            Inputs::Gaussian { norm, center_dot, center_norm_squared, sigma, radius } => {
                let geometry = RayGeometry { dimension, norm, center_dot, center_norm_squared };
                gaussian_log_volume(&geometry, sigma, radius.unwrap_or(f64::INFINITY))
            }
            Inputs::Power { a, b, radius } => {
                let (a, b) = (DoubleDouble::from(a), DoubleDouble::from(b));
                log_power_gaussian_integral(dimension, a, b, radius.unwrap_or(f64::INFINITY)).to_f64()
            }
            Inputs::Lebesgue { radius } => {
                let geometry = RayGeometry { dimension, norm: 3.0, center_dot: 1.0, center_norm_squared: 2.0 };
                lebesgue_log_volume(&geometry, radius)
            }
            Inputs::Sphere { angle } => sphere_log_volume(angle, dimension),
        }
    }
}

#[test]
fn every_case_is_within_the_stated_error() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/radial_integral.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let fixture: Fixture = serde_json::from_str(&text).unwrap();
    assert_eq!(fixture.cases.len(), fixture.header.count);
    assert!(fixture.header.count >= 400 && fixture.header.digits >= 60);
    let mut failures = String::new();
    // The largest error where the tolerance is absolute and where it is relative.
    let mut worst = [0.0f64; 2];
    for case in &fixture.cases {
        let truth: f64 = case.value.parse().unwrap();
        let value = case.compute();
        let size = truth.abs() * 2f64.powi(-20);
        let error = (value - truth).abs() / (1e-8 * size.max(1.0));
        let kind = usize::from(size > 1.0);
        worst[kind] = worst[kind].max(error);
        if error.is_nan() || error > 1.0 {
            writeln!(failures, "{error:9.2e} tolerances: {value:e} for {case:?}").unwrap();
        }
    }
    let count = failures.lines().count();
    assert!(failures.is_empty(), "{count} of {} cases fail:\n{failures}", fixture.cases.len());
    // What the module's documentation promises: a slow loss of digits should be noticed before it matters. Above 2^20 nats the
    // rounding of f and of the parsed truth to f64 is alone 2e-2 tolerances.
    assert!(worst[0] < 1e-2 && worst[1] < 5e-2, "largest errors in tolerances, below and above 2^20 nats: {worst:?}");
}
