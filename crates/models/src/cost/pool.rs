//! Buffers that are kept and used again, one set for every evaluation that runs at the same time.

use std::sync::{Mutex, PoisonError};

/// A pooled item, or a new one. A poisoned pool is still a pool: its items carry no state from one use to the next.
pub(super) fn take<T: Default>(pool: &Mutex<Vec<T>>) -> T {
    pool.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
}

pub(super) fn give_back<T>(pool: &Mutex<Vec<T>>, item: T) {
    pool.lock().unwrap_or_else(PoisonError::into_inner).push(item);
}
