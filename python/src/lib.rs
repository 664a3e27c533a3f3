//! The engine of basin-volume as a Python extension, `basin_volume._engine`.
//!
//! Small on purpose: requests come as JSON, results are read from run folders, and what a person sees is Python on top. The engine works on threads
//! of its own and never calls Python: costs that are Python's are asked for by [mailbox], and evaluated by the thread that waits in [`job::Job::next`].

mod command;
mod device;
mod error;
mod estimate;
mod events;
mod folders;
mod job;
mod mailbox;
mod numbers;
mod precondition;
mod rows;
mod scores;
mod subject;
mod vectors;

use pyo3::prelude::*;

/// The engine of basin-volume.
#[pymodule(gil_used = false)]
mod _engine {
    #[pymodule_export]
    use crate::command::command;
    #[pymodule_export]
    use crate::error::{EngineError, Interrupted, UsageError};
    #[pymodule_export]
    use crate::estimate::{estimate_model, estimate_subjects, scan};
    #[pymodule_export]
    use crate::folders::{merge, page, read, report};
    #[pymodule_export]
    use crate::job::Job;
    #[pymodule_export]
    use crate::numbers::{direction, label_uniforms, log_radial_integral, ray_log_volume, setting_names};
    #[pymodule_export]
    use crate::precondition::{precondition_model, precondition_subject};
    #[pymodule_export]
    use crate::rows::divergences;
    #[pymodule_export]
    use crate::subject::Subject;
    #[pymodule_export]
    use crate::version;
}

/// Version of the engine.
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
