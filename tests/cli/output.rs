//! Files that flags name: what would destroy a file or cannot be written is refused before anything is computed, and
//! what is printed does not mix with a file that goes to the standard output.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{PROGRAM, done_in, maxmargin_in, refused_in};

/// Evaluation of a moment.
const SHORT: &str = "--quiet --test-size 4 --attack pgd --nb-iter 1 --nb-restart 1 --eps 0.1";

/// Folder with a run of a moment, `run`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = "--width 0.125 --nb-iter 1 --train-size 20 --val-size 4 --test-size 4 --steps 1";
    done_in(folder.path(), &format!("train --savepath run --quiet {flags}"));
    folder
}

fn contents(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = files.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path))).collect();
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    files.into_iter().map(|(path, bytes)| (path, bytes.expect("a file"))).collect()
}

#[test]
fn no_flag_destroys_the_weights_or_a_file_of_a_run() {
    let folder = folder();
    let run = folder.path().join("run");
    fs::hard_link(run.join("best.safetensors"), folder.path().join("hard.safetensors")).expect("a link");
    done_in(folder.path(), &format!("evaluate run {SHORT}"));
    let before = (contents(folder.path()), contents(&run), contents(&run.join("evaluation-pgd")));
    for command in [
        "evaluate run --json FILE",
        "evaluate run --save FILE",
        "attack run --save FILE",
        "transfer run hard.safetensors --eps 0.1 --json FILE",
        "export run --out FILE",
        "report run --out FILE",
        "bench --device cpu --json FILE",
    ] {
        let flag = command.split(' ').rev().nth(1).expect("a flag");
        for file in ["run/config.toml", "run/last.safetensors", "run/metrics.jsonl", "run/lock", "run/best.safetensors"]
        {
            let line = command.replace("FILE", file);
            refused_in(folder.path(), &line, &[&format!("{flag} {file}: expected a file of its own; found ")]);
        }
        refused_in(folder.path(), &command.replace("FILE", "run"), &[flag, "expected a file, found a folder"]);
        refused_in(folder.path(), &command.replace("FILE", "run/evaluation-pgd/images.csv"), &["of an evaluation"]);
    }
    for command in ["evaluate run --json", "attack run --save", "transfer run run --eps 0.1 --json", "export run --out"]
    {
        let parts = ["hard.safetensors: expected a file of its own; found ", ", which is read"];
        refused_in(folder.path(), &format!("{command} hard.safetensors"), &parts);
    }
    refused_in(
        folder.path(),
        "evaluate run --json a --save ./a",
        &["--save ./a: expected another file than that of --json"],
    );
    let parts = ["--out hard.safetensors: cannot create: ", "a part of this path is a file"];
    refused_in(folder.path(), "evaluate run --out hard.safetensors", &parts);
    assert!((contents(folder.path()), contents(&run), contents(&run.join("evaluation-pgd"))) == before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_report_on_the_standard_output_is_json_alone_and_the_table_goes_beside_it() {
    let folder = folder();
    for file in ["-", "/dev/stdout"] {
        let said = done_in(folder.path(), &format!("evaluate run/best.safetensors {SHORT} --json {file}"));
        let report: Value = serde_json::from_str(&said.out).expect("JSON alone");
        assert_eq!(report["count"], 4);
        assert!(said.err.contains("\nclean accuracy  "), "{}", said.err);
    }
    let exported = Command::new(PROGRAM)
        .args(["export", "run", "--out", "-"])
        .current_dir(folder.path())
        .output()
        .expect("the program starts");
    let file = maxmargin::record::TensorFile::parse(Path::new("-"), &exported.stdout).expect("a file of tensors");
    assert!(file.tensors.iter().any(|tensor| tensor.name == "conv1.weight"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_at_the_end_leaves_the_table_and_the_device_as_it_is() {
    use std::os::unix::fs::FileTypeExt;
    let folder = folder();
    for flag in ["--json", "--save"] {
        let said = maxmargin_in(folder.path(), &format!("evaluate run {SHORT} {flag} /dev/full"));
        assert_eq!(said.code, Some(2), "{}", said.err);
        assert!(said.out.contains("\nclean accuracy  "), "{}", said.out);
        assert!(said.err.contains("/dev/full: cannot write: No space left"), "{}", said.err);
    }
    assert!(fs::metadata("/dev/full").expect("a device").file_type().is_char_device());
    assert!(folder.path().join("run/evaluation-pgd/evaluation.json").is_file(), "the evaluation's folder has it");
}

#[cfg(target_os = "linux")]
#[test]
fn a_shell_s_process_substitution_gets_the_report() {
    let folder = folder();
    let line = format!("\"$0\" evaluate run/best.safetensors {SHORT} --json >(cat > copy.json; echo > done)");
    let mut shell = Command::new("bash");
    let shell = shell.args(["-c", &line, PROGRAM]).current_dir(folder.path()).stdout(Stdio::null());
    if !shell.status().is_ok_and(|status| status.success()) {
        assert!(Command::new("bash").arg("--version").output().is_err(), "bash is there, and the command failed");
        return println!("skipped: no bash");
    }
    let began = std::time::Instant::now();
    while !folder.path().join("done").exists() && began.elapsed().as_secs() < 10 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let copy = fs::read(folder.path().join("copy.json")).expect("a copy");
    let report: Value = serde_json::from_slice(&copy).expect("JSON");
    assert_eq!(report["count"], 4);
}
