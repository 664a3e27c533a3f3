//! The command line of basin-volume: argv becomes a request, one observer draws what the engine tells, and how it ends becomes an exit code.

mod args;
mod commands;
mod screen;
mod signals;
mod words;

use std::process::ExitCode;

use basin_volume::interrupt::Interrupt;
use basin_volume_engine::error::Error;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command};
use commands::Context;
use screen::say;
use words::Words;

/// What a shell reports for a program stopped by Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::InvalidUtf8 => {
            say(&format!("error: {}", not_text()));
            return ExitCode::from(2);
        }
        Err(error) => error.exit(),
    };
    let interrupt = Interrupt::new();
    let raised = interrupt.clone();
    signals::watch(move || {
        if raised.is_raised() {
            std::process::exit(i32::from(EXIT_INTERRUPTED));
        }
        raised.raise();
        say("Stopping after what is being computed at this moment; everything done is kept. Once more stops at once.");
    });
    let context = Context { words: Words::of(cli.command.name()), interrupt };
    match dispatch(&cli.command, &context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Usage(message)) => {
            say(&format!("error: {}", context.words.say(&message)));
            ExitCode::from(2)
        }
        Err(Error::Interrupted) => ExitCode::from(EXIT_INTERRUPTED),
        Err(error) => {
            say(&format!("error: {}", context.words.say(&error.sentence())));
            ExitCode::FAILURE
        }
    }
}

/// What was typed. A number may be negative: it is refused as a number, not as a flag.
fn parse() -> Result<Cli, clap::Error> {
    let command = Cli::command().mut_subcommands(|command| {
        command.mut_args(|arg| if arg.get_action().takes_values() && !arg.is_positional() { arg.allow_negative_numbers(true) } else { arg })
    });
    Cli::from_arg_matches(&command.try_get_matches()?)
}

/// Which argument is not text, and what to do.
fn not_text() -> String {
    let argument = std::env::args_os().find(|argument| argument.to_str().is_none()).unwrap_or_default();
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
