//! Methods beside MMA: flags, presets, help and programs. Their training is tested in `tests/training`.

use std::path::Path;

use crate::{done_in, maxmargin, settings, value};

#[test]
fn a_method_combines_with_any_preset_and_has_presets_of_its_own() {
    for preset in ["quick", "mnist-linf", "mnist-l2", "cifar10-linf", "cifar10-l2", "cifar10-quick"] {
        for method in ["omma", "std", "pgd", "pgdls", "trades"] {
            let shown = settings(&format!("--preset {preset} --method {method}"));
            assert_eq!((value(&shown, "preset"), value(&shown, "method")), (preset, method));
        }
    }
    let shown = settings("--dataset cifar10 --norm linf --method trades");
    for (name, expected) in [
        ("preset", "cifar10-linf-trades"),
        ("attack_eps", "0.031"),
        ("trades_beta", "6.0"),
        ("nb_iter", "10"),
        ("learning_rate_schedule", "0:0.1,28934:0.01"),
        ("max_num_training_steps", "29716"),
    ] {
        assert_eq!(value(&shown, name), expected);
    }
    assert!(!shown.contains("   ("), "exactly the published settings: {shown}");
    let shown = settings("--dataset mnist --norm l2 --method trades");
    for (name, expected) in [("preset", "mnist-l2"), ("attack_eps", "2.0"), ("eps_iter_scale", "2.5")] {
        assert_eq!(value(&shown, name), expected);
    }
}

#[test]
fn omma_and_a_clean_loss_coeff_of_0_are_the_same() {
    for flags in ["--clean-loss-coeff 0", "--method omma"] {
        let shown = settings(flags);
        assert_eq!((value(&shown, "method"), value(&shown, "clean_loss_coeff")), ("omma", "0.0"), "{flags}");
    }
}

#[test]
fn help_of_train_describes_each_method() {
    let help = maxmargin("train --help").out.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "- mma: Max-margin training",
        "- omma: MMA without",
        "- std: ",
        "- pgd: PGD training (Madry",
        "- pgdls: ",
        "- trades: ",
    ] {
        assert!(help.contains(part), "no {part:?} in {help}");
    }
}

#[test]
fn explain_prints_the_step_of_each_method() {
    for (preset, parts) in [
        ("mnist-linf-std", &["1 x clean_pass: ", "1 x update: "][..]),
        (
            "mnist-l2-pgdls",
            &["1 x gather: ", "40 x pgd_iteration: ", "1 x adversarial_pass: ", "(2 * min((x0 / 50000), 1))"],
        ),
        (
            "cifar10-linf-trades",
            &["1 x natural_pass: ", "10 x pgd_iteration: ", "1 x trades_pass: ", " = kl_backward_p("],
        ),
    ] {
        let tape = done_in(Path::new("."), &format!("explain --preset {preset}")).out;
        for part in parts {
            assert!(tape.contains(part), "no {part:?} in {tape}");
        }
        assert!(!tape.contains("margin_pass"), "{tape}");
    }
}
