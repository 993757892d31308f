//! Runs of every method by the real program: their files, and the robustness of the networks that they train.

use std::fs;
use std::path::Path;
use std::process::Command;

use maxmargin::record::run::{BEST, CONFIG, LAST, METRICS};

use crate::support::fake::runs_long_tests;
use crate::{PROGRAM, begin, done, metrics, temporary, tensors};

const METHODS: [&str; 6] = ["mma", "omma", "std", "pgd", "pgdls", "trades"];

#[test]
fn each_method_records_its_name_its_metrics_and_the_state_to_resume_from() {
    let folder = temporary();
    for method in METHODS {
        let run = folder.path().join(method);
        let said = done(&mut begin(&run, &format!("--method {method} --eps-ramp-steps 4")));
        let config = fs::read_to_string(run.join(CONFIG)).unwrap();
        assert!(config.contains(&format!("\nmethod = \"{method}\"\n")), "{config}");
        let lines = metrics(&run);
        let steps: Vec<_> = lines.iter().filter(|line| line["kind"] == "step").collect();
        let figures = match method {
            "mma" | "omma" => &["clean_loss", "margin_loss", "mean_margin", "train_reached_d_max"][..],
            "std" => &["clean_loss", "train_accuracy"],
            "pgd" | "pgdls" => &["adversarial_loss", "train_adversarial_accuracy", "attack_eps"],
            _ => &["clean_loss", "kl", "train_accuracy"],
        };
        for name in figures {
            assert!(steps.iter().all(|line| line[name].is_f64()), "{method}: {name} in {lines:?}");
        }
        let kept = tensors(&run, LAST).tensors.iter().any(|tensor| tensor.name == "margins");
        assert_eq!(kept, method.ends_with("mma"), "{method}: a table of margins");
        // The best checkpoint is the one with the largest mean margin, whatever the method.
        let epochs = lines.iter().filter(|line| line["kind"] == "epoch");
        let margins: Vec<f64> = epochs.map(|line| line["validation_mean_margin"].as_f64().unwrap()).collect();
        let best: f64 = tensors(&run, BEST).meta("validation_mean_margin").unwrap();
        assert_eq!(best, margins.iter().copied().fold(0.0, f64::max), "{method}: {margins:?}");
        for part in ["\nclean accuracy  ", "\naccuracy under PGD-40, eps 0.3  ", "\nmean margin, linf  "] {
            assert!(said.contains(part), "{method}: {part:?} in {said}");
        }
    }
}

/// 12 steps of [`crate::SMALL`] visit 2 epochs of 230 examples and 100 more; PGD's 2 iterations come before the pass that
/// trains.
#[test]
fn the_cost_of_training_and_the_device_are_recorded() {
    let folder = temporary();
    for (method, forward, backward) in [("std", 1, 1), ("pgd", 3, 3)] {
        let run = folder.path().join(method);
        done(&mut begin(&run, &format!("--method {method}")));
        let lines = metrics(&run);
        let results: Vec<_> = lines.iter().filter(|line| line["kind"] == "result").collect();
        for (line, images) in results.iter().zip([0, 560]) {
            assert_eq!(line["training_forward_passes"], forward * images, "{method}: {line}");
            assert_eq!(line["training_backward_passes"], backward * images, "{method}: {line}");
        }
        let text = fs::read_to_string(run.join(METRICS)).unwrap();
        let devices = text.lines().filter(|line| line.contains("\"device\":\"CPU")).count();
        assert_eq!(devices, results.len(), "{method}: {text}");
    }
}

#[test]
fn lines_of_pgdls_record_its_growing_eps() {
    let folder = temporary();
    let run = folder.path().join("run");
    done(&mut begin(&run, "--method pgdls --attack-eps 0.2 --eps-ramp-steps 8"));
    let lines = metrics(&run);
    let radii = lines.iter().filter(|line| line["kind"] == "step").map(|line| line["attack_eps"].as_f64().unwrap());
    // Means over two steps each, of 50 examples or, at the end of an epoch, 30.
    let radii: Vec<f64> = radii.collect();
    assert!((radii[0] - 0.0125).abs() < 1e-6 && (radii[5] - 0.2).abs() < 1e-6, "{radii:?}");
    assert!(radii.windows(2).all(|pair| pair[0] <= pair[1] + 1e-6), "{radii:?}");
}

/// Flags of a run of some seconds: a quarter of LeNet5's width, 2,000 digits.
const SHORT: &str = "--width 0.25 --train-size 2000 --val-size 100 --test-size 200 --nb-iter 4 --eps-iter-scale 3 \
                     --training-batch-size 32 --max-num-training-steps 400 --disp-interval 100 --checkpoint-interval 400 \
                     --learning-rate-schedule 0:0.003,300:0.001 --quiet";

/// Accuracy of the best checkpoint in percent, on clean images and under PGD-40 at eps 0.3 in linf.
fn accuracies(folder: &Path, method: &str) -> [f64; 2] {
    let run = folder.join(method);
    let mut command = Command::new(PROGRAM);
    command.args(["train", "--method", method, "--savepath"]).arg(&run);
    done(command.args(SHORT.split_whitespace()));
    let lines = metrics(&run);
    let last = lines.last().expect("a result");
    assert_eq!((last["kind"].as_str(), last["weights"].as_str()), (Some("result"), Some(BEST)));
    ["clean_accuracy", "robust_accuracy"].map(|name| last[name].as_f64().expect("a number"))
}

/// The purpose of adversarial training, shown in half a minute: a network of standard training misclassifies attacked
/// digits that a person still recognizes, and a network trained on attacked digits classifies many of them correctly.
#[test]
fn adversarially_trained_networks_are_robust_to_an_attack_that_defeats_standard_training() {
    let folder = temporary();
    let [clean, robust] = accuracies(folder.path(), "std");
    assert!(clean > 85.0 && robust < 2.0, "std: {clean} % clean, {robust} % under attack");
    let methods = if runs_long_tests("training by pgd and trades") { &["mma", "pgd", "trades"][..] } else { &["mma"] };
    for method in methods {
        let [clean, robust] = accuracies(folder.path(), method);
        assert!(clean > 80.0 && robust > 30.0, "{method}: {clean} % clean, {robust} % under attack");
    }
}
