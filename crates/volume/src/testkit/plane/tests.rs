use super::*;
use crate::objective::Differentiable;
use crate::testkit::Ellipsoid;
use crate::testkit::gradients::tests::{check_gradient, normals};

const REST: [f64; 3] = [1.0, 2.0, 0.5];

fn center() -> Vec<f32> {
    vec![0.3, 0.0, 0.4, -0.3, 0.1]
}

/// Logarithms of the parts of prior draws that are seen from the center (on 400 points of the way) and that are inside, with one standard deviation.
fn monte_carlo(body: &dyn Differentiable, center: &[f32], sigma: f64, cutoff: f64) -> [(f64, f64); 2] {
    const DRAWS: usize = 400_000;
    let draws = normals(5, DRAWS * center.len(), 1.0);
    let (mut seen, mut inside) = (0u32, 0u32);
    for z in draws.chunks(center.len()) {
        let w: Vec<f32> = z.iter().map(|z| (sigma * f64::from(*z)) as f32).collect();
        if body.cost_at(&w).unwrap().nats > cutoff {
            continue;
        }
        inside += 1;
        let on_the_way = |k: u16| -> Vec<f32> { w.iter().zip(center).map(|(w, c)| c + f32::from(k) / 400.0 * (w - c)).collect() };
        seen += u32::from((1..400).all(|k| body.cost_at(&on_the_way(k)).unwrap().nats <= cutoff));
    }
    [seen, inside].map(|count| ((f64::from(count) / DRAWS as f64).ln(), f64::from(count).sqrt().recip()))
}

fn check<G: PlaneCost>(name: &str, body: &PlaneBody<G>, sigma: f64, cutoff: f64, gap: f64) {
    let truth = body.truth(Prior::Gaussian { sigma }, cutoff);
    let [(seen, seen_sd), (inside, inside_sd)] = monte_carlo(body, &body.center, sigma, cutoff);
    let star = truth.star.unwrap();
    assert!((star - seen).abs() < 3.5 * seen_sd && seen_sd < 0.05, "{name}: star {star}, draws {seen} +- {seen_sd}");
    assert!((truth.everything - inside).abs() < 3.5 * inside_sd, "{name}: {truth:?}, draws {inside} +- {inside_sd}");
    assert!(truth.everything - star > gap - 1e-12 && star <= truth.basin && truth.basin <= truth.everything, "{name}: {truth:?}");
    let finer = body.truth_with_panels(Prior::Gaussian { sigma }, cutoff, 23);
    assert!((finer.everything - truth.everything).abs() < 2e-5 && (finer.star.unwrap() - star).abs() < 2e-5, "{name}: {truth:?} {finer:?}");
}

#[test]
fn measures_agree_with_prior_draws() {
    check("valley", &PlaneBody::new(CurvedValley::new(0.05, 8.0, 1.5), REST.to_vec(), center()), 0.9, 0.3, 0.08);
    let near = TwoWells::new([3.0, 1.0], [0.7, 2.0], [1.1, 0.3]);
    assert!(near.pass() < 0.3);
    check("wells that touch", &PlaneBody::new(near, REST.to_vec(), center()), 0.9, 0.3, 0.002);
    let far = TwoWells::new([3.0, 1.0], [0.7, 2.0], [-1.5, 0.4]);
    assert!(far.pass() > 0.3);
    check("wells apart", &PlaneBody::new(far, REST.to_vec(), center()), 0.9, 0.3, 0.1);
    check("crossing, from an arm", &PlaneBody::new(NormalCrossing::new(2.0, 0.3), REST.to_vec(), center()), 0.9, 0.05, 0.002);
    let mut from_crossing = center();
    from_crossing[0] = 0.0;
    check("crossing", &PlaneBody::new(NormalCrossing::new(2.0, 0.0), REST.to_vec(), from_crossing), 0.9, 0.05, 0.0);
}

#[test]
fn bodies_that_are_ellipsoids_have_their_measure() {
    for dimension in [3, 12, 300] {
        let rest: Vec<f64> = (0..dimension - 2).map(|i| 2.0 / (1.0 + i as f64)).collect();
        let center = normals(3, dimension, 0.3);
        let all: Vec<f64> = [0.5, 4.0].into_iter().chain(rest.clone()).collect();
        let ellipsoid = Ellipsoid::new(all, center.clone());
        let straight = PlaneBody::new(CurvedValley::new(0.5, 4.0, 0.0), rest.clone(), center.clone());
        let bent = PlaneBody::new(CurvedValley::new(0.5, 4.0, 3.0), rest.clone(), center.clone());
        let twice = PlaneBody::new(TwoWells::new([0.5, 4.0], [0.5, 4.0], [0.0; 2]), rest.clone(), center.clone());
        let apart = PlaneBody::new(TwoWells::new([0.5, 4.0], [0.5, 4.0], [900.0, 0.0]), rest, center);
        // One quadratic coordinate leaves a square root at the edge.
        let tolerance = if dimension == 3 { 1e-4 } else { 1e-8 };
        for cutoff in [1e-3, 0.5] {
            let gaussian = Prior::Gaussian { sigma: 0.8 };
            let (probability, volume) = (ellipsoid.true_log_probability(0.8, cutoff), ellipsoid.true_log_volume_lebesgue(cutoff));
            for (name, value, expected) in [
                ("straight", straight.truth_with_panels(gaussian, cutoff, 10).everything, probability),
                ("straight, star", straight.truth_with_panels(gaussian, cutoff, 10).star.unwrap(), probability),
                ("straight, volume", straight.truth_with_panels(Prior::Lebesgue, cutoff, 10).star.unwrap(), volume),
                ("bent, volume", bent.truth_with_panels(Prior::Lebesgue, cutoff, 10).everything, volume),
                ("twice the same", twice.truth_with_panels(gaussian, cutoff, 10).everything, probability),
                ("two of them", apart.truth_with_panels(Prior::Lebesgue, cutoff, 10).everything, volume + 2f64.ln()),
                ("one of two", apart.truth_with_panels(Prior::Lebesgue, cutoff, 10).basin, volume),
            ] {
                assert!((value - expected).abs() < tolerance, "D {dimension}, cutoff {cutoff}, {name}: {value} instead of {expected}");
            }
            assert!(
                bent.truth_with_panels(Prior::Lebesgue, 0.5, 10).star.unwrap() < ellipsoid.true_log_volume_lebesgue(0.5) - 1e-3
                    || dimension > 12
            );
        }
    }
}

/// `ln P = constant + (lambda + n/2) ln cutoff + ln |ln cutoff + another constant|`: its slopes in `ln cutoff` give `lambda` and the multiplicity.
#[test]
fn a_crossing_has_the_learning_coefficient_one_half_and_multiplicity_two() {
    let body = PlaneBody::new(NormalCrossing::new(1.0, 0.0), vec![1.0; 4], vec![0.0; 6]);
    let at = |log_cutoff: f64| body.truth(Prior::Gaussian { sigma: 1.0 }, log_cutoff.exp()).everything - 2.5 * log_cutoff;
    let values = [-12.0, -10.0, -8.0].map(|s| at(s).exp());
    // What is left is linear in ln cutoff: multiplicity two. Its second difference is zero, its slope negative.
    let (slope, bend) = (values[1] - values[0], values[0] - 2.0 * values[1] + values[2]);
    assert!(slope < 0.0 && bend.abs() < 1e-3 * slope.abs(), "{values:?}");
    assert_eq!(body.truth(Prior::Lebesgue, 0.1).star, Some(f64::INFINITY));
}

#[test]
fn gradients_and_labels() {
    let weights = [0.9f32, -0.4, 0.2, 0.3, -0.8];
    let valley = PlaneBody::new(CurvedValley::new(0.5, 8.0, 1.5), REST.to_vec(), center());
    check_gradient("valley", &valley, &weights, 6, 2e-3);
    let crossing = PlaneBody::new(NormalCrossing::new(2.0, 0.3), REST.to_vec(), center());
    check_gradient("crossing", &crossing, &weights, 6, 2e-3);
    let wells = PlaneBody::new(TwoWells::new([3.0, 1.0], [0.7, 2.0], [-1.5, 0.4]), REST.to_vec(), center());
    check_gradient("first well", &wells, &[0.5, 0.1, 0.2, 0.3, -0.8], 6, 2e-3);
    check_gradient("second well", &wells, &[-1.0, 0.1, 0.2, 0.3, -0.8], 6, 2e-3);
    let mut score = [0.0f32; 5];
    assert!(wells.likelihood_gradient(&weights, 0..1, 0, &mut score).unwrap_err().to_string().contains("wells"));
    // At the center the mean square of scores is the Hessian: diag(0.5, 8, rest), and diag(0, 2 k a^2 = 0.36, rest).
    for (body, expected) in [(&valley as &dyn Differentiable, [0.5, 8.0]), (&crossing, [0.0, 0.36])] {
        let mut sums = [0.0; 5];
        for seed in 0..20_000 {
            body.likelihood_gradient(&center(), 0..1, seed, &mut score).unwrap();
            sums.iter_mut().zip(&score).for_each(|(sum, s)| *sum += f64::from(*s).powi(2) / 20_000.0);
        }
        for (sum, expected) in sums.iter().zip(expected.iter().chain(&REST)) {
            assert!((sum - expected).abs() <= 0.04 * expected, "{sums:?}");
        }
    }
}
