//! Progress of a run on stderr: a bar on a terminal, plain lines elsewhere, or nothing.
//!
//! Bar and lines have the same content. Speed and time left count the steps of this process alone, so they are correct
//! after a resume too. Work that is counted in steps has a known number of them; that of an evaluation is counted in
//! passes, of which an upper bound is known, and which falls as images turn out adversarial. A stderr that cannot be written to never ends a run. This module writes no files.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt;

/// Least time between two plain lines. The last step has its line in any case.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Time after which the duration of work is estimated.
const MEASURED: Duration = Duration::from_secs(2);

/// Duration of work that is announced.
const ANNOUNCED: Duration = Duration::from_secs(10);

/// Progress of a number of steps, or of work.
pub struct Progress {
    unit: &'static str,
    total: u64,
    start: u64,
    began: Instant,
    /// True once the duration of the work was estimated.
    estimated: bool,
    /// Beginning of the measurement between steps that is running.
    part_began: Instant,
    /// Time of the last line about it.
    part_shown: Instant,
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
            .with_prefix(if total > 0 { format!("{start}/{total}") } else { String::new() });
        let messages = bar.clone();
        interrupt::announce_through(Some(Box::new(move |text| messages.println(text))));
        Self::with(unit, total, start, Sink::Bar(bar))
    }

    /// Progress on stderr of work whose amount [`Progress::advance`] is told. `name` is the first word of its lines.
    pub fn of_work(name: &'static str, quiet: bool) -> Self {
        Self::new(name, 0, 0, quiet)
    }

    /// Progress in plain lines to `out`, at most one in `every`.
    pub fn lines(unit: &'static str, total: u64, start: u64, out: Box<dyn Write + Send>, every: Duration) -> Self {
        Self::with(unit, total, start, Sink::Lines { out, every, last: None })
    }

    fn with(unit: &'static str, total: u64, start: u64, sink: Sink) -> Self {
        let now = Instant::now();
        Progress { unit, total, start, began: now, estimated: false, part_began: now, part_shown: now, sink }
    }

    /// Shows that `step` steps are done. `figures` are the latest known, such as a [`StepRecord`](super::StepRecord).
    pub fn update(&mut self, step: u64, figures: &dyn Display) {
        let (unit, total, start, elapsed) = (self.unit, self.total, self.start, self.began.elapsed());
        self.show(step, total, &|| pace(unit, step, total, start, elapsed), figures);
    }

    /// Shows that `done` units of work are done in this process, and that at most `left` are left. Once the work has
    /// taken two seconds, a line says how long it will take, unless that is short.
    pub fn advance(&mut self, done: u64, left: u64, figures: &dyn Display) {
        let elapsed = self.began.elapsed();
        if !self.estimated && elapsed >= MEASURED && done > 0 {
            self.estimated = true;
            let whole = elapsed + time_left(done, left, elapsed);
            if whole >= ANNOUNCED {
                self.note(&format!("this takes about {} at most", about(whole)));
            }
        }
        self.show(done, done + left, &|| share(done, left, elapsed), figures);
    }

    /// Begins a measurement between steps, whose progress [`Progress::part`] shows.
    pub fn begin_part(&mut self) {
        (self.part_began, self.part_shown) = (Instant::now(), Instant::now());
    }

    /// Shows the fraction of a measurement that is done, and its time left. `name` says what is measured.
    pub fn part(&mut self, name: &str, fraction: f64) {
        let left = self.part_began.elapsed().as_secs_f64() * (1.0 - fraction) / fraction;
        let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
        let text = || match fraction {
            0.0 => format!("{name} 0 %"),
            _ => format!("{name} {:.0} %  {} left", 100.0 * fraction, clock(left)),
        };
        match &mut self.sink {
            Sink::Quiet => {}
            Sink::Bar(bar) => bar.set_message(text()),
            Sink::Lines { out, every, .. } => {
                if self.part_shown.elapsed() >= *every {
                    self.part_shown = Instant::now();
                    let _ = writeln!(out, "{}", text());
                }
            }
        }
    }

    /// Counts speed and time left from now on: what came before was no step.
    pub fn restart_clock(&mut self) {
        self.began = Instant::now();
    }

    fn show(&mut self, done: u64, total: u64, pace: &dyn Fn() -> String, figures: &dyn Display) {
        match &mut self.sink {
            Sink::Quiet => {}
            Sink::Bar(bar) => {
                bar.set_prefix(pace());
                bar.set_message(figures.to_string());
                bar.set_length(total);
                bar.set_position(done);
            }
            Sink::Lines { out, every, last } => {
                let now = Instant::now();
                if done >= total || last.is_none_or(|last| now.duration_since(last) >= *every) {
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
    let done = step.saturating_sub(start);
    if done == 0 || elapsed.is_zero() {
        return format!("{step}/{total}");
    }
    let rate = done as f64 / elapsed.as_secs_f64();
    let left = clock(time_left(done, total.saturating_sub(step), elapsed));
    format!("{step}/{total}  {rate:.1} {unit}/s  {left} left")
}

/// Share of the work that is done, and time left: `37 %  0:03:34 left at most`.
fn share(done: u64, left: u64, elapsed: Duration) -> String {
    let percent = 100.0 * done as f64 / (done + left).max(1) as f64;
    match done {
        0 => format!("{percent:.0} %"),
        _ => format!("{percent:.0} %  {} left at most", clock(time_left(done, left, elapsed))),
    }
}

/// Time for `left` units of work if `done` took `elapsed`.
fn time_left(done: u64, left: u64, elapsed: Duration) -> Duration {
    Duration::try_from_secs_f64(elapsed.as_secs_f64() * left as f64 / done as f64).unwrap_or(Duration::MAX)
}

/// Hours, minutes and seconds: `0:03:34`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Duration in one unit: `50 seconds`, `40 minutes`, `3 hours`.
fn about(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let (number, unit) = match seconds {
        ..90.0 => (seconds, "seconds"),
        ..5400.0 => (seconds / 60.0, "minutes"),
        ..172_800.0 => (seconds / 3600.0, "hours"),
        _ => (seconds / 86400.0, "days"),
    };
    format!("{number:.0} {unit}")
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

    #[test]
    fn work_has_its_share_and_the_time_left_at_most() {
        assert_eq!(share(37, 63, Duration::from_secs(37)), "37 %  0:01:03 left at most");
        assert_eq!(share(0, 100, Duration::from_secs(5)), "0 %");
    }

    #[test]
    fn a_duration_is_announced_in_one_unit() {
        let text = |seconds| about(Duration::from_secs(seconds));
        assert_eq!(
            [text(12), text(2400), text(7300), text(400_000)],
            ["12 seconds", "40 minutes", "2 hours", "5 days"]
        );
    }

    #[test]
    fn work_that_takes_long_is_announced_once_and_short_work_is_not() {
        use std::sync::{Arc, Mutex};
        #[derive(Clone, Default)]
        struct Shared(Arc<Mutex<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let written = |left: u64| {
            let out = Shared::default();
            let mut progress = Progress::lines("evaluation", 0, 0, Box::new(out.clone()), Duration::from_secs(3600));
            progress.began = Instant::now().checked_sub(MEASURED).expect("a machine that has run for seconds");
            progress.advance(10, left, &"pgd");
            progress.advance(11, left - 1, &"pgd");
            drop(progress);
            String::from_utf8(out.0.lock().unwrap().clone()).unwrap()
        };
        assert_eq!(written(11_990), "this takes about 40 minutes at most\nevaluation 0 %  0:39:58 left at most  pgd\n");
        assert_eq!(written(10), "evaluation 50 %  0:00:02 left at most  pgd\n");
    }
}
