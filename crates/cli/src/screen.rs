//! What a job tells, on standard error: bars where there is a terminal, lines where there is none.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use basin_volume::estimator::annealed::{AnnealedEstimate, Phase, Progress, Relaxation, RungSummary};
use basin_volume::estimator::llc::{LlcEstimate, LlcProgress};
use basin_volume::estimator::radial::Sample;
use basin_volume::statistics::log_mean_exp;
use basin_volume_engine::events::{Event, Observer};
use basin_volume_engine::forecast::duration;
use indicatif::{ProgressBar, ProgressStyle};

use crate::words::Words;

/// A line on standard error. Where nobody reads that any more, nothing is said.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Time between two lines where no bar can be drawn.
const LINES: Duration = Duration::from_secs(30);

/// Draws what a job tells.
pub struct Screen {
    words: Words,
    bar: Option<ProgressBar>,
    /// What the bar is about: a new one is drawn when that changes.
    about: String,
    rays: Rays,
    training: TrainingPace,
    ladder: LiveTable,
    coefficient: CoefficientLines,
    plain: PlainLines,
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

impl Screen {
    /// Nothing drawn yet; settings are said in these words.
    pub fn new(words: Words) -> Self {
        Self {
            words,
            bar: None,
            about: String::new(),
            rays: Rays::default(),
            training: TrainingPace::default(),
            ladder: LiveTable::default(),
            coefficient: CoefficientLines::default(),
            plain: PlainLines::default(),
        }
    }

    /// The pace of trainings in units, so many a step.
    pub fn counting(mut self, per_step: usize, name: &'static str) -> Self {
        self.training.units = Some(Units { per_step, name });
        self
    }

    /// The bar about this, begun anew if there is none.
    fn bar(&mut self, about: &str, total: u64, template: &str) -> &ProgressBar {
        if self.about != about {
            self.clear();
            about.clone_into(&mut self.about);
        }
        self.bar.get_or_insert_with(|| bar(total, template).with_prefix(about.to_owned()))
    }

    fn clear(&mut self) {
        self.about.clear();
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// A line above the bar.
    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    fn counted(&mut self, what: &str, noun: &str, done: u64, total: u64) {
        let bar = self.bar(what, total, &format!("{{prefix}} [{{bar:30}}] {{pos}}/{{len}} {noun}  {{eta}} left"));
        bar.set_length(total);
        bar.set_position(done);
        if bar.is_hidden() {
            self.plain.step(what, noun, done, total);
        }
    }

    fn trained(&mut self, step: usize, total: usize, loss: f64) {
        let is_first = self.training.began.is_none();
        let bar = self.bar("training", 1, "{prefix} [{bar:30}] {pos}/{len} steps  {msg}  {elapsed} elapsed, {eta} left").clone();
        bar.set_length(total as u64);
        bar.set_position(step as u64);
        if is_first {
            // Time left is told from this session's pace alone.
            bar.reset_eta();
        }
        let pace = self.training.message(step, total, loss, bar.is_hidden());
        bar.set_message(pace);
    }
}

impl Observer for Screen {
    fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Note(text) => self.line(&self.words.say(text)),
            Event::Download { file, done, total } => {
                let bar = self.bar(file, total, "{prefix} [{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left");
                bar.set_position(done);
            }
            Event::Training { step, total, loss } => self.trained(step, total, loss),
            Event::TrainingPhase(name) => {
                let template = "{prefix} [{bar:30}] {pos}/{len} steps  {msg}  {elapsed} elapsed, {eta} left";
                self.bar("training", 1, template).set_message(name.to_owned());
            }
            Event::Curvature { kind, done, total } => self.counted(kind, "steps", done as u64, total as u64),
            Event::RaysOpened { run, present, total } => {
                self.clear();
                self.rays = Rays::of(present);
                let done = present.len() as u64;
                let bar = self.bar(run, total, "{prefix} [{bar:30}] {pos}/{len} rays  {msg}  {eta} left");
                bar.set_position(done);
                bar.reset_eta();
                self.plain.step(run, "rays", done, total);
            }
            Event::Ray(sample) => {
                self.rays.add(sample);
                if let Some(bar) = &self.bar {
                    bar.inc(1);
                    if bar.is_hidden() {
                        self.plain.step(&self.about, "rays", bar.position(), bar.length().unwrap_or(0));
                    } else {
                        bar.set_message(self.rays.message());
                    }
                }
            }
            Event::Records { run, noun, done, total } => self.counted(run, noun, done, total),
            Event::ChainsOpened { present } => self.ladder = LiveTable::new(present),
            Event::Relaxation(relaxation) => self.line(&relaxation_line(relaxation)),
            Event::Ladder(estimate) => self.ladder.lines(estimate).iter().for_each(|line| self.line(line)),
            Event::LearningCoefficient(estimate) => {
                if let Some(line) = self.coefficient.line(estimate) {
                    self.line(&line);
                }
            }
            Event::Done => self.clear(),
            _ => {}
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A line a minute about what is counted, where no bar can be drawn.
#[derive(Default)]
struct PlainLines {
    about: String,
    /// When this session began with it, after how many, and when a line was last printed.
    began: Option<(Instant, u64, Instant)>,
}

/// Time between two lines about what is left of a ladder.
const LEFT: Duration = Duration::from_secs(10);
/// Time between two such lines.
const MINUTE: Duration = Duration::from_secs(60);

impl PlainLines {
    fn step(&mut self, about: &str, noun: &str, done: u64, total: u64) {
        let now = Instant::now();
        if self.about != about {
            about.clone_into(&mut self.about);
            self.began = None;
        }
        let (began, first, printed) = self.began.get_or_insert((now, done, now));
        if now.duration_since(*printed) < MINUTE {
            return;
        }
        *printed = now;
        let per_unit = now.duration_since(*began).as_secs_f64() / done.saturating_sub(*first).max(1) as f64;
        let left = duration(per_unit * total.saturating_sub(done) as f64);
        say(&format!("{about}: {done} of {total} {noun}, {left} left"));
    }
}

/// How many of what a step takes.
struct Units {
    per_step: usize,
    name: &'static str,
}

/// The pace of a training.
#[derive(Default)]
struct TrainingPace {
    units: Option<Units>,
    /// The first step of this session, when it ended, and when a line was last printed without a terminal.
    began: Option<(usize, Instant, Instant)>,
}

impl TrainingPace {
    /// The loss, and the pace of this session.
    fn message(&mut self, step: usize, total: usize, loss: f64, is_hidden: bool) -> String {
        let now = Instant::now();
        let Some((first, began, printed)) = &mut self.began else {
            self.began = Some((step, now, now));
            return format!("loss {loss:.4}");
        };
        let Some(Units { per_step, name }) = &self.units else { return format!("loss {loss:.4}") };
        let seconds = now.duration_since(*began).as_secs_f64() / (step - *first).max(1) as f64;
        let pace = format!("loss {loss:.4}, {:.0} {name}/s", *per_step as f64 / seconds);
        if is_hidden && now.duration_since(*printed) >= LINES {
            *printed = now;
            let left = seconds * (total - step) as f64 / 60.0;
            say(&format!("step {step} of {total}: {pace}, {left:.1} minutes left"));
        }
        pace
    }
}

/// Live numbers of a run of rays.
#[derive(Default)]
struct Rays {
    log_volumes: Vec<f64>,
    evaluations: u64,
}

impl Rays {
    fn of(present: &[Sample]) -> Self {
        let mut rays = Self::default();
        present.iter().for_each(|sample| rays.add(sample));
        rays
    }

    fn add(&mut self, sample: &Sample) {
        self.log_volumes.push(sample.log_volume);
        self.evaluations += u64::from(sample.evaluations);
    }

    fn message(&self) -> String {
        let per_ray = self.evaluations as f64 / self.log_volumes.len().max(1) as f64;
        format!("{per_ray:.1} evaluations/ray, estimate {:.1} nats", log_mean_exp(&self.log_volumes))
    }
}

/// How long chains take for a gradient, and when it was last said what is left.
#[derive(Default)]
struct ChainPace {
    /// When the first block of this session ended, and after how many gradients.
    began: Option<(Instant, u64)>,
    told: Option<Instant>,
}

impl ChainPace {
    /// Takes so many gradients, those of earlier sessions included, as done now.
    fn done(&mut self, gradients: u64) {
        self.began.get_or_insert_with(|| (Instant::now(), gradients));
    }

    /// Whether a line is due.
    fn is_due(&self) -> bool {
        self.told.is_none_or(|told| told.elapsed() >= LEFT)
    }

    /// The time that is left, after so many gradients, for so many more; said now.
    fn say_left(&mut self, gradients: u64, left: u64) -> String {
        self.told = Some(Instant::now());
        let seconds = self
            .began
            .filter(|(_, first)| gradients > *first)
            .map_or(f64::NAN, |(since, first)| since.elapsed().as_secs_f64() / (gradients - first) as f64 * left as f64);
        format!("{} left", duration(seconds))
    }
}

/// A line now and then about a learning coefficient.
#[derive(Default)]
struct CoefficientLines {
    pace: ChainPace,
}

impl CoefficientLines {
    fn line(&mut self, estimate: &LlcEstimate) -> Option<String> {
        self.pace.done(estimate.gradients);
        let progress = estimate.progress;
        if progress.is_some() && !self.pace.is_due() {
            return None;
        }
        let details = &estimate.details;
        let number = estimate.learning_coefficient.map_or_else(
            || "warming up".to_owned(),
            |number| format!("learning coefficient {number:.3} +- {:.3}, R-hat {:.3}", details.standard_error, details.r_hat),
        );
        let acceptance = if details.acceptance.is_nan() { String::new() } else { format!("acceptance {:.2}, ", details.acceptance) };
        let work = format!("{acceptance}{} gradients", estimate.gradients);
        Some(match progress {
            None => format!("  {number} after {} counted trajectories, {work}", details.trajectories),
            Some(LlcProgress { trajectories, of, gradients_left }) => {
                let left = self.pace.say_left(estimate.gradients, gradients_left);
                format!("  trajectory {trajectories} of about {of} a chain: {number}, {work}, {left}")
            }
        })
    }
}

/// A line for every block of a relaxation.
fn relaxation_line(relaxation: &Relaxation) -> String {
    let Relaxation { trajectories, beta, cost, overlap, distance_squared, gradients, .. } = relaxation;
    let what = if relaxation.is_done { "the spring is attached to" } else { "looking for a typical state:" };
    format!(
        "  {what} cost {cost:.2e} at beta {beta:.2e}, {distance_squared:.1} (squared) from the center, overlap {overlap:.3}, after {trajectories} trajectories, {gradients} gradients"
    )
}

/// A line for every rung that is left.
#[derive(Default)]
struct LiveTable {
    /// Rungs that were shown; what is in the folder already is not shown again.
    shown: Option<usize>,
    has_heading: bool,
    pace: ChainPace,
}

impl LiveTable {
    fn new(records: usize) -> Self {
        Self { shown: if records > 0 { None } else { Some(0) }, has_heading: false, pace: ChainPace::default() }
    }

    fn lines(&mut self, estimate: &AnnealedEstimate) -> Vec<String> {
        self.pace.done(estimate.gradients);
        let count = estimate.details.rungs.len();
        let shown = *self.shown.get_or_insert(count);
        let mut lines = Vec::new();
        if count <= shown {
            return lines;
        }
        if !self.has_heading {
            self.has_heading = true;
            let heading = "  way      rung       beta  localization  trajectories      E[C]    beta E[C]  overlap  acceptance  gradients";
            lines.push(heading.to_owned());
        }
        let order = |rung: &&RungSummary| match rung.phase {
            Phase::Outward => (rung.sweep, 0, rung.rung as i64),
            Phase::Settle => (rung.sweep, 1, 0),
            Phase::Inward => (rung.sweep, 2, -(rung.rung as i64)),
        };
        let mut rungs: Vec<&RungSummary> = estimate.details.rungs.iter().collect();
        rungs.sort_by_key(order);
        lines.extend(rungs[shown..].iter().map(|rung| {
            format!(
                "  {:8} {:4}  {:9.3e}     {:9.3e}  {:12}  {:8.2e}  {:11.2}  {:7.3}  {:10.2}  {:9}",
                rung.phase.name(),
                rung.rung,
                rung.beta,
                rung.localization,
                rung.trajectories,
                rung.mean_cost,
                rung.learning_coefficient,
                rung.overlap,
                rung.acceptance,
                rung.gradients
            )
        }));
        if let Some(Progress { rung, rungs, gradients_left }) = estimate.progress.filter(|_| self.pace.is_due()) {
            let left = self.pace.say_left(estimate.gradients, gradients_left);
            lines.push(format!("  rung {rung} of about {rungs}, {left}"));
        }
        self.shown = Some(count);
        lines
    }
}
