//! A job of the engine, and the thread that waits for it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use basin_volume::objective::{Cost, CostByPart};
use basin_volume_engine::door;
use basin_volume_engine::error::Error;
use basin_volume_engine::request::Machine;
use basin_volume_engine::session::Session;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::device::Operation;
use crate::error::raised;
use crate::events::Telling;
use crate::mailbox::{Answer, Call, Coordinates, Message, What};
use crate::vectors::{Vector, values};

/// Longest wait for the end of a job that has nothing more to say.
const END: Duration = Duration::from_secs(3600);

/// A job at work. `next` gives what it tells and asks; every question has to be answered. Dropping it interrupts the work and waits for its end.
#[pyclass(frozen)]
pub struct Job {
    state: Mutex<Option<State>>,
}

struct State {
    messages: Receiver<Message>,
    job: door::Job<String>,
    pending: Option<Sender<Answer>>,
}

/// Begins a job; `work` gets where calls of Python go, and gives JSON.
pub fn begin(
    py: Python<'_>,
    machine: Machine,
    work: impl FnOnce(&Session, Sender<Message>) -> Result<String, Error> + Send + 'static,
) -> PyResult<Job> {
    py.detach(|| {
        let (sender, messages) = channel();
        let calls = sender.clone();
        let job = door::spawn(machine, Box::new(Telling(sender)), move |session| work(session, calls));
        job.map(|job| Job { state: Mutex::new(Some(State { messages, job, pending: None })) })
    })
    .map_err(|error| raised(&error))
}

enum Next {
    Nothing,
    Message(Message),
    End(Result<String, Error>),
    Closed,
}

impl Job {
    fn with_state<T>(&self, py: Python<'_>, work: impl FnOnce(&mut State) -> T + Send) -> Option<T>
    where
        T: Send,
    {
        // Detached before the lock is taken: whoever holds it may be waiting.
        py.detach(|| self.state.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(work))
    }

    fn answer(&self, py: Python<'_>, answer: Answer) -> PyResult<()> {
        match self.with_state(py, |state| state.pending.take()).flatten() {
            // The asking thread may have ended.
            Some(sender) => {
                let _ = sender.send(answer);
                Ok(())
            }
            None => Err(PyRuntimeError::new_err("nothing was asked")),
        }
    }
}

#[pymethods]
impl Job {
    /// Waits so many seconds for what the job says: ("event", JSON), ("release", number of a subject whose direction is of no
    /// use any more), ("forget", numbers of a subject and of a vector of it that is of no use any more), ("end", JSON), a question with a dict of what it is about, or None.
    fn next<'py>(&self, py: Python<'py>, seconds: f64) -> PyResult<Option<(&'static str, Bound<'py, PyAny>)>> {
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let next = self
            .with_state(py, |state| match state.messages.recv_timeout(wait) {
                Ok(Message::Call(call, sender)) => {
                    let (kept, _) = channel();
                    state.pending = Some(sender);
                    Next::Message(Message::Call(call, kept))
                }
                Ok(message) => Next::Message(message),
                Err(RecvTimeoutError::Timeout) => Next::Nothing,
                // All senders are gone: the work is over.
                Err(RecvTimeoutError::Disconnected) => state.job.wait(END).map_or(Next::Nothing, Next::End),
            })
            .unwrap_or(Next::Closed);
        match next {
            Next::Nothing => Ok(None),
            Next::Message(Message::Release(subject)) => Ok(Some(("release", subject.into_pyobject(py)?.into_any()))),
            Next::Message(Message::Forget(subject, vector)) => Ok(Some(("forget", (subject, vector).into_pyobject(py)?.into_any()))),
            Next::Message(Message::Event(json)) => Ok(Some(("event", json.into_pyobject(py)?.into_any()))),
            Next::Message(Message::Call(call, _)) => asked(py, call).map(Some),
            Next::End(Ok(json)) => Ok(Some(("end", json.into_pyobject(py)?.into_any()))),
            Next::End(Err(error)) => Err(raised(&error)),
            Next::Closed => Err(PyRuntimeError::new_err("the job is closed")),
        }
    }

    /// Tells the work to stop; `next` goes on until its end.
    fn interrupt(&self, py: Python<'_>) {
        let _ = self.with_state(py, |state| state.job.interrupt());
    }

    /// Interrupts the work, if it is not over, and waits for its end.
    fn close(&self, py: Python<'_>) {
        py.detach(|| drop(self.state.lock().unwrap_or_else(PoisonError::into_inner).take()));
    }

    /// A cost, nats, and one standard deviation of its noise.
    fn answer_cost(&self, py: Python<'_>, nats: f64, resolution: f64) -> PyResult<()> {
        self.answer(py, Answer::Cost(nats, resolution))
    }

    /// The cost with those of the parts (none for a part in which nothing counts), each with one standard deviation of its noise, nats; nothing where
    /// there are no parts.
    fn answer_parts(&self, py: Python<'_>, whole: Option<(f64, f64)>, parts: Vec<Option<(f64, f64)>>) -> PyResult<()> {
        let cost = |(nats, resolution): (f64, f64)| Cost { nats, resolution };
        let found = whole.map(|whole| CostByPart { whole: cost(whole), parts: parts.into_iter().map(|part| part.map(cost)).collect() });
        self.answer(py, Answer::Parts(found))
    }

    /// A number with its gradient.
    fn answer_gradient(&self, py: Python<'_>, nats: f64, gradient: &Bound<'_, PyAny>) -> PyResult<()> {
        let gradient = values(py, gradient)?;
        self.answer(py, Answer::Gradient(nats, gradient))
    }

    /// Second moments of dense layers, and squares.
    fn answer_moments(
        &self,
        py: Python<'_>,
        moments: Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>)>,
        squares: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let moments = moments.iter().map(|(a, b)| Ok((values(py, a)?, values(py, b)?))).collect::<PyResult<Vec<_>>>()?;
        let squares = values(py, squares)?;
        self.answer(py, Answer::Moments(moments, squares))
    }

    /// What was asked is done.
    fn answer_done(&self, py: Python<'_>) -> PyResult<()> {
        self.answer(py, Answer::Done)
    }

    /// A number.
    fn answer_number(&self, py: Python<'_>, value: f64) -> PyResult<()> {
        self.answer(py, Answer::Number(value))
    }

    /// The coordinates of a vector.
    fn answer_values(&self, py: Python<'_>, vector: &Bound<'_, PyAny>) -> PyResult<()> {
        let values = values(py, vector)?;
        self.answer(py, Answer::Values(values))
    }

    /// What was asked could not be evaluated. Without a question that is open, nothing happens.
    fn fail(&self, py: Python<'_>, message: String) {
        let _ = self.answer(py, Answer::Failed(message));
    }

    /// What was asked is given up. Without a question that is open, nothing happens.
    fn give_up(&self, py: Python<'_>) {
        let _ = self.answer(py, Answer::Interrupted);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        Python::attach(|py| self.close(py));
    }
}

fn asked(py: Python<'_>, call: Call) -> PyResult<(&'static str, Bound<'_, PyAny>)> {
    let about = PyDict::new(py);
    about.set_item("subject", call.subject)?;
    let parts = |range: std::ops::Range<usize>, weights: Vec<f32>| -> PyResult<()> {
        about.set_item("weights", Vector::from(weights))?;
        about.set_item("start", range.start)?;
        about.set_item("stop", range.end)
    };
    let kind = match call.what {
        What::Ray { direction, center, step, by_part } => {
            match direction {
                None => about.set_item("direction", py.None())?,
                Some(Coordinates::Given(values)) => about.set_item("direction", Vector::from(values))?,
                Some(Coordinates::Made { seed, index }) => about.set_item("direction", (seed, index))?,
            }
            about.set_item("center", center)?;
            about.set_item("step", step)?;
            if by_part { "parts" } else { "ray" }
        }
        What::Cost { weights } => {
            about.set_item("weights", Vector::from(weights))?;
            "cost"
        }
        What::Gradient { weights, parts: range } => {
            parts(range, weights)?;
            "gradient"
        }
        What::Likelihood { weights, parts: range, seed, of_data } => {
            parts(range, weights)?;
            about.set_item("seed", seed)?;
            about.set_item("of_data", of_data)?;
            "likelihood"
        }
        What::Moments { weights, parts: range, probes, seed } => {
            parts(range, weights)?;
            about.set_item("probes", probes)?;
            about.set_item("seed", seed)?;
            "moments"
        }
        What::Vectors(Operation { name, vectors, factors, normal, values }) => {
            about.set_item("operation", name)?;
            about.set_item("vectors", vectors)?;
            about.set_item("factors", factors)?;
            about.set_item("normal", normal)?;
            about.set_item("values", values.map(Vector::from))?;
            "vectors"
        }
    };
    Ok((kind, about.into_any()))
}
