//! Signals to a training process: the step is finished, the state written, and the run resumes bit for bit.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use maxmargin::record::run::{CONFIG, LAST, METRICS};

use crate::{assert_same, begin, done, go_on, temporary, tensors};

/// Longest wait for anything in these tests.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Sends the signal of this name to a process, `times` times at once.
fn send(child: &Child, signal: &str, times: usize) {
    let kill = format!("kill -{signal} {};", child.id()).repeat(times);
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(1));
    }
}

/// Lines of the metrics of a run.
fn lines(run: &Path) -> usize {
    std::fs::read_to_string(run.join(METRICS)).map_or(0, |text| text.lines().count())
}

/// Time at which a process began to train in a folder: it writes the settings then.
fn began(run: &Path) -> Option<SystemTime> {
    run.join(CONFIG).metadata().ok()?.modified().ok()
}

/// Exit code of a process, and the rest of its standard error.
fn end(mut child: Child) -> (Option<i32>, String) {
    let mut err = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut err).expect("text");
    (child.wait().expect("an end").code(), err)
}

#[test]
fn a_run_that_signals_stop_again_and_again_ends_like_an_uninterrupted_run() {
    let folder = temporary();
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped run"));
    done(&mut begin(&whole, ""));
    // In the measurement of the untrained network, in steps, and near the end.
    for (signal, code, after) in [("INT", 130, 0), ("TERM", 143, 1), ("HUP", 129, 4), ("INT", 130, 7)] {
        let before = began(&stopped);
        let child = start(&mut if before.is_some() { go_on(&stopped, "") } else { begin(&stopped, "") });
        wait_until(signal, || began(&stopped) != before && lines(&stopped) >= after);
        // `timeout` sends its signal twice at once; that is one request.
        send(&child, signal, 2);
        let (found, err) = end(child);
        let expected = format!(
            "SIG{signal}: finishing the step; once more to stop at once\n\
             stopped by SIG{signal}; this resumes the run, bit for bit:\n  \
             maxmargin train --resume '{}' --quiet\n",
            stopped.display()
        );
        assert_eq!((found, err), (Some(code), expected));
    }
    done(&mut go_on(&stopped, ""));
    assert_same(&stopped, &whole, "after signals");
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let folder = temporary();
    let run = folder.path().join("run");
    // A step takes minutes, and the measurement before it seconds.
    let slow = "--method pgd --attack-eps 0.1 --width 2 --training-batch-size 230 --nb-iter 400 --test-size 1";
    let mut child = start(&mut begin(&run, slow));
    wait_until("the first line", || lines(&run) >= 1);
    send(&child, "TERM", 1);
    let mut err = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut message = String::new();
    err.read_line(&mut message).expect("text");
    assert_eq!(message, "SIGTERM: finishing the step; once more to stop at once\n");
    sleep(Duration::from_millis(400));
    assert!(child.try_wait().expect("a process").is_none(), "the first signal waits for the step");
    send(&child, "INT", 1);
    let began = Instant::now();
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(tensors(&run, LAST).meta::<u32>("step").expect("a step"), 0);
}

#[test]
fn a_signal_that_nohup_ignores_stays_ignored() {
    let folder = temporary();
    let run = folder.path().join("run");
    let inner = begin(&run, "");
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
    let child = start(&mut command);
    wait_until("the first line", || lines(&run) >= 1);
    send(&child, "HUP", 1);
    assert_eq!(end(child), (Some(0), String::new()));
}
