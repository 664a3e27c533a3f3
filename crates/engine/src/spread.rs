//! One job as many tasks: what Slurm, torchrun or MPI started computes a part each, in a folder of its own beside the others, and whoever is last joins
//! them. Nothing passes between the tasks but their folders:
//!
//! ```text
//! RUN/                    the run that the parts become
//!   shards/3-of-8/        the part of a task: an ordinary run folder (or several, or a scan)
//!   shards/3-of-8.json    written when it is complete, with what it was asked
//!   shards/joining.lock   held by the task that joins
//!   seed-45/              of chains, which have no parts, the ladder of a task
//! ```

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use basin_volume::run::driver::RunEnd;
use basin_volume::run::folder::{self, names};
use basin_volume::run::shard::{Shard, ShardError};
use serde::{Deserialize, Serialize};

use crate::comparison;
use crate::error::{Context as _, Error};
use crate::estimate::{Outcome, short_hash};
use crate::estimators::family;
use crate::merge::{Merged, merge};
use crate::request::{Estimate, Machine};
use crate::runs::{read_group, run_folders};
use crate::scan::{Scan, ScanOutcome};
use crate::session::Session;

mod launcher;

pub use launcher::Launcher;

/// Which part of the samples is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ShardChoice {
    /// This one.
    Part(Shard),
    /// The one of this task, as the program that started it says.
    Auto,
}

/// All of them.
impl Default for ShardChoice {
    fn default() -> Self {
        Self::Part(Shard::ALL)
    }
}

impl ShardChoice {
    /// The part, where it is said; all where the task decides.
    #[must_use]
    pub fn part(self) -> Shard {
        match self {
            Self::Part(shard) => shard,
            Self::Auto => Shard::ALL,
        }
    }
}

/// What is no part.
#[derive(Debug, thiserror::Error)]
#[error("{0}, nor `auto`")]
pub struct ShardChoiceError(#[from] ShardError);

impl FromStr for ShardChoice {
    type Err = ShardChoiceError;

    fn from_str(text: &str) -> Result<Self, ShardChoiceError> {
        if text == "auto" { Ok(Self::Auto) } else { Ok(Self::Part(text.parse()?)) }
    }
}

impl TryFrom<String> for ShardChoice {
    type Error = ShardChoiceError;

    fn try_from(text: String) -> Result<Self, ShardChoiceError> {
        text.parse()
    }
}

impl From<ShardChoice> for String {
    fn from(choice: ShardChoice) -> Self {
        choice.to_string()
    }
}

impl std::fmt::Display for ShardChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Part(shard) => shard.fmt(f),
            Self::Auto => f.write_str("auto"),
        }
    }
}

/// This process as one of the tasks of a job.
#[derive(Debug)]
pub struct Task {
    launcher: Launcher,
    /// The folder of the job.
    whole: PathBuf,
}

/// What a task leaves when its part is complete.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// Of what the task was asked, so that marks of a job of fewer samples do not count.
    question: String,
}

impl Mark {
    fn of(asked: &impl Serialize) -> Result<Self, Error> {
        Ok(Self { question: short_hash(&serde_json::to_string(asked)?) })
    }
}

impl Task {
    /// This process, if its part is to be found out.
    ///
    /// # Errors
    /// When nothing says which of how many tasks this is, or no folder is named that they share.
    pub fn of(choice: ShardChoice, out: Option<&Path>) -> Result<Option<Self>, Error> {
        if choice != ShardChoice::Auto {
            return Ok(None);
        }
        let launcher = Launcher::here()?;
        let whole = out.ok_or_else(|| {
            Error::usage("`shard=auto` needs `out`, the folder that all tasks share: each computes its part in a folder inside it")
        })?;
        Ok(Some(Self { launcher, whole: whole.to_owned() }))
    }

    /// The folder of a part.
    fn folder(&self, index: u64) -> PathBuf {
        self.whole.join(names::SHARDS).join(format!("{index}-of-{}", self.launcher.count))
    }

    fn mark(&self, index: u64) -> PathBuf {
        self.folder(index).with_extension("json")
    }

    fn begin(&self, session: &Session) -> Result<(), Error> {
        // A part that is looked at again is complete when that has been done.
        match fs::remove_file(self.mark(self.launcher.index)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::of(error)).context(|| format!("cannot begin in {}", self.whole.display()));
            }
            _ => {}
        }
        session.note(&self.launcher.words());
        Ok(())
    }

    /// The estimate of this task, joined with those of the others where it is the last.
    ///
    /// # Errors
    /// Those of `run`, and when parts cannot be joined.
    pub fn estimate(
        &self,
        estimate: &Estimate,
        session: &Session,
        run: impl FnOnce(&Estimate) -> Result<Outcome, Error>,
    ) -> Result<Outcome, Error> {
        if !estimate.is_all() && !family(&estimate.estimator)?.capabilities().shards {
            return self.ladder(estimate, session, run);
        }
        // Files may lie elsewhere for every task.
        let file_name =
            |path: &String| Path::new(path).file_name().map_or_else(|| path.clone(), |name| name.to_string_lossy().into_owned());
        let preconditioner = estimate.preconditioner.iter().map(file_name).collect();
        let asked =
            Estimate { out: None, machine: Machine::default(), time_limit: None, spectrum_out: None, preconditioner, ..estimate.clone() };
        let own =
            Estimate { shard: ShardChoice::Part(self.launcher.shard()?), out: Some(self.folder(self.launcher.index)), ..estimate.clone() };
        self.begin(session)?;
        let outcome = run(&own)?;
        if outcome.end != RunEnd::Completed {
            return Ok(outcome);
        }
        match self.join(&Mark::of(&asked)?, session)? {
            Some(Merged::Runs { groups, is_together }) => {
                Ok(Outcome { groups, folder: self.whole.clone(), is_together, end: outcome.end, left_out: outcome.left_out })
            }
            _ => Ok(outcome),
        }
    }

    /// Chains have no parts: every task has a ladder of its own, by another seed, and whoever sees several says what they find together.
    fn ladder(
        &self,
        estimate: &Estimate,
        session: &Session,
        run: impl FnOnce(&Estimate) -> Result<Outcome, Error>,
    ) -> Result<Outcome, Error> {
        let mut own = Estimate { shard: ShardChoice::default(), ..estimate.clone() };
        own.ask.seed = estimate.ask.seed.wrapping_add(self.launcher.index);
        own.out = Some(self.whole.join(format!("seed-{}", own.ask.seed)));
        session.note(&self.launcher.words());
        session.note(&format!("Chains have no parts: this task's ladder is that of seed {}.", own.ask.seed));
        let outcome = run(&own)?;
        let is_one_run = outcome.groups.iter().all(|group| !group.is_group);
        if outcome.end != RunEnd::Completed || !is_one_run {
            return Ok(outcome);
        }
        let found = run_folders(&self.whole)?;
        let group = read_group(self.whole.clone(), &found)?;
        if group.ladders.is_none() {
            return Ok(outcome);
        }
        comparison::write(std::slice::from_ref(&group), None)?;
        Ok(Outcome { groups: vec![group], folder: self.whole.clone(), ..outcome })
    }

    /// The points of a scan, or parts of them, of this task, joined with those of the others where it is the last.
    ///
    /// # Errors
    /// Those of `run`, and when parts cannot be joined.
    pub fn scan(
        &self,
        scan: &Scan,
        session: &Session,
        run: impl FnOnce(&Scan) -> Result<ScanOutcome, Error>,
    ) -> Result<ScanOutcome, Error> {
        let asked = scan.decisive_settings()?;
        let mut own = scan.clone();
        own.shard = ShardChoice::Part(self.launcher.shard()?);
        own.out = Some(self.folder(self.launcher.index));
        self.begin(session)?;
        let outcome = run(&own)?;
        if outcome.end != RunEnd::Completed || !outcome.failures.is_empty() {
            return Ok(outcome);
        }
        match self.join(&Mark::of(&asked)?, session)? {
            Some(Merged::Scan { file, summary }) => {
                Ok(ScanOutcome { folder: self.whole.clone(), file, summary: Some(*summary), ..outcome })
            }
            _ => Ok(outcome),
        }
    }

    /// Says that this part is complete, and joins all if they are and nobody else does.
    fn join(&self, mark: &Mark, session: &Session) -> Result<Option<Merged>, Error> {
        folder::write_json(&self.mark(self.launcher.index), mark)?;
        let is_complete = |index: &u64| {
            let text = fs::read_to_string(self.mark(*index)).unwrap_or_default();
            serde_json::from_str::<Mark>(&text).is_ok_and(|found| found == *mark)
        };
        let all = 0..self.launcher.count;
        let missing: Vec<u64> = all.clone().filter(|index| !is_complete(index)).collect();
        if !missing.is_empty() {
            let of = self.launcher.count;
            let which = missing.iter().take(8).map(u64::to_string).collect::<Vec<_>>().join(", ");
            let more = if missing.len() > 8 { ", ..." } else { "" };
            session.note(&format!(
                "This part is complete. The last of the {of} tasks joins them in {}; not complete yet: {which}{more}.",
                self.whole.display()
            ));
            return Ok(None);
        }
        let path = self.whole.join(names::SHARDS).join("joining.lock");
        let lock = File::create(&path).context(|| format!("cannot write {}", path.display()))?;
        if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            session.note(&format!("All parts are complete, and another task joins them in {}.", self.whole.display()));
            return Ok(None);
        }
        // More tasks than there is to do leave some without a folder.
        let folders: Vec<PathBuf> = all.map(|index| self.folder(index)).filter(|folder| folder.is_dir()).collect();
        let merged = merge(&folders, &self.whole)?;
        session.note(&format!("All {} parts are complete: joined in {}.", self.launcher.count, self.whole.display()));
        Ok(Some(merged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_said_or_found_out() {
        assert_eq!("auto".parse::<ShardChoice>().unwrap(), ShardChoice::Auto);
        let part: ShardChoice = "3/8".parse().unwrap();
        assert_eq!((part.to_string(), ShardChoice::default().part()), ("3/8".to_owned(), Shard::ALL));
        assert_eq!(serde_json::from_str::<ShardChoice>("\"auto\"").unwrap(), ShardChoice::Auto);
        let error = "8/8".parse::<ShardChoice>().unwrap_err().to_string();
        assert!(error.contains("i/n") && error.ends_with("nor `auto`"), "{error}");
        assert!(Task::of(part, None).unwrap().is_none());
    }
}
