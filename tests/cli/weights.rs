//! Files of weights that are another network's, under other names or of other types, and what is done with images.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use maxmargin::model::state_dict::{state_to_tensors, to_tensors};
use maxmargin::model::{LeNet5, Model, WideResNet};
use maxmargin::record::{Tensor, TensorData, TensorFile, write_tensors};
use serde_json::Value;
use tempfile::TempDir;

use crate::{done_in, maxmargin_in, refused_in};

/// Short attack on few images.
const SHORT: &str = "--quiet --test-size 20 --attack pgd --nb-iter 1 --nb-restart 1";

/// Tensors of a small LeNet5 with its first values. Its kernel of 1 has no padding, so a normalization of images can be
/// folded into the first convolution.
fn lenet5() -> Vec<Tensor> {
    let model = LeNet5::with_sizes([28, 28, 1], [4, 4], 1, 16, 10);
    to_tensors(model.params(), "", &model.params().initial(5))
}

/// Tensors of a small wide ResNet with its first values.
fn wide_resnet() -> Vec<Tensor> {
    let model: Box<dyn Model> = Box::new(WideResNet::new(10, 1));
    state_to_tensors(&*model, "", &model.initial(3))
}

fn write(folder: &Path, name: &str, tensors: &[Tensor]) {
    write_tensors(&folder.join(name), tensors, &BTreeMap::new()).expect("a file of weights");
}

/// Folder with the LeNet5 as `plain`.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "plain", &lenet5());
    folder
}

fn vector(name: &str, values: &[f32]) -> Tensor {
    Tensor::new(name, &[values.len()], values.to_vec())
}

fn f32s(tensors: &[Tensor], name: &str) -> Vec<f32> {
    match &tensors.iter().find(|tensor| tensor.name == name).expect("a tensor").data {
        TensorData::F32(values) => values.clone(),
        other => panic!("{other:?}"),
    }
}

/// Replaces values of a tensor.
fn change(tensors: &mut [Tensor], name: &str, change: impl Fn(usize, f32) -> f32) {
    let values = f32s(tensors, name).into_iter().enumerate().map(|(i, value)| change(i, value)).collect();
    let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor");
    tensor.data = TensorData::F32(values);
}

/// Report of the evaluation of a file with `flags`.
fn report(folder: &Path, file: &str, flags: &str) -> Value {
    done_in(folder, &format!("evaluate {file} {SHORT} --json report.json {flags}"));
    serde_json::from_slice(&fs::read(folder.join("report.json")).expect("a report")).expect("JSON")
}

/// Figures of a report.
fn figures(report: &Value) -> [&Value; 3] {
    [&report["clean_accuracy"], &report["robust"][0]["accuracy"], &report["robust"][0]["attacks"][0]["broken"]]
}

#[test]
fn tensors_that_belong_to_no_parameter_are_refused_and_named_by_every_command_that_reads_weights() {
    let folder = folder();
    let others: [(&[&str], &str); 4] = [
        (&["mean", "std", "scale"], "3 tensors that belong to no parameter: mean, std, scale"),
        (&["mu"], "1 tensor that belongs to no parameter: mu"),
        (&["bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"], "4 tensors"),
        (&["linear3.weight", "linear3.bias"], "linear3.weight, linear3.bias"),
    ];
    for (names, part) in others {
        let tensors = lenet5().into_iter().chain(names.iter().map(|name| vector(name, &[0.5])));
        write(folder.path(), "x", &tensors.collect::<Vec<_>>());
        for line in
            [format!("evaluate x {SHORT}"), "attack x".into(), "transfer plain x".into(), "export x --out y".into()]
        {
            let parts = ["error: x: expected the tensors of one network alone (LeNet5, 4 and 4 filters 1x1", part];
            refused_in(folder.path(), &line, &parts);
        }
        assert!(!folder.path().join("y").exists() && !folder.path().join("adversarial.safetensors").exists());
    }
    let block = [vector("sub_block1.layer.0.bn1.weight", &[1.0; 16]), vector("1.extra", &[1.0])];
    write(folder.path(), "x", &wide_resnet().into_iter().chain(block).collect::<Vec<_>>());
    let parts = ["standardizes each image", "sub_block1.layer.0.bn1.weight", "1.extra", "--ignore-tensors"];
    refused_in(folder.path(), "export x --out y", &parts);
}

#[test]
fn many_tensors_without_a_parameter_are_named_up_to_eight() {
    let folder = folder();
    let others = (0..20).map(|i| vector(&format!("block.{i}"), &[1.0]));
    write(folder.path(), "x", &lenet5().into_iter().chain(others).collect::<Vec<_>>());
    refused_in(folder.path(), "export x --out y", &["found 20 tensors", "block.0, block.1", " and 12 more; "]);
}

#[test]
fn ignored_tensors_are_left_out_and_recorded() {
    let folder = folder();
    let others = ["mean", "head.weight", "head.bias"].map(|name| vector(name, &[0.5]));
    write(folder.path(), "x", &lenet5().into_iter().chain(others).collect::<Vec<_>>());
    let plain = report(folder.path(), "plain", "");
    let found = report(folder.path(), "x", "--ignore-tensors mean,head.*");
    assert_eq!(figures(&found), figures(&plain));
    assert_eq!(found["ignored_tensors"], serde_json::json!(["head.bias", "head.weight", "mean"]));
    assert_eq!(found["weights_remarks"], serde_json::json!(["ignored head.bias, head.weight, mean"]));
    let other = report(folder.path(), "x", "--ignore-tensors head.weight,head.bias,mean");
    assert_eq!(found["request"], other["request"], "the same tensors, named otherwise");
    refused_in(folder.path(), &format!("evaluate x {SHORT} --ignore-tensors mean"), &["head.weight, head.bias"]);
    let parts = ["--ignore-tensors: plain: no tensor `meen`", "near names"];
    refused_in(folder.path(), &format!("evaluate plain {SHORT} --ignore-tensors meen"), &parts);
    let said = done_in(folder.path(), "export x --ignore-tensors mean,head.* --out y");
    assert!(said.out.contains("x: ignored head.bias, head.weight, mean\n"), "{}", said.out);
    let file = |name: &str| TensorFile::read(&folder.path().join(name)).expect("weights").tensors;
    assert_eq!(file("y"), file("plain"));
}

#[test]
fn a_prefix_of_all_names_is_dropped_and_the_report_says_so() {
    let folder = folder();
    let plain = report(folder.path(), "plain", "");
    assert_eq!(plain["weights_remarks"], serde_json::json!([]));
    for prefix in ["module.", "state_dict._orig_mod.model."] {
        let counter = Tensor::new("bn.num_batches_tracked", &[], vec![5i64]);
        let mut tensors: Vec<_> = lenet5().into_iter().chain([counter]).collect();
        tensors.iter_mut().for_each(|tensor| tensor.name = format!("{prefix}{}", tensor.name));
        write(folder.path(), "x", &tensors);
        let found = report(folder.path(), "x", "");
        assert_eq!(figures(&found), figures(&plain));
        let remark = format!("dropped the prefix {prefix} of the tensors' names");
        assert_eq!(found["weights_remarks"], serde_json::json!([remark]));
        let said = done_in(folder.path(), &format!("evaluate x {SHORT}"));
        assert!(said.out.contains(&format!("as they are\n{remark}\n20 images")), "{}", said.out);
    }
    for (names, to) in [("released", "module."), ("robustbench", "model.")] {
        write(folder.path(), "w", &wide_resnet());
        done_in(folder.path(), &format!("export w --names {names} --out named"));
        let mut tensors = TensorFile::read(&folder.path().join("named")).unwrap().tensors;
        tensors.iter_mut().for_each(|tensor| tensor.name = format!("{to}{}", tensor.name));
        write(folder.path(), "x", &tensors);
        let said = done_in(folder.path(), "export x --out again");
        assert!(said.out.contains(&format!("dropped the prefix {to} of")), "{}", said.out);
        let file = |name: &str| TensorFile::read(&folder.path().join(name)).expect("weights").tensors;
        assert_eq!(file("again"), file("w"));
    }
}

#[test]
fn a_part_of_a_sequential_is_read_when_it_is_said_what_is_done_with_images() {
    let folder = folder();
    let mut tensors = lenet5();
    tensors.iter_mut().for_each(|tensor| tensor.name = format!("module.1.{}", tensor.name));
    write(folder.path(), "x", &tensors);
    let parts = ["names begin with module.1.", "part 1 of a Sequential", "--normalization none, per-image or MEAN,STD"];
    refused_in(folder.path(), "export x --out y", &parts);
    done_in(folder.path(), "export x --out y --normalization none");
    done_in(folder.path(), "export y --out z");
}

#[test]
fn names_of_no_network_or_of_several_are_refused_with_near_names() {
    let folder = folder();
    let renamed = |prefix: &str, from: &str, to: &str| {
        let rename = |tensor: Tensor| Tensor { name: prefix.to_owned() + &tensor.name.replace(from, to), ..tensor };
        lenet5().into_iter().map(rename).collect::<Vec<_>>()
    };
    write(folder.path(), "x", &renamed("", "linear", "fc"));
    let parts = ["not a LeNet5: no tensor `linear1.weight` among its 8; near names: conv1.weight, fc1.weight, "];
    refused_in(folder.path(), "export x --out y", &parts);
    write(folder.path(), "x", &renamed("module.", "conv2.bias", "conv2.offset"));
    let parts = [
        "no tensor `conv2.bias`",
        "near names: conv1.bias, conv2.weight, conv2.offset",
        "(names without their prefix module.)",
    ];
    refused_in(folder.path(), "export x --out y", &parts);
    write(folder.path(), "x", &[renamed("model.", "", ""), renamed("ema.", "", "")].concat());
    let parts = ["expected the tensors of one network; found 2: model.*, ema.*", "--ignore-tensors"];
    refused_in(folder.path(), "export x --out y", &parts);
    done_in(folder.path(), "export x --ignore-tensors ema.* --out y");
}

#[test]
fn double_precision_is_rounded_and_said_and_other_types_are_refused() {
    let folder = folder();
    let double = |tensor: Tensor| {
        let values = f32s(std::slice::from_ref(&tensor), &tensor.name).into_iter().map(f64::from).collect();
        Tensor::new::<f64>(&*tensor.name, &tensor.shape, values)
    };
    let mut tensors: Vec<Tensor> = lenet5().into_iter().map(double).collect();
    write(folder.path(), "x", &tensors);
    let said = done_in(folder.path(), "export x --out y");
    assert!(said.out.contains("x: rounded 8 tensors from double to single precision\n"), "{}", said.out);
    let file = |name: &str| TensorFile::read(&folder.path().join(name)).expect("weights").tensors;
    assert_eq!(file("y"), file("plain"));
    let at = tensors.iter().position(|tensor| tensor.name == "conv1.bias").expect("a bias");
    tensors[at] = Tensor::new("conv1.bias", &[4], vec![0.0, 0.0, 1e300, 0.0]);
    write(folder.path(), "x", &tensors);
    let parts = ["error: x: conv1.bias: expected numbers within single precision; found 1e300 at element 2"];
    refused_in(folder.path(), "export x --out y", &parts);
    tensors[at] = Tensor::new("conv1.bias", &[4], vec![0i64; 4]);
    write(folder.path(), "x", &tensors);
    refused_in(folder.path(), "export x --out y", &["tensor `conv1.bias`: expected F32 [4], found I64 [4]"]);
}

#[test]
fn a_negative_variance_is_refused_with_tensor_and_element() {
    let folder = folder();
    let mut tensors = wide_resnet();
    change(&mut tensors, "1.bn1.running_var", |i, value| if i == 5 { -1.0 } else { value });
    write(folder.path(), "x", &tensors);
    let parts = ["x: 1.bn1.running_var: expected variances, which are not negative; found -1 at element 5"];
    refused_in(folder.path(), "export x --out y", &parts);
}

/// The network trained behind (x - 0.25) / 0.5 is the one whose first convolution has these folded in: weight / 0.5 and
/// bias - weight 0.25 / 0.5.
#[test]
fn a_normalization_by_flag_equals_one_folded_into_the_weights() {
    let folder = folder();
    let mut folded = lenet5();
    let weight = f32s(&folded, "conv1.weight");
    change(&mut folded, "conv1.weight", |_, w| w / 0.5);
    change(&mut folded, "conv1.bias", |i, b| b - weight[i] * 0.25 / 0.5);
    write(folder.path(), "folded", &folded);
    let flags = "--eps 0.05 --test-size 200 --nb-iter 3";
    let line = |file: &str, more: &str| {
        let line = format!("evaluate {file} --quiet --attack pgd --nb-restart 1 {flags} --json report.json {more}");
        let said = done_in(folder.path(), &line);
        let report: Value = serde_json::from_slice(&fs::read(folder.path().join("report.json")).unwrap()).unwrap();
        (said.out, report)
    };
    let (_, expected) = line("folded", "");
    let (said, found) = line("plain", "--normalization 0.25,0.5");
    assert_eq!(figures(&found), figures(&expected));
    assert!(said.contains("parameters; normalizes pixels x in [0, 1] to (x - 0.25) / 0.5\n"), "{said}");
    assert_eq!(found["normalization"], "0.25,0.5");
    let (said, plain) = line("plain", "");
    assert!(said.contains("parameters; takes pixels in [0, 1] as they are\n"), "{said}");
    assert_eq!(plain["normalization"], "none");
    assert_ne!(found["request"], plain["request"]);
    let (said, _) = line("plain", "--normalization per-image");
    assert!(said.contains("parameters; standardizes each image\n"), "{said}");
    let refusals = [
        ("0.5,0", "one value each such as 0.1307,0.3081"),
        ("0.5:0.5:0.5,1", "--normalization: expected one value: the network's images have 1 channel"),
    ];
    for (value, part) in refusals {
        refused_in(folder.path(), &format!("evaluate plain {SHORT} --normalization {value}"), &[part]);
    }
}

#[test]
fn an_exported_normalization_is_found_again_by_every_command() {
    let folder = folder();
    done_in(folder.path(), "export plain --normalization 0.25,0.5 --out n");
    let found = report(folder.path(), "n", "");
    assert_eq!(found["normalization"], "0.25,0.5");
    assert_eq!(figures(&found), figures(&report(folder.path(), "plain", "--normalization 0.25,0.5")));
    let other = report(folder.path(), "n", "--normalization none");
    assert_eq!(other["normalization"], "none");
    assert_eq!(other["weights_remarks"], serde_json::json!(["--normalization none instead of the file's 0.25,0.5"]));
    let said = done_in(folder.path(), "export n --out m");
    assert!(said.out.contains("normalizes pixels"), "{}", said.out);
    assert_eq!(TensorFile::read(&folder.path().join("m")).unwrap().metadata["normalization"], "0.25,0.5");
    let line = "transfer n plain --quiet --test-size 20 --attack pgd --nb-iter 1 --eps 0.1 --json t.json";
    let said = done_in(folder.path(), line);
    assert!(said.out.contains("(1) n: LeNet5") && said.out.contains("(x - 0.25) / 0.5\n(2) plain: "), "{}", said.out);
    let transfer: Value = serde_json::from_slice(&fs::read(folder.path().join("t.json")).unwrap()).unwrap();
    assert_eq!(transfer["normalizations"], serde_json::json!(["0.25,0.5", "none"]));
    let metadata = BTreeMap::from([("normalization".to_owned(), "half".to_owned())]);
    write_tensors(&folder.path().join("x"), &lenet5(), &metadata).unwrap();
    refused_in(folder.path(), "export x --out y", &["x: metadata `normalization`: expected per-image", "found half"]);
}

#[test]
fn logits_that_are_no_numbers_fail_the_command_and_name_the_layer() {
    let folder = folder();
    let mut tensors = lenet5();
    change(&mut tensors, "conv2.weight", |_, value| value * 1e38);
    change(&mut tensors, "linear1.weight", |_, value| value * 1e38);
    write(folder.path(), "x", &tensors);
    let said = maxmargin_in(folder.path(), &format!("evaluate x {SHORT} --json report.json"));
    assert_eq!(said.code, Some(1), "{said:?}");
    let part = "warning: non-finite-output: logits are NaN or infinite for 20 of 20 clean images; the first layer with \
                such a value is linear1";
    assert!(said.out.contains(part), "{}", said.out);
    assert!(folder.path().join("report.json").exists(), "the report has the warning");
    let line = "transfer x plain --quiet --test-size 20 --attack pgd --nb-iter 1 --eps 0.1";
    let said = maxmargin_in(folder.path(), line);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("warning: non-finite-output: ") && said.out.contains(" (x)\n"), "{}", said.out);
}

#[test]
fn one_prediction_for_every_image_raises_a_warning_that_names_the_layer() {
    let folder = folder();
    let mut tensors = lenet5();
    change(&mut tensors, "conv2.bias", |_, _| -1e6);
    write(folder.path(), "x", &tensors);
    let found = report(folder.path(), "x", "");
    let warning = found["warnings"][0].as_str().expect("a warning");
    assert!(warning.starts_with("constant-prediction: class "), "{warning}");
    let part = " is predicted for every one of 20 images; the first layer with equal values for images of several \
                classes is conv2";
    assert!(warning.ends_with(part), "{warning}");
    let mut tensors = lenet5();
    change(&mut tensors, "linear2.bias", |i, value| if i == 7 { 1e3 } else { value });
    write(folder.path(), "x", &tensors);
    let warnings = report(folder.path(), "x", "")["warnings"].to_string();
    let part = "constant-prediction: class 7 is predicted for every one of 20 images; its logit is always the largest";
    assert!(warnings.contains(part), "{warnings}");
}
