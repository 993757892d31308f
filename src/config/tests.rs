use super::*;
use crate::catalog::DatasetKind;
use crate::rng::{Purpose, philox};
use crate::tape::{Loss, Precision};

fn quick() -> Config {
    preset(DEFAULT_PRESET).unwrap().config
}

fn cifar10() -> Config {
    preset("cifar10-linf").unwrap().config
}

fn reread(config: &Config) -> Config {
    toml::from_str(&config.to_toml()).unwrap()
}

#[test]
fn toml_gives_back_every_preset() {
    for preset in presets() {
        assert_eq!(reread(&preset.config), preset.config);
    }
}

#[test]
fn toml_gives_back_the_bits_of_any_single_precision_number() {
    let mut config = quick();
    let words = (0..50_000).flat_map(|i| philox(1, Purpose::Order, 0, 0, i));
    let numbers = words.map(f32::from_bits).filter(|number| number.is_finite());
    config.learning_rate_schedule = (0..).zip(numbers.chain([0.1, 8.0 / 255.0, 1.0 / 3.0, -0.0])).collect();
    let bits = |config: &Config| config.learning_rate_schedule.iter().map(|e| e.1.to_bits()).collect::<Vec<_>>();
    assert!(bits(&reread(&config)) == bits(&config));
}

#[test]
fn toml_gives_back_the_largest_seed_and_sizes() {
    let config =
        Config { seed: u64::MAX, train_size: Some(usize::MAX), test_size: Some(1), width: 0.1 + 0.2, ..quick() };
    assert_eq!(reread(&config), config);
}

#[test]
fn a_listing_names_every_key_of_the_file_with_its_value() {
    for preset in presets() {
        let toml = preset.config.to_toml();
        let lines = toml.lines().filter_map(|line| line.split_once(" = "));
        let in_file: Vec<_> = lines.map(|(name, value)| (name, value.trim_matches('"').to_owned())).collect();
        // TOML leaves out values that are not there, and has its own form of a schedule and of small numbers.
        let other = ["train_size", "test_size", "depth", "learning_rate_schedule", "l2_grad_floor"];
        let shared = |name: &str| !other.contains(&name);
        let listed: Vec<_> = preset.config.fields().into_iter().filter(|field| shared(field.0)).collect();
        assert_eq!(listed, in_file.into_iter().filter(|field| shared(field.0)).collect::<Vec<_>>());
    }
}

#[test]
fn numbers_are_written_as_a_person_would() {
    let config = Config { test_eps: 8.0 / 255.0, attack_mineps: 0.1, ..quick() };
    let text = config.to_toml();
    assert!(text.contains("test_eps = 0.03137255\n"), "{text}");
    assert!(text.contains("attack_mineps = 0.1\n"), "{text}");
}

#[test]
fn the_search_bound_is_the_rounded_product_of_the_written_number() {
    for (hinge, product) in [(0.45, 0.45 * 1.05), (2.0, 2.1), (4.0, 4.2), (6.0, 6.3), (0.1255, 0.1255 * 1.05)] {
        let config = Config { hinge_maxeps: hinge as f32, ..quick() };
        assert_eq!(config.max_eps(), product as f32, "{hinge}");
    }
}

#[test]
fn the_description_shows_what_was_overridden() {
    let text = Config { nb_iter: 20, train_size: Some(64), ..quick() }.describe();
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("nb_iter ").ends_with("= 20   (quick: 5)"), "{text}");
    assert!(line("train_size ").ends_with("= 64   (quick: all)"), "{text}");
    assert!(line("seed ").ends_with("= 0"), "{text}");
    assert!(line("learning_rate_schedule ").ends_with("= 0:0.002,900:0.001,1250:0.0002"), "{text}");
}

#[test]
fn a_setting_out_of_its_range_is_named_with_what_was_expected_and_found() {
    let fidelity = Fidelity::RELEASED;
    let message = |config: Config| config.validate().unwrap_err().to_string();
    let above = Config { attack_mineps: 0.5, ..quick() };
    assert_eq!(
        message(above),
        "--attack-mineps: expected at most the search's upper bound 0.4725, 1.05 times --hinge-maxeps 0.45; found 0.5"
    );
    for (config, flag, found) in [
        (Config { preset: "none".into(), ..quick() }, "preset", "none"),
        (Config { dataset: DatasetKind::Cifar10, ..quick() }, "model", "lenet5"),
        (Config { dataset: DatasetKind::Mnist, ..cifar10() }, "model", "wide-resnet"),
        (Config { depth: Some(28), ..quick() }, "depth", "28"),
        (Config { depth: None, ..cifar10() }, "depth", "none"),
        (Config { depth: Some(4), ..cifar10() }, "depth", "4"),
        (Config { depth: Some(27), ..cifar10() }, "depth", "27"),
        (Config { depth: Some(106), ..cifar10() }, "depth", "106"),
        (Config { width: 0.0, ..cifar10() }, "width", "0.0"),
        (Config { width: 1.5, ..cifar10() }, "width", "1.5"),
        (Config { width: 33.0, ..cifar10() }, "width", "33.0"),
        (Config { width: f64::NAN, ..cifar10() }, "width", "nan"),
        (Config { train_size: Some(0), ..quick() }, "train-size", "0"),
        (Config { val_size: 0, ..quick() }, "val-size", "0"),
        (Config { test_size: Some(0), ..quick() }, "test-size", "0"),
        (Config { width: 0.03, ..quick() }, "width", "0.03"),
        (Config { width: f64::NAN, ..quick() }, "width", "nan"),
        (Config { hinge_maxeps: f32::INFINITY, ..quick() }, "hinge-maxeps", "inf"),
        (Config { hinge_maxeps: f32::NAN, ..quick() }, "hinge-maxeps", "nan"),
        (Config { clean_loss_coeff: 1.0, ..quick() }, "clean-loss-coeff", "1.0"),
        (Config { clean_loss_fn: Loss::Dlr, ..quick() }, "clean-loss-fn", "dlr"),
        (Config { margin_loss_fn: Loss::Dlr, ..quick() }, "margin-loss-fn", "dlr"),
        (Config { search_loss_fn: Loss::Xent, ..quick() }, "search-loss-fn", "xent"),
        (Config { nb_iter: 0, ..quick() }, "nb-iter", "0"),
        (Config { eps_iter_scale: -1.0, ..quick() }, "eps-iter-scale", "-1.0"),
        (Config { num_search_steps: 0, ..quick() }, "num-search-steps", "0"),
        (Config { attack_mineps: 0.0, ..quick() }, "attack-mineps", "0.0"),
        (Config { clean_loss_coeff: 0.0, ..quick() }, "clean-loss-coeff", "0.0"),
        (Config { method: Method::Omma, ..quick() }, "clean-loss-coeff", "0.33333334"),
        (Config { attack_eps: -0.3, ..quick() }, "attack-eps", "-0.3"),
        (Config { attack_eps: 0.0, method: Method::Pgd, ..quick() }, "attack-eps", "0.0"),
        (Config { attack_eps: f32::NAN, method: Method::Trades, ..quick() }, "attack-eps", "nan"),
        (Config { eps_ramp_steps: 0, method: Method::Pgdls, ..quick() }, "eps-ramp-steps", "0"),
        (Config { trades_beta: 0.0, method: Method::Trades, ..quick() }, "trades-beta", "0.0"),
        (Config { trades_beta: -1.0, ..quick() }, "trades-beta", "-1.0"),
        (Config { momentum: 0.9, ..quick() }, "momentum", "0.9"),
        (Config { momentum: 1.0, optimizer: OptimizerKind::Sgd, ..quick() }, "momentum", "1.0"),
        (Config { weight_decay: -0.1, ..quick() }, "weight-decay", "-0.1"),
        (Config { learning_rate_schedule: vec![], ..quick() }, "learning-rate-schedule", "nothing"),
        (Config { learning_rate_schedule: vec![(1, 0.1)], ..quick() }, "learning-rate-schedule", "1:0.1"),
        (
            Config { learning_rate_schedule: vec![(0, 0.1), (0, 0.2)], ..quick() },
            "learning-rate-schedule",
            "0:0.1,0:0.2",
        ),
        (Config { learning_rate_schedule: vec![(0, 0.0)], ..quick() }, "learning-rate-schedule", "0:0"),
        (Config { training_batch_size: 0, ..quick() }, "training-batch-size", "0"),
        (Config { max_num_training_steps: 0, ..quick() }, "max-num-training-steps", "0"),
        (Config { test_eps: 0.0, ..quick() }, "test-eps", "0.0"),
        (Config { test_eps: 0.5, fidelity: Fidelity::PAPER, ..quick() }, "test-eps", "0.5"),
        (Config { test_eps_iter: 0.0, ..quick() }, "test-eps-iter", "0.0"),
        (Config { disp_interval: 0, ..quick() }, "disp-interval", "0"),
        (Config { checkpoint_interval: 0, ..quick() }, "checkpoint-interval", "0"),
        (Config { fidelity: Fidelity { right_when: Loss::Cw, ..fidelity }, ..quick() }, "right-when", "cw"),
        (
            Config { fidelity: Fidelity { test_search_loss_fn: Loss::Xent, ..fidelity }, ..quick() },
            "test-search-loss-fn",
            "xent",
        ),
        (Config { fidelity: Fidelity { l2_grad_floor: 0.0, ..fidelity }, ..quick() }, "l2-grad-floor", "0.0"),
        (Config { fidelity: Fidelity { cw_confidence: -1.0, ..fidelity }, ..quick() }, "cw-confidence", "-1.0"),
    ] {
        let message = message(config);
        assert!(message.starts_with(&format!("--{flag}: expected ")), "{message}");
        assert!(message.ends_with(&format!("; found {found}")), "{message}");
    }
}

#[test]
fn a_schedule_has_at_most_as_many_rates_as_the_gpus_kernels_take() {
    let rates = |n: u32| Config { learning_rate_schedule: (0..n).map(|step| (step, 0.5)).collect(), ..quick() };
    rates(32).validate().unwrap();
    let message = rates(33).validate().unwrap_err().to_string();
    assert!(message.starts_with("--learning-rate-schedule: expected at most 32 rates"), "{message}");
}

/// Settings that a file with this text gives, or the error's message; and the file's path.
fn loaded(text: &str) -> (std::result::Result<Config, String>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    (Config::load(&file).map_err(|error| error.to_string()), file.display().to_string())
}

/// Runs that were begun when MMA was the only method go on as what they are.
#[test]
fn a_file_from_before_there_were_methods_is_of_mma_or_without_a_clean_loss_of_omma() {
    let new = ["method", "attack_eps", "eps_ramp_steps", "trades_beta"];
    let before = |config: &Config| -> String {
        let text = config.to_toml();
        let old = text.lines().filter(|line| !new.iter().any(|name| line.starts_with(&format!("{name} = "))));
        old.map(|line| format!("{line}\n")).collect()
    };
    let none = |config: Config| Config { attack_eps: 0.0, eps_ramp_steps: 0, trades_beta: 0.0, ..config };
    assert_eq!(loaded(&before(&quick())).0, Ok(none(quick())));
    let omma = Config { method: Method::Omma, clean_loss_coeff: 0.0, ..quick() };
    assert_eq!(loaded(&before(&omma)).0, Ok(none(omma)));
    let message = loaded(&format!("method = \"pgd\"\n{}", before(&quick()))).0.unwrap_err();
    assert!(
        message.contains("--attack-eps: expected a positive number") && message.ends_with("; found 0.0"),
        "{message}"
    );
}

/// Runs that were begun when there was single precision alone go on with it.
#[test]
fn a_file_that_lacks_a_precision_is_of_single_precision() {
    let half = Config { precision: Precision::Fp16, ..quick() };
    assert_eq!(loaded(&half.to_toml()).0, Ok(half.clone()));
    assert_eq!(loaded(&half.to_toml().replace("precision = \"fp16\"\n", "")).0, Ok(quick()));
}

/// Half precision was that of attacks alone when there was no loss scale.
#[test]
fn a_file_that_lacks_a_loss_scale_attacks_in_its_precision_and_trains_in_single_precision() {
    let half = Config { precision: Precision::Fp16, ..quick() };
    let attack = Config { precision: Precision::Fp16Attack, ..quick() };
    let old = |config: &Config| config.to_toml().replace("loss_scale = 1024.0\n", "");
    assert_eq!(loaded(&old(&half)).0, Ok(attack));
    assert_eq!(loaded(&old(&quick())).0, Ok(quick()));
}

/// Runs that were begun when margins were measured in one way go on with it.
#[test]
fn a_file_that_lacks_the_choices_of_measured_margins_has_what_was_done_before_there_were_any() {
    let new = ["test_attack_loss_fn", "test_starts", "test_attacked"];
    let old = |config: &Config| -> String {
        let text = config.to_toml();
        let lines = text.lines().filter(|line| !new.iter().any(|name| line.starts_with(&format!("{name} = "))));
        lines.map(|line| format!("{line}\n")).collect()
    };
    let config = Config { attack_loss_fn: Loss::Cw, ..quick() };
    let fidelity = Fidelity {
        test_attack_loss_fn: TestAttackLoss::AttackLossFn,
        test_starts: TestStarts::Same,
        test_attacked: TestAttacked::Correct,
        ..Fidelity::RELEASED
    };
    assert_eq!(loaded(&old(&config)).0, Ok(Config { fidelity, ..config.clone() }));
    assert_eq!(loaded(&config.to_toml()).0, Ok(config), "a file that has them");
}

#[test]
fn a_file_that_holds_no_settings_is_named() {
    for (content, expected) in [
        (&b"<!DOCTYPE html><html>"[..], "expected settings as TOML, found a web page: the download went wrong"),
        (b"\xff\xfes\0e\0e\0d\0", "expected settings as TOML, found text in UTF-16: save it as UTF-8"),
        (b"PK\x03\x04\0\0archive/data.pkl", "expected settings as TOML, found a pickle of PyTorch's"),
        (b"seed = 1\n\xff", "expected settings as TOML, found bytes that are no text, from byte 9"),
        (b"", "expected settings as TOML, found an empty file"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, content).unwrap();
        let message = Config::load(&file).unwrap_err().to_string();
        assert!(message.starts_with(file.to_str().unwrap()) && message.contains(expected), "{message}");
    }
}

#[test]
fn a_file_must_hold_every_setting_and_no_other() {
    let text = quick().to_toml();
    assert_eq!(loaded(&text).0, Ok(quick()));
    for (broken, expected) in [
        (text.replace("nb_iter = 5\n", ""), "missing field `nb_iter`"),
        (text.replace("nb_iter = 5\n", "nb_iter = 5\nnb_itr = 5\n"), "unknown field `nb_itr`"),
        (text.replace("seed = 0", "seed = \"zero\""), "line 2: invalid type: string \"zero\""),
        (text.replace("nb_iter = 5", "nb_iter = 0"), "--nb-iter: expected a whole number from 1 to 100000; found 0"),
        (text[..text.len() / 2].to_owned(), "line"),
    ] {
        let (found, file) = loaded(&broken);
        let message = found.unwrap_err();
        assert!(message.starts_with(&format!("{file}: ")) && message.contains(expected), "{message}");
    }
}
