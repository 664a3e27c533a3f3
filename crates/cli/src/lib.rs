//! The command line of basin-volume: argv becomes a request, one observer draws what the engine tells, and how it ends becomes an exit code.
//!
//! A library, so that other programs (the command of the Python package) are the same one.

#![deny(missing_docs)]

mod args;
mod commands;
mod screen;
mod signals;
mod words;

use std::ffi::OsString;

use basin_volume::interrupt::Interrupt;
use basin_volume_engine::error::Error;
use basin_volume_engine::forecast::duration;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command};
use commands::Context;
use screen::say;
pub use signals::watch;
use words::Words;

/// What a shell reports for a program stopped by Ctrl-C.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Does what `argv` says (the program's name first) until the interrupt is raised; gives the exit code.
pub fn run(argv: impl IntoIterator<Item = OsString>, interrupt: Interrupt) -> u8 {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let cli = match parse(&argv) {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::InvalidUtf8 => {
            say(&format!("error: {}", not_text(&argv)));
            return 2;
        }
        Err(answer) => {
            // Help and usage: where nobody reads them, nothing is said.
            let _ = answer.print();
            return u8::try_from(answer.exit_code()).unwrap_or(2);
        }
    };
    let context = Context { words: Words::of(cli.command.name()), interrupt };
    match dispatch(&cli.command, &context) {
        Ok(()) => 0,
        Err(Error::Usage(message)) => {
            say(&format!("error: {}", context.words.say(&message)));
            2
        }
        Err(Error::Interrupted) => EXIT_INTERRUPTED,
        Err(error) => {
            say(&format!("error: {}", context.words.say(&error.sentence())));
            1
        }
    }
}

/// Says that the first request to stop is obeyed, and within what time: two of the longest pieces of work so far.
pub fn stopping(interrupt: &Interrupt) {
    let longest = 2.0 * interrupt.longest().as_secs_f64();
    let within = if longest < 1.0 { String::new() } else { format!(" (up to about {})", duration(longest)) };
    say(&format!("Stopping after what is being computed at this moment{within}; everything done is kept. Once more stops at once."));
}

/// What was typed. A number may be negative: it is refused as a number, not as a flag.
fn parse(argv: &[OsString]) -> Result<Cli, clap::Error> {
    let command = Cli::command().mut_subcommands(|command| {
        command.mut_args(|arg| if arg.get_action().takes_values() && !arg.is_positional() { arg.allow_negative_numbers(true) } else { arg })
    });
    Cli::from_arg_matches(&command.try_get_matches_from(argv)?)
}

/// Which argument is not text, and what to do.
fn not_text(argv: &[OsString]) -> String {
    let argument = argv.iter().find(|argument| argument.to_str().is_none()).cloned().unwrap_or_default();
    format!(
        "the argument '{}' is not UTF-8: rename the file or folder, or give a link to it that has another name (`ln -s`)",
        argument.to_string_lossy().replace(char::is_control, "?")
    )
}

fn dispatch(command: &Command, context: &Context) -> Result<(), Error> {
    match command {
        Command::Train { recipe } => commands::train::run(recipe, context),
        Command::Data { set } => commands::data::run(set),
        Command::Estimate(args) => commands::estimate::run(args, context),
        Command::Scan(args) => commands::scan::run(args, context),
        Command::Profile(args) => commands::profile::run(args, context),
        Command::Precondition(args) => commands::precondition::run(args, context),
        Command::Merge(args) => commands::merge::run(args, context),
        Command::Report(args) => commands::report::run(args, context),
        Command::Inspect(args) => commands::inspect::run(args, context),
        Command::Logits(args) => commands::logits::run(args, context),
    }
}
