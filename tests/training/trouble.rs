//! Runs that cannot continue: the message names the file and the error, the exit code is 2, and nothing is lost.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use maxmargin::record::run::{BEST, CONFIG, LAST, METRICS};
use maxmargin::record::{Tensor, TensorData, TensorFile, write_tensors};

use crate::support::fake::runs_long_tests;
use crate::{assert_same, begin, done, files, go_on, metrics, refused, run, said, temporary, tensors};

/// Rewrites the file of tensors with a change.
fn rewrite(path: &Path, change: impl Fn(&mut TensorFile)) {
    let mut file = TensorFile::read(path).unwrap();
    change(&mut file);
    write_tensors(path, &file.tensors, &file.metadata).unwrap();
}

fn truncate(path: &Path, parts: usize) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / parts]).unwrap();
}

fn set(path: &Path, key: &str, value: &str) {
    rewrite(path, |file| drop(file.metadata.insert(key.into(), value.into())));
}

/// Changes an element of a tensor, in a file that is valid otherwise.
fn set_element(path: &Path, name: &str, value: f32) {
    rewrite(path, |file| {
        let tensor = file.tensors.iter_mut().find(|tensor| tensor.name == name).expect("the tensor");
        let TensorData::F32(elements) = &mut tensor.data else { panic!("{name}: single precision") };
        elements[3] = value;
    });
}

/// Flips a bit of a tensor.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 0x40;
    fs::write(path, bytes).unwrap();
}

/// Bits of numbers in double precision.
const NAN: &str = "9221120237041090560";
const INFINITY: &str = "9218868437227405312";

type Damage = (&'static str, Box<dyn Fn(&Path)>, &'static [&'static str]);

fn damages() -> Vec<Damage> {
    fn damage(name: &'static str, how: impl Fn(&Path) + 'static, parts: &'static [&'static str]) -> Damage {
        (name, Box::new(how), parts)
    }
    vec![
        damage(LAST, |p| truncate(p, 2), &["truncated"]),
        damage(LAST, |p| truncate(p, 1 << 30), &["byte 0", "an empty file"]),
        damage(LAST, |p| fs::write(p, "<!DOCTYPE html><html></html>").unwrap(), &["byte 0", "a web page"]),
        damage(
            LAST,
            |p| rewrite(p, |f| f.tensors.retain(|t| t.name != "adam.v.conv2.bias")),
            &["no tensor `adam.v.conv2.bias`"],
        ),
        damage(LAST, |p| rewrite(p, |f| f.tensors.retain(|t| t.name != "margins")), &["no tensor `margins`"]),
        damage(
            LAST,
            |p| rewrite(p, |f| f.tensors.push(Tensor::new("weights.bn1.weight", &[1], vec![1f32]))),
            &["found 1 tensor that belongs to no parameter: weights.bn1.weight"],
        ),
        damage(
            LAST,
            |p| {
                rewrite(p, |f| {
                    f.tensors.retain(|t| t.name != "margins");
                    f.tensors.push(Tensor::new("margins", &[229], vec![0f32; 229]));
                })
            },
            &["tensor `margins`: expected F32 [230], found F32 [229]"],
        ),
        damage(
            LAST,
            |p| {
                rewrite(p, |f| {
                    f.tensors.retain(|t| t.name != "weights.conv1.bias");
                    f.tensors.push(Tensor::new("weights.conv1.bias", &[4], vec![0f64; 4]));
                })
            },
            &["tensor `weights.conv1.bias`: expected F32 [4], found F64 [4]"],
        ),
        damage(LAST, |p| rewrite(p, |f| drop(f.metadata.remove("step"))), &["metadata `step`", "no such entry"]),
        damage(LAST, |p| set(p, "step", "twelve"), &["metadata `step`", "found `twelve`"]),
        damage(LAST, |p| set(p, "step", "-1"), &["metadata `step`", "found `-1`"]),
        damage(LAST, |p| set(p, "step", "4294967296"), &["metadata `step`", "found `4294967296`"]),
        damage(LAST, |p| set(p, "step", "25"), &["metadata `step`: expected at most the run's 24, found 25"]),
        damage(LAST, |p| set(p, "best_step", ""), &["metadata `best_step`", "found ``"]),
        damage(LAST, |p| set(p, "best_margin_bits", "0.5"), &["metadata `best_margin_bits`", "found `0.5`"]),
        damage(
            LAST,
            |p| set(p, "best_margin_bits", NAN),
            &["metadata `best_margin_bits`: expected a number from 0", "NaN"],
        ),
        damage(LAST, |p| set(p, "best_margin_bits", INFINITY), &["metadata `best_margin_bits`: expected", "found inf"]),
        damage(LAST, |p| set(p, "best_step", "13"), &["metadata `best_step`: expected at most the file's step 12"]),
        damage(
            LAST,
            |p| rewrite(p, |f| drop(f.metadata.remove("best_step"))),
            &["metadata `best_step`", "no such entry"],
        ),
        damage(LAST, |p| set_element(p, "margins", f32::NAN), &["tensor `margins`, element 3: expected 0 to ", "NaN"]),
        damage(
            LAST,
            |p| set_element(p, "margins", 0.5),
            &["tensor `margins`, element 3: expected 0 to 0.47", "found 0.5"],
        ),
        damage(LAST, |p| set_element(p, "margins", -0.1), &["tensor `margins`, element 3: expected", "found -0.1"]),
        damage(
            LAST,
            |p| set_element(p, "adam.v.conv2.bias", f32::INFINITY),
            &["`adam.v.conv2.bias`, element 3", "inf"],
        ),
        damage(LAST, |p| set_element(p, "weights.conv1.bias", f32::NAN), &["`weights.conv1.bias`, element 3", "NaN"]),
        damage(LAST, flip, &["expected the content of SHA-256 ", "train --config ", "starts the run again"]),
        damage(BEST, flip, &["expected the content of SHA-256 ", "restore it from a copy"]),
        damage(
            LAST,
            |p| set(p, "data_sha256", "0123456789abcdef"),
            &["expected the images and labels that the run was trained on, of SHA-256 0123456789ab;", "--data"],
        ),
        damage(LAST, |p| fs::remove_file(p).unwrap(), &["cannot resume without last.safetensors"]),
        damage(BEST, |p| truncate(p, 3), &["truncated"]),
        damage(BEST, |p| fs::remove_file(p).unwrap(), &["cannot read"]),
        damage(METRICS, |p| fs::remove_file(p).unwrap(), &["cannot read"]),
        damage(
            METRICS,
            |p| {
                let text = fs::read_to_string(p).unwrap();
                let mut lines: Vec<&str> = text.lines().collect();
                lines[3] = &lines[3][..20];
                fs::write(p, lines.join("\n") + "\n").unwrap();
            },
            &["line 4: expected a JSON object"],
        ),
        damage(CONFIG, |p| truncate(p, 2), &["config.toml: line "]),
        damage(CONFIG, |p| truncate(p, 1 << 30), &["expected settings as TOML, found an empty file"]),
        damage(CONFIG, |p| fs::write(p, [0xff, 0xfe]).unwrap(), &["expected settings as TOML"]),
        damage(
            CONFIG,
            |p| {
                let text = fs::read_to_string(p).unwrap();
                fs::write(p, text.replace("nb_iter = 2", "nb_iter = \"two\"")).unwrap();
            },
            &["config.toml: line ", "two", "expected u32"],
        ),
        damage(
            CONFIG,
            |p| {
                let text = fs::read_to_string(p).unwrap();
                fs::write(p, text.replace("nb_iter = 2", "nb_iter = 0")).unwrap();
            },
            &["--nb-iter: expected a whole number from 1 to 100000; found 0"],
        ),
        damage(CONFIG, |p| fs::remove_file(p).unwrap(), &["cannot read"]),
    ]
}

#[test]
fn a_damaged_run_is_refused_with_the_file_and_the_error_and_stays_unchanged() {
    let folder = temporary();
    let (whole, damaged) = (folder.path().join("whole"), folder.path().join("damaged"));
    done(&mut begin(&whole, ""));
    for (i, (name, how, parts)) in damages().into_iter().enumerate() {
        fs::create_dir(&damaged).unwrap();
        files(&whole).into_keys().for_each(|path| drop(fs::copy(&path, damaged.join(path.file_name().unwrap()))));
        how(&damaged.join(name));
        let before = files(&damaged);
        // With more steps than planned: even the settings must stay unchanged.
        let mut resume = go_on(&damaged, "--max-num-training-steps 24");
        let named = [&[name][..], parts].concat();
        refused(&mut resume, &named);
        assert!(files(&damaged) == before, "damage {i}, to {name}, {parts:?}: files were changed");
        fs::remove_dir_all(&damaged).unwrap();
    }
}

#[test]
fn an_incomplete_last_line_of_metrics_is_accepted() {
    let folder = temporary();
    let (whole, torn) = (folder.path().join("whole"), folder.path().join("torn"));
    for run in [&whole, &torn] {
        done(&mut begin(run, ""));
    }
    let text = fs::read(torn.join(METRICS)).unwrap();
    fs::write(torn.join(METRICS), &text[..text.len() - 30]).unwrap();
    done(&mut go_on(&torn, ""));
    assert_same(&torn, &whole, "torn");
}

#[test]
fn a_run_that_is_not_there_cannot_be_resumed() {
    let folder = temporary();
    refused(&mut go_on(&folder.path().join("none"), ""), &["none/config.toml: cannot read"]);
    assert!(!folder.path().join("none").exists());
}

/// Waits until the run's last checkpoint is that of step `step` or a later one.
fn wait_for(run: &Path, step: u32) {
    let began = Instant::now();
    while !TensorFile::read(&run.join(LAST)).is_ok_and(|file| file.meta::<u32>("step").unwrap() >= step) {
        assert!(began.elapsed() < Duration::from_secs(60), "no checkpoint of step {step}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_run_in_progress_is_neither_resumed_nor_overwritten() {
    let folder = temporary();
    let path = folder.path().join("run");
    let mut child = begin(&path, "--max-num-training-steps 1000000").stdout(Stdio::null()).spawn().unwrap();
    wait_for(&path, 1);
    let config = fs::read(path.join(CONFIG)).unwrap();
    refused(&mut go_on(&path, "--steps 2000000"), &["another process is training in this folder", "run: "]);
    refused(&mut begin(&path, "--seed 5"), &["another process is training in this folder", "run: "]);
    assert!(child.try_wait().unwrap().is_none(), "the run goes on");
    assert_eq!(fs::read(path.join(CONFIG)).unwrap(), config);
    child.kill().unwrap();
    child.wait().unwrap();
    refused(&mut begin(&path, "--seed 5"), &["holds a run already", "--resume", "--out"]);
}

/// Runs `command` in a shell that limits files to a size between that of `best` and that of `last`.
#[cfg(unix)]
fn with_small_files(command: &Command) -> Command {
    let mut limited = Command::new("sh");
    // A unit is 512 bytes, or 1024 in some shells.
    limited.args(["-c", "ulimit -f 600; trap '' XFSZ; exec \"$0\" \"$@\""]);
    limited.arg(command.get_program()).args(command.get_args());
    limited
}

#[test]
#[cfg(unix)]
fn a_checkpoint_that_cannot_be_written_leaves_the_former_one_to_resume_from() {
    let folder = temporary();
    let (whole, path) = (folder.path().join("whole"), folder.path().join("run"));
    done(&mut begin(&whole, "--max-num-training-steps 20"));
    done(&mut begin(&path, "--max-num-training-steps 10"));
    let before = fs::read(path.join(LAST)).unwrap();
    let mut resume = with_small_files(&go_on(&path, "--max-num-training-steps 20"));
    refused(&mut resume, &["last.safetensors: cannot write", "the former file is unchanged"]);
    assert!(fs::read(path.join(LAST)).unwrap() == before);
    assert_eq!(tensors(&path, LAST).meta::<u32>("step").unwrap(), 10);
    assert_eq!(files(&path).len(), 4, "nothing unfinished is left");
    done(&mut go_on(&path, ""));
    assert_same(&path, &whole, "after the disk had room again");
}

#[test]
#[cfg(unix)]
fn a_new_run_that_cannot_write_its_first_checkpoint_ends_at_once() {
    let folder = temporary();
    let path = folder.path().join("run");
    refused(&mut with_small_files(&begin(&path, "")), &["last.safetensors: cannot write"]);
    done(&mut go_on(&path, ""));
}

#[test]
#[cfg(unix)]
fn a_run_whose_folder_is_moved_ends_with_an_error_and_can_be_resumed_in_the_new_place() {
    let folder = temporary();
    let path = |name: &str| folder.path().join(name);
    let (whole, path, moved, other) = (path("whole"), path("run"), path("moved"), path("other"));
    let longer = "--max-num-training-steps 60 --checkpoint-interval 1";
    done(&mut begin(&whole, longer));
    // The folder is reached by a link, which a rename replaces atomically by a file.
    fs::create_dir(&moved).unwrap();
    std::os::unix::fs::symlink(&moved, &path).unwrap();
    fs::write(&other, "a file").unwrap();
    let child = begin(&path, longer).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&path, 1);
    fs::rename(&other, &path).unwrap();
    let said = said(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("run/") && said.err.contains("a part of this path is a file"), "{}", said.err);
    assert_eq!(fs::read(&path).unwrap(), b"a file");
    done(&mut go_on(&moved, ""));
    assert_same(&moved, &whole, "moved");
}

#[test]
fn training_that_diverges_ends_with_an_error_and_keeps_a_finite_checkpoint() {
    let folder = temporary();
    // Three good steps, then absurd ones: found by the loss, or by the weights if no loss is read before the
    // checkpoint.
    for (interval, found) in [("1", "by step 5: clean loss "), ("100", "by step 5: a weight is ")] {
        let path = folder.path().join(interval);
        let changes = format!("--learning-rate-schedule 0:0.01,3:1e30 --disp-interval {interval}");
        let parts = ["training diverged", found, "--learning-rate-schedule", "last.safetensors"];
        refused(&mut begin(&path, &changes), &parts);
        let last = tensors(&path, LAST);
        assert_eq!(last.meta::<u32>("step").unwrap(), 3);
        for tensor in &last.tensors {
            assert!(last.get::<f32>(&tensor.name, &tensor.shape).unwrap().iter().all(|value| value.is_finite()));
        }
        assert!(!path.join(BEST).exists(), "infinite or NaN weights are never the best");
        let again = run(&mut go_on(&path, ""));
        assert_eq!(again.code, Some(2), "{}", again.err);
        assert!(again.err.contains(found), "{}", again.err);
        assert_eq!(metrics(&path)[0]["step"], 0);
    }
}

/// Weights that single precision holds: the attack would go on with infinite copies of them.
#[test]
fn weights_that_half_precision_cannot_hold_end_the_training_of_an_attack_in_half_precision() {
    let folder = temporary();
    let changes = "--learning-rate-schedule 0:0.01,3:100000 --max-num-training-steps 4 --disp-interval 100";
    done(&mut begin(&folder.path().join("single"), changes));
    let path = folder.path().join("half");
    let parts = ["training diverged by step 4: with --precision fp16, conv2.weight: expected weights of at most 65504"];
    refused(&mut begin(&path, &format!("{changes} --precision fp16")), &parts);
    assert_eq!(tensors(&path, LAST).meta::<u32>("step").unwrap(), 3);
}

/// A loss scale at which every gradient overflows: no step changes a weight.
#[test]
fn steps_whose_gradients_overflow_are_skipped_and_counted_and_end_a_run_that_has_no_others() {
    let folder = temporary();
    let scale =
        |scale: u32| format!("--precision fp16 --loss-scale {scale} --disp-interval 10 --training-batch-size 1");
    let skipped = |run: &Path| -> Vec<Option<u64>> {
        let lines = metrics(run).into_iter().filter(|line| line["kind"] == "step");
        lines.map(|line| line["skipped_steps"].as_u64()).collect()
    };
    let path = folder.path().join("overflows");
    done(&mut begin(&path, &format!("{} --max-num-training-steps 20", scale(1 << 24))));
    assert_eq!(skipped(&path), [Some(10), Some(10)]);
    let best = TensorFile::read(&path.join(BEST)).unwrap();
    let untrained = folder.path().join("untrained");
    done(&mut begin(&untrained, "--max-num-training-steps 1 --learning-rate-schedule 1e-30 --training-batch-size 1"));
    let first = TensorFile::read(&untrained.join(BEST)).unwrap();
    for tensor in &first.tensors {
        let values = |file: &TensorFile| file.get::<f32>(&tensor.name, &tensor.shape).unwrap().to_vec();
        assert_eq!(values(&best), values(&first), "{}", tensor.name);
    }

    if runs_long_tests("a run whose steps are all skipped") {
        let path = folder.path().join("ends");
        let parts = [
            "training passes of the last 50 steps overflowed",
            "--loss-scale than 16777216",
            "--precision fp16-attack",
        ];
        refused(&mut begin(&path, &format!("{} --max-num-training-steps 60", scale(1 << 24))), &parts);
        assert!(tensors(&path, LAST).meta::<u32>("step").unwrap() >= 40);
    }

    let path = folder.path().join("fits");
    done(&mut begin(&path, &scale(1024)));
    assert!(skipped(&path).iter().all(|steps| *steps == Some(0)));
    let path = folder.path().join("attack");
    done(&mut begin(&path, "--precision fp16-attack --disp-interval 10"));
    assert!(skipped(&path).iter().all(Option::is_none));
}

/// Checkpoints of former versions have no sum of skipped steps.
#[test]
fn a_checkpoint_without_the_sum_of_skipped_steps_is_resumed() {
    let folder = temporary();
    let path = folder.path().join("run");
    done(&mut begin(&path, "--max-num-training-steps 3"));
    rewrite(&path.join(LAST), |file| {
        let sums = file.tensors.iter_mut().find(|tensor| tensor.name == "metrics").expect("the sums");
        let TensorData::F32(values) = &mut sums.data else { panic!("single precision") };
        assert_eq!(values.pop(), Some(0.0));
        sums.shape = vec![values.len()];
    });
    done(&mut go_on(&path, "--max-num-training-steps 6"));
    let whole = folder.path().join("whole");
    done(&mut begin(&whole, "--max-num-training-steps 6"));
    let [resumed, whole] = [&path, &whole].map(|run| tensors(run, LAST));
    for tensor in &whole.tensors {
        let values = |file: &TensorFile| file.get::<f32>(&tensor.name, &tensor.shape).unwrap().to_vec();
        assert_eq!(values(&resumed), values(&whole), "{}", tensor.name);
    }
}
