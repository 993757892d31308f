//! Requests to stop: SIGINT, SIGTERM and SIGHUP.
//!
//! A process that has called [`install`] is not ended by the first of these signals. The signal prints a message and
//! sets a flag. Long work asks for the flag by [`check`] or [`requested`] where its state is whole, writes the state,
//! and ends. A further signal ends the process at once. A process that has not called [`install`] is ended by the first
//! signal, as usual.
//!
//! Signals that the process was started to ignore stay ignored: `nohup` ignores SIGHUP, and a shell without job control
//! ignores SIGINT for its background processes.

use std::sync::{Mutex, OnceLock, PoisonError};

use crate::error::Signal;
use crate::{Error, Result};

/// First signal that has arrived since [`install`].
static REQUESTED: OnceLock<Signal> = OnceLock::new();

/// Writer of messages to the terminal.
type Announcer = Box<dyn Fn(&str) + Send>;

/// Writer that keeps a progress bar whole; `None`: messages go to stderr.
static ANNOUNCER: Mutex<Option<Announcer>> = Mutex::new(None);

/// Signal that has asked the process to stop, if one has.
pub fn requested() -> Option<Signal> {
    REQUESTED.get().copied()
}

/// Ends work that is not to be finished by an error if the process was asked to stop.
///
/// # Errors
/// [`Error::Interrupted`] with the signal that asked.
pub fn check() -> Result<()> {
    requested().map_or(Ok(()), |signal| Err(Error::Interrupted(signal)))
}

/// Sets the writer of messages while a progress bar is shown; `None` when it has ended.
pub fn announce_through(announcer: Option<Announcer>) {
    *ANNOUNCER.lock().unwrap_or_else(PoisonError::into_inner) = announcer;
}

#[cfg(unix)]
pub use unix::install;

/// Does nothing: on this system signals end the process.
#[cfg(not(unix))]
pub fn install(_finishing: &'static str) {}

#[cfg(unix)]
mod unix {
    use std::io::Write as _;
    use std::sync::PoisonError;
    use std::time::{Duration, Instant};

    use signal_hook::iterator::Signals;
    use signal_hook::low_level;

    use super::{ANNOUNCER, REQUESTED};
    use crate::error::Signal;

    /// Time within which further signals belong to the first: `timeout` signals a process and then its group, and the
    /// end of a terminal is told by the system and by the shell.
    const ONE_REQUEST: Duration = Duration::from_millis(100);

    /// From now on the first SIGINT, SIGTERM or SIGHUP sets a flag, and a later one ends the process. `finishing` says
    /// in the message what is done before the process ends: "finishing the step".
    ///
    /// If the system refuses, signals end the process as before. A second call does nothing.
    pub fn install(finishing: &'static str) {
        static INSTALLED: std::sync::Once = std::sync::Once::new();
        INSTALLED.call_once(|| {
            let all = [Signal::Interrupt, Signal::Terminate, Signal::HangUp];
            let ignored = ignored();
            let taken = all.into_iter().filter(|signal| !is_ignored(ignored, *signal));
            let Ok(mut signals) = Signals::new(taken.map(|signal| i32::from(signal.number()))) else { return };
            let watch = move || {
                let mut first: Option<Instant> = None;
                for number in signals.forever() {
                    let Some(signal) = all.into_iter().find(|signal| i32::from(signal.number()) == number) else {
                        continue;
                    };
                    match first {
                        Some(first) if first.elapsed() < ONE_REQUEST => {}
                        Some(_) => low_level::exit(signal.exit_code().into()),
                        None => {
                            first = Some(Instant::now());
                            // A thread of its own: a second signal is heard even if nobody reads the message. The flag
                            // comes last, so that the message precedes those of the end.
                            std::thread::spawn(move || {
                                announce(&format!("{signal}: {finishing}; once more to stop at once"));
                                let _ = REQUESTED.set(signal);
                            });
                        }
                    }
                }
            };
            let _ = std::thread::Builder::new().name("signals".into()).spawn(watch);
        });
    }

    /// Writes a line. A terminal that has gone away is no error.
    fn announce(text: &str) {
        match &*ANNOUNCER.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(announcer) => announcer(text),
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    /// Mask of the signals that this process ignores. `None`: the system does not tell.
    fn ignored() -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    }

    /// True if a signal is ignored. Where the system does not tell, SIGHUP counts as ignored and is left as it is.
    fn is_ignored(mask: Option<u64>, signal: Signal) -> bool {
        mask.map_or(signal == Signal::HangUp, |mask| mask >> (signal.number() - 1) & 1 == 1)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_signal_that_the_system_reports_as_ignored_stays_ignored() {
            // nohup: SIGHUP is bit 0. A background process of a shell without job control: SIGINT is bit 1.
            for (mask, expected) in
                [(Some(1), [false, false, true]), (Some(2), [true, false, false]), (None, [false, false, true])]
            {
                let all = [Signal::Interrupt, Signal::Terminate, Signal::HangUp];
                assert_eq!(all.map(|signal| is_ignored(mask, signal)), expected, "{mask:?}");
            }
        }
    }
}
