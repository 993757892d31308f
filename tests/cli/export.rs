//! `maxmargin export`: the same weights under other names, which `evaluate` reads under all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use maxmargin::model::state_dict::{state_to_tensors, to_tensors};
use maxmargin::model::{LeNet5, Model, ModelState, WideResNet};
use maxmargin::record::{Tensor, TensorFile, write_tensors};
use serde_json::Value;
use tempfile::TempDir;

use crate::{cifar10, done_in, refused_in};

/// Names and shapes that `load_state_dict` of RobustBench's `Ding2020MMANet(depth=10, widen_factor=2)` expects, without
/// `num_batches_tracked`.
fn robustbench() -> BTreeMap<String, Vec<usize>> {
    let mut expected = BTreeMap::new();
    let mut norm = |name: &str, channels: usize| {
        for part in ["weight", "bias", "running_mean", "running_var"] {
            expected.insert(format!("{name}.{part}"), vec![channels]);
        }
    };
    norm("bn1", 128);
    for (group, from, to) in [(1, 16, 32), (2, 32, 64), (3, 64, 128)] {
        norm(&format!("block{group}.layer.0.bn1"), from);
        norm(&format!("block{group}.layer.0.bn2"), to);
    }
    let mut weight = |name: String, shape: &[usize]| drop(expected.insert(format!("{name}.weight"), shape.to_vec()));
    weight("conv1".into(), &[16, 3, 3, 3]);
    weight("fc".into(), &[10, 128]);
    for (group, from, to) in [(1, 16, 32), (2, 32, 64), (3, 64, 128)] {
        weight(format!("block{group}.layer.0.conv1"), &[to, from, 3, 3]);
        weight(format!("block{group}.layer.0.conv2"), &[to, to, 3, 3]);
        weight(format!("block{group}.layer.0.convShortcut"), &[to, from, 1, 1]);
    }
    expected.insert("fc.bias".into(), vec![10]);
    expected
}

/// Tensors of a wide ResNet 10-2 with its running statistics; all have different values.
fn wide() -> Vec<Tensor> {
    let model: Box<dyn Model> = Box::new(WideResNet::new(10, 2));
    let first = model.initial(3);
    let moved = |values: &Vec<f32>| values.iter().enumerate().map(|(i, v)| v + (i % 13) as f32 / 64.0).collect();
    let state: ModelState = first.iter().map(moved).collect();
    state_to_tensors(&*model, "", &state)
}

/// Folder with `w.safetensors`, a wide ResNet, and images.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let metadata = BTreeMap::from([("step".to_owned(), "7".to_owned())]);
    write_tensors(&folder.path().join("w.safetensors"), &wide(), &metadata).expect("a file");
    cifar10::write(folder.path());
    folder
}

fn read(path: &Path) -> TensorFile {
    TensorFile::read(path).expect("a file of tensors")
}

/// Report of `evaluate` on a file, without its name and the times.
fn evaluated(folder: &Path, file: &str) -> Value {
    let flags = "--dataset cifar10 --data . --test-size 8 --nb-iter 1 --nb-restart 1 --quiet --json found.json";
    done_in(folder, &format!("evaluate {file} {flags}"));
    let mut found: Value = serde_json::from_slice(&fs::read(folder.join("found.json")).unwrap()).unwrap();
    for name in ["weights", "weights_sha256", "request", "seconds"] {
        found.as_object_mut().unwrap().remove(name);
    }
    for attack in found["robust"][0]["attacks"].as_array_mut().unwrap() {
        attack.as_object_mut().unwrap().remove("seconds");
    }
    found
}

#[test]
fn exported_names_and_shapes_are_those_of_robustbench_s_class() {
    let folder = folder();
    let said = done_in(folder.path(), "export w.safetensors --names robustbench --out r.safetensors");
    assert!(said.out.starts_with("wrote r.safetensors: wide ResNet 10-2, "), "{}", said.out);
    let file = read(&folder.path().join("r.safetensors"));
    let found: BTreeMap<_, _> = file.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect();
    assert_eq!(found, robustbench());
    assert_eq!(file.metadata["step"], "7", "metadata is kept");
    let own = read(&folder.path().join("w.safetensors"));
    for (released, theirs) in [
        ("1.conv1.weight", "conv1.weight"),
        ("1.bn1.running_mean", "bn1.running_mean"),
        ("1.convgroup1.layer.0.bn1.weight", "block1.layer.0.bn1.weight"),
        ("1.convgroup2.layer.0.conv_shortcut.weight", "block2.layer.0.convShortcut.weight"),
        ("1.convgroup3.layer.0.bn2.running_var", "block3.layer.0.bn2.running_var"),
        ("1.fc.bias", "fc.bias"),
    ] {
        assert_eq!(own.tensor(released).unwrap().data, file.tensor(theirs).unwrap().data, "{theirs}");
    }
}

#[test]
fn an_export_to_robustbench_s_names_and_back_gives_the_same_bytes() {
    let folder = folder();
    done_in(folder.path(), "export w.safetensors --out a.safetensors");
    done_in(folder.path(), "export a.safetensors --names robustbench --out b.safetensors");
    done_in(folder.path(), "export b.safetensors --names released --out c.safetensors");
    let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("a.safetensors") == bytes("c.safetensors"));
    assert!(read(&folder.path().join("a.safetensors")).tensors == read(&folder.path().join("w.safetensors")).tensors);
}

#[test]
fn evaluate_reads_the_names_of_both() {
    let folder = folder();
    done_in(folder.path(), "export w.safetensors --names robustbench --out r.safetensors");
    let found = evaluated(folder.path(), "r.safetensors");
    assert_eq!(found, evaluated(folder.path(), "w.safetensors"));
    assert!(found["model"].as_str().unwrap().starts_with("wide ResNet 10-2, "), "{found}");
    assert_eq!(found["count"], 8);
    let steps = found["robust"][0]["eps_iter"].as_f64().unwrap() * 255.0;
    assert!((steps - 2.0).abs() < 1e-5, "a quarter of eps 8/255, as the released evaluator takes on CIFAR10");
}

#[test]
fn the_batch_counters_of_pytorch_are_ignored() {
    let folder = folder();
    let mut tensors = wide();
    tensors.push(Tensor::new("1.bn1.num_batches_tracked", &[], vec![64_000i64]));
    write_tensors(&folder.path().join("t.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    done_in(folder.path(), "export t.safetensors --out a.safetensors");
    assert!(read(&folder.path().join("a.safetensors")).tensors == read(&folder.path().join("w.safetensors")).tensors);
}

#[test]
fn a_wide_resnet_with_a_tensor_missing_or_of_another_shape_is_refused_by_the_file_s_own_names() {
    let folder = folder();
    done_in(folder.path(), "export w.safetensors --names robustbench --out r.safetensors");
    let whole = read(&folder.path().join("r.safetensors"));
    let refuse = |change: &dyn Fn(&mut Vec<Tensor>), parts: &[&str]| {
        let mut tensors = whole.tensors.clone();
        change(&mut tensors);
        write_tensors(&folder.path().join("x"), &tensors, &BTreeMap::new()).unwrap();
        refused_in(folder.path(), "export x --out y", parts);
        assert!(!folder.path().join("y").exists());
    };
    let shortcut = "block2.layer.0.convShortcut.weight";
    refuse(
        &|tensors| tensors.retain(|t| t.name != shortcut),
        &["error: x: ", "no tensor `block2.layer.0.convShortcut"],
    );
    let replace = |tensors: &mut Vec<Tensor>, name: &str, shape: &[usize]| {
        let tensor = tensors.iter_mut().find(|t| t.name == name).expect("a tensor");
        *tensor = Tensor::new(name, shape, vec![0f32; shape.iter().product()]);
    };
    refuse(&|tensors| replace(tensors, "bn1.running_var", &[64]), &["bn1.running_var has shape [64], expected [128]"]);
    refuse(
        &|tensors| replace(tensors, "block1.layer.0.conv1.weight", &[20, 16, 3, 3]),
        &["block1.layer.0.conv1.weight has shape [20, 16, 3, 3], expected a multiple of 16 filters"],
    );
}

#[test]
fn weights_that_cannot_be_exported_are_errors() {
    let folder = folder();
    let small = LeNet5::new(0.125);
    let weights = to_tensors(small.params(), "", &small.params().initial(0));
    write_tensors(&folder.path().join("lenet5.safetensors"), &weights, &BTreeMap::new()).unwrap();
    done_in(folder.path(), "export lenet5.safetensors --out a.safetensors");
    let parts = ["--names robustbench: expected a wide ResNet", "lenet5.safetensors is a LeNet5, 4 and 8 filters"];
    refused_in(folder.path(), "export lenet5.safetensors --names robustbench --out b.safetensors", &parts);
    refused_in(folder.path(), "export nowhere --out b.safetensors", &["nowhere: cannot read"]);
    refused_in(folder.path(), "export . --out b.safetensors", &["best.safetensors: cannot read"]);
    refused_in(folder.path(), "export w.safetensors", &["--out <FILE>"]);
    let parts = ["--out nowhere/b.safetensors: there is no folder nowhere"];
    refused_in(folder.path(), "export w.safetensors --out nowhere/b.safetensors", &parts);
}
