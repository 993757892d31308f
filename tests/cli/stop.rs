//! Signals to an evaluation, and requests that ask for too much.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{PROGRAM, done_in, said};

/// Starts the program with the words of `line` in `folder`.
fn start(folder: &Path, line: &str) -> Child {
    let mut command = Command::new(PROGRAM);
    command.args(line.split_whitespace()).current_dir(folder);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

fn send(child: &Child, signal: &str) {
    let kill = ["-c", &format!("kill -{signal} {}", child.id())].map(str::to_owned);
    assert!(Command::new("sh").args(kill).status().expect("a shell").success());
}

/// Content of an evaluation's report without its times.
fn timeless(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("evaluation.json")).expect("a report");
    text.lines().filter(|line| !line.contains("seconds")).collect()
}

#[test]
fn an_evaluation_that_signals_stop_continues_by_the_same_command_to_the_same_result() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = "--width 0.125 --nb-iter 1 --train-size 50 --val-size 20 --test-size 5 --steps 1";
    done_in(folder.path(), &format!("train --savepath run --quiet {flags}"));
    let line = |out: &str| {
        format!(
            "evaluate run/best.safetensors --quiet --attack pgd,ddn --norm l2 --eps 0.01 --nb-iter 240 --batch-size 20 \
             --test-size 60 --out {out}"
        )
    };
    done_in(folder.path(), &line("whole"));
    let state = folder.path().join("stopped/unfinished.safetensors");
    let mut kept = 0;
    for (after, (signal, code)) in [("INT", 130), ("TERM", 143), ("HUP", 129)].into_iter().cycle().enumerate() {
        let child = start(folder.path(), &line("stopped"));
        let began = Instant::now();
        while !folder.path().join("stopped").is_dir() || began.elapsed() < Duration::from_millis(30 << after) {
            assert!(began.elapsed() < Duration::from_secs(60));
            sleep(Duration::from_millis(1));
        }
        send(&child, signal);
        let said = said(child.wait_with_output().expect("an end"));
        match said.code {
            Some(0) => break,
            // The signal came before the program listens.
            None => continue,
            Some(_) => {}
        }
        let command = format!("maxmargin {}", line("stopped").split_whitespace().collect::<Vec<_>>().join(" "));
        let message = format!(
            "SIG{signal}: keeping the finished batches; once more to stop at once\n\
             stopped by SIG{signal}; stopped has what was found; the same command goes on:\n  {command}\n"
        );
        assert_eq!((said.code, &*said.err, &*said.out), (Some(code), &*message, ""));
        kept += u32::from(state.is_file());
    }
    assert!(kept > 0, "a signal came between the first batch and the last");
    assert_eq!(timeless(&folder.path().join("stopped")), timeless(&folder.path().join("whole")));
    assert!(!state.exists());
}
