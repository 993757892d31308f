//! Folders that version 0.1.0 wrote at commit 2b9f259 (`tests/former_version`): the program reads and continues them.
//!
//! `mma` and `trades` are runs of 80 steps of LeNet5 with 1 and 2 filters. `mma` has two finished evaluations, and one
//! that was killed after its first batch.

use std::fs;
use std::path::Path;

use maxmargin::record::{TensorFile, read_metrics};
use serde_json::Value;
use tempfile::TempDir;

use crate::{done_in, settings, value};

/// Flags of the evaluation in `mma/evaluation-pgd+margins`.
const FINISHED: &str = "--test-size 10 --nb-iter 20 --nb-restart 2 --eps 0.1,0.2 --save";
/// Flags of the evaluation in `mma/evaluation-ddn`.
const MINIMUM_NORM: &str = "--norm l2 --attack ddn --test-size 10 --nb-iter 50";
/// Flags of the killed evaluation in `mma/evaluation-pgd+square`.
const KILLED: &str =
    "--attack pgd,square --test-size 10 --batch-size 2 --nb-iter 200 --nb-restart 10 --eps 0.1,0.2,0.3 --save";
/// Share by which figures may differ on a CPU with other roundings.
const ROUNDING: f64 = 0.01;

/// A folder with copies of both runs.
fn runs() -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir(to).expect("a new folder");
        for entry in fs::read_dir(from).expect("a folder of the former version") {
            let from = entry.expect("an entry").path();
            let to = to.join(from.file_name().expect("a name"));
            if from.is_dir() {
                copy(&from, &to);
            } else {
                fs::copy(&from, &to).expect("a copy");
            }
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let former = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/former_version");
    ["mma", "trades"].iter().for_each(|run| copy(&former.join(run), &folder.path().join(run)));
    folder
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a record")).expect("JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number, not {value}"))
}

/// Evaluates `mma` with `flags` on the CPU, and returns what was printed.
fn evaluate(folder: &Path, flags: &str) -> String {
    done_in(folder, &format!("evaluate mma --quiet --device cpu {flags}")).out
}

#[test]
fn settings_are_read() {
    let config = settings("--config tests/former_version/trades/config.toml");
    for (name, expected) in [
        ("preset", "quick"),
        ("method", "trades"),
        ("width", "0.03125"),
        ("nb_iter", "2"),
        ("train_size", "400"),
        ("learning_rate_schedule", "0:0.01"),
        ("search_loss_fn", "slm"),
        ("right_when", "slm"),
        ("test_attack_loss_fn", "attack-loss-fn"),
        ("test_starts", "same"),
        ("test_attacked", "correct"),
        ("test_search_start", "half-maxeps"),
    ] {
        assert_eq!(value(&config, name), expected, "{name}");
    }
    assert_eq!(settings("--resume tests/former_version/trades"), config);
}

#[test]
fn training_continues_with_the_losses_of_the_former_version() {
    let folder = runs();
    for (run, extra, at_90, at_100) in [
        ("mma", "margin_loss", [0.6551231, 1.1022923], [0.65547067, 1.0523484]),
        ("trades", "kl", [1.104593, 0.3645121], [1.0894539, 0.37949258]),
    ] {
        let events = folder.path().join(run).join("events.out.tfevents.maxmargin");
        let size = |path: &Path| fs::metadata(path).map(|file| file.len()).ok();
        let before = size(&events);
        done_in(folder.path(), &format!("train --resume {run} --quiet --device cpu --max-num-training-steps 100"));
        let lines = read_metrics(&folder.path().join(run).join("metrics.jsonl")).expect("metrics");
        for (step, losses) in [(90, at_90), (100, at_100)] {
            let of_step = |line: &&Value| line["kind"] == "step" && line["step"] == step;
            let line = lines.iter().find(of_step).unwrap_or_else(|| panic!("{run}: no step {step}"));
            for (name, expected) in ["clean_loss", extra].iter().zip(losses) {
                let found = number(&line[*name]);
                assert!(
                    (found / expected - 1.0).abs() < ROUNDING,
                    "{run}, step {step}: {name} {found}, not {expected}"
                );
            }
        }
        assert_eq!(size(&events) > before, before.is_some(), "{run}: the event file is continued");
    }
}

/// The former version attacked correct images alone, from the same starts at each validation.
#[test]
fn margins_of_a_continued_run_are_measured_as_the_former_version_did() {
    let folder = runs();
    done_in(folder.path(), "train --resume mma --quiet --device cpu --max-num-training-steps 100");
    let lines = read_metrics(&folder.path().join("mma/metrics.jsonl")).expect("metrics");
    for (kind, name, expected) in [
        ("epoch", "validation_mean_margin", 0.139_535_155_380_144_72),
        ("result", "mean_margin", 0.167_589_840_758_591_9),
    ] {
        let line = lines.iter().rfind(|line| line["kind"] == kind).expect("a line of the last step");
        let found = number(&line[name]);
        assert!((found / expected - 1.0).abs() < ROUNDING, "{name} {found}, not {expected}");
    }
}

#[test]
fn the_page_has_the_figures_of_runs_and_evaluations() {
    let folder = runs();
    done_in(folder.path(), "report mma trades --out page.html");
    let page = fs::read_to_string(folder.path().join("page.html")).expect("a page");
    for part in [
        "80 of 80 steps",
        // The results of the runs.
        "0.1314",
        "0.1152",
        // The evaluations.
        "<code>604e055361f5f00f</code>",
        "<td class=\"words\">pgd-xent</td><td>1</td><td>7</td><td>1</td><td>147</td><td>140</td>",
        ">35.00<",
        ">46.67<",
        "0.1255",
        "<td class=\"words\">ddn</td><td>70.00 <small>",
        "<td>1.5825 <small>of 7 of 7 found</small></td><td>0.7983</td><td>1.8013</td><td>2.0986</td>",
        "evaluation-pgd+square has no result yet",
    ] {
        assert!(page.contains(part), "no {part:?} in the page");
    }
    assert_eq!(page.matches("<img src=\"data:image/png;base64,").count(), 3 * 6, "six adversarial images");
}

#[test]
fn weights_are_exported_and_attacked() {
    let folder = runs();
    done_in(folder.path(), "export mma --out weights.safetensors");
    let tensors = |file: &str| TensorFile::read(&folder.path().join(file)).expect("weights").tensors;
    let (former, exported) = (tensors("mma/best.safetensors"), tensors("weights.safetensors"));
    assert_eq!(former.len(), 8);
    for tensor in former {
        let found = exported.iter().find(|found| found.name == tensor.name);
        assert!(found.is_some_and(|found| *found == tensor), "{}", tensor.name);
    }
    done_in(folder.path(), "transfer mma trades --quiet --device cpu --test-size 10 --nb-iter 2 --nb-restart 1");
    done_in(
        folder.path(),
        "attack mma --quiet --device cpu --test-size 10 --nb-iter 2 --nb-restart 1 --save x.safetensors",
    );
}

/// A former evaluation does not say which images it measured, so it stays, whatever is asked.
#[test]
fn a_repeated_evaluation_has_the_figures_of_the_former_version_and_leaves_it_alone() {
    let folder = runs();
    for (flags, name) in [(FINISHED, "evaluation-pgd+margins"), (MINIMUM_NORM, "evaluation-ddn")] {
        let record = |name: &str| folder.path().join("mma").join(name).join("evaluation.json");
        let before = fs::read(record(name)).expect("a record");
        let former = json(&record(name));
        let said = evaluate(folder.path(), flags);
        assert!(said.contains(&format!("mma/{name}-2 has the report")), "a folder of its own: {said}");
        assert_eq!(fs::read(record(name)).expect("a record"), before);
        let found = json(&record(&format!("{name}-2")));
        assert_eq!(found["weights_sha256"], former["weights_sha256"]);
        assert_eq!(found["clean_accuracy"], former["clean_accuracy"]);
        for (e, former) in former["robust"].as_array().expect("a list").iter().enumerate() {
            let difference = number(&found["robust"][e]["accuracy"]) - number(&former["accuracy"]);
            assert!(difference.abs() <= 10.0, "one image may differ: {difference} %");
        }
        for (a, former) in former["minimum_norm"].as_array().expect("a list").iter().enumerate() {
            let ratio = number(&found["minimum_norm"][a]["mean"]) / number(&former["mean"]);
            assert!((ratio - 1.0).abs() < ROUNDING, "the mean distance, times {ratio}");
        }
    }
}

#[test]
fn an_evaluation_with_other_flags_leaves_the_former_one_alone() {
    let folder = runs();
    let record = folder.path().join("mma/evaluation-ddn/evaluation.json");
    let before = fs::read(&record).expect("a record");
    let said = evaluate(folder.path(), &format!("{MINIMUM_NORM} --seed 1"));
    assert!(said.contains("mma/evaluation-ddn-2 has the report"), "{said}");
    assert_eq!(fs::read(&record).expect("a record"), before);
}

/// A state of a former version does not say which images it was of.
#[test]
fn a_killed_evaluation_of_the_former_version_is_not_continued_and_not_lost() {
    let folder = runs();
    let killed = folder.path().join("mma/evaluation-pgd+square/unfinished.safetensors");
    let before = fs::read(&killed).expect("a state");
    let said = done_in(folder.path(), &format!("evaluate mma --device cpu {KILLED}"));
    assert!(said.out.contains("mma/evaluation-pgd+square-2 has the report"), "{}", said.out);
    let stays = "mma/evaluation-pgd+square is of other images, weights, flags or program and stays";
    assert!(said.err.contains(stays), "{}", said.err);
    assert_eq!(fs::read(&killed).expect("a state"), before);
}
