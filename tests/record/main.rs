//! Specification of a run's records: files replaced as a whole, folders held by one process, metrics that a resumed run
//! continues, and foreign files with every error that we know.

mod atomic;
mod events;
mod metrics;
mod output;
mod progress;
mod run;
mod tensors;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use maxmargin::error::Error;
use tempfile::TempDir;

/// Environment variable of a child process that runs a test in its second role: the folder to work in.
const CHILD: &str = "MAXMARGIN_TEST_CHILD";

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Message of an error, which must name `path`.
fn message<T>(result: Result<T, Error>, path: &Path) -> String {
    let Err(error) = result else { panic!("{}: an error was expected", path.display()) };
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "no file named: {text}");
    text
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn strings(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|&(key, value)| (key.into(), value.into())).collect()
}

/// Command that runs the test `test` in its second role, in another process.
fn child(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test]).env(CHILD, folder).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
