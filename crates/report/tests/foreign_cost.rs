//! A cost that comes from somewhere else, through the door that any front uses: no model, no data file, no command line.
//!
//! It goes through all estimators into folders, is interrupted, resumed, killed and resumed, and reported.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs};

use basin_volume::interrupt::Interrupt;
use basin_volume::objective::Cost;
use basin_volume::run::answer::Trust;
use basin_volume::run::driver::RunEnd;
use basin_volume::testkit::{Closure, ClosureWithGradient, Ellipsoid};
use basin_volume_engine::door::{Handle, start};
use basin_volume_engine::error::Error;
use basin_volume_engine::estimate::Outcome;
use basin_volume_engine::events::Silent;
use basin_volume_engine::request::{Ask, Estimate, Machine, Sigma};
use basin_volume_engine::session::Session;
use basin_volume_engine::several::{self, OnData};
use basin_volume_engine::subject::{Foreign, Subject};
use basin_volume_report::{Detail, draw, run_page, text};
use serde_json::{Map, Value};

const DIMENSION: usize = 12;
const SIGMA: f64 = 0.7;
const CUTOFF: f64 = 0.05;
const ESTIMATORS: [&str; 3] = ["radial", "spectral", "annealed"];
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

fn eigenvalues() -> Vec<f64> {
    (0..DIMENSION).map(|i| 0.2 * 1.5f64.powi(i as i32)).collect()
}

fn center() -> Vec<f32> {
    (0..DIMENSION).map(|i| if i % 2 == 0 { 0.5 } else { -0.3 }).collect()
}

fn cost(weights: &[f64]) -> f64 {
    let terms = weights.iter().zip(center()).zip(eigenvalues());
    terms.map(|((w, c), l)| 0.5 * l * (w - f64::from(c)).powi(2)).sum()
}

fn gradient(weights: &[f64], out: &mut [f64]) -> f64 {
    for (((out, w), c), l) in out.iter_mut().zip(weights).zip(center()).zip(eigenvalues()) {
        *out = l * (w - f64::from(c));
    }
    cost(weights)
}

/// Called before every evaluation and every gradient.
type Before = Arc<dyn Fn() + Send + Sync>;

/// The cost with its gradient, by closures.
fn subject(before: Before) -> Arc<dyn Subject> {
    subject_of(Map::new(), before)
}

fn subject_of(record: Map<String, Value>, before: Before) -> Arc<dyn Subject> {
    let also = Arc::clone(&before);
    let cost = move |weights: &[f64]| {
        before();
        Cost::exact(cost(weights))
    };
    let gradient = move |weights: &[f64], out: &mut [f64]| {
        also();
        gradient(weights, out)
    };
    Arc::new(Foreign::with_gradients("valley", record, Arc::new(ClosureWithGradient::new(center(), cost, gradient))))
}

fn undisturbed() -> Arc<dyn Subject> {
    subject(Arc::new(|| {}))
}

fn asked(estimator: &str, out: &Path) -> Estimate {
    let settings: &[&str] = match estimator {
        "annealed" => &["trajectories=40", "chains=2"],
        "all" => &["annealed.trajectories=40", "annealed.chains=2"],
        _ => &[],
    };
    let ask = Ask {
        cutoff: Some(CUTOFF),
        sigma: Some(Sigma::Value(SIGMA)),
        samples: (estimator == "radial").then_some(40),
        set: settings.iter().map(|text| text.parse().unwrap()).collect(),
        ..Ask::default()
    };
    // One thread: what is done after an interrupt can be counted.
    let machine = Machine { threads: NonZeroUsize::new(1), memory: None };
    Estimate { ask, estimator: estimator.to_owned(), out: Some(out.to_owned()), machine, ..Estimate::default() }
}

fn end_of(handle: &Handle) -> Result<Outcome, Error> {
    handle.wait(PATIENCE).expect("the estimate should have ended")
}

fn complete(estimator: &str, out: &Path) -> Outcome {
    let handle = start(asked(estimator, out), undisturbed(), Box::new(Silent)).unwrap();
    let outcome = end_of(&handle).unwrap();
    assert_eq!(outcome.end, RunEnd::Completed);
    outcome
}

/// The lines of the samples, in an order that does not depend on when they were computed.
fn samples(folder: &Path) -> BTreeSet<String> {
    fs::read_to_string(folder.join("samples.jsonl")).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn goes_through_all_estimators_and_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("all");
    let handle = start(asked("all", &out), undisturbed(), Box::new(Silent)).unwrap();
    let outcome = end_of(&handle).unwrap();
    let truth = Ellipsoid::new(eigenvalues(), center()).true_log_probability(SIGMA, CUTOFF);
    let answers: Vec<_> = outcome.groups.iter().flat_map(basin_volume_engine::runs::RunGroup::answers).collect();
    // The star is asked for beside the basin, which here is the same set.
    assert_eq!(answers.len(), 4);
    for answer in &answers {
        let (low, high) = answer.interval;
        let within = low.is_none_or(|low| low - 0.5 <= truth) && high.is_none_or(|high| truth <= high + 0.5);
        assert!(within, "{truth} is not in {answer:?}");
        assert_ne!(answer.trust, Trust::NotAnAnswer, "{answer:?}");
    }
    assert_eq!(handle.inspect().unwrap(), answers);

    draw(&outcome.groups).unwrap();
    let said = text(&outcome.groups, true, &out, Detail::Short).unwrap();
    assert!(text(&outcome.groups, true, &out, Detail::Full).unwrap().contains("until +-1 %"));
    for part in ["valley", "estimate (nats)", "Trust the", "Figures: "] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let page = run_page(&outcome.groups, &out).unwrap();
    page.write(&out.join("report.html")).unwrap();
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("valley"));
    for estimator in ESTIMATORS {
        assert!(out.join(estimator).join("result.json").is_file());
    }
    assert!(out.join("radial/log_volumes.svg").is_file() && out.join("annealed/ladder.svg").is_file());
}

/// Stops the work at one call of the cost, for as long as whoever watches takes to raise the interrupt.
struct Gate {
    calls: AtomicU64,
    at: u64,
    reached: Mutex<Sender<()>>,
    go: Mutex<Receiver<()>>,
}

impl Gate {
    fn pass(&self) {
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.at {
            self.reached.lock().unwrap().send(()).unwrap();
            let _ = self.go.lock().unwrap().recv();
        }
    }
}

#[test]
fn obeys_an_interrupt_at_once_and_goes_on_from_what_was_done() {
    let folder = tempfile::tempdir().unwrap();
    for estimator in ESTIMATORS {
        let whole = folder.path().join(estimator);
        complete(estimator, &whole);
        let expected = samples(&whole);
        let out = folder.path().join(format!("{estimator}-interrupted"));
        for at in [0, 1, 2, 3, 5, 9, 17, 60, 61, 130] {
            let (reached, is_reached) = channel();
            let (let_go, go) = channel();
            let gate = Arc::new(Gate { calls: AtomicU64::new(0), at, reached: Mutex::new(reached), go: Mutex::new(go) });
            let before = Arc::clone(&gate);
            let handle = start(asked(estimator, &out), subject(Arc::new(move || before.pass())), Box::new(Silent)).unwrap();
            // A complete run does not call the cost so often any more.
            let is_stopped = loop {
                if is_reached.recv_timeout(Duration::from_millis(20)).is_ok() {
                    break true;
                }
                if let Some(end) = handle.wait(Duration::ZERO) {
                    assert_eq!(end.unwrap().end, RunEnd::Completed);
                    break false;
                }
            };
            if !is_stopped {
                break;
            }
            handle.interrupt();
            let_go.send(()).unwrap();
            match end_of(&handle) {
                Ok(outcome) => assert_eq!(outcome.end, RunEnd::Interrupted, "{estimator}, {at}"),
                Err(Error::Interrupted) => {}
                Err(other) => panic!("{estimator}, {at}: {other}"),
            }
            let after = gate.calls.load(Ordering::SeqCst) - (at + 1);
            assert!(after <= 2, "{estimator}: {after} calls of the cost after an interrupt at call {at}");
            let done = samples(&out);
            assert!(done.is_subset(&expected), "{estimator}, {at}");
        }
        let outcome = complete(estimator, &out);
        assert_eq!(samples(&out), expected, "{estimator}");
        let again = complete(estimator, &whole);
        assert_eq!(outcome.groups[0].runs[0].block, again.groups[0].runs[0].block, "{estimator}");
    }
}

/// Where the run goes that is killed, and by which estimator; only the test below sets them.
const OUT: &str = "BASIN_VOLUME_TEST_KILLED";
const WHICH: &str = "BASIN_VOLUME_TEST_ESTIMATOR";

#[test]
fn a_run_that_waits_to_be_killed() {
    let (Some(out), Ok(estimator)) = (env::var_os(OUT), env::var(WHICH)) else { return };
    let slow = subject(Arc::new(|| sleep(Duration::from_millis(2))));
    let handle = start(asked(&estimator, Path::new(&out)), slow, Box::new(Silent)).unwrap();
    let _ = end_of(&handle);
}

#[test]
fn goes_on_after_it_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    for estimator in ESTIMATORS {
        let whole = folder.path().join(estimator);
        complete(estimator, &whole);
        let out = folder.path().join(format!("{estimator}-killed"));
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["a_run_that_waits_to_be_killed", "--exact"])
            .env(OUT, &out)
            .env(WHICH, estimator)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while samples(&out).len() < 2 && began.elapsed() < PATIENCE {
            sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(samples(&out).len() >= 2, "{estimator}: nothing was computed");
        complete(estimator, &out);
        assert_eq!(samples(&out), samples(&whole), "{estimator}");
    }
}

#[test]
fn without_a_gradient_estimators_that_need_one_refuse_it() {
    let folder = tempfile::tempdir().unwrap();
    let closure = Closure::new(center(), |weights: &[f64]| Cost::exact(cost(weights)));
    let subject: Arc<dyn Subject> = Arc::new(Foreign::on_rays("valley", Map::new(), Arc::new(closure)));
    for estimator in ["spectral", "annealed", "all"] {
        let out = folder.path().join(estimator);
        let handle = start(asked(estimator, &out), Arc::clone(&subject), Box::new(Silent)).unwrap();
        let Err(Error::Usage(message)) = end_of(&handle) else { panic!("{estimator} should be refused") };
        assert!(message.contains("valley has a cost without a gradient") && message.contains("`estimator=radial`"), "{message}");
        assert!(!out.exists());
    }
    let preconditioned = Estimate { preconditioner: vec!["fisher".to_owned()], ..asked("radial", &folder.path().join("fisher")) };
    let handle = start(preconditioned, Arc::clone(&subject), Box::new(Silent)).unwrap();
    let Err(Error::Usage(message)) = end_of(&handle) else { panic!("a curvature should be refused") };
    assert!(message.contains("valley does not give the scores"), "{message}");
    let handle = start(asked("radial", &folder.path().join("radial")), subject, Box::new(Silent)).unwrap();
    assert_eq!(end_of(&handle).unwrap().end, RunEnd::Completed);
}

#[test]
fn a_request_that_cannot_be_is_refused_before_anything_begins() {
    let mut estimate = asked("radial", Path::new("nowhere"));
    estimate.ask.cutoff = Some(-1.0);
    let Err(Error::Usage(message)) = start(estimate, undisturbed(), Box::new(Silent)) else { panic!("it should be refused") };
    assert_eq!(message, "`cutoff` is -1: expected a finite number of nats > 0");
}

#[test]
fn a_cost_that_panics_ends_the_estimate() {
    let folder = tempfile::tempdir().unwrap();
    let calls = AtomicU64::new(0);
    let broken = subject(Arc::new(move || assert!(calls.fetch_add(1, Ordering::SeqCst) < 30, "the device is lost")));
    let handle = start(asked("radial", &folder.path().join("run")), broken, Box::new(Silent)).unwrap();
    let error = end_of(&handle).unwrap_err();
    assert!(error.sentence().contains("panicked"), "{error}");
    assert_eq!(complete("radial", &folder.path().join("run")).end, RunEnd::Completed);
}

#[test]
fn on_several_data_obeys_an_interrupt_between_the_costs_of_one_gradient() {
    let folder = tempfile::tempdir().unwrap();
    // How many calls of either cost a whole run takes, and how many came after the interrupt at one of them.
    let run = |name: String, at: u64| {
        let interrupt = Interrupt::new();
        let calls = Arc::new(AtomicU64::new(0));
        let on = ["ours", "theirs", "others"].map(|data| {
            let (interrupt, calls) = (interrupt.clone(), Arc::clone(&calls));
            let before = Arc::new(move || {
                if calls.fetch_add(1, Ordering::SeqCst) == at {
                    interrupt.raise();
                }
            });
            let record = [("data".to_owned(), Value::from(data))].into_iter().collect();
            (data.to_owned(), subject_of(record, before))
        });
        let on: Vec<OnData<'_>> = on.iter().map(|(name, subject)| OnData { name: name.clone(), subject: &**subject }).collect();
        let mut estimate = asked("annealed", &folder.path().join(name));
        estimate.ask.set.push("set_kind=star".parse().unwrap());
        let session = Session::new(NonZeroUsize::new(1), None, interrupt.clone(), Box::new(Silent));
        let end = several::run(&estimate, &on, &session);
        (end, calls.load(Ordering::SeqCst))
    };
    let (end, total) = run("whole".to_owned(), u64::MAX);
    assert_eq!(end.unwrap().end, RunEnd::Completed);
    // Spread over the ladders of each cost, and over that of the largest, which takes half of all calls.
    for at in (1..16).map(|k| k * total / 16 + k) {
        let (end, calls) = run(format!("at {at}"), at);
        assert!(matches!(end, Ok(Outcome { end: RunEnd::Interrupted, .. }) | Err(Error::Interrupted)), "{at} of {total}");
        assert!(calls <= at + 3, "{} calls of a cost after an interrupt at call {at} of {total}", calls - at - 1);
    }
}
