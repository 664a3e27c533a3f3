//! How long what is asked will take: one evaluation and one gradient are timed, and multiplied by what such runs have taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use basin_volume::direction::DirectionFamily;
use basin_volume::estimator::radial::Directions;
use basin_volume::guarded::Guarded;
use basin_volume::objective::{Differentiable, Objective, RayPoint};
use basin_volume::preconditioner::Identity;

use crate::error::Error;
use crate::resources::Needs;
use crate::session::Session;
use crate::subject::Subject;

/// What is quick is timed again until so much time has gone by: the first call is the slowest.
const TIMED: Duration = Duration::from_millis(30);
/// But not more often than this: the cost may be somebody else's, who counts its calls.
const CALLS: usize = 3;
/// How far from the center the evaluation is timed: near enough for any cost to be finite.
const NEAR: f64 = 1e-6;

/// What one evaluation and one gradient take, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Of the cost on a ray.
    pub evaluation: f64,
    /// Of the cost with its gradient; none without one.
    pub gradient: Option<f64>,
}

/// The work of a whole run, as far as it can be known before: from the least to the most that such runs have taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Evaluations of the cost without its gradient.
    pub evaluations: (f64, f64),
    /// Gradients.
    pub gradients: (f64, f64),
    /// How many of them are computed at once.
    pub at_once: f64,
}

/// A time from the least to the most, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// If all goes well.
    pub least: f64,
    /// If it does not.
    pub most: f64,
}

impl Pace {
    /// Times the cost of a subject, and its gradient where `needs_gradients`.
    ///
    /// # Errors
    /// When the cost cannot be evaluated at the center, or it is told to stop.
    pub fn of(subject: &dyn Subject, needs_gradients: bool, session: &Session) -> Result<Self, Error> {
        let resources = if needs_gradients {
            subject.resources(Needs::gradients(8 * subject.dimension() as u64 + subject.gradient_bytes(session.threads)), session)?
        } else {
            subject.resources(Needs::rays(0), session)?
        };
        session.pool()?.install(|| {
            let keeps = resources.directions == Directions::Kept;
            let on_ray = |objective: &dyn Objective| {
                let objective = Guarded::new(objective, &session.interrupt);
                let stream = DirectionFamily::new(0, subject.dimension(), Arc::new(Identity));
                let direction = stream.direction(0, &objective, None, keeps);
                timed(session, || Ok(objective.cost(&direction, RayPoint::straight(NEAR)).map(|_| ())?))
            };
            if !needs_gradients {
                return Ok(Self { evaluation: on_ray(&*subject.objective(&resources)?)?, gradient: None });
            }
            let model = subject.differentiable(&resources)?;
            let guarded = Guarded::new(&*model, &session.interrupt);
            let evaluation = timed_at_center(session, &guarded, |at, _| Ok(guarded.cost_at(at).map(|_| ())?))?;
            let parts = 0..guarded.parts();
            let gradient = timed_at_center(session, &guarded, |at, gradient| {
                gradient.fill(0.0);
                Ok(guarded.gradient(at, parts.clone(), gradient).map(|_| ())?)
            })?;
            Ok(Self { evaluation, gradient: Some(gradient) })
        })
    }

    /// Of the largest of several costs: all of them are evaluated.
    #[must_use]
    pub fn together(paces: &[Self]) -> Self {
        Self { evaluation: paces.iter().map(|pace| pace.evaluation).sum(), gradient: paces.iter().map(|pace| pace.gradient).sum() }
    }
}

/// The shortest time of a few calls with the center and a vector of its length.
fn timed_at_center(
    session: &Session,
    model: &dyn Differentiable,
    mut call: impl FnMut(&[f32], &mut [f32]) -> Result<(), Error>,
) -> Result<f64, Error> {
    let mut center = vec![0.0f32; model.dimension()];
    model.center(0..center.len(), &mut center);
    let mut gradient = vec![0.0f32; center.len()];
    timed(session, || call(&center, &mut gradient))
}

/// The shortest time of a few calls, seconds.
fn timed(session: &Session, mut call: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    let began = Instant::now();
    let mut shortest = f64::INFINITY;
    for _ in 0..CALLS {
        session.proceed()?;
        let this = Instant::now();
        call()?;
        shortest = shortest.min(this.elapsed().as_secs_f64());
        if began.elapsed() >= TIMED {
            break;
        }
    }
    Ok(shortest)
}

impl Work {
    /// How long it takes at this pace.
    #[must_use]
    pub fn at(&self, pace: &Pace) -> Forecast {
        let gradient = pace.gradient.unwrap_or(f64::NAN);
        let of = |evaluations: f64, gradients: f64| {
            let gradients = if gradients > 0.0 { gradients * gradient } else { 0.0 };
            (evaluations * pace.evaluation + gradients) / self.at_once
        };
        Forecast { least: of(self.evaluations.0, self.gradients.0), most: of(self.evaluations.1, self.gradients.1) }
    }
}

impl Forecast {
    /// One after the other.
    #[must_use]
    pub fn sum(parts: &[Self]) -> Self {
        Self { least: parts.iter().map(|part| part.least).sum(), most: parts.iter().map(|part| part.most).sum() }
    }

    /// What is likely: as many times more than the least as the most is more than it.
    #[must_use]
    pub fn likely(&self) -> f64 {
        (self.least * self.most).sqrt()
    }

    /// In words: `about 12 s`, `3 to 45 h`.
    #[must_use]
    pub fn words(&self) -> String {
        if self.most < 1.0 {
            return duration(self.most);
        }
        if self.most <= 3.0 * self.least {
            return format!("about {}", duration(self.likely()));
        }
        format!("{} to {}", duration(self.least), duration(self.most))
    }
}

/// A time as people say it: `12 s`, `3 min`, `2.5 h`, `4 days`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    let shown = |value: f64, unit: &str| {
        let digits = if value < 9.95 && value.fract() > 0.05 { 1 } else { 0 };
        format!("{value:.digits$} {unit}")
    };
    match seconds {
        s if !s.is_finite() => "an unknown time".to_owned(),
        s if s < 1.0 => "less than 1 s".to_owned(),
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 90.0 * 60.0 => format!("{:.0} min", s / 60.0),
        s if s < 48.0 * 3600.0 => shown(s / 3600.0, "h"),
        s if s < 730.0 * 86400.0 => format!("{:.0} days", s / 86400.0),
        _ => "years".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_their_own_unit() {
        let said = [0.2, 12.4, 200.0, 9000.0, 7200.0, 400_000.0, 1e9, f64::NAN].map(duration);
        assert_eq!(said, ["less than 1 s", "12 s", "3 min", "2.5 h", "2 h", "5 days", "years", "an unknown time"]);
        assert_eq!(Forecast { least: 60.0, most: 80.0 }.words(), "about 69 s");
        assert_eq!(Forecast { least: 0.1, most: 0.2 }.words(), "less than 1 s");
        assert_eq!(Forecast { least: 60.0, most: 6000.0 }.words(), "60 s to 1.7 h");
    }

    #[test]
    fn work_is_multiplied_by_the_pace() {
        let work = Work { evaluations: (10.0, 100.0), gradients: (1.0, 2.0), at_once: 2.0 };
        let found = work.at(&Pace { evaluation: 0.1, gradient: Some(4.0) });
        assert_eq!((found.least, found.most), (2.5, 9.0));
        let rays = Work { gradients: (0.0, 0.0), ..work };
        assert_eq!(rays.at(&Pace { evaluation: 0.1, gradient: None }).most, 5.0);
        assert!(work.at(&Pace { evaluation: 0.1, gradient: None }).most.is_nan());
    }
}
