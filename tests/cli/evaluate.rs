//! `maxmargin evaluate` on a run, on weights and on files that are neither; required accuracies, files, folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use maxmargin::model::state_dict::to_tensors;
use maxmargin::model::{LeNet5, Model};
use maxmargin::record::{Tensor, TensorData, TensorFile, write_tensors};
use serde_json::Value;
use tempfile::TempDir;

use crate::{cifar10, done_in, maxmargin_in, refused_in};

/// Short attack on few images.
const SHORT: &str = "--quiet --test-size 30 --nb-iter 2 --nb-restart 2";

/// Weights of a small LeNet5, trained for a second: correct on some images, and not robust.
fn weights() -> Vec<Tensor> {
    static TRAINED: OnceLock<Vec<Tensor>> = OnceLock::new();
    let train = || {
        let folder = tempfile::tempdir().expect("a folder");
        let flags = "--width 0.125 --nb-iter 1 --lr 0.01 --steps 40 --train-size 2000 --val-size 20 --test-size 20";
        done_in(folder.path(), &format!("train --savepath run --quiet {flags}"));
        TensorFile::read(&folder.path().join("run/best.safetensors")).expect("weights").tensors
    };
    TRAINED.get_or_init(train).clone()
}

fn write(path: &Path, tensors: &[Tensor]) {
    write_tensors(path, tensors, &BTreeMap::new()).expect("a file of weights");
}

/// Folder with `w.safetensors`.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    write(&folder.path().join("w.safetensors"), &weights());
    folder
}

/// Report of the evaluation of `what` with `flags`.
fn result(folder: &Path, what: &str, flags: &str) -> Value {
    done_in(folder, &format!("evaluate {what} --json result.json {flags}"));
    serde_json::from_slice(&fs::read(folder.join("result.json")).expect("a result")).expect("JSON")
}

#[test]
fn weights_are_attacked_and_their_margins_measured() {
    let folder = folder();
    let said = done_in(folder.path(), &format!("evaluate w.safetensors {SHORT} --eps 0.1,8/255,1"));
    for part in [
        "w.safetensors: LeNet5, 4 and 8 filters 5x5, 128 hidden, 52506 parameters; takes pixels in [0, 1] as they are\n30 images (bundled digits, test)\n",
        "\nclean accuracy  ",
        "\neps 8/255, PGD linf, 2 of 100 iterations, 2 of 10 starts  ",
        "\neps 0.1, PGD linf, 2 of 100 iterations, 2 of 10 starts  ",
        "\n  pgd-xent   ",
        "\n  pgd-cw     ",
        "\neps 1, PGD linf, 2 of 100 iterations, 2 of 10 starts  ",
        "\nAvgRobAcc, the mean over the eps  ",
        "\nAvgAcc, with the clean accuracy  ",
        "\nmean margin by AN-PGD  ",
        "\nmargins, linf\nmisclassified ",
        "\n0.425 to 0.472 ",
    ] {
        assert!(said.out.contains(part), "no {part:?} in {}", said.out);
    }
    assert_eq!(said.err, "");
}

#[test]
fn the_report_as_a_file_has_every_figure() {
    let folder = folder();
    let found = result(folder.path(), "w.safetensors", &format!("{SHORT} --eps 0.1,0.3 --eps-iter 0.05 --seed 4"));
    let mut names: Vec<_> = found.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort();
    let expected = [
        "average_accuracy",
        "average_robust_accuracy",
        "backward_passes",
        "batch_size",
        "clean_accuracy",
        "commit",
        "count",
        "d_max",
        "dataset",
        "device",
        "forward_passes",
        "ignored_tensors",
        "images",
        "images_sha256",
        "margin_strength",
        "margins",
        "max_eps",
        "maxmargin",
        "mean_margin",
        "method",
        "minimum_norm",
        "misclassified",
        "model",
        "norm",
        "normalization",
        "precision",
        "protocol",
        "provenance",
        "request",
        "robust",
        "schema_version",
        "seconds",
        "seed",
        "split",
        "warnings",
        "weights",
        "weights_remarks",
        "weights_sha256",
    ];
    assert_eq!(names, expected);
    assert_eq!(found["schema_version"], 2);
    assert_eq!((&found["count"], &found["seed"]), (&30.into(), &4.into()));
    assert_eq!((&found["norm"], &found["weights"]), (&"linf".into(), &"w.safetensors".into()));
    let clean = found["clean_accuracy"].as_f64().unwrap();
    assert!((20.0..100.0).contains(&clean), "clean accuracy {clean} %");
    let robust = found["robust"].as_array().expect("a list");
    let eps: Vec<_> = robust.iter().map(|attack| attack["eps"].as_f64().unwrap()).collect();
    assert_eq!(eps, [0.1, 0.3]);
    for attack in robust {
        let names: Vec<_> = attack["attacks"].as_array().unwrap().iter().map(|attack| &attack["name"]).collect();
        assert_eq!(names, ["pgd-xent", "pgd-cw"]);
        assert!(attack["accuracy"].as_f64().unwrap() < clean);
    }
    let margins: Vec<_> = found["margins"].as_array().unwrap().iter().map(|margin| margin.as_f64().unwrap()).collect();
    assert_eq!(margins.len(), 30);
    let mean = margins.iter().sum::<f64>() / 30.0;
    assert!((mean - found["mean_margin"].as_f64().unwrap()).abs() < 1e-6);
    let misclassified: Vec<_> = found["misclassified"].as_array().unwrap().iter().map(Value::as_u64).collect();
    assert!((100.0 - misclassified.len() as f64 / 0.3 - clean).abs() < 1e-9, "{misclassified:?}");
    let correct = (0..30).filter(|i| !misclassified.contains(&Some(*i)));
    assert!(correct.into_iter().all(|i| margins[i as usize] > 0.0), "correct images have a margin: {margins:?}");
}

#[test]
fn what_was_not_asked_for_is_not_measured() {
    let folder = folder();
    let pgd = result(folder.path(), "w.safetensors", &format!("{SHORT} --attack pgd"));
    assert!(pgd["margins"].is_null() && pgd["robust"].as_array().unwrap().len() == 1);
    let margins = result(folder.path(), "w.safetensors", "--quiet --test-size 30 --attack margins");
    assert!(margins["margins"].is_array() && margins["robust"].as_array().unwrap().is_empty());
}

#[test]
fn threads_and_batch_size_do_not_change_the_result() {
    let folder = folder();
    let without_time = |flags: &str| {
        let mut found = result(folder.path(), "w.safetensors", &format!("{SHORT} {flags}"));
        let figures = found.as_object_mut().unwrap();
        ["seconds", "device", "batch_size"].iter().for_each(|name| drop(figures.remove(*name)));
        for robust in figures["robust"].as_array_mut().unwrap() {
            for attack in robust["attacks"].as_array_mut().unwrap() {
                attack.as_object_mut().unwrap().remove("seconds");
            }
        }
        found
    };
    let expected = without_time("--threads 1");
    assert_eq!(without_time("--threads 2"), expected);
    assert_eq!(without_time("--batch-size 7"), expected);
    assert_eq!(without_time("--batch-size 65536"), expected);
    assert_ne!(without_time("--seed 1")["seed"], expected["seed"]);
}

#[test]
fn a_run_is_evaluated_under_its_own_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    done_in(
        folder.path(),
        "train --savepath run --quiet --width 0.125 --nb-iter 1 --train-size 50 --val-size 20 --test-size 25 --steps 1 \
         --norm l2 --hinge-maxeps 2 --attack-mineps 0.5 --test-eps 1.5 --test-eps-iter 0.125",
    );
    let found = result(folder.path(), "run", "--quiet --nb-iter 2 --nb-restart 1");
    assert_eq!((&found["norm"], &found["count"]), (&"l2".into(), &25.into()));
    assert_eq!(found["robust"][0]["eps"], 1.5);
    assert_eq!(found["weights"], "run/best.safetensors");
    let validation = result(folder.path(), "run", "--quiet --attack margins --split validation");
    assert_eq!((&validation["count"], &validation["images"]), (&20.into(), &"bundled digits, validation".into()));
    let train = result(folder.path(), "run", "--quiet --attack margins --split train");
    assert_eq!(train["count"], 50);
    let other = result(folder.path(), "run", &format!("{SHORT} --norm linf"));
    assert_eq!((&other["norm"], &other["robust"][0]["eps"]), (&"linf".into(), &0.3.into()));

    fs::remove_file(folder.path().join("run/best.safetensors")).expect("a file");
    refused_in(folder.path(), "evaluate run", &["run/best.safetensors: cannot read"]);
    fs::remove_file(folder.path().join("run/config.toml")).expect("a file");
    refused_in(folder.path(), "evaluate run", &["run/config.toml: cannot read"]);
}

#[test]
fn a_run_s_evaluation_has_a_folder_with_its_report_and_a_row_for_each_image() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = "--width 0.125 --nb-iter 1 --train-size 50 --val-size 20 --test-size 25 --steps 1";
    done_in(folder.path(), &format!("train --savepath run --quiet {flags}"));
    let said = done_in(folder.path(), "evaluate run --quiet --attack pgd --nb-iter 2 --nb-restart 1 --json copy.json");
    assert!(said.out.contains("run/evaluation-pgd has the report"), "{}", said.out);
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).expect("a file");
    assert_eq!(read("run/evaluation-pgd/evaluation.json"), read("copy.json"));
    let csv = read("run/evaluation-pgd/images.csv");
    assert!(csv.starts_with("index,label,clean_prediction,margin,distance,broken_eps,broken_by\n0,"), "{csv}");
    assert_eq!(csv.lines().count(), 26);
    assert!(!folder.path().join("run/evaluation-pgd/unfinished.safetensors").exists());
    let said = done_in(folder.path(), "evaluate run --quiet --protocol paper --test-size 3 --out elsewhere --save");
    assert!(said.out.contains("elsewhere/adversarial.safetensors: 3 images, each checked"), "{}", said.out);
    let found: Value = serde_json::from_str(&read("elsewhere/evaluation.json")).expect("JSON");
    assert_eq!((&found["protocol"], &found["method"]), (&"paper".into(), &"mma".into()));
    assert_eq!(found["d_max"], 0.45);
    refused_in(folder.path(), "evaluate run/best.safetensors --save", &["--save: expected a file"]);
    assert_eq!(found["robust"].as_array().expect("a list").len(), 4);
    refused_in(folder.path(), "evaluate run --protocol paper --nb-iter 3", &["--protocol", "--nb-iter"]);
    refused_in(folder.path(), "evaluate run --attack ddn", &["--attack ddn", "expected --norm l2", "found linf"]);
}

#[test]
fn an_evaluation_never_overwrites_that_of_another_request() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = "--width 0.125 --nb-iter 1 --train-size 50 --val-size 20 --test-size 5 --steps 1";
    done_in(folder.path(), &format!("train --savepath run --quiet {flags}"));
    let pgd = "evaluate run --quiet --attack pgd --nb-iter 2 --nb-restart 1";
    let report = |name: &str| fs::read_to_string(folder.path().join(name).join("evaluation.json")).expect("a report");
    let says = |line: &str, place: &str| {
        let said = done_in(folder.path(), line);
        assert!(said.out.contains(&format!("{place} has the report")), "{}", said.out);
    };
    says(pgd, "run/evaluation-pgd");
    let first = report("run/evaluation-pgd");
    says(&format!("{pgd} --eps 0.1"), "run/evaluation-pgd-2");
    says(&format!("{pgd} --seed 1"), "run/evaluation-pgd-3");
    assert_eq!(report("run/evaluation-pgd"), first);
    // A repeated request has an equal result, and its images may be saved later.
    says(&format!("{pgd} --eps 0.1 --save"), "run/evaluation-pgd-2");
    assert!(folder.path().join("run/evaluation-pgd-2/adversarial.safetensors").is_file());

    says(&format!("{pgd} --out there"), "there");
    let there = report("there");
    says(&format!("{pgd} --out there"), "there");
    let parts = ["--out there: expected a new folder", "found another evaluation, which would be lost"];
    refused_in(folder.path(), &format!("{pgd} --out there --eps 0.1"), &parts);
    let timeless = |report: &str| report.lines().filter(|line| !line.contains("seconds")).collect::<String>();
    assert_eq!(timeless(&report("there")), timeless(&there));
    fs::create_dir(folder.path().join("notes")).expect("a folder");
    fs::write(folder.path().join("notes/evaluation.json"), "my notes").expect("a file");
    refused_in(folder.path(), &format!("{pgd} --out notes"), &parts[1..]);
}

/// Rewrites a report into the form that was written before files had a schema version.
fn unversioned(path: &Path) {
    let text = fs::read_to_string(path).expect("a report");
    let text = text.replace("  \"schema_version\": 2,\n", "");
    fs::write(path, text.replace("\"request\"", "\"question\"").replace("\"warnings\"", "\"suspicious\""))
        .expect("a file");
}

#[test]
fn an_evaluation_of_the_former_version_is_recognized_as_that_of_the_same_request() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = "--width 0.125 --nb-iter 1 --train-size 50 --val-size 20 --test-size 5 --steps 1";
    done_in(folder.path(), &format!("train --savepath run --quiet {flags}"));
    let pgd = "evaluate run --attack pgd --nb-iter 2 --nb-restart 1";
    done_in(folder.path(), &format!("{pgd} --quiet"));
    let path = folder.path().join("run/evaluation-pgd/evaluation.json");
    unversioned(&path);
    let former = fs::read_to_string(&path).expect("a report");
    let other = done_in(folder.path(), &format!("{pgd} --eps 0.1"));
    assert!(other.out.contains("run/evaluation-pgd-2 has the report"), "{}", other.out);
    assert!(
        other.err.contains("run/evaluation-pgd is of other images, weights, flags or program and stays"),
        "{}",
        other.err
    );
    assert_eq!(fs::read_to_string(&path).expect("a report"), former);
    let same = done_in(folder.path(), &format!("{pgd} --quiet"));
    assert!(same.out.contains("run/evaluation-pgd has the report"), "{}", same.out);
    assert!(fs::read_to_string(&path).expect("a report").contains("\"schema_version\": 2"));
}

#[test]
fn a_required_accuracy_that_is_not_reached_is_exit_code_1() {
    let folder = folder();
    let with = |checks: &str| maxmargin_in(folder.path(), &format!("evaluate w.safetensors {SHORT} {checks}"));
    let clean = result(folder.path(), "w.safetensors", SHORT)["clean_accuracy"].as_f64().unwrap();

    let reached = with("--require-clean 0 --require-robust 0@0.3");
    assert_eq!(reached.code, Some(0), "{reached:?}");
    assert!(!reached.out.contains("check failed"), "{}", reached.out);
    let failed = with("--require-clean 99.5");
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.out.contains("clean accuracy  "), "the figures come first: {}", failed.out);
    assert!(
        failed.out.ends_with(&format!("check failed: --require-clean 99.5: {clean:.2} % are classified correctly\n"))
    );
    assert_eq!(failed.err, "");
    let both = with("--eps 0.2,0.3 --require-clean 0 --require-robust 100@0.2 --require-robust 100%@0.3");
    assert_eq!(both.code, Some(1), "{both:?}");
    assert_eq!(both.out.matches("check failed: --require-robust 100@0.").count(), 2, "{}", both.out);
}

#[test]
fn a_doubtful_figure_meets_no_requirement_unless_that_is_accepted() {
    let folder = folder();
    let mut tensors = weights();
    for name in ["linear2.weight", "linear2.bias"] {
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).expect("LeNet5 has it");
        let scaled = tensor.clone();
        let TensorData::F32(values) = &scaled.data else { panic!("single precision") };
        *tensor = Tensor::new(name, &scaled.shape, values.iter().map(|value| 1e6 * value).collect::<Vec<f32>>());
    }
    write(&folder.path().join("x"), &tensors);
    let line = format!("evaluate x {SHORT} --attack pgd --require-robust 0@0.3");
    let said = maxmargin_in(folder.path(), &line);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("but the figure is doubtful: zero-gradient: "), "{}", said.out);
    done_in(folder.path(), &format!("{line} --allow-suspicious"));
}

#[test]
fn the_test_size_of_a_run_does_not_cut_the_number_that_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = "--width 0.125 --nb-iter 1 --train-size 50 --val-size 20 --test-size 5 --steps 1";
    done_in(folder.path(), &format!("train --savepath run --quiet {flags}"));
    let count = |flags: &str| {
        let flags = format!("--quiet --attack pgd --nb-iter 1 --nb-restart 1 {flags}");
        result(folder.path(), "run", flags.trim())["count"].clone()
    };
    assert_eq!((count(""), count("--test-size 40")), (5.into(), 40.into()));
    let parts = ["--test-size: expected at most", "1000, the images of bundled digits, test; found 1001"];
    refused_in(folder.path(), "evaluate run --test-size 1001", &parts);
    refused_in(
        folder.path(),
        "evaluate run --split train --test-size 51",
        &["at most 50, the images of bundled digits, train; found 51"],
    );
}

#[test]
fn attack_and_transfer_refuse_flags_without_effect() {
    let here = Path::new(".");
    refused_in(here, "attack w --attack margins", &["--attack margins: expected attacks, which make images"]);
    refused_in(here, "attack w --attack pgd,margins", &["--attack margins: expected attacks"]);
    refused_in(here, "attack w --attack autoattack --nb-iter 3", &["--nb-iter: expected one of", "found autoattack"]);
    refused_in(
        here,
        "transfer w v --attack apgd-ce --nb-restart 3",
        &["--nb-restart: expected one of", "(pgd, pgd-loss)"],
    );
    refused_in(here, "transfer w v --hinge-maxeps 0.3", &["--hinge-maxeps: expected one of", "found pgd"]);
}

#[test]
fn the_strength_of_every_attack_is_in_the_table_and_the_report() {
    let folder = folder();
    let flags = "--quiet --test-size 30 --nb-iter 2 --attack apgd-ce,fab --json r.json";
    let said = done_in(folder.path(), &format!("evaluate w.safetensors {flags}"));
    for part in [
        "\neps 0.3, apgd-ce linf, 2 of 100 iterations ",
        "\nfab, 2 of 100 iterations, linf: ",
        "\nstrength of the attacks\n  apgd-ce      2 of 100 iterations, 1 run, loss xent\n  fab ",
    ] {
        assert!(said.out.contains(part), "no {part:?} in {}", said.out);
    }
    let text = fs::read_to_string(folder.path().join("r.json")).expect("a report");
    let found: Value = serde_json::from_str(&text).expect("JSON");
    for strength in [&found["robust"][0]["attacks"][0]["strength"], &found["minimum_norm"][0]["strength"]] {
        assert_eq!((&strength["iterations"], &strength["published"]["iterations"]), (&2.into(), &100.into()));
    }
}

#[test]
fn a_default_eps_and_the_same_written_out_are_one_evaluation() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = "--width 0.125 --nb-iter 1 --train-size 50 --val-size 20 --test-size 5 --steps 1 --test-eps 51/255";
    done_in(folder.path(), &format!("train --savepath run --quiet {flags}"));
    for flags in ["", " --eps 51/255 --require-robust 0@0.2", " --require-robust 0@51/255"] {
        // The network is hardly trained: only the eps are of interest.
        let flags = if flags.is_empty() { flags.into() } else { format!("{flags} --allow-suspicious") };
        let said =
            done_in(folder.path(), &format!("evaluate run --quiet --attack pgd --nb-restart 1 --nb-iter 1{flags}"));
        assert!(said.out.contains("run/evaluation-pgd has the report"), "{flags}: {}", said.out);
    }
}

#[test]
fn a_file_of_another_format_is_refused_with_that_format() {
    let folder = folder();
    let path = folder.path().join("x");
    let whole = fs::read(folder.path().join("w.safetensors")).expect("a file");
    for (bytes, part) in [
        (&b"<!DOCTYPE html><html><body>404</body></html>"[..], "byte 0: expected a safetensors file, found a web page"),
        (b"PK\x03\x04 archive/data.pkl", "found a pickle of PyTorch's"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "found a pickle of PyTorch's"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "found a file packed with gzip: unpack it"),
        (b"", "byte 0: expected a safetensors file"),
        (&whole[..whole.len() / 2], "truncated"),
        (&whole[..100], "truncated"),
    ] {
        fs::write(&path, bytes).expect("a file");
        refused_in(folder.path(), "evaluate x", &["error: x: ", part]);
    }
    refused_in(folder.path(), "evaluate nowhere.safetensors", &["nowhere.safetensors: cannot read"]);
}

#[test]
fn weights_of_another_network_are_refused_with_tensor_and_shapes() {
    let folder = folder();
    let path = folder.path().join("x");
    let zeros = |name: &str, shape: &[usize]| Tensor::new(name, shape, vec![0f32; shape.iter().product()]);
    let replaced = |with: &[Tensor]| -> Vec<Tensor> {
        let others = weights().into_iter().filter(|t| with.iter().all(|new| new.name != t.name));
        others.chain(with.iter().cloned()).collect()
    };
    let without = |name: &str| weights().into_iter().filter(|t| t.name != name).collect::<Vec<_>>();
    for (tensors, parts) in [
        (vec![], &["no tensor `conv1.weight`"][..]),
        (vec![zeros("layer1.0.weight", &[16, 3, 3, 3])], &["not a LeNet5: no tensor `conv1.weight`"]),
        (without("linear2.bias"), &["no tensor `linear2.bias`"]),
        (replaced(&[zeros("linear1.weight", &[128, 100])]), &["linear1.weight", "[128, 100]", "[128, 392]"]),
        (replaced(&[zeros("conv1.bias", &[5])]), &["conv1.bias", "[5]", "[4]"]),
        (replaced(&[zeros("conv1.weight", &[4, 1, 4, 4])]), &["conv1.weight", "[4, 1, 4, 4]", "odd kernel"]),
        (replaced(&[zeros("conv1.weight", &[0, 1, 5, 5])]), &["conv1.weight", "[0, 1, 5, 5]", "no size of 0"]),
        (replaced(&[zeros("linear2.weight", &[0, 128])]), &["linear2.weight", "[0, 128]", "no size of 0"]),
        (
            replaced(&[zeros("linear2.weight", &[5, 128]), zeros("linear2.bias", &[5])]),
            &["linear2.weight", "expected 10 classes, found 5"],
        ),
        (
            replaced(&[Tensor::new("conv1.bias", &[4], vec![0i32; 4])]),
            &["tensor `conv1.bias`: expected F32 [4], found I32 [4]"],
        ),
        (replaced(&[zeros("conv1.weight", &[4, 3, 5, 5])]), &["takes images [28, 28, 3]", "[28, 28, 1]"]),
    ] {
        write(&path, &tensors);
        refused_in(folder.path(), "evaluate x", parts);
    }
}

#[test]
fn a_network_of_any_width_is_found_from_the_shapes() {
    let folder = folder();
    let wide = LeNet5::with_sizes([28, 28, 1], [3, 5], 3, 7, 10);
    write(&folder.path().join("x"), &to_tensors(wide.params(), "", &wide.params().initial(1)));
    let found = result(folder.path(), "x", SHORT);
    assert_eq!(
        found["model"],
        "LeNet5, 3 and 5 filters 3x3, 7 hidden, 1972 parameters; takes pixels in [0, 1] as they are"
    );
    let file = TensorFile::read(&folder.path().join("x")).expect("a file");
    let parameters: usize = file.tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
    assert_eq!(parameters, 1972);
}

#[test]
fn data_that_do_not_fit_or_are_missing_are_an_error() {
    let folder = folder();
    let parts = ["`scripts/fetch-data mnist` brings them"];
    refused_in(folder.path(), "evaluate w.safetensors --dataset mnist", &parts);
    let parts = ["`scripts/fetch-data cifar10` brings them"];
    refused_in(folder.path(), "evaluate w.safetensors --dataset cifar10", &parts);
    cifar10::write(folder.path());
    let parts = ["--dataset: w.safetensors takes images [28, 28, 1] (height, width, channels)", "are [32, 32, 3]"];
    refused_in(folder.path(), "evaluate w.safetensors --dataset cifar10 --data .", &parts);
    let line = "evaluate w.safetensors --attack margins --json nowhere/result.json";
    refused_in(folder.path(), line, &["--json nowhere/result.json: there is no folder nowhere"]);
}

#[test]
fn nan_weights_are_refused_with_tensor_and_element() {
    let folder = folder();
    let mut tensors = weights();
    let bias = tensors.iter_mut().find(|t| t.name == "linear2.bias").expect("LeNet5 has it");
    *bias = Tensor::new("linear2.bias", &[10], vec![0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    write(&folder.path().join("x"), &tensors);
    refused_in(folder.path(), "evaluate x", &["error: x: linear2.bias: expected numbers; found NaN at element 3"]);
}
