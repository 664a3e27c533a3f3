//! The command line of basin-volume. The binary is glue: argv -> typed arguments -> what they mean -> the library.

mod args;
mod commands;
mod curvature;
mod error;
mod plot;
mod preconditioning;
mod present;
mod problem;
mod progress;
mod target;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;

use args::{Cli, Command};
use error::{CommandError, CommandResult, EXIT_INTERRUPTED, sentence};
use target::eprintln_status;

/// Raised by Ctrl-C and by a request to terminate; the workers finish what they have begun.
static INTERRUPT: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Without a handler Ctrl-C still ends the program, and nothing that is on disk is lost.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPT.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_INTERRUPTED);
        }
    });
    match dispatch(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CommandError::Usage(message)) => {
            eprintln_status(&format!("error: {message}"));
            ExitCode::from(2)
        }
        Err(CommandError::Failure(error)) => {
            eprintln_status(&format!("error: {}", sentence(&error)));
            ExitCode::FAILURE
        }
        Err(CommandError::Interrupted) => ExitCode::from(EXIT_INTERRUPTED as u8),
    }
}

fn dispatch(command: &Command) -> CommandResult {
    match command {
        Command::Train { recipe } => commands::train::run(recipe, &INTERRUPT),
        Command::Data { set } => commands::data::run(set),
        Command::Estimate(args) => commands::estimate::run(args, &INTERRUPT),
        Command::Scan(args) => commands::scan::run(args, &INTERRUPT),
        Command::Profile(args) => commands::profile::run(args, &INTERRUPT),
        Command::Precondition(args) => commands::precondition::run(args, &INTERRUPT),
        Command::Merge(args) => commands::merge::run(args),
        Command::Report(args) => commands::report::run(args),
        Command::Inspect(args) => commands::inspect::run(args, &INTERRUPT),
        Command::Logits(args) => commands::logits::run(args, &INTERRUPT),
    }
}
