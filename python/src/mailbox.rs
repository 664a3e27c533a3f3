//! Calls of Python from the engine's threads: a message with a way for the answer, evaluated by the thread that waits for messages.
//!
//! Messages own what they carry: no lock is held while an answer is awaited, and no memory is shared.

use std::ops::Range;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use basin_volume::direction::{BLOCK, Direction};
use basin_volume::objective::{Cost, CostByPart, ObjectiveError, RayPoint};
use rayon::prelude::*;

use crate::device::Operation;

/// What whoever waits is told or asked.
pub enum Message {
    /// Something happened: JSON.
    Event(String),
    /// The direction of the subject with this number is of no use any more: another one is drawn.
    Release(usize),
    /// The vector with this number of a subject is of no use any more.
    Forget(usize, u64),
    /// Something is to be evaluated.
    Call(Call, Sender<Answer>),
}

/// What is to be evaluated, of which subject.
pub struct Call {
    /// Its number.
    pub subject: usize,
    /// What.
    pub what: What,
}

/// What is to be evaluated.
pub enum What {
    /// A point of a ray, `center * c + step * y`: its cost, or the cost of every part.
    Ray {
        /// The coordinates `y`, if they are others than those of the last call.
        direction: Option<Coordinates>,
        /// Multiple of the center.
        center: f64,
        /// Multiple of the direction's coordinates.
        step: f64,
        /// Whether the parts are asked for.
        by_part: bool,
    },
    /// The cost of all parts at these weights.
    Cost { weights: Vec<f32> },
    /// The gradient of what parts contribute to the cost.
    Gradient { weights: Vec<f32>, parts: Range<usize> },
    /// The gradient of the negative log-likelihood of labels, drawn from the model or, without a draw, those of the data with random signs.
    Likelihood { weights: Vec<f32>, parts: Range<usize>, seed: u64, of_data: bool },
    /// Second moments of dense layers for drawn labels, with the squared gradient of the same labels.
    Moments { weights: Vec<f32>, parts: Range<usize>, probes: usize, seed: u64 },
    /// Something is to be done with vectors where the weights are.
    Vectors(Operation),
}

/// The coordinates `y` of a direction.
pub enum Coordinates {
    /// They themselves.
    Given(Vec<f32>),
    /// What they are made of: normals for directions, of this seed and index.
    Made { seed: u64, index: u64 },
}

/// What came back.
pub enum Answer {
    /// A cost with its resolution, nats.
    Cost(f64, f64),
    /// The cost with those of the parts, if there are any.
    Parts(Option<CostByPart>),
    /// A number with its gradient.
    Gradient(f64, Vec<f32>),
    /// Pairs of second moments of inputs and outputs, and the squares.
    Moments(Vec<(Vec<f32>, Vec<f32>)>, Vec<f32>),
    /// It is done.
    Done,
    /// A number.
    Number(f64),
    /// The coordinates of a vector.
    Values(Vec<f32>),
    /// It failed.
    Failed(String),
    /// It was given up, because an interrupt is raised.
    Interrupted,
}

/// The way to whoever evaluates one subject.
#[derive(Clone)]
pub struct Line {
    subject: usize,
    sender: Sender<Message>,
}

impl Line {
    /// The subject's number.
    pub fn subject(&self) -> usize {
        self.subject
    }

    /// Says something.
    pub fn tell(&self, message: Message) -> Result<(), ObjectiveError> {
        self.sender.send(message).map_err(|_| ObjectiveError::interrupted())
    }

    fn send(&self, what: What) -> Result<std::sync::mpsc::Receiver<Answer>, ObjectiveError> {
        let (sender, receiver) = channel();
        let call = Call { subject: self.subject, what };
        self.tell(Message::Call(call, sender))?;
        Ok(receiver)
    }

    fn answer(receiver: &std::sync::mpsc::Receiver<Answer>) -> Result<Answer, ObjectiveError> {
        match receiver.recv() {
            Ok(Answer::Failed(message)) => Err(ObjectiveError::new(message)),
            // Whoever was asked is gone.
            Ok(Answer::Interrupted) | Err(_) => Err(ObjectiveError::interrupted()),
            Ok(answer) => Ok(answer),
        }
    }

    /// Asks, and waits for the answer.
    pub fn ask(&self, what: What) -> Result<Answer, ObjectiveError> {
        Self::answer(&self.send(what)?)
    }
}

/// Where calls of one subject go.
pub struct Mailbox {
    line: Line,
    /// Whether the other side makes directions itself where it can.
    makes_directions: bool,
    /// The direction that the other side has.
    loaded: Mutex<Option<u64>>,
}

impl Mailbox {
    /// Of the subject with this number.
    pub fn new(subject: usize, makes_directions: bool, sender: Sender<Message>) -> Self {
        Self { line: Line { subject, sender }, makes_directions, loaded: Mutex::new(None) }
    }

    /// The way itself.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Asks, and waits for the answer.
    pub fn ask(&self, what: What) -> Result<Answer, ObjectiveError> {
        self.line.ask(what)
    }

    /// Asks about a point of a ray; the coordinates are sent once.
    pub fn ask_on_ray(&self, direction: &Direction, point: RayPoint, by_part: bool) -> Result<Answer, ObjectiveError> {
        let call =
            |coordinates| What::Ray { direction: coordinates, center: point.center, step: point.direction * direction.scale(), by_part };
        {
            let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            if *loaded == Some(direction.identity()) {
                // Sent before the lock is given back: no other direction comes between.
                let receiver = self.line.send(call(None))?;
                drop(loaded);
                return Line::answer(&receiver);
            }
            // One direction at a time is in memory; whoever had the last one sends it again.
            *loaded = None;
            self.line.tell(Message::Release(self.line.subject()))?;
        }
        // Filled without the lock: rayon may have this thread compute another ray meanwhile.
        let coordinates = match direction.seed().filter(|_| self.makes_directions) {
            Some(seed) => Coordinates::Made { seed, index: direction.index() },
            None => {
                let mut values = vec![0.0f32; direction.dimension()];
                values.par_chunks_mut(BLOCK).enumerate().for_each(|(block, out)| {
                    direction.fill(block * BLOCK..block * BLOCK + out.len(), out);
                });
                Coordinates::Given(values)
            }
        };
        let receiver = {
            let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            *loaded = Some(direction.identity());
            self.line.send(call(Some(coordinates)))?
        };
        Line::answer(&receiver)
    }

    /// A cost.
    pub fn cost(&self, what: What) -> Result<Cost, ObjectiveError> {
        cost_of(self.ask(what)?)
    }

    /// A number, with its gradient written to `out`.
    pub fn gradient(&self, what: What, out: &mut [f32]) -> Result<f64, ObjectiveError> {
        match self.ask(what)? {
            Answer::Gradient(nats, gradient) if gradient.len() == out.len() => {
                out.copy_from_slice(&gradient);
                Ok(nats)
            }
            Answer::Gradient(_, gradient) => {
                Err(ObjectiveError::new(format!("the gradient has {} entries, but there are {} weights", gradient.len(), out.len())))
            }
            _ => Err(unexpected()),
        }
    }
}

/// The cost in an answer.
pub fn cost_of(answer: Answer) -> Result<Cost, ObjectiveError> {
    match answer {
        Answer::Cost(nats, resolution) => Ok(Cost { nats, resolution }),
        _ => Err(unexpected()),
    }
}

/// An answer to another question.
pub fn unexpected() -> ObjectiveError {
    ObjectiveError::new("the answer belongs to another question")
}
