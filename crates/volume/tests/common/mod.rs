//! An objective from a closure that is exact in `f64`.

use basin_volume::objective::Cost;
use basin_volume::testkit::Closure;

pub fn closure<F: Fn(&[f64]) -> f64 + Sync>(center: Vec<f32>, cost: F) -> Closure<impl Fn(&[f64]) -> Cost + Sync> {
    Closure::new(center, move |w: &[f64]| Cost::exact(cost(w)))
}
