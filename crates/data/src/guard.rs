//! Calls of libraries that panic on damaged input.

use std::cell::Cell;
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside a guarded call, whose panics are reported as faults of the input.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a call of a library. On damaged input some panic in places; those are faults of the input like any other, called `damaged`, and are
/// not printed: the first call puts a hook before the program's own that passes over panics inside a guarded call.
pub(crate) fn guarded<T, E: ToString>(damaged: &str, call: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let own = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                own(info);
            }
        }));
    });
    let outside = GUARDED.replace(true);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
    GUARDED.set(outside);
    match result {
        Ok(result) => result.map_err(|problem| problem.to_string()),
        Err(_) => Err(damaged.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors() {
        assert_eq!(guarded("damaged", || Ok::<_, String>(1)), Ok(1));
        assert_eq!(guarded("damaged", || Err::<(), _>("wrong")), Err("wrong".to_owned()));
        let inner = guarded("outer", || guarded("inner", || -> Result<(), String> { panic!("a fault") }));
        assert_eq!(inner, Err("inner".to_owned()));
        let indexed = guarded("damaged", || Ok::<_, String>([1][std::hint::black_box(3)]));
        assert_eq!(indexed, Err("damaged".to_owned()));
    }
}
