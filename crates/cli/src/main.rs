//! The program `basin-volume`.

use std::process::ExitCode;

use basin_volume::interrupt::Interrupt;
use basin_volume_cli::{EXIT_INTERRUPTED, run, stopping, watch};

fn main() -> ExitCode {
    let interrupt = Interrupt::new();
    let raised = interrupt.clone();
    watch(move || {
        if raised.is_raised() {
            std::process::exit(i32::from(EXIT_INTERRUPTED));
        }
        raised.raise();
        stopping(&raised);
    });
    ExitCode::from(run(std::env::args_os(), interrupt))
}
