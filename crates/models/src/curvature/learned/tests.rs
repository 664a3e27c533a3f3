use std::ops::Range;

use basin_volume::center::Center;
use basin_volume::direction::Direction;
use basin_volume::objective::{Cost, Objective, ObjectiveError, RayPoint};

use super::*;
use crate::curvature::testkit::perceptron;
use crate::curvature::{Scores, Silent, fisher_diagonal};

/// `C = (w - c)' (diag(h) + b b') (w - c) / 2`.
struct Quadratic {
    center: Vec<f32>,
    diagonal: Vec<f64>,
    beside: Vec<f64>,
}

fn question(prior: Prior) -> Question {
    Question::new(prior, 0.01, 0.0, 3).unwrap()
}

impl Quadratic {
    fn new(dimension: usize, exponent: f64, beside: f64) -> Self {
        let waves = |scale: f64, frequency: f64| move |i: usize| scale * (i as f64 * frequency).sin();
        Self {
            center: (0..dimension).map(waves(0.3, 0.9)).map(|x| x as f32).collect(),
            diagonal: (1..=dimension).map(|i| (i as f64).powf(-exponent)).collect(),
            beside: (0..dimension).map(waves(beside, 0.37)).collect(),
        }
    }

    fn layout(&self) -> ParameterLayout {
        let half = self.center.len() / 2;
        ParameterLayout::new([("first".to_owned(), vec![half]), ("second".to_owned(), vec![self.center.len() - half])])
    }
}

impl Center for Quadratic {
    fn dimension(&self) -> usize {
        self.center.len()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(&self.center[range]);
    }
}

impl Objective for Quadratic {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        let mut values = vec![0.0f32; self.center.len()];
        direction.fill(0..values.len(), &mut values);
        let x: Vec<f64> = values.iter().map(|&x| point.direction * direction.scale() * f64::from(x)).collect();
        let own: f64 = x.iter().zip(&self.diagonal).map(|(x, h)| h * x * x).sum();
        let beside: f64 = x.iter().zip(&self.beside).map(|(x, b)| b * x).sum();
        Ok(Cost::exact(0.5 * (own + beside * beside)))
    }
}

impl Differentiable for Quadratic {
    fn parts(&self) -> usize {
        1
    }

    fn gradient(&self, weights: &[f32], _: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        let x: Vec<f64> = weights.iter().zip(&self.center).map(|(&w, &c)| f64::from(w) - f64::from(c)).collect();
        let beside: f64 = x.iter().zip(&self.beside).map(|(x, b)| b * x).sum();
        for (((slope, x), h), b) in gradient.iter_mut().zip(&x).zip(&self.diagonal).zip(&self.beside) {
            *slope = (h * x + beside * b) as f32;
        }
        Ok(f64::NAN)
    }

    fn likelihood_gradient(&self, _: &[f32], _: Range<usize>, _: u64, _: &mut [f32]) -> Result<f64, ObjectiveError> {
        unreachable!("learning draws no labels")
    }
}

fn first(dimension: usize) -> Vec<f32> {
    (0..dimension).map(|i| (0.5 * (i as f32 * 0.61).cos()).exp()).collect()
}

#[test]
fn slopes_are_the_differences_of_the_log_volume() {
    for prior in [Prior::Lebesgue, Prior::Gaussian { sigma: 0.4 }, Prior::Gaussian { sigma: 0.1 }, Prior::Gaussian { sigma: 0.01 }] {
        for l2_reg in [0.0, 0.02] {
            let objective = Quadratic::new(40, 1.0, 0.5);
            let settings = LearnSettings { group: 3, ..LearnSettings::new(Question::new(prior, 0.05, l2_reg, 3).unwrap()) };
            let first = first(40);
            let groups = Groups::new(&objective.layout(), &first, settings.group);
            assert_eq!((groups.count, groups.sizes.iter().sum::<f64>()), (14, 40.0));
            let (center, space) = (objective.center.clone(), vec![0.0f32; 40]);
            let mut state = State { objective: &objective, settings: &settings, center, weights: space.clone(), gradient: space };
            let logs: Vec<f64> = (0..groups.count).map(|i| 0.2 * (i as f64).sin()).collect();
            let mut unbounded = 0;
            for index in 0..3 {
                let estimator = state.estimator(&groups.factors(&first, &logs), None, 1e-9).unwrap();
                let sample = estimator.sample(index).unwrap();
                unbounded += usize::from(sample.radius.is_infinite());
                let slopes = state.slopes(&estimator, &sample, &groups).unwrap().unwrap();
                for group in 0..groups.count {
                    let at = |step: f64| {
                        let mut logs = logs.clone();
                        logs[group] += step;
                        let estimator = state.estimator(&groups.factors(&first, &logs), None, 1e-9).unwrap();
                        estimator.sample(index).unwrap().log_volume
                    };
                    let difference = (at(5e-3) - at(-5e-3)) / 1e-2;
                    let found = groups.sizes[group] * slopes[group];
                    assert!((found - difference).abs() < 2e-3 * difference.abs() + 1e-3, "{prior:?} {group}: {found} not {difference}");
                }
                let sum: f64 = slopes.iter().zip(&groups.sizes).map(|(slope, size)| slope * size).sum();
                assert!(sum.abs() < 1e-4 * 40.0, "the determinant stays: {sum}");
            }
            // The narrow prior has no mass where the cost reaches the cutoff.
            assert_eq!(unbounded, if prior == (Prior::Gaussian { sigma: 0.01 }) { 3 } else { 0 }, "{prior:?}");
        }
    }
}

#[test]
fn the_best_map_of_a_quadratic_is_found() {
    let dimension = 200;
    let objective = Quadratic::new(dimension, 1.5, 0.0);
    let settings = LearnSettings { steps: 300, group: 1, ..LearnSettings::new(question(Prior::Lebesgue)) };
    let (curvature, report) = learn_diagonal(&objective, &objective.layout(), &vec![1.0; dimension], &settings, &mut Silent).unwrap();
    // P = H^(-1/2) up to its determinant makes the cost the same in all directions, with the geometric mean of the eigenvalues.
    let mean = objective.diagonal.iter().map(|h| h.ln()).sum::<f64>() / dimension as f64;
    let radius = (2.0 * 0.01 / mean.exp()).sqrt();
    let geometry = RayGeometry { dimension: dimension as f64, norm: 1.0, center_dot: 0.0, center_norm_squared: 1.0 };
    let best = Prior::Lebesgue.log_volume(&geometry, radius);
    assert!(report.after < best + 1e-3 && report.after > best - 0.03 * (best - report.before), "{best} {report:?}");
    assert!(!report.kept_first && report.compared == 16 && report.unusable == 0 && report.gradients == 300, "{report:?}");
    assert!((report.gain.0 - (report.after - report.before)).abs() < 1e-9 && report.gain.1 < 0.1 * report.gain.0);
    let Curvature::Factors { values } = curvature else { panic!("factors") };
    let errors: f64 = values.iter().zip(&objective.diagonal).map(|(&p, h)| (f64::from(p).ln() + 0.5 * (h.ln() - mean)).powi(2)).sum();
    assert!((errors / dimension as f64).sqrt() < 0.3, "{errors}");
    // From the best map there is nothing to gain.
    let perfect: Vec<f32> = objective.diagonal.iter().map(|h| (-0.5 * h.ln()).exp() as f32).collect();
    let (curvature, report) = learn_diagonal(&objective, &objective.layout(), &perfect, &settings, &mut Silent).unwrap();
    assert!(report.kept_first && report.gain.0 < 1e-6 && curvature == Curvature::Factors { values: perfect }, "{report:?}");
}

#[test]
fn the_fisher_map_of_a_network_is_improved() {
    let net = perceptron(&[9, 7, 6, 4], 150);
    let layout = net.cost.moving().layout();
    let Curvature::Diagonal { values } = fisher_diagonal(&net.cost, 1, 0, &mut Silent).unwrap() else { panic!("a diagonal") };
    let first: Vec<f32> = values.iter().map(|value| 1.0 / (value.sqrt() + 1e-3)).collect();
    let settings =
        LearnSettings { steps: 150, group: 8, ..LearnSettings::new(question(Prior::Gaussian { sigma: net.cost.moving().rms() })) };
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let run = || learn_diagonal(&net.cost, layout, &first, &settings, &mut Silent).unwrap();
    let (curvature, report) = pool(1).install(run);
    curvature.validate(layout).unwrap();
    assert!(report.gain.0 > 3.0 * report.gain.1 && !report.kept_first && report.evaluations > 150, "{report:?}");
    let again = pool(3).install(run);
    assert!(again == (curvature, report));
}

#[test]
fn what_cannot_be_learned_is_said_in_one_sentence() {
    struct Stop;
    impl Observer for Stop {
        fn step(&mut self, _: usize, _: usize) {}
        fn interrupted(&self) -> bool {
            true
        }
    }
    let objective = Quadratic::new(10, 1.0, 0.0);
    let good = LearnSettings::new(question(Prior::Lebesgue));
    let layout = objective.layout();
    let message = |settings: LearnSettings, first: &[f32]| {
        learn_diagonal(&objective, &layout, first, &settings, &mut Silent).unwrap_err().to_string()
    };
    let ones = [1.0f32; 10];
    let cases = [
        (message(LearnSettings::new(question(Prior::Sphere)), &ones), "spherical prior"),
        (message(LearnSettings { steps: 0, ..good.clone() }, &ones), "`steps` is 0"),
        (message(LearnSettings { group: 0, ..good.clone() }, &ones), "`group` is 0"),
        (message(LearnSettings { held_out: 1, ..good.clone() }, &ones), "`held_out` is 1"),
        (message(LearnSettings { rate: f64::NAN, ..good.clone() }, &ones), "`rate` is NaN"),
        (message(good.clone(), &ones[1..]), "9 entries"),
        (message(good.clone(), &[0.0; 10]), "entry 0 of the first map is 0"),
        (learn_diagonal(&objective, &layout, &ones, &good, &mut Stop).unwrap_err().to_string(), "interrupted after 0 of 232"),
    ];
    for (message, words) in cases {
        assert!(message.contains(words) && !message.contains('\n'), "{message}");
    }
}
