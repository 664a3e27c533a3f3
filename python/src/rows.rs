//! Divergences of outputs that torch computed, on the processor: the memory of its tensors is read where it is.

use std::sync::{Arc, Mutex, PoisonError};

use basin_volume_models::cost::OutputRows;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::vectors::{Borrowed, BorrowedMut, buffer};

/// The pool of this process, with its number of threads. Threads do not live on in a forked child, so that a pool belongs to one process.
static POOL: Mutex<Option<(u32, usize, Arc<ThreadPool>)>> = Mutex::new(None);

fn pool(threads: usize) -> PyResult<Arc<ThreadPool>> {
    let process = std::process::id();
    let mut kept = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    match &*kept {
        Some((owner, count, pool)) if (*owner, *count) == (process, threads) => return Ok(Arc::clone(pool)),
        // Waiting for threads that are not there would take for ever.
        Some((owner, _, _)) if *owner != process => std::mem::forget(kept.take()),
        _ => {}
    }
    let failed = |error: rayon::ThreadPoolBuildError| PyRuntimeError::new_err(format!("cannot start threads: {error}"));
    let pool = Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().map_err(failed)?);
    *kept = Some((process, threads, Arc::clone(&pool)));
    Ok(pool)
}

/// `KL(softmax(center) || softmax(logits))` of every position, nats, as a buffer of float64. All are contiguous buffers of float32: outputs
/// `[positions, classes]`, log-normalizers and shifts (of the center's largest logit) `[positions]`. With `slopes`, `scale` times `q - p` is written there.
#[pyfunction]
#[pyo3(signature = (center, logarithms, logits, shifts, threads, slopes=None, scale=1.0))]
#[allow(clippy::too_many_arguments, reason = "a function of Python's")]
pub fn divergences<'py>(
    py: Python<'py>,
    center: &Bound<'py, PyAny>,
    logarithms: &Bound<'py, PyAny>,
    logits: &Bound<'py, PyAny>,
    shifts: &Bound<'py, PyAny>,
    threads: usize,
    slopes: Option<&Bound<'py, PyAny>>,
    scale: f32,
) -> PyResult<Bound<'py, PyByteArray>> {
    let (center, logarithms) = (Borrowed::new(center)?, Borrowed::new(logarithms)?);
    let (logits, shifts) = (Borrowed::new(logits)?, Borrowed::new(shifts)?);
    let mut slopes = slopes.map(BorrowedMut::new).transpose()?;
    let mut nats = vec![0.0f64; logarithms.len()];
    let pool = pool(threads.max(1))?;
    py.detach(|| {
        pool.install(|| {
            let rows = OutputRows { center: &center, logarithms: &logarithms, logits: &logits, shifts: &shifts };
            match &mut slopes {
                Some(slopes) => rows.divergences_with_slopes(&mut nats, scale, slopes),
                None => rows.divergences(&mut nats),
            }
        });
    });
    Ok(buffer(py, &nats))
}
