//! Output of `maxmargin train`, and folders of its runs. The results of a run are tested in `tests/training`.

use std::path::Path;

use crate::cifar10;
use crate::data::write_mnist;
use crate::{ProgramOutput, done_in, maxmargin, maxmargin_in, refused_in};

/// Flags of a run that takes a moment.
const TINY: &str = "--width 0.125 --nb-iter 1 --train-size 100 --val-size 20 --test-size 20 --steps 4 \
                    --disp-interval 2 --training-batch-size 50";

fn train(folder: &Path, flags: &str) -> ProgramOutput {
    done_in(folder, &format!("train {TINY} {flags}"))
}

#[test]
fn training_shows_settings_data_folder_and_the_result_before_and_after() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = train(folder.path(), "");
    for part in [
        "preset    quick, with ",
        "test_size = 20 (instead of all)",
        "\nmethod    mma, linf, d_max 0.45\n",
        "\ntraining  4 steps of 50 images, adam, seed 0\n",
        "bundled digits: 100 training, 20 validation, 20 test images\nrun folder runs/quick-0\n",
        "20 test images                       untrained     trained\n",
        "\nclean accuracy  ",
        "\naccuracy under PGD-40, eps 0.3  ",
        "\nmean margin, linf  ",
        "\nmargins, untrained\nmisclassified ",
        "\nmargins, trained\nmisclassified ",
        "\nruns/quick-0/best.safetensors holds the weights after step ",
    ] {
        assert!(said.out.contains(part), "no {part:?} in {}", said.out);
    }
    assert_eq!(said.out.lines().filter(|line| line.starts_with("0.425 to 0.472 ")).count(), 2, "{}", said.out);
}

#[test]
fn without_a_terminal_progress_comes_in_plain_lines() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = train(folder.path(), "");
    let lines: Vec<&str> = said.err.lines().collect();
    assert!(!said.err.contains(['\x1b', '\r']), "no control characters: {:?}", said.err);
    assert!(lines[0].starts_with("LeNet5, 4 and 8 filters 5x5, 128 hidden, "), "{}", said.err);
    assert_eq!(lines[1], "measuring the untrained network on 20 test images");
    assert!(lines[2].starts_with("steps 1/4"), "{}", said.err);
    let epochs: Vec<_> = lines.iter().filter(|line| line.starts_with("epoch ")).collect();
    assert_eq!(epochs.len(), 2, "{}", said.err);
    assert!(epochs[0].contains(" % correct, mean margin ") && epochs[0].ends_with(", the best so far"), "{}", said.err);
    let last = lines.iter().find(|line| line.starts_with("steps 4/4  ")).expect("the last step has its line");
    for part in [" steps/s  ", " 0:00:00 left  loss ", "  accuracy ", " %  mean margin "] {
        assert!(last.contains(part), "{part:?} in {last}");
    }
}

#[test]
fn a_run_says_that_its_data_are_not_the_published_and_is_not_resumed_with_others() {
    let folder = tempfile::tempdir().expect("a folder");
    write_mnist(folder.path());
    let flags = "train --dataset mnist --width 0.125 --nb-iter 1 --val-size 2 --training-batch-size 4 --savepath run";
    let said = done_in(folder.path(), &format!("{flags} --steps 2"));
    assert!(said.out.contains("\ndata/mnist: not the published files; no figure of the paper"), "{}", said.out);
    let metrics = std::fs::read_to_string(folder.path().join("run/metrics.jsonl")).expect("metrics");
    let result: serde_json::Value = serde_json::from_str(metrics.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&result["data_provenance"], result["data_sha256"].as_str().map(str::len)), (&"other".into(), Some(64)));

    // Equal images with another label, as Fashion-MNIST has other images under the same names.
    let labels = folder.path().join("data/mnist/train-labels-idx1-ubyte");
    let mut bytes = std::fs::read(&labels).expect("labels");
    let last = bytes.last_mut().expect("a label");
    *last = (*last + 1) % 10;
    std::fs::write(&labels, bytes).expect("labels");
    let parts = ["run/last.safetensors: expected the images and labels that the run was trained on", "--data"];
    refused_in(folder.path(), "train --resume run --steps 3", &parts);
}

#[test]
fn quiet_prints_the_result_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let (loud, quiet) = (train(folder.path(), "--savepath run"), train(folder.path(), "--savepath other --quiet"));
    assert_eq!(quiet.err, "");
    assert!(quiet.out.starts_with("20 test images "), "{}", quiet.out);
    assert!(loud.out.ends_with(&quiet.out.replace("other/best", "run/best")), "{} in {}", quiet.out, loud.out);
}

#[test]
fn runs_without_a_name_are_numbered() {
    let folder = tempfile::tempdir().expect("a folder");
    for (flags, run) in [
        ("", "quick-0"),
        ("", "quick-0-2"),
        ("--seed 3", "quick-3"),
        ("", "quick-0-3"),
        ("--method pgd", "quick-pgd-0"),
        ("--clean-loss-coeff 0", "quick-omma-0"),
    ] {
        let said = train(folder.path(), flags);
        assert!(said.out.contains(&format!("run folder runs/{run}\n")), "{run} in {}", said.out);
        assert!(folder.path().join("runs").join(run).join("best.safetensors").is_file());
    }
}

#[test]
fn a_folder_that_holds_a_run_is_not_trained_over() {
    let folder = tempfile::tempdir().expect("a folder");
    train(folder.path(), "--savepath run");
    let before = std::fs::read(folder.path().join("run/last.safetensors")).expect("a checkpoint");
    let parts = ["run: holds a run already", "--resume run", "another folder with --out"];
    refused_in(folder.path(), &format!("train {TINY} --savepath run"), &parts);
    assert!(std::fs::read(folder.path().join("run/last.safetensors")).expect("a checkpoint") == before);
}

#[test]
fn a_run_folder_that_is_a_file_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("run"), "").expect("a file");
    refused_in(folder.path(), &format!("train {TINY} --savepath run"), &["run: cannot create"]);
    refused_in(folder.path(), &format!("train {TINY} --savepath run/below"), &["run/below: cannot create"]);
}

#[test]
fn missing_mnist_files_are_named_with_the_command_that_fetches_them_before_a_run_begins() {
    let folder = tempfile::tempdir().expect("a folder");
    let parts = ["nowhere", "nowhere/mnist", "train-images-idx3-ubyte", "`scripts/fetch-data mnist` brings them"];
    refused_in(folder.path(), "train --dataset mnist --data nowhere", &parts);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[test]
fn missing_cifar10_files_are_named_with_the_command_that_fetches_them_before_a_run_begins() {
    let folder = tempfile::tempdir().expect("a folder");
    let parts = ["nowhere", "nowhere/cifar-10-batches-bin", "data_batch_1.bin", "`scripts/fetch-data cifar10` brings"];
    for line in ["--dataset cifar10", "--preset cifar10-quick"] {
        refused_in(folder.path(), &format!("train {line} --data nowhere"), &parts);
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[test]
fn a_wide_resnet_on_cifar10_shows_its_memory_and_its_accuracy_at_eps_8_of_255() {
    let folder = tempfile::tempdir().expect("a folder");
    cifar10::write(folder.path());
    let said = done_in(
        folder.path(),
        "train --preset cifar10-quick --depth 10 --width 1 --data . --train-size 20 --val-size 10 --test-size 10 \
         --nb-iter 1 --num-search-steps 1 --training-batch-size 20 --steps 2",
    );
    for part in [
        "\nnetwork   wide-resnet, depth 10, width 1\n",
        "./cifar-10-batches-bin: 20 training, 10 validation, 10 test images\n./cifar-10-batches-bin: not the published files; ",
        "\nrun folder runs/cifar10-quick-0\n",
        "\naccuracy under PGD-40, eps 8/255  ",
    ] {
        assert!(said.out.contains(part), "no {part:?} in {}", said.out);
    }
    let first = said.err.lines().next().expect("a line");
    assert!(first.starts_with("wide ResNet 10-1, 77850 parameters; standardizes each image; CPU, "), "{first}");
    assert!(first.ends_with(" MB of memory"), "{first}");
}

#[test]
fn training_begins_with_a_dozen_lines_and_shows_every_setting_if_it_is_asked_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = train(folder.path(), "");
    let before = said.out.lines().take_while(|line| !line.starts_with("run folder ")).count();
    assert!(before < 12, "{before} lines before the run folder: {}", said.out);
    let said = train(folder.path(), "--verbose --savepath run");
    let file = std::fs::read_to_string(folder.path().join("run/config.toml")).expect("the run's settings");
    for line in file.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '['])) {
        let name = line.split(' ').next().expect("a name");
        assert!(said.out.lines().any(|shown| shown.split(' ').next() == Some(name)), "no {name} in {}", said.out);
    }
}

#[test]
fn a_resumed_run_continues_from_its_step() {
    let folder = tempfile::tempdir().expect("a folder");
    train(folder.path(), "--savepath run");
    let said = done_in(folder.path(), "train --resume run --steps 6");
    assert!(said.out.contains("\ntraining  6 steps of "), "{}", said.out);
    let first = said.err.lines().find(|line| line.starts_with("steps ")).expect("a line of progress");
    assert!(first.starts_with("steps 5/6") && said.err.contains("\nsteps 6/6"), "{}", said.err);
    assert_eq!(maxmargin_in(folder.path(), "train --resume run --steps 5").code, Some(2));
    assert_eq!(maxmargin("train --resume").code, Some(2));
}
