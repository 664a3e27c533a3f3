//! Progress bars on standard error; nothing is drawn when it is not a terminal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use basin_volume::estimator::radial::Sample;
use basin_volume::statistics::log_mean_exp;
use basin_volume_models::curvature;
use basin_volume_models::train::Observer;
use indicatif::{ProgressBar, ProgressStyle};

use crate::error::EXIT_INTERRUPTED;
use crate::target::eprintln_status;

fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A bar over the steps of a training, which stops when the flag is raised.
pub struct TrainingProgress<'a> {
    bar: ProgressBar,
    interrupt: &'a AtomicBool,
    /// How many of what a step takes.
    units: Option<(usize, &'static str)>,
    /// The first step of this session, when it ended, and when a line was last printed without a terminal.
    began: Option<(usize, Instant, Instant)>,
}

/// Time between two lines where no bar can be drawn.
const LINES: Duration = Duration::from_secs(30);

impl<'a> TrainingProgress<'a> {
    /// An empty bar.
    pub fn new(interrupt: &'a AtomicBool) -> Self {
        let template = "{prefix} [{bar:30}] {pos}/{len} steps  {msg}  {elapsed} elapsed, {eta} left";
        Self { bar: bar(1, template).with_prefix("training"), interrupt, units: None, began: None }
    }

    /// The same with the pace in units, so many a step; lines instead of a bar where there is no terminal.
    pub fn counting(self, per_step: usize, name: &'static str) -> Self {
        Self { units: Some((per_step, name)), ..self }
    }

    /// The loss, and the pace of this session.
    fn message(&mut self, step: usize, total: usize, loss: f64) -> String {
        let Some((per_step, name)) = self.units else { return format!("loss {loss:.4}") };
        let now = Instant::now();
        let Some((first, began, printed)) = &mut self.began else {
            self.began = Some((step, now, now));
            // Time left is told from this session's pace alone.
            self.bar.reset_eta();
            return format!("loss {loss:.4}");
        };
        let seconds = now.duration_since(*began).as_secs_f64() / (step - *first).max(1) as f64;
        let pace = format!("loss {loss:.4}, {:.0} {name}/s", per_step as f64 / seconds);
        if self.bar.is_hidden() && now.duration_since(*printed) >= LINES {
            *printed = now;
            let left = seconds * (total - step) as f64 / 60.0;
            eprintln_status(&format!("step {step} of {total}: {pace}, {left:.1} minutes left"));
        }
        pace
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for TrainingProgress<'_> {
    fn step(&mut self, step: usize, total: usize, loss: f64) {
        self.bar.set_length(total as u64);
        self.bar.set_position(step as u64);
        let message = self.message(step, total, loss);
        self.bar.set_message(message);
    }

    fn phase(&mut self, name: &str) {
        self.bar.set_message(name.to_owned());
    }

    fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }
}

/// A bar over the steps of a curvature, which stops when the flag is raised.
pub struct CurvatureProgress<'a> {
    bar: ProgressBar,
    interrupt: &'a AtomicBool,
}

impl<'a> CurvatureProgress<'a> {
    /// An empty bar.
    pub fn new(what: &str, interrupt: &'a AtomicBool) -> Self {
        Self { bar: counted(what, "steps", 1), interrupt }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl curvature::Observer for CurvatureProgress<'_> {
    fn step(&mut self, done: usize, total: usize) {
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
    }

    fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }
}

/// For anything that is counted.
pub fn counted(what: &str, noun: &str, total: u64) -> ProgressBar {
    bar(total, &format!("{{prefix}} [{{bar:30}}] {{pos}}/{{len}} {noun}  {{eta}} left")).with_prefix(what.to_owned())
}

/// Live numbers of a run.
pub struct RunProgress {
    bar: ProgressBar,
    log_volumes: Vec<f64>,
    evaluations: u64,
}

impl RunProgress {
    /// A bar over `total` samples of which `present` are there already.
    pub fn new(label: &str, total: u64, present: &[Sample]) -> Self {
        let bar = bar(total, "{prefix} [{bar:30}] {pos}/{len} rays  {msg}  {eta} left").with_prefix(label.to_owned());
        bar.set_position(present.len() as u64);
        // Time left is told from this session's pace alone.
        bar.reset_eta();
        Self {
            bar,
            log_volumes: present.iter().map(|s| s.log_volume).collect(),
            evaluations: present.iter().map(|s| u64::from(s.evaluations)).sum(),
        }
    }

    /// Counts one sample.
    pub fn add(&mut self, sample: &Sample) {
        self.log_volumes.push(sample.log_volume);
        self.evaluations += u64::from(sample.evaluations);
        if !self.bar.is_hidden() {
            let per_ray = self.evaluations as f64 / self.log_volumes.len() as f64;
            self.bar.set_message(format!("{per_ray:.1} evaluations/ray, estimate {:.1} nats", log_mean_exp(&self.log_volumes)));
        }
        self.bar.inc(1);
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Bytes of files that are being downloaded, one after the other.
pub struct DownloadProgress<'a> {
    current: Option<(String, ProgressBar)>,
    interrupt: &'a AtomicBool,
}

impl<'a> DownloadProgress<'a> {
    /// No bar before the first byte.
    pub fn new(interrupt: &'a AtomicBool) -> Self {
        Self { current: None, interrupt }
    }

    /// So many bytes of a file have arrived. Ends the program when that is asked for: the client of the hub cannot be stopped otherwise,
    /// and takes a part of a file up again.
    pub fn report(&mut self, file: &str, done: usize, total: usize) {
        if self.interrupt.load(Ordering::Relaxed) {
            self.finish();
            eprintln_status("Interrupted: the same command takes the download up again.");
            std::process::exit(EXIT_INTERRUPTED);
        }
        if self.current.as_ref().is_none_or(|(name, _)| name != file) {
            self.finish();
            let bar = bar(total as u64, "{prefix} [{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left");
            self.current = Some((file.to_owned(), bar.with_prefix(file.to_owned())));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_position(done as u64);
        }
    }

    fn finish(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for DownloadProgress<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}
