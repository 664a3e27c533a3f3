//! Numbers of the core by themselves: directions, draws, integrals.

use basin_volume::direction::DirectionFamily;
use basin_volume::double_double::DoubleDouble;
use basin_volume::preconditioner::Identity;
use basin_volume::prior::Prior;
use basin_volume::radial_integral::{RayGeometry, log_power_gaussian_integral};
use basin_volume::spec::{AnnealedSpec, LlcSpec, RadialSpec, SpectralSpec, settings};
use basin_volume_models::cost::label_uniforms as uniforms;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

use crate::error::request;
use crate::vectors::buffer;

/// Direction number `index` of a seed, uniform on the unit sphere, as (y, scale): the direction is `scale * y`, y a buffer of float32.
#[pyfunction]
pub fn direction(py: Python<'_>, seed: u64, index: u64, dimension: usize) -> (Bound<'_, PyByteArray>, f64) {
    let (values, scale) = py.detach(|| {
        let family = DirectionFamily::new(seed, dimension, std::sync::Arc::new(Identity));
        let direction = family.direction(index, &vec![0.0f32; dimension], None, false);
        let mut values = vec![0.0f32; dimension];
        direction.fill(0..dimension, &mut values);
        (values, direction.scale())
    });
    (buffer(py, &values), scale)
}

/// A float64 in [0, 1) for every position from `start` to `stop`: a pure function of the seed and the position.
#[pyfunction]
pub fn label_uniforms(py: Python<'_>, seed: u64, start: usize, stop: usize) -> Bound<'_, PyByteArray> {
    buffer(py, &uniforms(seed, start..stop))
}

/// Log-volume of a ray, nats; `prior` as manifests have it. With the spherical prior `radius` is an angle.
#[pyfunction]
pub fn ray_log_volume(prior: &str, dimension: f64, norm: f64, center_dot: f64, center_norm_squared: f64, radius: f64) -> PyResult<f64> {
    let prior: Prior = request(prior)?;
    Ok(prior.log_volume(&RayGeometry { dimension, norm, center_dot, center_norm_squared }, radius))
}

/// `log INT_0^radius t^(dimension - 1) exp(-a t^2/2 + b t) dt`.
#[pyfunction]
pub fn log_radial_integral(dimension: f64, a: f64, b: f64, radius: f64) -> f64 {
    log_power_gaussian_integral(dimension, DoubleDouble::from(a), DoubleDouble::from(b), radius).to_f64()
}

/// The settings of an estimator by their names in manifests.
#[pyfunction]
pub fn setting_names(estimator: &str) -> Vec<String> {
    let names: &[&str] = match estimator {
        "radial" => settings::names::<RadialSpec>(),
        "spectral" => settings::names::<SpectralSpec>(),
        "annealed" => settings::names::<AnnealedSpec>(),
        "llc" => settings::names::<LlcSpec>(),
        _ => &[],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}
