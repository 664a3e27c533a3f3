//! How a job ends when it does not succeed.
//!
//! A front tells three ends apart (usage, failure, interrupt), and says settings in its own words: in the text of a usage error they stand in
//! backticks by the names of [`crate::request`], with a value behind `=` where one is meant: `` `damping=auto` needs `prior=gaussian` ``.
//!
//! There is no conversion from any error: every library error is told here, once, whether its cause is what was asked for.

use std::fmt::Display;

use basin_volume::estimator::annealed::AnnealedError;
use basin_volume::estimator::llc::LlcError;
use basin_volume::estimator::radial::RadialError;
use basin_volume::estimator::spectral::SpectralError;
use basin_volume::fisher::FisherError;
use basin_volume::objective::ObjectiveError;
use basin_volume::question::QuestionError;
use basin_volume::run::folder::FolderError;
use basin_volume_data::DataError;
use basin_volume_data::text::TextError;
use basin_volume_data::tokenizer::TokenizerError;
use basin_volume_data::tokens::TokensError;
use basin_volume_models::checkpoint::CheckpointError;
use basin_volume_models::cost::CostError;
use basin_volume_models::curvature::CurvatureError;
use basin_volume_models::memory::MemoryError;
use basin_volume_models::train::TrainError;
use basin_volume_models::weights::HubError;
use basin_volume_models::weights::adapter::AdapterError;

/// What went wrong, with its cause.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// How a job ends when it does not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for cannot be: one sentence with the settings in backticks.
    #[error("{0}")]
    Usage(String),
    /// It could not be done.
    #[error("{message}")]
    Failed {
        /// One sentence.
        message: String,
        /// What is underneath.
        #[source]
        source: Option<Cause>,
    },
    /// It was told to stop; what was computed before is kept.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// What was asked for cannot be.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// It could not be done.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), source: None }
    }

    /// An error of a library that is no matter of usage.
    pub fn of(source: impl Into<Cause>) -> Self {
        let source = source.into();
        Self::Failed { message: source.to_string(), source: source_of(source) }
    }

    /// The error and its causes in one sentence: causes that the message above them already contains are not repeated.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let message = error.to_string();
            if !text.contains(&message) {
                text.push_str(": ");
                text.push_str(&message);
            }
            cause = error.source();
        }
        text
    }

    /// The same failure with where what was computed before it is kept.
    #[must_use]
    pub fn keeping(self, folder: &std::path::Path) -> Self {
        match self {
            Self::Failed { .. } => Self::failed(format!("{}; what was computed before is in {}", self.sentence(), folder.display())),
            other => other,
        }
    }
}

/// An error whose own message was taken over keeps only what is below it.
fn source_of(error: Cause) -> Option<Cause> {
    error.source().is_some().then_some(error)
}

/// Says what was being done when something failed.
pub trait Context<T> {
    /// The failure in these words, with the error as its cause.
    ///
    /// # Errors
    /// [`Error::Failed`] where there was an error.
    fn context<C: Display>(self, words: impl FnOnce() -> C) -> Result<T, Error>;
}

impl<T, E: Into<Cause>> Context<T> for Result<T, E> {
    fn context<C: Display>(self, words: impl FnOnce() -> C) -> Result<T, Error> {
        self.map_err(|error| Error::Failed { message: words().to_string(), source: Some(error.into()) })
    }
}

/// Errors whose cause is never what was asked for.
macro_rules! failures {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::of(error)
            }
        }
    )*};
}

failures!(
    FolderError,
    CheckpointError,
    CostError,
    AdapterError,
    MemoryError,
    TextError,
    TokenizerError,
    rayon::ThreadPoolBuildError,
    serde_json::Error,
    basin_volume::preconditioner::PreconditionerError,
    basin_volume::estimator::matching::MatchingError,
);

impl From<QuestionError> for Error {
    fn from(error: QuestionError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<HubError> for Error {
    fn from(error: HubError) -> Self {
        if matches!(error, HubError::Interrupted) { Self::Interrupted } else { Self::of(error) }
    }
}

impl From<ObjectiveError> for Error {
    fn from(error: ObjectiveError) -> Self {
        if error.is_interrupt() { Self::Interrupted } else { Self::of(error) }
    }
}

impl From<FisherError> for Error {
    fn from(error: FisherError) -> Self {
        if error.is_interrupt() { Self::Interrupted } else { Self::of(error) }
    }
}

impl From<RadialError> for Error {
    fn from(error: RadialError) -> Self {
        match error {
            RadialError::Setting { .. } => Self::Usage(error.to_string()),
            RadialError::Objective(error) => error.into(),
            other => Self::of(other),
        }
    }
}

impl From<SpectralError> for Error {
    fn from(error: SpectralError) -> Self {
        match error {
            SpectralError::Setting { .. } | SpectralError::Block | SpectralError::Prior | SpectralError::NoFactor { .. } => {
                Self::Usage(error.to_string())
            }
            SpectralError::Interrupted => Self::Interrupted,
            SpectralError::Objective(error) => error.into(),
            SpectralError::Fisher(error) => error.into(),
            other => Self::of(other),
        }
    }
}

impl From<AnnealedError> for Error {
    fn from(error: AnnealedError) -> Self {
        match error {
            AnnealedError::Setting { .. } | AnnealedError::OneAnchor { .. } | AnnealedError::StarElsewhere | AnnealedError::Prior => {
                Self::Usage(error.to_string())
            }
            AnnealedError::Objective(error) => error.into(),
            other => Self::of(other),
        }
    }
}

impl From<LlcError> for Error {
    fn from(error: LlcError) -> Self {
        match error {
            LlcError::Chains(error) => error.into(),
            LlcError::Center(_) => Self::of(error),
            _ => Self::Usage(error.to_string()),
        }
    }
}

impl From<CurvatureError> for Error {
    fn from(error: CurvatureError) -> Self {
        match error {
            CurvatureError::Interrupted { .. } => Self::Interrupted,
            CurvatureError::Setting { .. } | CurvatureError::Labels { .. } | CurvatureError::Unsupported { .. } => {
                Self::Usage(error.to_string())
            }
            CurvatureError::Objective(error) => error.into(),
            other => Self::of(other),
        }
    }
}

impl From<DataError> for Error {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Split { .. } => Self::Usage(error.to_string()),
            other => Self::of(other),
        }
    }
}

impl From<TokensError> for Error {
    fn from(error: TokensError) -> Self {
        match error {
            TokensError::Setting { .. } => Self::Usage(error.to_string()),
            other => Self::of(other),
        }
    }
}

impl From<TrainError> for Error {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Stopped { .. } | TrainError::Interrupted { .. } => Self::Interrupted,
            TrainError::Setting { name, value, expected } => Self::Usage(format!("`{name}` is {value}: expected {expected}")),
            TrainError::Tokenizer(error @ TokenizerError::Vocabulary { .. }) => Self::Usage(format!("`vocab_size`: {error}")),
            error @ (TrainError::Architecture(_)
            | TrainError::Resume { .. }
            | TrainError::Data(DataError::Images { .. } | DataError::Split { .. })) => Self::Usage(error.to_string()),
            error => Self::of(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let below = std::io::Error::other("the disk is full");
        let error = Err::<(), _>(below).context(|| "cannot write a.json").unwrap_err();
        assert_eq!(error.sentence(), "cannot write a.json: the disk is full");
        let same = Err::<(), _>("b").context(|| "a b c").unwrap_err();
        assert_eq!(same.sentence(), "a b c");
        assert_eq!(
            error.keeping(std::path::Path::new("run")).to_string(),
            "cannot write a.json: the disk is full; what was computed before is in run"
        );
    }

    #[test]
    fn what_was_asked_is_told_from_what_failed() {
        let setting = RadialError::Setting { name: "cutoff", value: -1.0, expected: "a finite number > 0" };
        assert!(matches!(Error::from(setting), Error::Usage(_)));
        assert!(matches!(Error::from(RadialError::CenterAtOrigin), Error::Failed { .. }));
        assert!(matches!(Error::from(ObjectiveError::interrupted()), Error::Interrupted));
    }
}
