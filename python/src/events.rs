//! What a job tells, as JSON.

use std::sync::mpsc::Sender;

use basin_volume_engine::events::{Event, Observer};
use serde_json::{Value, json};

use crate::mailbox::Message;

/// Sends what happens to whoever waits.
pub struct Telling(pub Sender<Message>);

impl Observer for Telling {
    fn event(&mut self, event: &Event<'_>) {
        if let Some(json) = told(event) {
            // Nobody may be waiting any more.
            let _ = self.0.send(Message::Event(json.to_string()));
        }
    }
}

fn told(event: &Event<'_>) -> Option<Value> {
    Some(match *event {
        Event::Note(text) => json!({ "event": "note", "text": text }),
        Event::Folder(path) => json!({ "event": "folder", "path": path }),
        Event::Download { file, done, total } => json!({ "event": "count", "about": file, "noun": "B", "done": done, "total": total }),
        Event::Training { step, total, loss } => {
            json!({ "event": "count", "about": "training", "noun": "steps", "done": step, "total": total, "loss": loss })
        }
        Event::TrainingPhase(name) => json!({ "event": "note", "text": name }),
        Event::Curvature { kind, done, total } => json!({ "event": "count", "about": kind, "noun": "steps", "done": done, "total": total }),
        Event::RaysOpened { run, present, total } => {
            json!({ "event": "count", "about": run, "noun": "rays", "done": present.len(), "total": total })
        }
        Event::Ray(sample) => {
            json!({ "event": "ray", "log_volume": finite(sample.log_volume), "evaluations": sample.evaluations })
        }
        Event::Records { run, noun, done, total } => json!({ "event": "count", "about": run, "noun": noun, "done": done, "total": total }),
        Event::ChainsOpened { present } => json!({ "event": "chains", "present": present }),
        Event::Relaxation(relaxation) => json!({
            "event": "relaxation",
            "trajectories": relaxation.trajectories,
            "cost": finite(relaxation.cost),
            "overlap": finite(relaxation.overlap),
            "is_done": relaxation.is_done,
        }),
        Event::Ladder(estimate) => estimate.details.rungs.last().map(|rung| {
            json!({
                "event": "ladder",
                "rungs": estimate.details.rungs.len(),
                "way": rung.phase.name(),
                "rung": rung.rung,
                "cost": finite(rung.mean_cost),
                "overlap": finite(rung.overlap),
                "acceptance": finite(rung.acceptance),
            })
        })?,
        Event::LearningCoefficient(estimate) => json!({
            "event": "coefficient",
            "trajectories": estimate.progress.map_or(0, |progress| progress.trajectories),
            "of": estimate.progress.map(|progress| progress.of),
            "value": estimate.learning_coefficient.and_then(finite),
            "standard_error": finite(estimate.details.standard_error),
            "r_hat": finite(estimate.details.r_hat),
        }),
        Event::Done => json!({ "event": "done" }),
        _ => return None,
    })
}

/// JSON has no other numbers.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
