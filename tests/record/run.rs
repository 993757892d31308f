//! The run folder: created once, held by one process, intact after a kill at any moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use maxmargin::record::run::{BEST, CONFIG, LAST, METRICS};
use maxmargin::record::{Kind, Metrics, RunFolder, Tensor, TensorFile, read_metrics, write_tensors};
use serde_json::json;

use crate::{CHILD, child, message, names, strings, temporary};

const SETTINGS: &str = "seed = 7\n";

/// A run with settings, metrics and a checkpoint.
fn begun(path: &Path) -> RunFolder {
    let run = RunFolder::create(path).unwrap();
    run.write_config(SETTINGS).unwrap();
    Metrics::create(&run.file(METRICS)).unwrap();
    write_tensors(&run.file(LAST), &[], &strings(&[("step", "0")])).unwrap();
    run
}

#[test]
fn no_run_is_created_in_a_folder_that_holds_one() {
    let folder = temporary();
    let path = folder.path().join("run");
    for name in [CONFIG, METRICS, BEST, LAST] {
        drop(RunFolder::create(&path).expect("a folder without a run, though it exists"));
        fs::write(path.join(name), "").unwrap();
        let text = message(RunFolder::create(&path), &path);
        assert!(text.contains(name) && text.contains("--resume") && text.contains("--out"), "{text}");
        fs::remove_file(path.join(name)).unwrap();
    }
}

#[test]
fn a_run_is_opened_only_if_all_its_files_are_there() {
    let folder = temporary();
    let path = folder.path().join("run");
    assert!(message(RunFolder::open(&path), &path).contains("no such folder"));
    drop(begun(&path));
    drop(RunFolder::open(&path).unwrap());
    fs::remove_file(path.join(LAST)).unwrap();
    fs::write(path.join(METRICS), "{}").unwrap();
    let text = message(RunFolder::open(&path), &path);
    assert!(text.contains("without last.safetensors:"), "{text}");
    fs::remove_file(path.join(CONFIG)).unwrap();
    let text = message(RunFolder::open(&path), &path);
    assert!(text.contains("without config.toml and last.safetensors:"), "{text}");
}

#[test]
fn a_run_stopped_before_its_first_checkpoint_is_opened_as_a_new_one() {
    let folder = temporary();
    let path = folder.path().join("run");
    for stopped_before in [METRICS, LAST] {
        let run = RunFolder::create(&path).unwrap();
        run.write_config(SETTINGS).unwrap();
        if stopped_before == LAST {
            Metrics::create(&run.file(METRICS)).unwrap();
        }
        drop(run);
        let run = RunFolder::open(&path).unwrap();
        assert_eq!(names(&path), [CONFIG, "lock"], "metrics can be created");
        drop(run);
        fs::remove_file(path.join(CONFIG)).unwrap();
    }
    fs::write(path.join(CONFIG), "").unwrap();
    fs::write(path.join(BEST), "").unwrap();
    let text = message(RunFolder::open(&path), &path);
    assert!(text.contains("without last.safetensors:"), "best weights are not trained over: {text}");
}

#[test]
fn runs_without_a_name_get_an_unused_one() {
    let folder = temporary();
    let runs = folder.path().join("runs");
    let held: Vec<RunFolder> = (0..3).map(|_| RunFolder::create_below(&runs, "quick", 7).unwrap()).collect();
    let other = RunFolder::create_below(&runs, "quick", 8).unwrap();
    let expected = ["quick-7", "quick-7-2", "quick-7-3", "quick-8"];
    let found: Vec<_> = held.iter().chain([&other]).map(|run| run.path().file_name().unwrap()).collect();
    assert_eq!(found, expected);
}

#[test]
fn two_processes_cannot_hold_one_run() {
    let folder = temporary();
    let path = folder.path().join("run");
    let run = begun(&path);
    for second in [RunFolder::open(&path), RunFolder::create(&path)] {
        assert!(message(second, &path).contains("another process is training in this folder"));
    }
    drop(run);
    RunFolder::open(&path).expect("free again");
}

/// Writes a checkpoint in which every weight is the number of the step.
fn checkpoint(run: &RunFolder, step: u64) {
    let weights = Tensor::new("w", &[1 << 20], vec![step as f32; 1 << 20]);
    write_tensors(&run.file(LAST), &[weights], &strings(&[("step", &step.to_string())])).unwrap();
}

/// Waits until the checkpoint is beyond `step`, lets the child run for `delay` and kills it.
fn kill_after(mut child: Child, last: &Path, step: u64, delay: Duration) {
    let began = Instant::now();
    while !last.exists() || TensorFile::read(last).unwrap().meta::<u64>("step").unwrap() <= step {
        assert!(began.elapsed() < Duration::from_secs(60), "the child does not write");
        assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_run_killed_at_any_moment_has_a_complete_checkpoint_and_resumes_from_it() {
    let test = "run::a_run_killed_at_any_moment_has_a_complete_checkpoint_and_resumes_from_it";
    if let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) {
        let (run, mut metrics, first) = if path.join(LAST).exists() {
            let run = RunFolder::open(&path).unwrap();
            let step = TensorFile::read(&run.file(LAST)).unwrap().meta::<u64>("step").unwrap();
            let metrics = Metrics::resume(&run.file(METRICS), step, false).unwrap();
            (run, metrics, step + 1)
        } else {
            let run = RunFolder::create(&path).unwrap();
            run.write_config(SETTINGS).unwrap();
            let metrics = Metrics::create(&run.file(METRICS)).unwrap();
            (run, metrics, 1)
        };
        let began = Instant::now();
        for step in (first..).take_while(|_| began.elapsed() < Duration::from_secs(60)) {
            metrics.write(Kind::Step, step, &json!({"loss": 1.0 / step as f32})).unwrap();
            checkpoint(&run, step);
        }
        return;
    }
    let folder = temporary();
    let path = folder.path().join("run");
    let last = path.join(LAST);
    let mut step = 0;
    for delay in [0, 1, 3, 5, 8, 13, 2, 7] {
        kill_after(child(test, &path).spawn().unwrap(), &last, step, Duration::from_millis(delay));
        let run = RunFolder::open(&path).expect("the lock went with the process");
        assert_eq!(names(&path), [CONFIG, LAST, "lock", METRICS], "nothing unfinished is left");
        let file = TensorFile::read(&last).expect("a whole checkpoint");
        let reached = file.meta::<u64>("step").unwrap();
        assert!(reached > step, "the run went on from {step}, to {reached}");
        step = reached;
        let weights = file.get::<f32>("w", &[1 << 20]).unwrap();
        assert!(weights.iter().all(|&w| w == step as f32), "parts of two checkpoints");
        drop(Metrics::resume(&run.file(METRICS), step, false).unwrap());
        let lines = read_metrics(&run.file(METRICS)).unwrap();
        let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, (1..=step).collect::<Vec<_>>());
    }
}
