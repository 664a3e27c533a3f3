//! One file per command.

pub mod data;
pub mod estimate;
pub mod inspect;
pub mod logits;
pub mod merge;
pub mod precondition;
pub mod profile;
pub mod report;
pub mod scan;
pub mod train;

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::error::{CommandError, CommandResult};

/// The worker threads asked for, else one for every core.
pub fn threads(asked: Option<NonZeroUsize>) -> NonZeroUsize {
    asked.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

/// Refuses a place where no file can be written, before anything is computed for it.
pub fn check_file_place(flag: &str, path: &Path) -> CommandResult {
    if path.is_dir() {
        return Err(CommandError::usage(format!("{flag} {} is a folder: expected the name of a file", path.display())));
    }
    match path.ancestors().skip(1).find(|above| above.exists()) {
        Some(above) if !above.is_dir() => {
            Err(CommandError::usage(format!("{flag} {}: {} is a file, not a folder", path.display(), above.display())))
        }
        _ => Ok(()),
    }
}

/// Makes the folder that a file is to be written to.
pub fn make_folder_of(path: &Path) -> anyhow::Result<()> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display())),
        None => Ok(()),
    }
}

/// Prints to standard output; a closed pipe (`| head`) is no error.
pub fn print(text: &str) -> CommandResult {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints JSON to standard output.
pub fn print_json(value: &impl Serialize) -> CommandResult {
    print(&serde_json::to_string_pretty(value)?)
}
