//! Files that a run writes, and settings that it accepts.

use std::fs;
use std::process::Command;

use maxmargin::record::MarginCounts;
use maxmargin::record::run::{BEST, CONFIG, LAST, METRICS};
use serde_json::Value;

use crate::{PROGRAM, assert_same, begin, done, files, metrics, refused, temporary, tensors};

/// Names and shapes of LeNet5's tensors at an eighth of its width, as in PyTorch.
const WEIGHTS: [(&str, &[usize]); 8] = [
    ("conv1.weight", &[4, 1, 5, 5]),
    ("conv1.bias", &[4]),
    ("conv2.weight", &[8, 4, 5, 5]),
    ("conv2.bias", &[8]),
    ("linear1.weight", &[128, 392]),
    ("linear1.bias", &[128]),
    ("linear2.weight", &[10, 128]),
    ("linear2.bias", &[10]),
];

fn names(line: &Value) -> Vec<&str> {
    line.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn number(line: &Value, name: &str) -> f64 {
    line[name].as_f64().unwrap_or_else(|| panic!("{name} is a number in {line}"))
}

#[test]
fn a_run_writes_settings_metrics_and_two_checkpoints() {
    let folder = temporary();
    let run = folder.path().join("run");
    done(&mut begin(&run, ""));
    let found: Vec<_> = files(&run).into_keys().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(found, [BEST, CONFIG, LAST, METRICS], "and the lock");

    let best = tensors(&run, BEST);
    for (name, shape) in WEIGHTS {
        best.get::<f32>(name, shape).unwrap();
    }
    assert_eq!(best.tensors.len(), WEIGHTS.len());
    assert_eq!(best.metadata.keys().collect::<Vec<_>>(), ["step", "validation_mean_margin"]);

    let last = tensors(&run, LAST);
    for prefix in ["weights", "adam.m", "adam.v"] {
        for (name, shape) in WEIGHTS {
            last.get::<f32>(&format!("{prefix}.{name}"), shape).unwrap();
        }
    }
    let margins = last.get::<f32>("margins", &[230]).unwrap();
    assert!(margins.iter().all(|margin| (0.0..=0.4725).contains(margin)), "from 0 to 1.05 d_max");
    assert_eq!(last.tensors.len(), 3 * WEIGHTS.len() + 2, "and the sums of metrics");
    assert_eq!(last.metadata["step"], "12");
}

#[test]
fn metrics_have_a_line_for_each_logging_interval_and_epoch_and_for_the_results_before_and_after() {
    let folder = temporary();
    let run = folder.path().join("run");
    done(&mut begin(&run, "--max-num-training-steps 13"));
    let lines = metrics(&run);
    let order: Vec<_> = lines.iter().map(|l| (l["kind"].as_str().unwrap(), l["step"].as_u64().unwrap())).collect();
    assert_eq!(
        order,
        [
            ("result", 0),
            ("step", 2),
            ("step", 4),
            ("epoch", 5),
            ("step", 6),
            ("step", 8),
            ("step", 10),
            ("epoch", 10),
            ("step", 12),
            ("step", 13),
            ("epoch", 13),
            ("result", 13)
        ]
    );
    for line in &lines {
        let figures: &[&str] = match line["kind"].as_str().unwrap() {
            "step" => {
                &["clean_loss", "learning_rate", "margin_loss", "mean_margin", "train_accuracy", "train_reached_d_max"]
            }
            "epoch" => &["best", "epoch", "margins", "validation_accuracy", "validation_mean_margin"],
            _ => &[
                "clean_accuracy",
                "data_provenance",
                "data_sha256",
                "device_bytes",
                "mean_margin",
                "robust_accuracy",
                "robust_attack",
                "test_images",
                "training_backward_passes",
                "training_forward_passes",
                "weights",
                "weights_step",
            ],
        };
        let mut expected = [&["kind", "step"], figures].concat();
        expected.sort();
        let mut found = names(line);
        found.sort();
        assert_eq!(found, expected);
    }
    for line in lines.iter().filter(|line| line["kind"] == "step") {
        assert!((0.0..=100.0).contains(&number(line, "train_accuracy")), "{line}");
        assert!((0.0..=100.0).contains(&number(line, "train_reached_d_max")), "{line}");
        assert!((0.0..=0.4725).contains(&number(line, "mean_margin")), "{line}");
        assert!(number(line, "clean_loss") > 0.0 && number(line, "learning_rate") == 0.01, "{line}");
    }
    let epochs: Vec<_> = lines.iter().filter_map(|line| line["epoch"].as_u64()).collect();
    assert_eq!(epochs, [1, 2, 3]);
    let weights: Vec<_> = lines.iter().filter_map(|line| line["weights"].as_str()).collect();
    assert_eq!(weights, ["initial", BEST]);
    assert!(lines.iter().filter(|l| l["kind"] == "result").all(|l| l["test_images"] == 50));
}

#[test]
fn an_epoch_line_has_the_histogram_of_the_validation_margins() {
    let folder = temporary();
    let run = folder.path().join("run");
    done(&mut begin(&run, "--max-num-training-steps 25"));
    let lines = metrics(&run);
    for line in lines.iter().filter(|line| line["kind"] == "epoch") {
        let counts: MarginCounts = serde_json::from_value(line["margins"].clone()).unwrap();
        assert_eq!((counts.max, counts.bins.len(), counts.total()), (0.4725, MarginCounts::RECORDED, 50));
        let accuracy = 100.0 * (50 - counts.misclassified) as f64 / 50.0;
        assert_eq!(accuracy, number(line, "validation_accuracy"));
        // The mean lies between the means for margins at the lower and at the upper edges of their bins. Misclassified
        // images count with the margin of a bisection whose probes, but for the last one, are all misclassified.
        let bisected = 0.4725 / 2048.0 * counts.misclassified as f64;
        let mean = |of: usize| {
            let bins = counts.bins.iter().enumerate();
            let sum: f64 = bins.map(|(i, &count)| f64::from(counts.edge(i + of)) * count as f64).sum();
            (sum + bisected) / 50.0
        };
        let found = number(line, "validation_mean_margin");
        assert!(mean(0) <= found + 1e-6 && found <= mean(1) + 1e-6, "{} <= {found} <= {}", mean(0), mean(1));
    }
}

#[test]
fn the_learning_rate_of_a_step_line_is_that_of_its_last_step() {
    let folder = temporary();
    let run = folder.path().join("run");
    done(&mut begin(&run, "--learning-rate-schedule 0:0.01,4:0.001"));
    let lines = metrics(&run);
    let rates: Vec<_> = lines.iter().filter_map(|line| line["learning_rate"].as_f64()).collect();
    assert_eq!(rates, [0.01, 0.01, 0.001, 0.001, 0.001, 0.001], "the fifth step is number 4");
}

#[test]
fn the_best_checkpoint_has_the_largest_validation_margin_and_evaluate_finds_the_same_margin() {
    let folder = temporary();
    let (run, json) = (folder.path().join("run"), folder.path().join("found.json"));
    done(&mut begin(&run, "--max-num-training-steps 25"));
    let lines = metrics(&run);
    let epochs: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "epoch").collect();
    let largest = epochs.iter().map(|line| number(line, "validation_mean_margin")).fold(0.0, f64::max);
    let chosen = epochs.iter().rfind(|line| line["best"] == true).expect("a best epoch");
    assert_eq!(number(chosen, "validation_mean_margin"), largest);
    let best = tensors(&run, BEST);
    assert_eq!(best.meta::<u64>("step").unwrap(), chosen["step"].as_u64().unwrap());
    assert_eq!(lines.last().unwrap()["weights_step"], chosen["step"]);

    let mut evaluate = Command::new(PROGRAM);
    evaluate.arg("evaluate").arg(&run).args(["--attack", "margins", "--split", "validation", "--quiet", "--json"]);
    done(evaluate.arg(&json));
    let found: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert!((number(&found, "mean_margin") - largest).abs() <= 1e-6, "{} and {largest}", found["mean_margin"]);
    assert_eq!(number(&found, "clean_accuracy"), number(chosen, "validation_accuracy"));
    assert_eq!(found["count"], 50);
}

#[test]
fn the_recorded_settings_reproduce_the_run() {
    let folder = temporary();
    let (first, again) = (folder.path().join("first"), folder.path().join("again"));
    done(&mut begin(&first, "--seed 7 --hinge-maxeps 76.5/255 --attack-mineps 0.05 --clean-loss-coeff 0.25"));
    let mut command = Command::new(PROGRAM);
    command.args(["train", "--quiet", "--config"]).arg(first.join(CONFIG)).arg("--savepath").arg(&again);
    done(&mut command);
    assert_same(&again, &first, "from config.toml");
    assert_eq!(fs::read(again.join(CONFIG)).unwrap(), fs::read(first.join(CONFIG)).unwrap());
}

#[test]
fn each_choice_between_the_released_code_and_the_paper_is_recorded() {
    let folder = temporary();
    let recorded = |name: &str, changes: &str| {
        let run = folder.path().join(name);
        done(&mut begin(&run, &format!("--max-num-training-steps 1 --train-size 50 {changes}")));
        fs::read_to_string(run.join(CONFIG)).unwrap()
    };
    let released = recorded("released", "");
    let differing = |text: &str| {
        let pairs = text.lines().zip(released.lines());
        pairs.filter(|(found, released)| found != released).map(|(found, _)| found.to_owned()).collect::<Vec<_>>()
    };
    for (flag, value, line) in [
        ("search-mode", "eval", "search_mode = \"eval\""),
        ("right-when", "lm", "right_when = \"lm\""),
        ("direction", "unit", "direction = \"unit\""),
        ("clamp-boundary", "true", "clamp_boundary = true"),
        ("search-result", "adversarial", "search_result = \"adversarial\""),
        ("forget-wrong", "false", "forget_wrong = false"),
        ("test-attack-loss-fn", "attack-loss-fn", "test_attack_loss_fn = \"attack-loss-fn\""),
        ("test-starts", "same", "test_starts = \"same\""),
        ("test-attacked", "correct", "test_attacked = \"correct\""),
        ("test-search-start", "test-eps", "test_search_start = \"test-eps\""),
        ("test-search-loss-fn", "slm", "test_search_loss_fn = \"slm\""),
        ("l2-order", "ball-box", "l2_order = \"ball-box\""),
        ("l2-grad-floor", "0.5", "l2_grad_floor = 0.5"),
        ("cw-confidence", "1", "cw_confidence = 1.0"),
    ] {
        assert_eq!(differing(&recorded(flag, &format!("--{flag} {value}"))), [line]);
    }
    let paper = differing(&recorded("paper", "--fidelity paper"));
    // All choices except the loss that margins are measured with, and the loss of the search.
    assert_eq!(paper.len(), 14, "{paper:?}");
    assert!(paper.contains(&"search_loss_fn = \"lm\"".into()), "{paper:?}");
}

#[test]
fn a_batch_larger_than_the_data_is_all_of_it() {
    let folder = temporary();
    let run = |batch: &str| {
        let run = folder.path().join(batch);
        done(&mut begin(&run, &format!("--training-batch-size {batch} --max-num-training-steps 3")));
        run
    };
    let (equal, larger, largest) = (run("230"), run("231"), run("65536"));
    assert_same(&larger, &equal, "one more");
    assert_same(&largest, &equal, "the largest that is allowed");
}

#[test]
fn few_images_are_enough() {
    let folder = temporary();
    for (name, sizes) in [
        ("one", "--train-size 1 --val-size 1 --test-size 1"),
        ("less-than-a-batch", "--train-size 7"),
        ("batches-of-one", "--train-size 3 --training-batch-size 1"),
    ] {
        done(&mut begin(&folder.path().join(name), &format!("{sizes} --max-num-training-steps 4")));
    }
}

#[test]
fn sizes_that_the_data_does_not_have_are_errors() {
    let folder = temporary();
    let run = folder.path().join("run");
    refused(&mut begin(&run, "--val-size 0"), &["--val-size: expected a whole number from 1 to 1000000", "found 0"]);
    refused(&mut begin(&run, "--val-size 1001"), &["val_size 1001", "1000 validation images"]);
    assert!(!run.exists(), "nothing was begun");
}
