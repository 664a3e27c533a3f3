//! Many estimates along a grid, each an ordinary run folder, with one table of all.
//!
//! A point is computed as an estimate is. Everything that a scan shows comes from the run folders, so that a scan resumes, and its shards are joined,
//! like a run.

mod folder;
mod grid;
mod parts;
mod points;
mod request;
mod summary;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use basin_volume::random;
use basin_volume::run::driver::RunEnd;
use basin_volume::run::folder::{self as run_folder, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::RunSpec;

pub use folder::{CommonSigma, ScanFile, is_scan};
pub use grid::short;
pub use parts::Parts;
pub use points::{Point, Target};
pub use request::{SETTINGS, Scan, ScanKind};
pub use summary::{Between, Difference, Place, Segment, Slope, Summary};
pub use table::Row;

use crate::error::Error;
use crate::estimate::short_hash;
use crate::estimators::{Computed, Family, Prepared, Request, family, question, radial, refuse_settings_of_others};
use crate::loaded::Loaded;
use crate::numbers::nats;
use crate::preconditioning::computed;
use crate::request::{Estimate, PriorKind, Sigma};
use crate::session::Session;
use crate::spread::{ShardChoice, Task};
use crate::subject::{ChosenSigma, Subject};

/// What a scan has come to.
#[derive(Debug)]
pub struct ScanOutcome {
    /// Where it is.
    pub folder: PathBuf,
    /// What was asked, and where each point is.
    pub file: ScanFile,
    /// What the points say; none where nothing was computed.
    pub summary: Option<Summary>,
    /// Whether every point was come to.
    pub end: RunEnd,
    /// Points that could not be computed, with why.
    pub failures: Vec<Failure>,
    /// The folders of the points that were computed now, rather than found.
    pub computed: Vec<PathBuf>,
}

/// A point that could not be computed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The point in words.
    pub point: String,
    /// Why.
    pub reason: String,
}

/// Computes what the folder of a scan lacks.
///
/// # Errors
/// When something cannot be. A point that fails is passed over, and told in the outcome.
pub fn run(scan: &Scan, session: &Session) -> Result<ScanOutcome, Error> {
    if let Some(task) = Task::of(scan.shard, scan.out.as_deref())? {
        return task.scan(scan, session, |own| run(own, session));
    }
    let kind = scan.kind()?;
    let families = scan.families()?;
    scan.check(kind, &families)?;
    let targets = points::targets(scan)?;
    let mut loaded = None;
    let (targets, components) = match kind {
        ScanKind::Components => parts::targets(scan, &targets, &mut loaded, session)?,
        _ => (targets, Vec::new()),
    };
    let points = points::points(scan, kind, &targets, &components, &families)?;
    if let Some(first) = points.first() {
        refuse_settings_of_others(&scan.estimate(kind, first, families.len() == 1)?, &families)?;
    }
    let settings = scan.decisive_settings()?;
    let out = match &scan.out {
        Some(out) => out.clone(),
        None => {
            let text = serde_json::to_string(&(&settings, scan.shard))?;
            Path::new("runs").join(format!("scan-{}-{}", kind.name(), short_hash(&text)))
        }
    };
    let mut file = ScanFile::new(kind, settings, targets, points, scan.shard.part());
    let is_new = !is_scan(&out);
    file.open(&out)?;
    let has_points = || fs::read_dir(out.join("points")).is_ok();
    let leave_nothing_empty = || {
        if is_new && !has_points() {
            folder::remove(&out);
        }
    };
    if file.sigma.is_none() {
        file.sigma = common_sigma(scan, &file, &mut loaded, session).inspect_err(|_| leave_nothing_empty())?;
        if file.sigma.is_some() {
            file.write(&out)?;
        }
    }
    if let Some(sigma) = &file.sigma {
        session.note(&format!("{} Another one with `sigma`.", sigma.words()));
    }
    let mut work = Work {
        scan,
        kind,
        families,
        file: &file,
        out: &out,
        session,
        loaded,
        rows: Vec::new(),
        failures: Vec::new(),
        computed: Vec::new(),
    };
    let ended = work.compute();
    let Work { failures, computed, .. } = work;
    leave_nothing_empty();
    let end = ended?;
    // From the folders, as a report of the same scan: what this job did not compute is in them too.
    let summary = if has_points() { Some(summarize(&out, &file)?) } else { None };
    Ok(ScanOutcome { folder: out, file, summary, end, failures, computed })
}

/// Writes the table of a scan and what follows from it.
///
/// # Errors
/// When a run cannot be read, or a file not written.
pub fn summarize(out: &Path, file: &ScanFile) -> Result<Summary, Error> {
    let rows = file.read_rows(out)?;
    let summary = Summary::of(out, file, &rows)?;
    table::write_csv(&out.join(folder::CSV), file.kind(), &rows)?;
    table::write_parquet(&out.join(folder::PARQUET), file.kind(), &rows)?;
    run_folder::write_json(&out.join(folder::SUMMARY), &summary)?;
    Ok(summary)
}

/// Joins the shards of a scan point by point.
///
/// # Errors
/// When they are not shards of one scan, or the new folder is occupied.
pub fn merge(folders: &[PathBuf], out: &Path) -> Result<(ScanFile, Summary), Error> {
    let file = folder::merge(folders, out)?;
    let summary = summarize(out, &file)?;
    Ok((file, summary))
}

/// A scan at work.
struct Work<'a> {
    scan: &'a Scan,
    kind: ScanKind,
    families: Vec<&'static dyn Family>,
    file: &'a ScanFile,
    out: &'a Path,
    session: &'a Session,
    /// The model that is loaded, with its data.
    loaded: Option<(String, Loaded)>,
    rows: Vec<Row>,
    failures: Vec<Failure>,
    computed: Vec<PathBuf>,
}

impl Work<'_> {
    /// Computes what the folders lack. A point that fails is passed over; wrong usage stops the scan.
    fn compute(&mut self) -> Result<RunEnd, Error> {
        let counts = self.file.sample_counts();
        let mut units = 0;
        for (number, point) in self.file.points.iter().enumerate() {
            let words = point.words(self.kind);
            let place = format!("[{}/{}] {words}", number + 1, self.file.points.len());
            match self.point(point, &mut units, &place) {
                Ok(None) => {}
                Ok(Some(computed)) => {
                    crate::comparison::write_runs(&computed.runs)?;
                    let rows = table::rows(self.kind, &counts, point, &computed.runs)?;
                    if let Some(row) = rows.last() {
                        let number = row.estimate().map_or("no number".to_owned(), |value| format!("{} nats", nats(value)));
                        self.session.note(&format!("{place}: {number} ({}), {:.1} s", row.answer.trust.words(), row.answer.seconds));
                    }
                    self.rows.extend(rows);
                    // So that the table can be watched.
                    table::write_csv(&self.out.join(folder::CSV), self.kind, &self.rows)?;
                    if computed.end == RunEnd::Interrupted {
                        return Ok(computed.end);
                    }
                }
                Err(Error::Interrupted) => return Ok(RunEnd::Interrupted),
                Err(Error::Usage(message)) => return Err(Error::usage(format!("{words}: {message}"))),
                Err(error) => {
                    let reason = error.sentence();
                    self.session.note(&format!("{place}: {reason}"));
                    self.failures.push(Failure { point: words, reason });
                }
            }
        }
        Ok(RunEnd::Completed)
    }

    /// One point; none if this shard has no part of it. `units` counts the samples of the points before.
    fn point(&mut self, point: &Point, units: &mut u64, place: &str) -> Result<Option<Computed>, Error> {
        let Self { scan, kind, ref families, file, out, session, ref mut loaded, ref mut computed, .. } = *self;
        let mut asked = scan.estimate(kind, point, families.len() == 1)?;
        if let Some(common) = file.sigma.as_ref().filter(|_| !matches!(asked.ask.sigma, Some(Sigma::Value(_)))) {
            asked.ask.sigma = Some(Sigma::Value(common.value));
        }
        let family = family(&point.estimator)?;
        let has_shards = family.capabilities().shards;
        let shard = scan.shard.part().after(*units);
        // What a point weighs need not be right, only the same for every shard.
        *units += if has_shards { asked.ask.samples.unwrap_or(radial::SAMPLES) } else { 1 };
        if has_shards {
            asked.shard = ShardChoice::Part(shard);
        } else if shard.indices(1).count() == 0 {
            return Ok(None);
        }
        let folder = out.join(&point.folder);
        asked.out = Some(folder.clone());
        let component = (kind == ScanKind::Components).then_some(point.component.as_deref());
        let subject = load(loaded, &point.model, component, scan, session)?;
        if kind == ScanKind::Sigma {
            let (question, _) = question(&asked.ask, subject)?;
            let Some(sigma) = question.sigma() else { return Err(Error::usage("a scan of sigma needs `prior=gaussian`")) };
            if let (true, Some(factor)) = (point.is_multiple, point.value) {
                asked.ask.sigma = Some(Sigma::Value(factor * sigma));
            }
        }
        let request = Request::new(family, families, &asked, subject, session)?;
        let prepared = family.prepare(&request)?;
        if prepared.records().is_some_and(|records| asked.shard.part().indices(records).count() == 0) {
            return Ok(None);
        }
        if is_complete(&*prepared, &folder, &asked)? {
            return Ok(Some(Computed { runs: vec![family.read(&folder)?], end: RunEnd::Completed }));
        }
        if let Some(words) = subject.data_words().filter(|_| computed.is_empty()) {
            session.note(&words);
        }
        session.note(&format!("{place} ..."));
        share_curvature(file, out, point, &asked)?;
        let done = prepared.run(&folder)?;
        computed.push(folder);
        Ok(Some(done))
    }
}

/// The scale of the prior of all points, where they are of several models and each would have its own: that of the last that there is of the first
/// target, which in a training is the last step.
fn common_sigma(
    scan: &Scan,
    file: &ScanFile,
    loaded: &mut Option<(String, Loaded)>,
    session: &Session,
) -> Result<Option<CommonSigma>, Error> {
    let Some(first) = file.points.first() else { return Ok(None) };
    let is_own = scan.ask.prior == PriorKind::Gaussian && !matches!(scan.ask.sigma, Some(Sigma::Value(_)));
    if !is_own {
        return Ok(None);
    }
    if file.kind() == ScanKind::Components {
        // The parts are compared with each other and with the whole.
        let ChosenSigma { sigma, choice } = load(loaded, &first.model, Some(None), scan, session)?.sigma(scan.ask.sigma)?;
        return Ok(Some(CommonSigma { value: sigma, from: format!("{choice} of the whole model") }));
    }
    if file.points.iter().all(|point| point.model == first.model) {
        return Ok(None);
    }
    let mut tried: Vec<&str> = Vec::new();
    for point in file.points.iter().rev().filter(|point| point.target == first.target) {
        if tried.contains(&point.model.as_str()) {
            continue;
        }
        tried.push(&point.model);
        match load(loaded, &point.model, None, scan, session) {
            Ok(subject) => {
                let ChosenSigma { sigma, choice } = subject.sigma(scan.ask.sigma)?;
                let step = point.value.filter(|_| file.kind() == ScanKind::Checkpoints);
                let step = step.map_or_else(String::new, |step| format!(", step {}", short(step)));
                return Ok(Some(CommonSigma { value: sigma, from: format!("{choice} of {}{step}", point.target) }));
            }
            Err(error @ (Error::Usage(_) | Error::Interrupted)) => return Err(error),
            // It is told when its points are come to.
            Err(_) => {}
        }
    }
    Ok(None)
}

/// The model of a point with its data; in a scan of components with the weights that move, of all or of one component. It stays loaded while the
/// points that follow have the same.
fn load<'l>(
    loaded: &'l mut Option<(String, Loaded)>,
    model: &str,
    component: Option<Option<&str>>,
    scan: &Scan,
    session: &Session,
) -> Result<&'l dyn Subject, Error> {
    let found = match loaded.take() {
        Some((name, found)) if name == model => found,
        // The one before is given up first: two large models need not fit.
        other => {
            drop(other);
            Loaded::load(model, &scan.cost_request(), session)?
        }
    };
    let found = match component {
        Some(name) => found.of_component(name, &scan.cost_request())?,
        None => found,
    };
    Ok(&loaded.insert((model.to_owned(), found)).1)
}

/// A curvature does not depend on what most scans vary: the file of another point with the same model serves.
fn share_curvature(file: &ScanFile, out: &Path, point: &Point, asked: &Estimate) -> Result<(), Error> {
    let Some(recipe) = asked.preconditioner.first().and_then(|name| computed(name)) else { return Ok(()) };
    let folder = out.join(&point.folder);
    let path = folder.join(names::CURVATURE);
    // A learned map is learned for its cutoff and prior.
    if recipe.is_for_question() || path.exists() {
        return Ok(());
    }
    let has_same_weights = |other: &Point| other.model == point.model && other.component == point.component;
    let is_same = |other: &&Point| has_same_weights(other) && other.preconditioner_name() == point.preconditioner_name();
    let mut others = file.points.iter().filter(is_same).map(|other| out.join(&other.folder).join(names::CURVATURE));
    if let Some(found) = others.find(|path| path.exists()) {
        run_folder::check_vacant(&folder)?;
        let share = || -> std::io::Result<()> {
            fs::create_dir_all(&folder)?;
            // Without links between files, as on some file systems, the bytes are copied.
            if fs::hard_link(&found, &path).is_err() {
                let unfinished = folder.join(".curvature.shared.partial");
                fs::copy(&found, &unfinished)?;
                fs::rename(&unfinished, &path)?;
            }
            Ok(())
        };
        crate::error::Context::context(share(), || format!("cannot share the curvature {}", found.display()))?;
    }
    Ok(())
}

/// Whether a folder holds this very run with all its records, so that nothing has to be computed, not even the center.
fn is_complete(prepared: &dyn Prepared, folder: &Path, asked: &Estimate) -> Result<bool, Error> {
    let (Some(records), [spec]) = (prepared.records(), prepared.specs()) else { return Ok(false) };
    if !folder.join(names::MANIFEST).exists() {
        return Ok(false);
    }
    let manifest = run_folder::read_manifest(folder)?;
    // A curvature that is computed is known by its name alone before.
    let is_computed = asked.preconditioner.first().is_some_and(|name| computed(name).is_some());
    let has_name = manifest.spec.preconditioner.label() == spec.preconditioner.label();
    let preconditioner = if is_computed && has_name { manifest.spec.preconditioner.clone() } else { spec.preconditioner.clone() };
    let spec = RunSpec { preconditioner, ..spec.clone() };
    let same = Manifest { spec, shard: asked.shard.part(), ..manifest.clone() };
    let is_current = manifest.directions == random::VERSION;
    if !is_current || !manifest.differences(&same, true).is_empty() || manifest.samples < records {
        return Ok(false);
    }
    let lines = fs::read_to_string(folder.join(names::SAMPLES)).unwrap_or_default().matches('\n').count();
    Ok(lines >= asked.shard.part().indices(manifest.samples).count())
}
