//! The program as a user sees it: help, errors, exit codes, settings, and the output of each command.

mod bench;
#[path = "../support/cifar10.rs"]
mod cifar10;
mod comparison;
mod cost;
mod data;
mod devices;
mod evaluate;
mod export;
#[path = "../support/fake.rs"]
mod fake;
mod former_version;
mod gpu;
mod limits;
mod methods;
mod output;
mod report;
#[cfg(unix)]
mod stop;
mod train;
mod weights;

use std::path::Path;
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_maxmargin");

/// Exit code and output of the program.
#[derive(Debug)]
struct ProgramOutput {
    code: Option<i32>,
    out: String,
    err: String,
}

fn said(output: Output) -> ProgramOutput {
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    ProgramOutput { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs the program with the words of `line` in `folder`.
fn maxmargin_in(folder: &Path, line: &str) -> ProgramOutput {
    said(Command::new(PROGRAM).args(line.split_whitespace()).current_dir(folder).output().expect("the program starts"))
}

fn maxmargin(line: &str) -> ProgramOutput {
    maxmargin_in(Path::new("."), line)
}

/// Effective settings that `train` prints for `flags`.
fn settings(flags: &str) -> String {
    let said = maxmargin(&format!("train --dry-run {flags}"));
    assert_eq!(said.code, Some(0), "{flags}: {}", said.err);
    said.out
}

/// Value of `name` in settings as `train` prints them, without the remark about the preset.
fn value<'a>(settings: &'a str, name: &str) -> &'a str {
    let line = settings.lines().find(|line| line.split(" = ").next().is_some_and(|key| key.trim() == name));
    let value = line.and_then(|line| line.split_once(" = ")).unwrap_or_else(|| panic!("{name} in {settings}")).1;
    value.split("   (").next().unwrap_or(value)
}

/// Runs the words of `line` and expects an error whose message has all of `parts`.
fn refused(line: &str, parts: &[&str]) {
    refused_in(Path::new("."), line, parts);
}

/// [`refused`] in `folder`.
fn refused_in(folder: &Path, line: &str, parts: &[&str]) {
    let said = maxmargin_in(folder, line);
    assert_eq!(said.code, Some(2), "{line}: {}{}", said.out, said.err);
    assert!(said.err.starts_with("error: "), "{line}: {}", said.err);
    for part in parts {
        assert!(said.err.contains(part), "{line}: no {part:?} in {}", said.err);
    }
}

/// Runs the program in `folder` and expects exit code 0.
fn done_in(folder: &Path, line: &str) -> ProgramOutput {
    let said = maxmargin_in(folder, line);
    assert_eq!(said.code, Some(0), "{line}: {said:?}");
    said
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let said = maxmargin("--help");
    assert_eq!(said.code, Some(0));
    for part in
        ["train", "evaluate", "report", "data", "presets", "devices", "Examples:", "Exit codes: 0 done, 1 a check"]
    {
        assert!(said.out.contains(part), "{part} in {}", said.out);
    }
}

#[test]
fn help_of_each_command_has_its_groups_and_an_example() {
    for (command, parts) in [
        (
            "train",
            &[
                "Run:",
                "Data:",
                "Model:",
                "Training:",
                "Attack in training:",
                "MMA and OMMA:",
                "PGD, PGDLS and TRADES:",
                "Where the released code and the paper differ:",
                "Examples:",
            ][..],
        ),
        ("evaluate", &["Run:", "Data:", "Margins and attack:", "Checks:", "Examples:"]),
        ("report", &["RUN", "--out <FILE>", "--data <FOLDER>", "Examples:"]),
        ("export", &["--names <WHOSE>", "--out <FILE>", "Example:"]),
        ("data", &["Data:", "--import <PACKAGE_FOLDER>"]),
        ("presets", &["[NAME]", "Example:"]),
        ("devices", &["--kernels"]),
    ] {
        for flag in ["--help", "-h"] {
            let said = maxmargin(&format!("{command} {flag}"));
            assert_eq!(said.code, Some(0), "{command} {flag}");
            for part in parts {
                assert!(said.out.contains(part), "{command} {flag}: {part} in {}", said.out);
            }
        }
    }
}

#[test]
fn the_short_help_of_every_command_fits_80_lines_of_100_columns() {
    let commands = maxmargin("--help").out;
    let commands = commands.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<_> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.contains(&"train") && commands.contains(&"bench"), "{commands:?}");
    for command in commands {
        let help = maxmargin(&format!("{command} -h")).out;
        assert!(help.lines().count() <= 80, "{command} -h has {} lines", help.lines().count());
        let wide = help.lines().find(|line| line.chars().count() > 100);
        assert_eq!(wide, None, "{command} -h");
    }
}

#[test]
fn the_long_help_of_train_has_every_setting_with_one_default_and_lists_the_losses_once() {
    let help = maxmargin("train --help").out;
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for (flag, default) in
        [("--nb-iter <N>", "5"), ("--eps-iter-scale <SCALE>", "2.5"), ("--l2-grad-floor <NORM>", "1e-6")]
    {
        let (_, after) = words.split_once(flag).unwrap_or_else(|| panic!("no {flag}"));
        let (_, shown) = after.split_once("[default: ").unwrap_or_else(|| panic!("no default of {flag}"));
        assert!(shown.starts_with(&format!("{default}]")), "{flag}: {shown:.20}");
    }
    assert!(words.contains("`maxmargin presets` lists every preset's"), "{words}");
    assert_eq!(words.matches("Difference of logits ratio").count(), 1, "{words}");
    assert!(!words.contains("xent, slm, lm, cw, dlr"), "{words}");
}

#[test]
fn no_command_shows_help_and_is_an_error() {
    let said = maxmargin("");
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("Usage: maxmargin"), "{}", said.err);
}

#[test]
fn unknown_commands_and_flags_are_errors_with_a_suggestion() {
    refused("trian", &["'trian'", "'train'"]);
    refused("train --hinge-maxep 0.3", &["'--hinge-maxep'", "'--hinge-maxeps'"]);
    refused(
        "train --preset cifar10",
        &["'cifar10'", "quick, mnist-linf, mnist-l2, cifar10-linf, cifar10-l2, cifar10-quick"],
    );
    refused("presets none", &["'none'", "mnist-linf"]);
    refused("evaluate", &["<CHECKPOINT>"]);
}

#[test]
fn bad_values_are_errors_that_name_flag_and_value() {
    refused("train --hinge-maxeps abc", &["'abc'", "--hinge-maxeps", "0.0314", "8/255"]);
    refused("train --test-eps 8/0", &["'8/0'", "--test-eps"]);
    refused("train --nb-iter 1.5", &["'1.5'", "--nb-iter", "whole number"]);
    refused("train --seed -1", &["'-1'", "--seed"]);
    refused("train --norm l3", &["'l3'", "--norm", "linf, l2"]);
    refused("train --threads 0", &["'0'", "--threads", "a whole number from 1 to 1024"]);
    refused("train --learning-rate-schedule 0:a", &["'0:a'", "--learning-rate-schedule", "0:0.3,20000:0.09"]);
    refused("train --clamp-boundary maybe", &["'maybe'", "--clamp-boundary"]);
    refused("evaluate w --require-robust 60", &["'60'", "--require-robust", "60@0.3"]);
    refused("evaluate w --eps 0.1,x", &["'x'", "--eps"]);
    refused("evaluate w --nb-restart 0", &["--nb-restart", "a whole number from 1 to 10000"]);
    refused("evaluate w --eps=-0.1", &["--eps", "-0.1"]);
}

#[test]
fn values_out_of_range_are_errors_before_anything_is_trained() {
    refused("train --nb-iter 0", &["--nb-iter: expected a whole number from 1 to 100000; found 0"]);
    refused("train --attack-mineps -0.1", &["--attack-mineps: expected a positive number; found -0.1"]);
    refused("train --width 0.01", &["--width: expected a number from 1/32 to 32; found 0.01"]);
    refused("train --clean-loss-coeff 1", &["--clean-loss-coeff: expected", "found 1"]);
    refused("train --lr 5:0.1", &["--learning-rate-schedule: expected a first rate from step 0", "found 5:0.1"]);
    refused("train --depth 28", &["--depth: expected none: LeNet5 has no depth; found 28"]);
    refused(
        "train --preset cifar10-linf --depth 27",
        &["--depth: expected 10, 16, 22, 28 or another 6n + 4", "found 27"],
    );
    refused("train --preset cifar10-linf --width 0.5", &["--width: expected a whole number from 1 to 32", "found 0.5"]);
}

#[test]
fn settings_that_contradict_each_other_are_errors() {
    refused(
        "train --attack-mineps 0.5",
        &["--attack-mineps: expected at most", "0.4725", "--hinge-maxeps 0.45", "0.5"],
    );
    refused("train --hinge-maxeps 0.05", &["--attack-mineps: expected at most", "found 0.1"]);
    refused(
        "train --dataset cifar10 --norm l2 --hinge-maxeps 0.47",
        &["--attack-mineps: expected at most", "found 0.5"],
    );
    refused("train --dataset cifar10 --model lenet5", &["--model: expected lenet5 for the images of digits", "lenet5"]);
    refused(
        "train --model wide-resnet",
        &["--model: expected ", "wide-resnet for those of cifar10; found wide-resnet"],
    );
    refused("train --momentum 0.9", &["--momentum: expected 0 with --optimizer adam", "found 0.9"]);
    refused(
        "train --method omma --clean-loss-coeff 0.5",
        &["--clean-loss-coeff: expected 0 with --method omma", "0.5"],
    );
    refused(
        "train --method mma --clean-loss-coeff 0",
        &["--clean-loss-coeff: expected a positive number", "omma", "0"],
    );
    refused("train --search-loss-fn xent", &["--search-loss-fn: expected slm or lm", "found xent"]);
    refused("train --fidelity paper --test-eps 0.5", &["--test-eps", "--test-search-start test-eps", "0.4725"]);
    refused("train --preset quick --config x.toml", &["'--preset <NAME>'", "'--config <FILE.toml>'"]);
    refused("evaluate w --eps 0.2 --require-robust 60@0.3", &["--require-robust 60@0.3", "found eps 0.2"]);
    refused("evaluate w --attack margins --require-robust 60@0.3", &["--require-robust 60@0.3", "no attack in a ball"]);
}

#[test]
fn train_without_flags_is_the_quick_preset() {
    let shown = settings("");
    for (name, expected) in [("preset", "quick"), ("dataset", "digits"), ("norm", "linf"), ("hinge_maxeps", "0.45")] {
        assert_eq!(value(&shown, name), expected);
    }
    assert!(!shown.contains("quick:"), "nothing is overridden: {shown}");
}

#[test]
fn commands_for_the_released_program_work_as_they_are() {
    let shown = settings("--dataset mnist --norm Linf --hinge_maxeps 0.45 --seed 0 --savepath ./a");
    assert!(!shown.contains("   ("), "exactly the published settings: {shown}");
    assert_eq!(value(&shown, "preset"), "mnist-linf");
    let shown = settings("--dataset MNIST --norm L2 --hinge_maxeps 6. --seed 3 --clean_loss_coeff 0. --savepath ./b");
    for (name, expected) in [
        ("preset", "mnist-l2"),
        ("hinge_maxeps", "6.0"),
        ("clean_loss_coeff", "0.0"),
        ("seed", "3"),
        ("attack_mineps", "0.5"),
        ("test_eps", "2.0"),
    ] {
        assert_eq!(value(&shown, name), expected);
    }
}

#[test]
fn cifar10_takes_the_preset_of_its_norm() {
    let shown = settings("--dataset cifar10 --norm Linf --hinge_maxeps 0.0471 --seed 0 --savepath ./a");
    assert!(!shown.contains("   ("), "exactly the published settings: {shown}");
    for (name, expected) in [
        ("preset", "cifar10-linf"),
        ("augment", "true"),
        ("model", "wide-resnet"),
        ("depth", "28"),
        ("width", "4.0"),
        ("momentum", "0.9"),
        ("weight_decay", "0.0002"),
        ("learning_rate_schedule", "0:0.3,20000:0.09,30000:0.03,40000:0.009"),
        ("max_num_training_steps", "50000"),
        ("search_mode", "train"),
    ] {
        assert_eq!(value(&shown, name), expected);
    }
    let shown = settings("--dataset CIFAR10 --norm L2 --hinge_maxeps 3. --clean_loss_coeff 0. --savepath ./b");
    for (name, expected) in [
        ("preset", "cifar10-l2"),
        ("hinge_maxeps", "3.0"),
        ("attack_mineps", "0.5"),
        ("test_eps", "1.0"),
        ("test_eps_iter", "0.25"),
    ] {
        assert_eq!(value(&shown, name), expected);
    }
}

#[test]
fn names_are_read_in_any_case() {
    assert_eq!(settings("--preset MNIST-L2"), settings("--preset mnist-l2"));
    assert_eq!(settings("--norm L2 --optimizer Adam"), settings("--norm l2 --optimizer adam"));
}

#[test]
#[cfg(target_os = "linux")]
fn an_output_that_cannot_be_written_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
    let said =
        said(Command::new(PROGRAM).arg("presets").stdout(full).stderr(Stdio::piped()).output().expect("a start"));
    assert_eq!(said.code, Some(2));
    assert!(said.err.starts_with("error: standard output: cannot write: "), "{}", said.err);
}

#[test]
fn flags_override_the_preset_and_the_difference_is_shown() {
    let shown = settings(
        "--preset mnist-linf --nb_iter 20 --lr 0:0.3,20000:0.09 --hinge-max-eps 8/255 --attack-mineps 1/255 --steps 7",
    );
    assert!(shown.lines().any(|line| line.ends_with("= 20   (mnist-linf: 40)")), "{shown}");
    assert_eq!(value(&shown, "hinge_maxeps"), "0.03137255");
    assert_eq!(value(&shown, "learning_rate_schedule"), "0:0.3,20000:0.09");
    assert_eq!(value(&shown, "max_num_training_steps"), "7");
}

#[test]
fn fidelity_paper_sets_the_group_and_a_flag_of_its_own_overrides_it() {
    let shown = settings("--fidelity paper --forget-wrong true");
    for (name, expected) in [
        ("search_mode", "eval"),
        ("right_when", "lm"),
        ("search_loss_fn", "lm"),
        ("direction", "unit"),
        ("clamp_boundary", "true"),
        ("forget_wrong", "true"),
        ("test_search_start", "test-eps"),
    ] {
        assert_eq!(value(&shown, name), expected);
    }
}

#[test]
fn presets_are_a_table_of_the_published_values_with_their_sources() {
    let said = maxmargin("presets");
    assert_eq!(said.code, Some(0));
    for (name, published) in [
        ("hinge_maxeps", "0.45 4.0 0.0471 1.0"),
        ("nb_iter", "40 40 10 10"),
        ("attack_mineps", "0.1 0.5 0.005 0.5"),
        ("test_eps", "0.3 2.0 0.03137255 1.0"),
        ("test_eps_iter", "0.01 0.125 0.007843138 0.25"),
        ("clean_loss_coeff", "0.33333334 0.33333334 0.33333334 0.33333334"),
        ("eps_iter_scale", "2.5 2.5 2.5 2.5"),
        ("num_search_steps", "10 10 10 10"),
        ("model", "lenet5 lenet5 wide-resnet wide-resnet"),
        ("depth", "none none 28 28"),
        ("width", "1.0 1.0 4.0 4.0"),
        ("augment", "false false true true"),
        ("momentum", "0.0 0.0 0.9 0.9"),
        ("weight_decay", "0.0 0.0 0.0002 0.0002"),
        ("training_batch_size", "50 50 128 128"),
        ("max_num_training_steps", "100000 100000 50000 50000"),
        ("val_size", "5000 5000 5000 5000"),
        ("optimizer", "adam adam sgd sgd"),
        ("attack_loss_fn", "slm slm slm slm"),
        ("checkpoint_interval", "500 500 500 500"),
    ] {
        let mut rows = said.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|words| words.first() == Some(&name)).unwrap_or_else(|| panic!("{name}: {}", said.out));
        assert_eq!(row[2..6].join(" "), published, "{name}");
    }
    for part in [
        "quick (the default)",
        "config.py (L2MNIST)",
        "--hinge-maxeps 2.0 and --hinge-maxeps 6.0",
        "config.py (LinfCIFAR10)",
        "--hinge-maxeps 0.0784 (20/255) and --hinge-maxeps 0.1255 (32/255)",
        "--hinge-maxeps 2.0 and --hinge-maxeps 3.0",
        "\nmnist-l2-pgd: eps 2.0; published too: 1.0, 3.0, 4.0\n  method = pgd\n  paper: PGD training",
        "\ncifar10-linf-trades: step 0.007\n  method = trades, learning_rate_schedule = ",
        ", eps_iter_scale = 2.2580645, attack_eps = 0.031, ",
    ] {
        assert!(said.out.contains(part), "{part} in {}", said.out);
    }
}

#[test]
fn a_preset_as_a_file_gives_the_same_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["quick", "mnist-linf", "mnist-l2", "cifar10-linf", "cifar10-l2", "cifar10-quick", "mnist-linf-trades"]
    {
        let toml = maxmargin(&format!("presets {name}"));
        assert_eq!(toml.code, Some(0));
        std::fs::write(folder.path().join("p.toml"), &toml.out).expect("a file");
        let from_file = maxmargin_in(folder.path(), "train --dry-run --config p.toml");
        assert_eq!(
            (from_file.code, from_file.out),
            (Some(0), settings(&format!("--preset {name}"))),
            "{}",
            from_file.err
        );
    }
}

#[test]
fn an_invalid_settings_file_is_named_with_the_line() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("p.toml"), "preset = \"quick\"\nseed = -\n").expect("a file");
    let said = maxmargin_in(folder.path(), "train --config p.toml");
    assert_eq!(said.code, Some(2));
    assert!(said.err.starts_with("error: p.toml: line 2: "), "{}", said.err);
    let said = maxmargin_in(folder.path(), "train --config absent.toml");
    assert_eq!(said.code, Some(2));
    assert!(said.err.starts_with("error: absent.toml: cannot read: "), "{}", said.err);
    assert!(!said.err.contains("caused by"), "the cause is printed once: {}", said.err);
}

/// Folder with the settings of a run that has no checkpoint yet.
fn run_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config.toml"), maxmargin("presets quick").out).expect("a file");
    folder
}

#[test]
fn resume_takes_every_setting_from_the_run() {
    let folder = run_folder();
    let run = folder.path().display();
    for flag in [
        "--hinge-maxeps 0.3",
        "--nb_iter 20",
        "--seed 0",
        "--preset quick",
        "--config x.toml",
        "--out elsewhere",
        "--fidelity paper",
        "--clamp-boundary true",
        "--lr 0.1",
    ] {
        let name = flag.split(' ').next().unwrap_or(flag).replace('_', "-");
        let name = name.replace("--out", "--savepath").replace("--lr", "--learning-rate-schedule");
        refused(&format!("train --resume {run} {flag}"), &[&name, "--resume", "config.toml"]);
    }
    let said =
        maxmargin(&format!("train --dry-run --resume {run} --threads 1 --quiet --device cpu --sync --data elsewhere"));
    assert_eq!((said.code, said.out), (Some(0), settings("")), "{}", said.err);
}

#[test]
fn resume_may_extend_a_run_but_not_shorten_it() {
    let folder = run_folder();
    let run = folder.path().display();
    let shown = settings(&format!("--resume {run} --max-num-training-steps 5000"));
    assert_eq!(value(&shown, "max_num_training_steps"), "5000");
    refused(
        &format!("train --resume {run} --steps 10"),
        &["--max-num-training-steps", "at least the 1500", "found 10"],
    );
}

#[test]
fn resume_of_a_folder_that_holds_no_run_names_the_missing_file() {
    let folder = tempfile::tempdir().expect("a folder");
    refused(&format!("train --resume {}", folder.path().display()), &["config.toml: cannot read"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    for line in ["presets", "presets quick", "train --dry-run", "train --help"] {
        let mut command = Command::new(PROGRAM);
        command.args(line.split(' ')).stdout(writer.try_clone().expect("a pipe")).stderr(Stdio::piped());
        let said = said(command.output().expect("the program starts"));
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{line}");
    }
}

#[test]
fn explain_prints_the_programs_of_a_step_and_their_memory() {
    let tape = done_in(Path::new("."), "explain --preset mnist-linf").out;
    for part in [
        "LeNet5, 32 and 64 filters 5x5, 1024 hidden, 3274634 parameters; takes pixels in [0, 1] as they are; batch 50, mma\n",
        "1 x clean_pass: ",
        "40 x pgd_iteration: ",
        "9 x search_probe: ",
        "= conv_pool(attacked.pgd.adv, conv1.weight, conv1.bias) for attacked.rows rows",
        "params, adam.m, adam.v [3274634] = adam(gradient, clean_gradient, step)",
    ] {
        assert!(tape.contains(part), "no {part:?} in {tape}");
    }
    assert!(!tape.contains("conv2d"), "convolutions are fused with their pools: {tape}");
    let memory = done_in(Path::new("."), "explain memory").out;
    assert!(memory.contains("1 x margin_pass: workspace ") && memory.contains("\nbuffers: "), "{memory}");
}

#[test]
fn explain_knows_the_wide_resnet() {
    let tape = done_in(Path::new("."), "explain --preset cifar10-linf").out;
    for part in [
        "wide ResNet 28-4, 5849050 parameters; standardizes each image; batch 128, mma\n",
        "= gather_augmented(train.images, batch.index, ",
        "10 x pgd_iteration: ",
        "1.fc.bias",
        "params, sgd.momentum [5849050] = sgd(gradient, clean_gradient, step)",
    ] {
        assert!(tape.contains(part), "no {part:?} in {tape}");
    }
    let memory = done_in(Path::new("."), "explain memory --preset cifar10-l2").out;
    assert!(memory.contains(" f32 [7200] statistics"), "{memory}");
}
