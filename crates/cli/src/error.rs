//! Exit codes: 2 for usage, 1 for failure, 130 for an interrupt.

use basin_volume_data::DataError;
use basin_volume_data::tokenizer::TokenizerError;
use basin_volume_models::train::TrainError;

use crate::target::eprintln_status;

/// What a shell reports for a program stopped by Ctrl-C.
pub const EXIT_INTERRUPTED: i32 = 130;

/// How a command ends when it does not succeed.
#[derive(Debug)]
pub enum CommandError {
    /// The command line asks for something that cannot be: exit code 2.
    Usage(String),
    /// It could not be done: exit code 1.
    Failure(anyhow::Error),
    /// Stopped by the user after what was begun had been saved: exit code 130.
    Interrupted,
}

impl CommandError {
    /// A usage error.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }
}

impl<E: Into<anyhow::Error>> From<E> for CommandError {
    fn from(error: E) -> Self {
        Self::Failure(error.into())
    }
}

/// The error and its causes in one sentence: causes that the message above them already contains are not repeated.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let message = cause.to_string();
        if text.is_empty() {
            text = message;
        } else if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
    }
    text
}

/// What a training that ended early is to the user: settings are usage, an interrupt is none of both, the rest is failure.
pub fn training_error(error: TrainError) -> CommandError {
    match error {
        TrainError::Stopped { .. } | TrainError::Interrupted { .. } => {
            eprintln_status(&format!("Interrupted: {error}."));
            CommandError::Interrupted
        }
        TrainError::Setting { name, value, expected } => {
            CommandError::usage(format!("--{} is {value}: expected {expected}", name.replace('_', "-")))
        }
        TrainError::Tokenizer(error @ TokenizerError::Vocabulary { .. }) => CommandError::usage(format!("--vocab-size: {error}")),
        error @ (TrainError::Architecture(_)
        | TrainError::Resume { .. }
        | TrainError::Data(DataError::Images { .. } | DataError::Split { .. })) => CommandError::usage(error.to_string()),
        error => error.into(),
    }
}

pub type CommandResult = Result<(), CommandError>;
