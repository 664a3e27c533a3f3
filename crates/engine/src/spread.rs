//! One job as many tasks: what Slurm, torchrun or MPI started computes a part each, in a folder of its own beside the others, and whoever is last joins
//! them. Nothing passes between the tasks but their folders:
//!
//! ```text
//! RUN/                    the run that the parts become
//!   shards/3-of-8/        the part of a task: an ordinary run folder (or several, or a scan)
//!   shards/3-of-8.json    written when it is complete, with what it was asked
//!   shards/joining.lock   held by the task that joins, and `writing.lock` by one that writes in RUN
//!   seed-45/              of chains, which have no parts, the ladder of a task
//!   annealed/seed-45/     the same where all estimators are asked for
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
use crate::estimate::{Outcome, Share, short_hash};
use crate::estimators::{Family, families};
use crate::merge::{Merged, merge};
use crate::request::{Estimate, Machine};
use crate::runs::{RunGroup, estimator_folders, ladder_folder, read_all, read_group, run_folders};
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
    /// The estimators that it has not left out for want of time; of one alone none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    estimators: Vec<String>,
}

impl Mark {
    fn of(asked: &impl Serialize) -> Result<Self, Error> {
        Ok(Self { question: short_hash(&serde_json::to_string(asked)?), estimators: Vec::new() })
    }
}

/// Parts that cannot be joined yet, by their numbers.
#[derive(Debug, Default)]
struct NotYet {
    /// They are not complete.
    missing: Vec<u64>,
    /// They were asked something else.
    others: Vec<u64>,
    /// They have other estimators.
    unlike: Vec<u64>,
}

impl NotYet {
    fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.others.is_empty() && self.unlike.is_empty()
    }

    fn words(&self) -> String {
        let list = |parts: &[u64]| {
            let which = parts.iter().take(8).map(u64::to_string).collect::<Vec<_>>().join(", ");
            which + if parts.len() > 8 { ", ..." } else { "" }
        };
        let said = [
            (&self.missing, "not complete yet", ""),
            (&self.others, "asked something else so far", " (they count once they are asked the same as this one)"),
            (&self.unlike, "with other estimators left out for want of time", " (repeat the tasks with a longer `time_limit`)"),
        ];
        let words: Vec<String> = said
            .iter()
            .filter(|(parts, ..)| !parts.is_empty())
            .map(|(parts, what, hint)| format!("{what}: {}{hint}", list(parts)))
            .collect();
        words.join("; ")
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

    fn begin(&self) -> Result<(), Error> {
        // A part that is looked at again is complete when that has been done.
        match fs::remove_file(self.mark(self.launcher.index)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::of(error)).context(|| format!("cannot begin in {}", self.whole.display()))
            }
            _ => Ok(()),
        }
    }

    /// The estimate of this task, joined with those of the others where it is the last: of estimators that have parts its part, of the others, chains,
    /// a ladder of its own.
    ///
    /// # Errors
    /// Those of `run`, and when parts cannot be joined.
    pub(crate) fn estimate(
        &self,
        estimate: &Estimate,
        session: &Session,
        run: impl Fn(&Estimate, &Share) -> Result<Outcome, Error>,
    ) -> Result<Outcome, Error> {
        let has_parts = |family: &&dyn Family| family.capabilities().shards;
        let families = families(&estimate.estimator)?;
        session.note(&self.launcher.words());
        if !families.iter().any(has_parts) {
            return self.ladders(estimate, session, run);
        }
        let parts = self.parts(estimate, session, &run)?;
        if families.iter().all(has_parts) || parts.end != RunEnd::Completed {
            return Ok(parts);
        }
        let ladders = self.ladders(estimate, session, run)?;
        let left_out = parts.left_out.iter().chain(&ladders.left_out).cloned().collect();
        if !estimator_folders(&self.whole).is_together {
            return Ok(Outcome { left_out, ..parts });
        }
        // The others may have joined their parts since.
        let groups = self.alone(|| {
            let groups = read_all(&self.whole)?;
            comparison::write_beside(&groups, Some(&self.whole))?;
            Ok(groups)
        })?;
        Ok(Outcome { groups, left_out, folder: self.whole.clone(), ..ladders })
    }

    /// Its part, joined with those of the others where it is the last.
    fn parts(
        &self,
        estimate: &Estimate,
        session: &Session,
        run: impl Fn(&Estimate, &Share) -> Result<Outcome, Error>,
    ) -> Result<Outcome, Error> {
        // Files may lie elsewhere for every task.
        let file_name =
            |path: &String| Path::new(path).file_name().map_or_else(|| path.clone(), |name| name.to_string_lossy().into_owned());
        let preconditioner = estimate.preconditioner.iter().map(file_name).collect();
        let asked =
            Estimate { out: None, machine: Machine::default(), time_limit: None, spectrum_out: None, preconditioner, ..estimate.clone() };
        let own =
            Estimate { shard: ShardChoice::Part(self.launcher.shard()?), out: Some(self.folder(self.launcher.index)), ..estimate.clone() };
        self.begin()?;
        let outcome = run(&own, &Share::Parts)?;
        comparison::write_beside(&outcome.groups, outcome.together())?;
        if outcome.end != RunEnd::Completed {
            return Ok(outcome);
        }
        let name = |group: &RunGroup| group.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let estimators = if outcome.is_together { outcome.groups.iter().map(name).collect() } else { Vec::new() };
        match self.join(&Mark { estimators, ..Mark::of(&asked)? }, session)? {
            Some(Merged::Runs { groups, is_together }) => {
                Ok(Outcome { groups, folder: self.whole.clone(), is_together, end: outcome.end, left_out: outcome.left_out })
            }
            _ => Ok(outcome),
        }
    }

    /// Chains have no parts: every task has a ladder of its own, by another seed, and whoever sees several says what they find together.
    fn ladders(
        &self,
        estimate: &Estimate,
        session: &Session,
        run: impl Fn(&Estimate, &Share) -> Result<Outcome, Error>,
    ) -> Result<Outcome, Error> {
        let mut own = Estimate { shard: ShardChoice::default(), ..estimate.clone() };
        own.ask.seed = estimate.ask.seed.wrapping_add(self.launcher.index);
        session.note(&format!("Chains have no parts: this task's ladder is that of seed {}.", own.ask.seed));
        let outcome = run(&own, &Share::Ladders(ladder_folder(own.ask.seed)))?;
        let is_plain = outcome.groups.iter().all(|group| !group.is_group);
        if outcome.end != RunEnd::Completed || !is_plain {
            return Ok(outcome);
        }
        // Other tasks end at the same time, and each says what it finds beside its own.
        let groups = self.alone(|| {
            let read = |group: &RunGroup| {
                let folder = group.folder.parent().unwrap_or(&self.whole).to_owned();
                let all = read_group(folder.clone(), &run_folders(&folder)?)?;
                comparison::write_beside(std::slice::from_ref(&all), None)?;
                Ok(all)
            };
            outcome.groups.iter().map(read).collect::<Result<Vec<_>, Error>>()
        })?;
        Ok(Outcome { groups, folder: self.whole.clone(), ..outcome })
    }

    /// Writes in the folder of the job while no other task does.
    fn alone<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let lock = self.lock("writing.lock")?;
        lock.lock().context(|| format!("cannot lock a file in {}", self.whole.display()))?;
        work()
    }

    fn lock(&self, name: &str) -> Result<File, Error> {
        let shards = self.whole.join(names::SHARDS);
        let path = shards.join(name);
        fs::create_dir_all(&shards).and_then(|()| File::create(&path)).context(|| format!("cannot write {}", path.display()))
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
        session.note(&self.launcher.words());
        self.begin()?;
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
        let all = 0..self.launcher.count;
        let mut not_yet = NotYet::default();
        for index in all.clone() {
            let text = fs::read_to_string(self.mark(index)).unwrap_or_default();
            match serde_json::from_str::<Mark>(&text) {
                Ok(found) if found == *mark => {}
                Ok(found) if found.question == mark.question => not_yet.unlike.push(index),
                Ok(_) => not_yet.others.push(index),
                Err(_) => not_yet.missing.push(index),
            }
        }
        if !not_yet.is_empty() {
            session.note(&format!(
                "This part is complete. The last of the {} tasks joins them in {}; {}.",
                self.launcher.count,
                self.whole.display(),
                not_yet.words()
            ));
            return Ok(None);
        }
        let lock = self.lock("joining.lock")?;
        if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            session.note(&format!("All parts are complete, and another task joins them in {}.", self.whole.display()));
            return Ok(None);
        }
        // More tasks than there is to do leave some without a folder.
        let folders: Vec<PathBuf> = all.map(|index| self.folder(index)).filter(|folder| folder.is_dir()).collect();
        let merged = self.alone(|| merge(&folders, &self.whole))?;
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
