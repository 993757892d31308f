//! Progress of a run on stderr.

use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use maxmargin::record::{Progress, StepRecord};

use crate::{CHILD, child};

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

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn figures() -> StepRecord {
    StepRecord {
        margin_loss: Some(0.5),
        train_accuracy: Some(93.4),
        mean_margin: Some(0.2811),
        ..StepRecord::default()
    }
}

#[test]
fn without_a_terminal_lines_come_at_intervals_and_at_the_end() {
    let out = Shared::default();
    let mut progress = Progress::lines("steps", 100, 0, Box::new(out.clone()), Duration::from_secs(3600));
    for step in 1..=100 {
        progress.update(step, &figures());
    }
    progress.finish();
    let text = out.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let shown = "left  loss 0.5000  accuracy 93.4 %  mean margin 0.2811";
    assert!(lines[0].starts_with("steps 1/100  ") && lines[0].ends_with(shown), "{lines:?}");
    assert!(lines[1].starts_with("steps 100/100  ") && lines[1].contains(" steps/s  0:00:00 left"), "{lines:?}");
}

#[test]
fn notes_are_written_on_lines_of_their_own() {
    let out = Shared::default();
    let mut progress = Progress::lines("steps", 2, 0, Box::new(out.clone()), Duration::ZERO);
    progress.update(1, &figures());
    progress.note("epoch 1: mean margin 0.25, the best so far");
    progress.update(2, &figures());
    let text = out.text();
    assert_eq!(text.lines().count(), 3);
    assert_eq!(text.lines().nth(1), Some("epoch 1: mean margin 0.25, the best so far"));
}

#[test]
fn an_output_that_cannot_be_written_to_does_not_end_the_run() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(ErrorKind::BrokenPipe.into())
        }
    }
    let mut progress = Progress::lines("steps", 1, 0, Box::new(Closed), Duration::ZERO);
    progress.note("note");
    progress.update(1, &figures());
    progress.finish();
}

/// Stderr is a pipe here, so the content comes in lines; or not at all if quiet.
#[test]
fn a_piped_stderr_gets_plain_lines_and_quiet_gets_none() {
    let test = "progress::a_piped_stderr_gets_plain_lines_and_quiet_gets_none";
    if let Some(role) = std::env::var_os(CHILD) {
        let mut progress = Progress::new("steps", 3, 1, role == *"quiet");
        progress.note("a note");
        progress.update(2, &figures());
        progress.update(3, &figures());
        return progress.finish();
    }
    let stderr = |role: &str| {
        let output = child(test, Path::new(role)).arg("--nocapture").stderr(Stdio::piped()).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let text = stderr("loud");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[0], "a note");
    assert!(lines[1].starts_with("steps 2/3  ") && lines[2].starts_with("steps 3/3  "), "{text}");
    assert!(!text.contains('\x1b'), "no control characters: {text:?}");
    assert_eq!(stderr("quiet"), "");
}
