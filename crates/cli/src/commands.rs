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

use serde::Serialize;

use crate::error::CommandResult;

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
