//! Requests to stop: Ctrl-C, a terminal that is closed, a scheduler that ends a job, or tells it beforehand (`--signal` of Slurm, mostly USR1 or USR2).
//!
//! A signal that is ignored when the program starts stays ignored: that is how `nohup` keeps a job alive when its terminal is closed, and a script
//! its background jobs when somebody presses Ctrl-C.

/// Calls `stop` at every request to stop, from a thread of its own. Where that cannot be set up a signal still ends the program, and nothing that is
/// on disk is lost.
#[cfg(unix)]
pub fn watch(stop: impl Fn() + Send + 'static) {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
    use signal_hook::iterator::Signals;

    let heeded = [SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2].into_iter().filter(|signal| !is_ignored(*signal));
    let Ok(mut signals) = Signals::new(heeded) else { return };
    std::thread::spawn(move || signals.forever().for_each(|_| stop()));
}

/// Whether whoever started the program had it ignore this signal.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action the call only writes the present one, and has written all of it when it returns 0.
    unsafe { libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) == 0 && now.assume_init().sa_sigaction == libc::SIG_IGN }
}

/// Calls `stop` at every request to stop.
#[cfg(not(unix))]
pub fn watch(stop: impl FnMut() + Send + 'static) {
    let _ = ctrlc::set_handler(stop);
}
