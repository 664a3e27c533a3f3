//! `scan`: many estimates along a grid, each an ordinary run folder, with one table and figures of all.
//!
//! A point is computed as `estimate` computes it, from the arguments that `estimate` would have had. Everything that the scan shows comes
//! from the run folders, so that a scan resumes, and its shards are joined, like a run.

mod config;
mod figures;
mod folder;
mod grid;
mod page;
mod points;
mod summary;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::anyhow;
use basin_volume::prior::Prior;
use basin_volume::run::driver::RunEnd;
use basin_volume::run::folder::{self as run_folder, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::RunSpec;

pub use folder::{ScanFile, is_scan};
pub use page::page;
pub use summary::Summary;
pub use table::Row;

use self::points::Point;
use super::estimate::{self, Family, Prepared, Request, Runs, family, parse_settings, refuse_flags_of_others};
use super::{print, print_json};
use crate::args::{CurvatureChoice, EstimateArgs, ScanArgs, ScanKind, SigmaChoice};
use crate::error::{CommandError, CommandResult};
use crate::preconditioning::computed;
use crate::present::nats;
use crate::problem::Problem;
use crate::target::eprintln_status;

pub fn run(args: &ScanArgs, interrupt: &AtomicBool) -> CommandResult {
    let from_file;
    let args = match &args.config {
        Some(path) => {
            from_file = config::with_file(args, path)?;
            &*from_file
        }
        None => args,
    };
    let kind = args.kind.ok_or_else(|| {
        CommandError::usage("say what is varied, such as `scan cutoff MODEL`, or give a file with --config (scan --help shows both)")
    })?;
    if args.targets.is_empty() {
        return Err(CommandError::usage(format!("scan {} of which model? Give one or several", kind.name())));
    }
    let families = points::families(args)?;
    check(args, kind, &families)?;
    let targets = points::targets(args)?;
    if args.print_config {
        return print(config::to_toml(kind, &config::settings(args, false))?.trim_end());
    }
    let points = points::points(args, kind, &targets)?;
    let is_alone = families.len() == 1;
    if let Some(first) = points.first() {
        refuse_flags_of_others(&points::estimate_args(args, kind, first, is_alone)?, &families)?;
    }
    let settings = config::settings(args, true);
    let out = match &args.out {
        Some(out) => out.clone(),
        None => {
            let text = serde_json::to_string(&(&settings, args.shard))?;
            Path::new("runs").join(format!("scan-{}-{}", kind.name(), estimate::short_hash(&text)))
        }
    };
    let file = ScanFile::new(kind, settings, targets, points, args.shard);
    let is_new = !is_scan(&out);
    file.open(&out)?;
    let mut scan = Scan { args, kind, is_alone, file: &file, out: &out, interrupt, loaded: None, rows: Vec::new(), failures: Vec::new() };
    let ended = scan.compute();
    let failures = scan.failures;
    if is_new && fs::read_dir(out.join("points")).is_err() {
        folder::remove(&out);
    }
    let end = ended?;
    // From the folders, as a report of the same scan: what this command did not compute is in them too.
    if fs::read_dir(out.join("points")).is_ok() {
        present(&out, &file, args.json)?;
    }
    if end == RunEnd::Interrupted {
        eprintln_status("Interrupted: everything computed is in the folder of the scan; the same command continues it.");
        return Err(CommandError::Interrupted);
    }
    match failures.as_slice() {
        [] => Ok(()),
        [(point, error)] => Err(anyhow!("{point} could not be computed: {error}").into()),
        [(point, error), ..] => {
            Err(anyhow!("{} of {} points could not be computed; the first is {point}: {error}", failures.len(), file.points.len()).into())
        }
    }
}

/// Refuses what can be seen to be wrong without a model.
fn check(args: &ScanArgs, kind: ScanKind, families: &[&'static dyn Family]) -> CommandResult {
    if let Some(flag) = args.given.0.iter().find(|flag| flag.is_typed && Some(flag.name.as_str()) == kind.replaced_flag()) {
        return Err(CommandError::usage(format!("--{} is what the scan varies: give its values as --grid", flag.name)));
    }
    let has_rays = families.iter().any(|family| family.name() == "radial");
    if !has_rays && !args.preconditioner.is_empty() {
        return Err(CommandError::usage("--preconditioner belongs to --estimator radial: leave it out, or add radial"));
    }
    if !has_rays && kind == ScanKind::Samples {
        return Err(CommandError::usage("a scan of the samples counts rays: it needs --estimator radial"));
    }
    if matches!(kind, ScanKind::Exponent | ScanKind::Epsilon) {
        let has_map = args.preconditioner.is_empty() || args.preconditioner.iter().any(|name| name != "none");
        if !has_rays || !has_map {
            let name = kind.name();
            return Err(CommandError::usage(format!(
                "a scan of the {name} varies the preconditioner of rays: it needs --estimator radial and a --preconditioner such as adam2"
            )));
        }
    }
    Ok(())
}

/// Writes table and figures of a scan, and shows the table.
pub fn present(out: &Path, file: &ScanFile, as_json: bool) -> Result<Summary, CommandError> {
    let rows = file.read_rows(out)?;
    let summary = Summary::of(out, file, &rows)?;
    table::write_csv(&out.join(folder::CSV), file.kind(), &rows)?;
    table::write_parquet(&out.join(folder::PARQUET), file.kind(), &rows)?;
    run_folder::write_json(&out.join(folder::SUMMARY), &summary)?;
    figures::draw(out, file, &summary)?;
    if as_json {
        print_json(&summary)?;
    } else {
        print(&format!("{}\nFolder of the scan: {}", summary.text(), out.display()))?;
    }
    Ok(summary)
}

/// Joins the shards of a scan point by point.
pub fn merge(folders: &[PathBuf], out: &Path, as_json: bool) -> CommandResult {
    let file = folder::merge(folders, out)?;
    present(out, &file, as_json)?;
    Ok(())
}

/// The runs of a point, and how they ended.
type Computed = (Box<dyn Runs>, RunEnd);

/// A scan at work.
struct Scan<'a> {
    args: &'a ScanArgs,
    kind: ScanKind,
    /// Whether there is one estimator.
    is_alone: bool,
    file: &'a ScanFile,
    out: &'a Path,
    interrupt: &'a AtomicBool,
    /// The model that is loaded, with its data.
    loaded: Option<(String, Problem)>,
    rows: Vec<Row>,
    /// Points with why they could not be computed.
    failures: Vec<(String, String)>,
}

impl Scan<'_> {
    /// Computes what the folders lack. A point that fails is passed over, and said at the end; wrong usage stops the scan.
    fn compute(&mut self) -> Result<RunEnd, CommandError> {
        let counts = self.file.sample_counts();
        let mut units = 0;
        for (number, point) in self.file.points.iter().enumerate() {
            let words = point.words(self.kind);
            let place = format!("[{}/{}] {words}", number + 1, self.file.points.len());
            match self.point(point, &mut units, &place) {
                Ok(None) => {}
                Ok(Some((runs, end))) => {
                    runs.write(None)?;
                    let rows = table::rows(self.kind, &counts, point, &*runs)?;
                    if let Some(row) = rows.last() {
                        let number = row.estimate().map_or("no number".to_owned(), |value| format!("{} nats", nats(value)));
                        eprintln_status(&format!("{place}: {number} ({}), {:.1} s", row.answer.trust.words(), row.answer.seconds));
                    }
                    self.rows.extend(rows);
                    // So that the table can be watched.
                    table::write_csv(&self.out.join(folder::CSV), self.kind, &self.rows)?;
                    if end == RunEnd::Interrupted {
                        return Ok(end);
                    }
                }
                Err(CommandError::Interrupted) => return Ok(RunEnd::Interrupted),
                Err(CommandError::Usage(message)) => return Err(CommandError::usage(format!("{words}: {message}"))),
                Err(error) => {
                    let error = config::words(&error);
                    eprintln_status(&format!("{place}: {error}"));
                    self.failures.push((words, error));
                }
            }
        }
        Ok(RunEnd::Completed)
    }

    /// One point; none if this shard has no part of it. `units` counts the samples of the points before.
    fn point(&mut self, point: &Point, units: &mut u64, place: &str) -> Result<Option<Computed>, CommandError> {
        let mut asked = points::estimate_args(self.args, self.kind, point, self.is_alone)?;
        let family = family(&point.estimator)?;
        let shard = self.args.shard.after(*units);
        // What a point weighs need not be right, only the same for every shard.
        *units += if family.has_shards() { asked.samples.unwrap_or(estimate::RAYS) } else { 1 };
        if !family.has_shards() {
            if shard.indices(1).count() == 0 {
                return Ok(None);
            }
        } else {
            asked.shard = shard;
        }
        let folder = self.out.join(&point.folder);
        let problem = load(&mut self.loaded, (self.kind, point), &mut asked, self.interrupt)?;
        let settings = parse_settings(&asked, &[family])?;
        let request = Request::new(family, &asked, problem, &settings, self.interrupt);
        let prepared = family.prepare(&request)?;
        if prepared.records().is_some_and(|records| asked.shard.indices(records).count() == 0) {
            return Ok(None);
        }
        if is_complete(&*prepared, &folder, &asked)? {
            return Ok(Some((family.read(std::slice::from_ref(&folder))?, RunEnd::Completed)));
        }
        eprintln_status(&format!("{place} ..."));
        share_curvature(self.file, self.out, point, &asked)?;
        prepared.run(&folder).map(Some)
    }
}

/// The model of a point with its data, asked what the point asks. It stays loaded while the points that follow have the same.
fn load<'a>(
    loaded: &'a mut Option<(String, Problem)>,
    (kind, point): (ScanKind, &Point),
    asked: &mut EstimateArgs,
    interrupt: &AtomicBool,
) -> Result<&'a Problem, CommandError> {
    let mut problem = match loaded.take() {
        Some((model, problem)) if model == point.model => problem,
        // The one before is given up first: two large models need not fit.
        other => {
            drop(other);
            Problem::resolve(&asked.problem, &asked.rays, interrupt)?
        }
    };
    problem.ask(&asked.rays)?;
    if let (true, Some(factor), Prior::Gaussian { sigma }) = (point.is_multiple, point.value, problem.prior) {
        asked.rays.sigma = Some(SigmaChoice::Value(factor * sigma));
        problem.ask(&asked.rays)?;
    } else if kind == ScanKind::Sigma && !matches!(problem.prior, Prior::Gaussian { .. }) {
        return Err(CommandError::usage("a scan of sigma needs --prior gaussian"));
    }
    Ok(&loaded.insert((point.model.clone(), problem)).1)
}

/// A curvature does not depend on what most scans vary: the file of another point with the same model serves.
fn share_curvature(file: &ScanFile, out: &Path, point: &Point, asked: &EstimateArgs) -> CommandResult {
    let Some(choice) = asked.preconditioner.first().and_then(|name| computed(name)) else { return Ok(()) };
    let folder = out.join(&point.folder);
    let path = folder.join(names::CURVATURE);
    // A learned map is learned for its cutoff and prior.
    if choice == CurvatureChoice::Learned || path.exists() {
        return Ok(());
    }
    let is_same = |other: &&Point| other.model == point.model && other.preconditioner_name() == point.preconditioner_name();
    let mut others = file.points.iter().filter(is_same).map(|other| out.join(&other.folder).join(names::CURVATURE));
    if let Some(found) = others.find(|path| path.exists()) {
        run_folder::check_vacant(&folder)?;
        fs::create_dir_all(&folder)?;
        // Without links between files, as on some file systems, the bytes are copied.
        if fs::hard_link(&found, &path).is_err() {
            let unfinished = folder.join(".curvature.shared.partial");
            fs::copy(&found, &unfinished)?;
            fs::rename(&unfinished, &path)?;
        }
    }
    Ok(())
}

/// Whether a folder holds this very run with all its records, so that nothing has to be computed, not even the center.
fn is_complete(prepared: &dyn Prepared, folder: &Path, asked: &EstimateArgs) -> Result<bool, CommandError> {
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
    let asked = Manifest { spec, shard: asked.shard, ..manifest.clone() };
    if !manifest.differences(&asked, true).is_empty() || manifest.samples < records {
        return Ok(false);
    }
    let lines = fs::read_to_string(folder.join(names::SAMPLES)).unwrap_or_default().matches('\n').count();
    Ok(lines >= asked.shard.indices(manifest.samples).count())
}
