//! Where tables and single runs go.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

/// The standard output and, if there is a folder, a table and a line of JSON per run in it.
pub struct Output {
    table: Option<PathBuf>,
    runs: Option<BufWriter<File>>,
}

impl Output {
    /// For the study of this name.
    pub fn new(study: &str, folder: Option<&Path>) -> anyhow::Result<Self> {
        let Some(folder) = folder else { return Ok(Self { table: None, runs: None }) };
        fs::create_dir_all(folder)
            .with_context(|| format!("{} could not be made: give --out a folder that can be written to", folder.display()))?;
        let path = folder.join(study).with_extension("jsonl");
        let runs = File::create(&path).with_context(|| format!("{} could not be written", path.display()))?;
        Ok(Self { table: Some(folder.join(study).with_extension("md")), runs: Some(BufWriter::new(runs)) })
    }

    /// One line of JSON.
    pub fn run(&mut self, record: &impl Serialize) -> anyhow::Result<()> {
        if let Some(runs) = &mut self.runs {
            serde_json::to_writer(&mut *runs, record)?;
            writeln!(runs)?;
            runs.flush()?;
        }
        Ok(())
    }

    /// The tables so far: written anew, so that a study that is stopped leaves what it had.
    pub fn tables(&self, text: &str) -> anyhow::Result<()> {
        if let Some(path) = &self.table {
            fs::write(path, text).with_context(|| format!("{} could not be written", path.display()))?;
        }
        Ok(())
    }

    /// The end of the study.
    pub fn finish(self, text: &str) -> anyhow::Result<()> {
        self.tables(text)?;
        io::stdout().write_all(text.as_bytes())?;
        Ok(())
    }
}

/// A line for whoever waits.
pub fn progress(line: &str) {
    // A closed standard error is no reason to stop.
    let _ = writeln!(io::stderr(), "{line}");
}
