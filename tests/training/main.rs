//! Training as a user runs it, by the real program, on the bundled digits and on a small CIFAR10: what a run writes, that it is a function of
//! its settings, that one stopped at any moment ends as one never stopped, and what happens when something is wrong.

#[path = "../support/cifar10.rs"]
mod cifar10;
mod cuda;
mod device;
mod methods;
mod resume;
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

/// A run of a second: 12 steps, 5 an epoch, of which the last has 30 examples instead of 50.
const SMALL: &str = "--width 0.125 --nb-iter 2 --train-size 230 --val-size 50 --test-size 50 --training-batch-size 50 \
                     --max-num-training-steps 12 --checkpoint-interval 3 --disp-interval 2 \
                     --learning-rate-schedule 0.01";

/// [`SMALL`] with the flags of `changes`.
fn small(changes: &str) -> Vec<String> {
    changed(SMALL, changes)
}

/// The flags of `base` with those of `changes` added or in the place of its own; all have a value.
fn changed(base: &str, changes: &str) -> Vec<String> {
    let mut flags = BTreeMap::new();
    for text in [base, changes] {
        let words: Vec<&str> = text.split_whitespace().collect();
        flags.extend(words.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())));
    }
    flags.into_iter().flat_map(|(name, value)| [name, value]).collect()
}

/// `train --quiet` of a new run in `run`, with [`SMALL`] and `changes`.
fn begin(run: &Path, changes: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["train", "--quiet", "--savepath"]).arg(run).args(small(changes));
    command
}

/// `train --quiet --resume` of the run in `run`, with `flags`.
fn go_on(run: &Path, flags: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["train", "--quiet", "--resume"]).arg(run).args(flags.split_whitespace());
    command
}

/// What a process gave: exit code, standard output, standard error.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn said(output: Output) -> Said {
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs `command` to its end.
fn run(command: &mut Command) -> Said {
    said(command.stdin(Stdio::null()).output().expect("the program starts"))
}

/// Runs `command`, which must succeed without a word on stderr. Returns its output.
fn done(command: &mut Command) -> String {
    let said = run(command);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{command:?}");
    said.out
}

/// Runs `command`, which must end as an error whose message has all of `parts`.
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

/// The files that a run leaves, without the time.
#[derive(PartialEq)]
struct Left {
    last: Vec<u8>,
    best: Vec<u8>,
    metrics: Vec<Value>,
}

fn left(run: &Path) -> Left {
    let bytes = |name: &str| fs::read(run.join(name)).expect("a file of the run");
    Left { last: bytes(LAST), best: bytes(BEST), metrics: metrics(run) }
}

/// The lines of `metrics.jsonl` without the time.
fn metrics(run: &Path) -> Vec<Value> {
    let mut lines = read_metrics(&run.join(METRICS)).expect("whole metrics");
    for line in &mut lines {
        line.as_object_mut().and_then(|line| line.remove("clock")).expect("a clock");
    }
    lines
}

/// Asserts that two runs left the same, and says where they differ.
fn assert_same(found: &Path, expected: &Path, what: &str) {
    let (found, expected) = (left(found), left(expected));
    assert_eq!(found.metrics, expected.metrics, "{what}: metrics.jsonl");
    assert!(found.best == expected.best, "{what}: best.safetensors");
    assert!(found.last == expected.last, "{what}: last.safetensors");
}

/// A file of tensors of the run.
fn tensors(run: &Path, name: &str) -> TensorFile {
    TensorFile::read(&run.join(name)).expect("a whole file of tensors")
}

/// Every file of a folder by name, but for the empty file that is locked.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    paths.filter(|path| !path.ends_with("lock")).map(|path| (path.clone(), fs::read(&path).expect("a file"))).collect()
}
