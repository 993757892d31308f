//! Progress of a run on stderr: a bar on a terminal, plain lines elsewhere, or nothing.
//!
//! Bar and lines have the same content. Speed and time left count the steps of this process alone, so they are correct
//! after a resume too. A stderr that cannot be written to never ends a run. This module writes no files.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt;

/// Least time between two plain lines. The last step has its line in any case.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Progress of a number of steps.
pub struct Progress {
    unit: &'static str,
    total: u64,
    start: u64,
    began: Instant,
    sink: Sink,
}

enum Sink {
    Quiet,
    Bar(ProgressBar),
    Lines { out: Box<dyn Write + Send>, every: Duration, last: Option<Instant> },
}

impl Progress {
    /// Progress on stderr of `total` steps, of which `start` were done before this process. `unit` is their name:
    /// "steps".
    pub fn new(unit: &'static str, total: u64, start: u64, quiet: bool) -> Self {
        if quiet {
            return Self::with(unit, total, start, Sink::Quiet);
        }
        if !io::stderr().is_terminal() {
            return Self::lines(unit, total, start, Box::new(io::stderr()), LINE_INTERVAL);
        }
        // Two lines, so that everything fits into 80 columns.
        let style =
            ProgressStyle::with_template("[{wide_bar}] {prefix}\n{msg}").unwrap_or(ProgressStyle::default_bar());
        let bar = ProgressBar::new(total)
            .with_style(style.progress_chars("=> "))
            .with_position(start)
            .with_prefix(format!("{start}/{total}"));
        let messages = bar.clone();
        interrupt::announce_through(Some(Box::new(move |text| messages.println(text))));
        Self::with(unit, total, start, Sink::Bar(bar))
    }

    /// Progress in plain lines to `out`, at most one in `every`.
    pub fn lines(unit: &'static str, total: u64, start: u64, out: Box<dyn Write + Send>, every: Duration) -> Self {
        Self::with(unit, total, start, Sink::Lines { out, every, last: None })
    }

    fn with(unit: &'static str, total: u64, start: u64, sink: Sink) -> Self {
        Progress { unit, total, start, began: Instant::now(), sink }
    }

    /// Shows that `step` steps are done. `figures` are the latest known, such as a [`StepRecord`](super::StepRecord).
    pub fn update(&mut self, step: u64, figures: &dyn Display) {
        let pace = || pace(self.unit, step, self.total, self.start, self.began.elapsed());
        match &mut self.sink {
            Sink::Quiet => {}
            Sink::Bar(bar) => {
                bar.set_prefix(pace());
                bar.set_message(figures.to_string());
                bar.set_position(step);
            }
            Sink::Lines { out, every, last } => {
                let now = Instant::now();
                if step >= self.total || last.is_none_or(|last| now.duration_since(last) >= *every) {
                    *last = Some(now);
                    let line = format!("{} {}  {figures}", self.unit, pace());
                    let _ = writeln!(out, "{}", line.trim_end());
                }
            }
        }
    }

    /// Writes a line of its own, above the bar. Writes nothing if quiet.
    pub fn note(&mut self, message: &str) {
        match &mut self.sink {
            Sink::Quiet => {}
            Sink::Bar(bar) => bar.println(message),
            Sink::Lines { out, .. } => drop(writeln!(out, "{message}")),
        }
    }

    /// Ends the progress, as dropping it does.
    pub fn finish(self) {}
}

/// Ends the progress: the bar stays as it is, and later output begins on a new line.
impl Drop for Progress {
    fn drop(&mut self) {
        match &mut self.sink {
            Sink::Quiet => {}
            Sink::Bar(bar) => {
                interrupt::announce_through(None);
                bar.abandon();
            }
            Sink::Lines { out, .. } => drop(out.flush()),
        }
    }
}

/// Steps done, speed and time left: `1200/3000  8.4 steps/s  0:03:34 left`.
fn pace(unit: &str, step: u64, total: u64, start: u64, elapsed: Duration) -> String {
    let done = step.saturating_sub(start) as f64;
    if done == 0.0 || elapsed.is_zero() {
        return format!("{step}/{total}");
    }
    let rate = done / elapsed.as_secs_f64();
    let left = (total.saturating_sub(step) as f64 / rate).round() as u64;
    let (hours, minutes, seconds) = (left / 3600, left / 60 % 60, left % 60);
    format!("{step}/{total}  {rate:.1} {unit}/s  {hours}:{minutes:02}:{seconds:02} left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_and_time_left_count_the_steps_of_this_process_alone() {
        assert_eq!(pace("steps", 1200, 3000, 0, Duration::from_secs(120)), "1200/3000  10.0 steps/s  0:03:00 left");
        assert_eq!(pace("steps", 1200, 3000, 1080, Duration::from_secs(120)), "1200/3000  1.0 steps/s  0:30:00 left");
    }

    #[test]
    fn time_left_may_be_hours() {
        assert_eq!(pace("steps", 1, 7385, 0, Duration::from_secs(1)), "1/7385  1.0 steps/s  2:03:04 left");
    }

    #[test]
    fn no_speed_is_shown_before_the_first_step() {
        assert_eq!(pace("steps", 1080, 3000, 1080, Duration::from_secs(5)), "1080/3000");
    }
}
