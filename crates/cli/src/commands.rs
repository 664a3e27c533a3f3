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

use basin_volume::interrupt::Interrupt;
use basin_volume_engine::error::{Context as _, Error};
use basin_volume_engine::request::Machine;
use basin_volume_engine::session::Session;
use basin_volume_report::{COLUMNS, wrapped};
use serde::Serialize;

use crate::screen::Screen;
use crate::words::Words;

/// What every command has.
pub struct Context {
    /// Settings as flags.
    pub words: Words,
    /// Raised by Ctrl-C and by a request to terminate.
    pub interrupt: Interrupt,
}

impl Context {
    /// A screen that says settings as flags.
    pub fn screen(&self) -> Screen {
        Screen::new(self.words.clone())
    }

    /// A session that is shown on a screen.
    pub fn session(&self, machine: Machine, screen: Screen) -> Session {
        Session::new(machine.threads, machine.memory.map(|memory| memory.0), self.interrupt.clone(), Box::new(screen))
    }

    /// Prints text with its settings as flags, its sentences broken into lines.
    pub fn print(&self, text: &str) -> Result<(), Error> {
        print(&wrapped(&self.words.say(text), COLUMNS))
    }
}

/// Prints to standard output; a closed pipe (`| head`) is no error.
pub fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context(|| "cannot write to standard output"),
        _ => Ok(()),
    }
}

/// Prints JSON to standard output.
pub fn print_json(value: &impl Serialize) -> Result<(), Error> {
    print(&serde_json::to_string_pretty(value)?)
}
