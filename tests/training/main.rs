//! Training by the real program, as a user runs it, on the bundled digits and on a small CIFAR10: the files of a run,
//! its reproducibility from its settings, its resumption after a stop at any moment, and its errors.

#[path = "../support/cifar10.rs"]
mod cifar10;
mod cuda;
mod device;
mod methods;
mod resume;
#[cfg(unix)]
mod stop;
#[path = "../support/mod.rs"]
mod support;
mod trouble;
mod wide_resnet;
mod written;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use maxmargin::record::run::{BEST, LAST, METRICS};
use maxmargin::record::{TensorFile, read_metrics};
use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_maxmargin");

/// Flags of a run of a second: 12 steps, 5 an epoch, of which the last has 30 examples instead of 50.
const SMALL: &str = "--width 0.125 --nb-iter 2 --train-size 230 --val-size 50 --test-size 50 --training-batch-size 50 \
                     --max-num-training-steps 12 --checkpoint-interval 3 --disp-interval 2 \
                     --learning-rate-schedule 0.01";

/// [`SMALL`] with the flags of `changes`.
fn small(changes: &str) -> Vec<String> {
    changed(SMALL, changes)
}

/// Flags of `base`, replaced or extended by those of `changes`; every flag has a value.
fn changed(base: &str, changes: &str) -> Vec<String> {
    let mut flags = BTreeMap::new();
    for text in [base, changes] {
        let words: Vec<&str> = text.split_whitespace().collect();
        flags.extend(words.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())));
    }
    flags.into_iter().flat_map(|(name, value)| [name, value]).collect()
}

/// Command of a new run in `run`: `train --quiet` with [`SMALL`] and `changes`.
fn begin(run: &Path, changes: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["train", "--quiet", "--savepath"]).arg(run).args(small(changes));
    command
}

/// Command that resumes the run in `run`: `train --quiet --resume` with `flags`.
fn go_on(run: &Path, flags: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["train", "--quiet", "--resume"]).arg(run).args(flags.split_whitespace());
    command
}

/// Exit code, standard output and standard error of a process.
#[derive(Debug)]
struct ProgramOutput {
    code: Option<i32>,
    out: String,
    err: String,
}

fn said(output: Output) -> ProgramOutput {
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    ProgramOutput { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs `command` to its end.
fn run(command: &mut Command) -> ProgramOutput {
    said(command.stdin(Stdio::null()).output().expect("the program starts"))
}

/// Runs `command`, which must succeed and write nothing to stderr. Returns its standard output.
fn done(command: &mut Command) -> String {
    let said = run(command);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{command:?}");
    said.out
}

/// Runs `command`, which must end with an error whose message contains all of `parts`.
fn refused(command: &mut Command, parts: &[&str]) {
    let said = run(command);
    assert_eq!(said.code, Some(2), "{command:?}: {said:?}");
    assert!(said.err.starts_with("error: "), "{}", said.err);
    for part in parts {
        assert!(said.err.contains(part), "no {part:?} in {}", said.err);
    }
}

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Files of a run, without the time and the device.
#[derive(PartialEq)]
struct RunFiles {
    last: Vec<u8>,
    best: Vec<u8>,
    metrics: Vec<Value>,
}

fn run_files(run: &Path) -> RunFiles {
    let bytes = |name: &str| fs::read(run.join(name)).expect("a file of the run");
    RunFiles { last: bytes(LAST), best: bytes(BEST), metrics: metrics(run) }
}

/// Lines of `metrics.jsonl`, without the time and the device: equal runs may differ in both.
fn metrics(run: &Path) -> Vec<Value> {
    let mut lines = read_metrics(&run.join(METRICS)).expect("whole metrics");
    for line in &mut lines {
        let line = line.as_object_mut().expect("an object");
        line.remove("clock").expect("a clock");
        line.remove("device");
    }
    lines
}

/// Asserts that the files of two runs are equal; a failure names the file that differs.
fn assert_same(found: &Path, expected: &Path, what: &str) {
    let (found, expected) = (run_files(found), run_files(expected));
    assert_eq!(found.metrics, expected.metrics, "{what}: metrics.jsonl");
    assert!(found.best == expected.best, "{what}: best.safetensors");
    assert!(found.last == expected.last, "{what}: last.safetensors");
}

/// Reads a file of tensors of the run.
fn tensors(run: &Path, name: &str) -> TensorFile {
    TensorFile::read(&run.join(name)).expect("a whole file of tensors")
}

/// Content of every file of a folder by path, except the lock file.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    paths.filter(|path| !path.ends_with("lock")).map(|path| (path.clone(), fs::read(&path).expect("a file"))).collect()
}
