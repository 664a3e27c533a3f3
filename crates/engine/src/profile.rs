//! The cost along one ray.

use std::path::{Path, PathBuf};

use basin_volume::direction::Direction;
use basin_volume::estimator::radial::RadialEstimator;
use basin_volume::guarded::Guarded;
use basin_volume::prior::Prior;
use basin_volume::run::record::null_as_infinity;
use basin_volume::spec::{PreconditionerSpec, RadialSpec};
use basin_volume_models::parameters::ParameterLayout;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde::Serialize;

use crate::error::{Context, Error};
use crate::estimators::question;
use crate::files::{check_file_place, make_folder_of};
use crate::preconditioning::{Preconditioning, Wanted, check_maps, check_proposal, proposal_bytes};
use crate::request::Ask;
use crate::resources::Needs;
use crate::session::Session;
use crate::subject::Subject;

/// What is asked of one ray.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileRequest {
    /// What decides the ray.
    pub ask: Ask,
    /// Index of the direction.
    pub index: u64,
    /// Number of points on the ray.
    pub points: u32,
    /// End of the ray, in units of its radius.
    pub extent: f64,
    /// Where the direction comes from.
    pub preconditioner: String,
    /// File for the direction `v`, one tensor per parameter.
    pub save_direction: Option<PathBuf>,
}

/// The cost along one ray, as written to `profile.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Profile {
    /// Index of the direction.
    pub index: u64,
    /// First `t` with cost = cutoff; `null` if there is none.
    pub radius: Option<f64>,
    /// Norm of v.
    pub norm: f64,
    /// Log-volume of the ray, nats; `null` if infinite.
    #[serde(with = "null_as_infinity")]
    pub log_volume: f64,
    /// How the search ended.
    pub outcome: &'static str,
    /// The cutoff, nats.
    pub cutoff: f64,
    /// From the center outward.
    pub points: Vec<Point>,
    /// Whether distances are angles.
    #[serde(skip)]
    pub is_sphere: bool,
    /// Where the direction comes from.
    #[serde(skip)]
    pub preconditioner: PreconditionerSpec,
}

/// A point of the ray.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// Distance in units of v (an angle under the spherical prior).
    pub t: f64,
    /// Distance in weight space (the same angle under the spherical prior).
    pub distance: f64,
    /// Cost in nats; `null` if not finite.
    pub cost: Option<f64>,
}

impl ProfileRequest {
    /// Refuses what can be seen to be wrong without a subject.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self) -> Result<(), Error> {
        if !(self.extent > 0.0 && self.extent.is_finite()) {
            return Err(Error::usage(format!("`extent` is {}: expected a finite number > 0", self.extent)));
        }
        self.ask.check()?;
        check_maps(&self.ask, std::slice::from_ref(&self.preconditioner))?;
        match &self.save_direction {
            Some(path) => check_file_place("save_direction", path),
            None => Ok(()),
        }
    }
}

/// Evaluates the cost along one ray.
///
/// # Errors
/// When a setting cannot be, the cost fails, or it is told to stop.
pub fn run(request: &ProfileRequest, subject: &dyn Subject, session: &Session) -> Result<Profile, Error> {
    let ProfileRequest { ask, index, points, extent, preconditioner, save_direction } = request;
    request.check()?;
    let (question, _) = question(ask, subject)?;
    let wanted = Wanted { subject, ask, question, proposal: ask.proposal.unwrap_or_default(), session };
    check_proposal(preconditioner, &wanted)?;
    let preconditioning = Preconditioning::resolve(preconditioner, &wanted, None)?;
    preconditioning.check(&wanted)?;
    let settings = RadialSpec { radius_tolerance: ask.radius_tolerance, proposal: wanted.proposal, ..RadialSpec::default() };
    let bytes = proposal_bytes(question, wanted.proposal, preconditioning.bytes(subject.dimension()), subject.dimension());
    let resources = subject.resources(Needs::rays(bytes), session)?;
    session.pool()?.install(|| {
        let objective = subject.objective(&resources)?;
        let objective = Guarded::new(&*objective, &session.interrupt);
        let map = preconditioning.map.clone();
        let estimator = RadialEstimator::new(&objective, question, map, settings, None, resources.directions)?;
        let sample = estimator.sample(*index)?;
        let direction = estimator.direction(*index);
        let is_sphere = matches!(question.prior(), Prior::Sphere);
        // Without a crossing the ray is shown as far as the search looked.
        let reach = if sample.radius.is_finite() { sample.radius } else { sample.evaluated_radius };
        let mut shown = Vec::new();
        for k in 1..=*points {
            let t = extent * reach * f64::from(k) / f64::from(*points);
            let cost = estimator.cost(&direction, t)?.nats;
            shown.push(Point { t, distance: if is_sphere { t } else { t * direction.norm() }, cost: cost.is_finite().then_some(cost) });
        }
        if let Some(path) = save_direction {
            save(path, &direction, &subject.layout(), request)?;
        }
        Ok(Profile {
            index: *index,
            radius: sample.radius.is_finite().then_some(sample.radius),
            norm: direction.norm(),
            log_volume: sample.log_volume,
            outcome: sample.outcome.name(),
            cutoff: question.cutoff(),
            points: shown,
            is_sphere,
            preconditioner: preconditioning.spec.clone(),
        })
    })
}

/// One f32 tensor per moving parameter; `w = c + t v` at distance `t`.
fn save(path: &Path, direction: &Direction, layout: &ParameterLayout, request: &ProfileRequest) -> Result<(), Error> {
    let words = || format!("cannot write the direction to {}", path.display());
    let mut values = vec![0.0f32; direction.dimension()];
    direction.fill(0..direction.dimension(), &mut values);
    let bytes: Vec<u8> = values.iter().flat_map(|&y| ((f64::from(y) * direction.scale()) as f32).to_le_bytes()).collect();
    let mut tensors = Vec::new();
    for parameter in layout.parameters() {
        let range = parameter.range();
        let view = TensorView::new(Dtype::F32, parameter.shape.clone(), &bytes[4 * range.start..4 * range.end]).context(words)?;
        tensors.push((parameter.name.as_str(), view));
    }
    let metadata = [("index".to_owned(), request.index.to_string()), ("seed".to_owned(), request.ask.seed.to_string())];
    make_folder_of(path)?;
    serialize_to_file(tensors, Some(metadata.into_iter().collect()), path).context(words)
}
