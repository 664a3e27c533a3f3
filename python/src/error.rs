//! The engine's three kinds of errors as exceptions.

use basin_volume_engine::error::Error;
use pyo3::create_exception;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

create_exception!(basin_volume, UsageError, PyValueError, "What was asked for cannot be.");
create_exception!(basin_volume, EngineError, PyRuntimeError, "It could not be done; what was computed before is kept.");
create_exception!(basin_volume, Interrupted, PyRuntimeError, "Told to stop before there was anything to show.");

/// The exception for an error.
pub fn raised(error: &Error) -> PyErr {
    match error {
        Error::Usage(message) => UsageError::new_err(message.clone()),
        Error::Interrupted => Interrupted::new_err("interrupted before the first sample"),
        failed @ Error::Failed { .. } => EngineError::new_err(failed.sentence()),
    }
}

/// Requests of this package are made by it: one that is malformed has a value of a type that the engine does not know.
pub fn request<T: serde::de::DeserializeOwned>(json: &str) -> PyResult<T> {
    serde_json::from_str(json).map_err(|error| UsageError::new_err(format!("a setting has a value of another type: {error}")))
}
