//! Buffers that every thread keeps between evaluations: chains ask for hundreds of thousands of gradients.

use std::cell::RefCell;

thread_local! {
    static FREE: RefCell<Vec<Vec<f64>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with a buffer of `length` numbers of no particular value. Calls may be nested.
pub(super) fn with_buffer<T>(length: usize, work: impl FnOnce(&mut [f64]) -> T) -> T {
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    buffer.resize(length, 0.0);
    let result = work(&mut buffer);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}
