//! The command line, the same program as the binary.

use std::ffi::OsString;

use basin_volume::interrupt::Interrupt;
use basin_volume_engine::request::Machine;
use pyo3::prelude::*;

use crate::job::{Job, begin};

/// Begins what `argv` says, the program's name first; ends with the exit code.
#[pyfunction]
pub fn command(py: Python<'_>, argv: Vec<OsString>) -> PyResult<Job> {
    begin(py, Machine::default(), move |session, _| {
        let interrupt: Interrupt = session.interrupt.clone();
        Ok(basin_volume_cli::run(argv, interrupt).to_string())
    })
}
