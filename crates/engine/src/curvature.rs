//! Computing curvatures: recipes, the memory forecast, and the file in the run folder.
//!
//! A curvature that can be computed is one file here with its [`Recipe`], and one line in [`RECIPES`].

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use basin_volume::question::Question;
use basin_volume::run::folder::{self, names};
use basin_volume::run::manifest::software;
use basin_volume_models::curvature::{self, Curvature, CurvatureError, LearnReport, Observer, Provenance, Scores};
use basin_volume_models::memory::size;
use serde_json::{Map, Value, json};

use crate::error::{Context, Error};
use crate::events::Event;
use crate::guard::GuardedScores;
use crate::resources::Needs;
use crate::session::Session;
use crate::subject::Subject;

mod fisher;
mod hessian;
mod kronecker;
mod learned;
mod low_rank;
mod squared_gradient;
#[cfg(test)]
mod uniform;

/// All recipes, in the order in which they are shown.
pub const RECIPES: &[&dyn Recipe] = &[
    &fisher::Fisher,
    &squared_gradient::SquaredGradient,
    &hessian::Hessian,
    &kronecker::Kronecker,
    &low_rank::LowRank,
    &learned::Learned,
    #[cfg(test)]
    &uniform::Uniform,
];

/// A diagonal by probes that is off by more than this is worth a word.
const TOO_NOISY: f64 = 0.3;

/// How a curvature is computed.
pub trait Recipe: Sync {
    /// Its name where a preconditioner is asked for.
    fn name(&self) -> &'static str;

    /// Its name in files; also understood where it is asked for.
    fn kind(&self) -> &'static str;

    /// The settings that it has beside a seed, of `probes`, `rank`, `steps`, `cutoff` and `sigma`.
    fn takes(&self) -> &'static [&'static str];

    /// Draws of labels per position, or probes, where nothing is asked for.
    fn probes(&self) -> usize {
        1
    }

    /// Whether it is made for a prior and a cutoff, and gives factors of the map instead of a curvature.
    fn is_for_question(&self) -> bool {
        false
    }

    /// Bytes that it takes at most beside the cost, its result included.
    fn bytes(&self, model: &dyn Scores, settings: &Settings) -> u64;

    /// Computes it.
    ///
    /// # Errors
    /// When a setting or the labels cannot be used, the cost fails, or the observer ends it.
    fn compute(&self, work: &Work<'_>, observer: &mut dyn Observer) -> Result<Found, CurvatureError>;
}

/// What a recipe works with.
pub struct Work<'a> {
    /// The cost at the center.
    pub model: &'a dyn Scores,
    /// Whose cost it is.
    pub subject: &'a dyn Subject,
    /// What decides the numbers.
    pub settings: Settings,
}

/// What a recipe found.
#[derive(Debug)]
pub struct Found {
    /// The curvature.
    pub curvature: Curvature,
    /// Gradients over all the data, or passes of the same price.
    pub gradients: usize,
    /// Of a diagonal by probes: error relative to the entries, root mean square.
    pub relative_error: Option<f64>,
    /// What learning brought.
    pub learned: Option<LearnReport>,
}

impl Found {
    /// A curvature about which nothing more is known.
    #[must_use]
    pub fn new(curvature: Curvature, gradients: usize) -> Self {
        Self { curvature, gradients, relative_error: None, learned: None }
    }
}

/// Eigenvectors of low-rank curvature.
const RANK: usize = 16;
/// Steps of learning.
const STEPS: usize = 200;

/// What decides the numbers beside subject and data.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Draws per position, or probes.
    pub probes: usize,
    /// Eigenvectors.
    pub rank: usize,
    /// Steps of learning.
    pub steps: usize,
    /// What a map is learned for; its seed is that of labels and probes.
    pub question: Question,
}

impl Settings {
    /// The defaults of a recipe for a subject.
    #[must_use]
    pub fn new(recipe: &dyn Recipe, question: Question, subject: &dyn Subject) -> Self {
        Self { probes: recipe.probes(), rank: RANK.min(subject.dimension()), steps: STEPS, question }
    }

    /// With what was asked for.
    #[must_use]
    pub fn with(self, probes: Option<NonZeroUsize>, rank: Option<NonZeroUsize>, steps: Option<NonZeroUsize>) -> Self {
        let or = |given: Option<NonZeroUsize>, usual| given.map_or(usual, NonZeroUsize::get);
        Self { probes: or(probes, self.probes), rank: or(rank, self.rank), steps: or(steps, self.steps), ..self }
    }
}

/// A curvature with what it took.
#[derive(Debug)]
pub struct Computed {
    /// What was found.
    pub found: Found,
    /// What decided it.
    pub provenance: Provenance,
    /// How long it took.
    pub time: Duration,
}

/// The recipe of this name.
#[must_use]
pub fn recipe(name: &str) -> Option<&'static dyn Recipe> {
    RECIPES.iter().copied().find(|recipe| recipe.name() == name || recipe.kind() == name)
}

/// The names of all recipes.
#[must_use]
pub fn recipe_names() -> Vec<&'static str> {
    RECIPES.iter().map(|recipe| recipe.name()).collect()
}

fn provenance(recipe: &dyn Recipe, settings: &Settings, subject: &dyn Subject) -> Provenance {
    let mut own: Map<String, Value> = Map::new();
    own.insert("probes".to_owned(), json!(settings.probes));
    let takes = recipe.takes();
    if takes.contains(&"rank") {
        own.insert("rank".to_owned(), json!(settings.rank));
    }
    if takes.contains(&"steps") {
        own.insert("steps".to_owned(), json!(settings.steps));
    }
    if recipe.is_for_question() {
        own.insert("cutoff".to_owned(), json!(settings.question.cutoff()));
        own.insert("l2_reg".to_owned(), json!(settings.question.l2_reg()));
        own.insert("prior".to_owned(), json!(settings.question.prior()));
    }
    Provenance {
        kind: recipe.kind().to_owned(),
        weights_sha256: subject.center_hash(),
        data: subject.record().get("data").cloned().unwrap_or(Value::Null),
        seed: settings.question.seed(),
        settings: own,
        software: software(),
    }
}

/// The curvature with default settings from the run folder, or computed and then kept there.
///
/// # Errors
/// When the folder holds another one, or it cannot be computed or kept.
pub fn cached(
    recipe: &dyn Recipe,
    subject: &dyn Subject,
    question: Question,
    session: &Session,
    run: Option<&Path>,
) -> Result<(Curvature, Provenance), Error> {
    let settings = Settings::new(recipe, question, subject);
    let Some(run) = run else {
        let computed = compute(recipe, &settings, subject, session)?;
        return Ok((computed.found.curvature, computed.provenance));
    };
    let path = run.join(names::CURVATURE);
    if path.exists() {
        let (curvature, found) = curvature::read(&path, &subject.layout(), &subject.center_hash())?;
        let asked = Provenance { software: found.software.clone(), ..provenance(recipe, &settings, subject) };
        if found != asked {
            let different = [
                ("kind", found.kind == asked.kind),
                ("data", found.data == asked.data),
                ("seed", found.seed == asked.seed),
                ("settings", found.settings == asked.settings),
            ];
            let names: Vec<&str> = different.iter().filter(|(_, same)| !same).map(|(name, _)| *name).collect();
            return Err(Error::failed(format!(
                "{} was computed for another question (other {}): choose another folder, or give the file as `preconditioner`",
                path.display(),
                names.join(", ")
            )));
        }
        return Ok((curvature, found));
    }
    folder::check_vacant(run)?;
    let computed = compute(recipe, &settings, subject, session)?;
    curvature::write(&path, &computed.found.curvature, &computed.provenance, &subject.layout())?;
    session.note(&format!("{} computed in {:.1} s, kept in {}", recipe.kind(), computed.time.as_secs_f64(), path.display()));
    Ok((computed.found.curvature, computed.provenance))
}

/// Computes a curvature; says before how much memory that takes, and refuses what does not fit.
///
/// # Errors
/// When a setting cannot be, it does not fit, the cost fails or it is told to stop.
pub fn compute(recipe: &dyn Recipe, settings: &Settings, subject: &dyn Subject, session: &Session) -> Result<Computed, Error> {
    if recipe.takes().contains(&"rank") && settings.rank > subject.dimension() {
        return Err(Error::usage(format!(
            "`rank` is {}: expected at most the number of moving weights, {}",
            settings.rank,
            subject.dimension()
        )));
    }
    let resources = subject.resources(Needs::gradients(subject.gradient_bytes(session.threads)), session)?;
    session.pool()?.install(|| {
        let model = subject.scores(&resources)?;
        let (kind, bytes) = (recipe.kind(), recipe.bytes(&*model, settings));
        let or_more = if subject.offers().memory { ", or give a larger `memory`" } else { "" };
        let remedy = format!("choose another kind or fewer eigenvectors (precondition `rank`){or_more}");
        resources.check(&format!("the {kind} curvature needs"), bytes, &remedy)?;
        session.note(&format!("{kind}: memory {} of {} allowed", size(resources.needed + bytes), size(resources.allowed)));
        let began = Instant::now();
        let guarded = GuardedScores::new(&*model, &session.interrupt);
        let result = recipe.compute(&Work { model: &guarded, subject, settings: *settings }, &mut session.curvature(kind));
        session.tell(&Event::Done);
        if let Err(error @ CurvatureError::Interrupted { .. }) = &result {
            session.note(&format!("Interrupted: {error}."));
        }
        let mut found = result?;
        found.relative_error = found.relative_error.filter(|error| error.is_finite());
        if let Some(error) = found.relative_error.filter(|error| *error > TOO_NOISY) {
            session.note(&format!(
                "The entries of the diagonal are off by {:.0} % after {} probes, and those that came out negative are zero: fisher, or more \
                 probes (precondition `probes`), will serve better.",
                100.0 * error,
                settings.probes
            ));
        }
        Ok(Computed { found, provenance: provenance(recipe, settings, subject), time: began.elapsed() })
    })
}

/// Writes what was computed, and names the file when that fails.
///
/// # Errors
/// When it cannot be written.
pub fn save(path: &Path, computed: &Computed, subject: &dyn Subject) -> Result<(), Error> {
    curvature::write(path, &computed.found.curvature, &computed.provenance, &subject.layout())
        .context(|| format!("the curvature was not saved to {}", path.display()))
}
