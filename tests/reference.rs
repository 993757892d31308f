//! Every reference case is reproduced on every device.
//!
//! The cases are the files in `tests/reference`, or in the folder that `MAXMARGIN_REFERENCE` names. The largest error
//! of each case, and the number of examples that are left because single precision cannot decide them, are printed by
//! `cargo test --release --test reference -- --nocapture`.

mod reference_cases;
mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use maxmargin::device::{Device, cpu::Cpu};
use reference_cases::{Comparison, ReferenceCase, attack, measurement, replay};
use support::devices;

/// The project's own cases. Cargo names the project's folder; `scripts/gpu-check` names that of a copy.
fn own_folder() -> PathBuf {
    let project = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&project).join("tests/reference")
}

/// Reads the cases of a folder, sorted by name.
///
/// # Errors
/// The folder cannot be read, or has no case with outputs.
fn cases(folder: &Path) -> Result<Vec<ReferenceCase>, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder can be listed").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
    paths.sort();
    let found: Vec<ReferenceCase> = paths.iter().map(|path| ReferenceCase::read(path)).collect();
    let with_outputs = found.iter().filter(|case| !case.has("family", "weights")).count();
    if with_outputs == 0 { Err(format!("{}: no reference case", folder.display())) } else { Ok(found) }
}

/// Failures of a case on the CPU, for the tests of the suite itself.
fn failures(case: &ReferenceCase) -> Vec<String> {
    failures_on(case, Box::new(Cpu::new()))
}

/// Failures of a case on a device that has allocated no memory yet.
fn failures_on(case: &ReferenceCase, mut device: Box<dyn Device>) -> Vec<String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| replay(case, &mut *device)));
    let label = format!("{} on {}", case.name, device.describe());
    match outcome {
        Ok(None) => Vec::new(),
        Ok(Some(checks)) => {
            let worst = checks.iter().max_by(|a, b| a.share().total_cmp(&b.share())).expect("a case has outputs");
            println!("{label}: {worst}; {} unstable examples left", case.unstable());
            let failed = checks.iter().filter(|c| !c.passes()).map(|c: &Comparison| format!("{label}: {c}"));
            let unread = case.unread();
            let forgotten = (!unread.is_empty()).then(|| format!("{label}: never compared: {unread:?}"));
            failed.chain(forgotten).collect()
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
            vec![format!("{label}: {text}")]
        }
    }
}

#[test]
fn every_case_of_the_folder_is_reproduced() {
    let folder = std::env::var_os("MAXMARGIN_REFERENCE").map_or_else(own_folder, PathBuf::from);
    let cases = cases(&folder).unwrap();
    let unstable: usize = cases.iter().map(ReferenceCase::unstable).sum();
    println!("{}: {unstable} examples are left, which single precision cannot decide", folder.display());
    let on_every_device = |(i, case): (usize, &ReferenceCase)| {
        let mut test_devices = devices();
        // The fake driver is slow: where it has two forms of the CUDA device, the cases alternate between them.
        if test_devices.len() == 3 {
            test_devices.remove(1 + i % 2);
        }
        test_devices
            .into_iter()
            .flat_map(|test_device| failures_on(case, test_device.open_for_replays()))
            .collect::<Vec<_>>()
    };
    let failures: Vec<String> = cases.iter().enumerate().flat_map(on_every_device).collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Every example is held, whether or not single precision can decide it: one that strays must have a tie of ReLU.
#[test]
fn attacks_on_a_wide_resnet_from_other_random_starts_are_those_of_double_precision() {
    for (name, starts) in [("pgd-wide_resnet-l2-cw-7", 404..405), ("pgd-wide_resnet-l2-slm-10", 406..408)] {
        for start in starts {
            let mut case = own_case(name);
            case.metadata.insert("noise".into(), format!("hash:{start}"));
            case.tensors.get_mut("stable").unwrap().values.fill(1.0);
            case.tensors.get_mut("adversarial").unwrap().values = attack::in_double_precision(&case);
            assert_eq!(failures(&case), [""; 0], "from the start hash:{start}");
        }
    }
}

/// A tie is proved for PGD's example. Form `train` stores the boundary point, from which that example follows.
#[test]
fn the_example_of_pgd_behind_each_boundary_point_is_that_of_double_precision() {
    for name in ["an_pgd-wide_resnet-l2-eval", "an_pgd-wide_resnet-linf-eval"] {
        let case = own_case(name);
        let comparison = attack::SearchReplay::new(&case).pgd_in_double_precision(&case);
        assert!(comparison.passes(), "{name}: {comparison}");
    }
}

#[test]
fn margins_that_select_checkpoints_are_those_of_an_pgd_in_its_test_form() {
    let in_test_form = |name: &String| own_case(name).has("form", "test");
    let names: Vec<String> = own_cases("an_pgd").into_iter().filter(in_test_form).collect();
    assert_eq!(names.len(), 4);
    for name in names {
        let comparison = measurement::compare(&own_case(&name));
        assert!(comparison.passes(), "{name}: {comparison}");
    }
}

// ---- Tests of the suite itself, on its own cases: a replay must be able to fail.

fn own_case(name: &str) -> ReferenceCase {
    ReferenceCase::read(&own_folder().join(format!("{name}.safetensors")))
}

/// Names of the own cases of a family.
fn own_cases(family: &str) -> Vec<String> {
    let cases = cases(&own_folder()).unwrap().into_iter();
    cases.filter(|case| case.has("family", family)).map(|case| case.name).collect()
}

#[test]
fn a_folder_without_cases_is_refused() {
    let empty = tempfile::tempdir().unwrap();
    assert!(cases(empty.path()).unwrap_err().contains("no reference case"));
    assert!(cases(&empty.path().join("missing")).is_err());
    let weights = "weights-lenet5.safetensors";
    std::fs::copy(own_folder().join(weights), empty.path().join(weights)).unwrap();
    assert!(cases(empty.path()).unwrap_err().contains("no reference case"));
}

#[test]
fn an_unknown_family_or_model_fails() {
    for (key, message) in [("family", "family \"other\" is not known"), ("model", "model \"other\" is not known")] {
        let mut case = own_case("pgd-lenet5-linf-xent-1");
        case.metadata.insert(key.into(), "other".into());
        assert!(failures(&case)[0].contains(message), "{key}");
    }
}

#[test]
fn a_tensor_that_nothing_compares_fails() {
    let mut case = own_case("loss");
    let tensor = case.tensors["lm.value"].clone();
    case.tensors.insert("lm.other".into(), tensor);
    assert!(failures(&case)[0].ends_with("never compared: [\"lm.other\"]"));
}

#[test]
fn a_stored_number_that_is_a_hundredth_off_fails() {
    let altered = [
        ("loss", "xent.value"),
        ("loss", "cw.grad"),
        ("model-lenet5-small", "logits"),
        ("model-lenet5-small", "input_grad"),
        ("model-lenet5-small", "grad.conv2.weight"),
        ("model-lenet5-full", "grad_digest.linear1.weight"),
        ("pgd-lenet5-l2-cw-7", "adversarial"),
        ("pgd-lenet5-linf-xent-1", "adversarial"),
        ("an_pgd-lenet5-l2-eval", "adversarial"),
        ("an_pgd-lenet5-linf-test", "eps"),
        ("mma-lenet5-l2-omma", "step0.right"),
        ("mma-lenet5-l2-omma", "step1.eps"),
        ("mma-lenet5-l2-omma", "step1.logits"),
        ("mma-lenet5-l2-omma", "step0.clean_loss"),
        ("mma-lenet5-l2-omma", "step1.mma_loss"),
        ("mma-lenet5-linf-omma", "after.conv1.weight"),
        ("model-wrn-small-eval", "input_grad"),
        ("model-wrn-small-eval", "grad.1.convgroup2.layer.0.conv_shortcut.weight"),
        ("model-wrn-small-train", "grad.1.bn1.weight"),
        ("model-wrn-small-train", "after.1.bn1.running_var"),
        ("pgd-wide_resnet-linf-slm-10", "adversarial"),
        ("pgd-wide_resnet-l2-cw-7", "adversarial"),
        ("an_pgd-wide_resnet-l2-eval", "eps"),
        ("an_pgd-wide_resnet-linf-train", "after.1.bn1.running_mean"),
        ("mma-wide_resnet-linf-omma", "step0.right"),
        ("mma-wide_resnet-linf-omma", "step0.clean_loss"),
        ("mma-wide_resnet-linf-omma", "step0.logits"),
        ("augment", "out"),
        ("standardize", "out"),
        ("standardize", "input_grad"),
    ];
    for (name, tensor) in altered {
        let mut case = own_case(name);
        case.tensors.get_mut(tensor).unwrap().values.iter_mut().for_each(|v| *v *= 1.01);
        let found = failures(&case);
        let named = found.iter().all(|failure| failure.contains(tensor));
        assert!(!found.is_empty() && named, "{name} with {tensor} changed: {found:?}");
    }
}

/// Changes number `i` of a case's tensor.
fn change(case: &mut ReferenceCase, tensor: &str, i: usize, change: impl Fn(f64) -> f64) {
    let value = &mut case.tensors.get_mut(tensor).unwrap().values[i];
    *value = change(*value);
}

/// Examples that a case's tensor marks with `mark`.
fn marked(case: &ReferenceCase, tensor: &str, mark: f64) -> Vec<usize> {
    let marks = &case.tensors[tensor].values;
    (0..marks.len()).filter(|&i| marks[i] == mark).collect()
}

/// Length of a step of the bisection.
fn search_step(case: &ReferenceCase) -> f64 {
    let max_eps = case.metadata.get("max_eps").map(|text| text.parse().unwrap());
    let max_eps: f64 = max_eps.unwrap_or_else(|| 1.05 * case.number::<f64>("hinge_max_eps"));
    max_eps * 0.5f64.powi(case.number("search_steps"))
}

/// Asserts that the failures of `case` name each of `parts`.
fn assert_found(case: &ReferenceCase, parts: &[&str]) {
    let found = failures(case);
    for part in parts {
        assert!(found.iter().any(|failure| failure.contains(part)), "{}: {part} is not in {found:?}", case.name);
    }
}

#[test]
fn one_pixel_that_is_off_by_half_fails() {
    for name in own_cases("pgd") {
        let mut case = own_case(&name);
        let stable = marked(&case, "stable", 1.0);
        let row = case.tensors["adversarial"].values.len() / case.tensors["adversarial"].shape[0];
        let centre = stable[stable.len() / 2] * row + row / 2;
        change(&mut case, "adversarial", centre, |pixel| if pixel < 0.5 { pixel + 0.5 } else { pixel - 0.5 });
        assert_found(&case, &["adversarial (furthest pixel)"]);
    }
}

#[test]
fn one_margin_that_is_off_by_a_hundred_steps_and_one_pixel_off_by_half_fail_after_a_search() {
    for name in own_cases("an_pgd") {
        let mut case = own_case(&name);
        let stable = marked(&case, "stable", 1.0);
        let step = search_step(&case);
        change(&mut case, "eps", stable[1], |eps| eps + 100.0 * step);
        let row = case.tensors["adversarial"].values.len() / case.tensors["adversarial"].shape[0];
        change(&mut case, "adversarial", stable[2] * row + row / 2, |pixel| pixel + 0.5);
        assert_found(&case, &["adversarial (furthest pixel)", "eps (in search steps)"]);
    }
}

#[test]
fn one_margin_of_a_training_step_and_one_of_a_misclassified_example_that_are_off_fail() {
    for name in own_cases("mma") {
        let mut case = own_case(&name);
        let step = search_step(&case);
        let mut parts = Vec::new();
        for k in 0..case.number("train_steps") {
            let (eps, right) = (format!("step{k}.eps"), format!("step{k}.right"));
            let stable = if k == 0 { marked(&case, "step0.stable", 1.0) } else { (0..12).collect() };
            let one = marked(&case, &right, 1.0).into_iter().find(|i| stable.contains(i)).unwrap();
            change(&mut case, &eps, one, |eps| eps + 100.0 * step);
            parts.push(format!("{eps} (in search steps)"));
            if let Some(&wrong) = marked(&case, &right, 0.0).first() {
                change(&mut case, &eps, wrong, |_| 2.0 * step);
                parts.push(format!("{eps}, misclassified"));
            }
        }
        assert_found(&case, &parts.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn all_margins_of_a_later_step_being_off_fails() {
    let mut case = own_case("mma-wide_resnet-l2-omma");
    let step = search_step(&case);
    for i in marked(&case, "step1.right", 1.0) {
        change(&mut case, "step1.eps", i, |eps| eps + 20.0 * step);
    }
    assert_found(&case, &["step1.eps (examples)"]);
}

#[test]
fn weights_that_are_off_in_fewer_than_half_of_the_tensors_fail() {
    let mut case = own_case("mma-wide_resnet-linf-omma");
    let names: Vec<String> = case.tensors.keys().filter(|name| name.starts_with("after.")).cloned().collect();
    let before = own_case("weights-wide_resnet").tensors;
    let mut changed = Vec::new();
    // Fewer than half, which the median does not see: some changed a tenth as far, some the other way.
    for (i, name) in names.iter().enumerate().filter(|(i, _)| i % 20 < 9) {
        let from = &before[&name["after.".len()..]].values;
        let factor = if i % 2 == 0 { 0.1 } else { -1.0 };
        let to = &mut case.tensors.get_mut(name).unwrap().values;
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from + factor * (*to - from));
        changed.push(format!("{name} (change)"));
    }
    assert_found(&case, &changed.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn the_doubled_gradient_of_one_example_fails() {
    for name in own_cases("model").iter().filter(|name| !name.contains("28")) {
        let mut case = own_case(name);
        let gradient = &mut case.tensors.get_mut("input_grad").unwrap();
        let row = gradient.values.len() / gradient.shape[0];
        let norm = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>();
        // The one that adds least to the norm of all.
        let least = gradient.values.chunks_mut(row).min_by(|a, b| norm(a).total_cmp(&norm(b)));
        least.unwrap().iter_mut().for_each(|v| *v *= 2.0);
        assert_found(&case, &["input_grad of example"]);
    }
}

#[test]
fn every_setting_of_a_case_is_followed() {
    let settings = [
        ("pgd-lenet5-linf-slm-10", vec![("steps", "9"), ("noise", "hash:311"), ("norm", "l2"), ("noise", "none")]),
        ("pgd-lenet5-l2-cw-7", vec![("loss", "slm"), ("steps", "8"), ("weights", "hash:7")]),
        ("an_pgd-lenet5-l2-eval", vec![("step_scale", "1"), ("search_steps", "9"), ("max_eps", "4"), ("steps", "2")]),
        ("an_pgd-lenet5-linf-test", vec![("pgd_eps", "0.2"), ("pgd_step", "0.1"), ("search_loss", "slm")]),
        (
            "mma-lenet5-linf-mma",
            vec![
                ("min_eps", "0.02"),
                ("hinge_max_eps", "0.3"),
                ("step_scale", "1"),
                ("attack_steps", "2"),
                ("search_steps", "9"),
                ("noise", "hash:370,hash:371,hash:373"),
                ("noise", "none"),
                ("clean_loss_coeff", "0"),
                ("lr", "0.0002"),
                ("lr_at", "{\"2\": 0.0002}"),
                ("weight_decay", "0.01"),
                ("optimizer", "sgd"),
            ],
        ),
        ("model-wrn-small-eval", vec![("mode", "train"), ("depth", "16"), ("widen", "2")]),
        ("model-wrn-small-train", vec![("mode", "eval"), ("weights", "hash:11")]),
        ("pgd-wide_resnet-l2-cw-7", vec![("loss", "xent"), ("steps", "8"), ("noise", "none")]),
        ("an_pgd-wide_resnet-linf-train", vec![("search_mode", "eval")]),
        ("an_pgd-wide_resnet-linf-eval", vec![("search_mode", "train")]),
        ("mma-wide_resnet-l2-omma", vec![("lr", "0.015"), ("momentum", "0"), ("clean_loss_coeff", "0.5")]),
        ("augment", vec![("pad", "3"), ("mode", "zeros")]),
        ("standardize", vec![("cotangent", "hash:9")]),
    ];
    for (name, changes) in settings {
        for (key, value) in changes {
            let mut case = own_case(name);
            assert!(case.metadata.insert(key.into(), value.into()).is_some(), "{name} has {key}");
            assert!(!failures(&case).is_empty(), "{name} with {key} = {value}");
        }
    }
}

/// Keeps the first `n` rows of the tensors whose names pass.
fn shorten(case: &mut ReferenceCase, n: usize, pass: impl Fn(&str) -> bool) {
    for (_, tensor) in case.tensors.iter_mut().filter(|(name, _)| pass(name)) {
        let row = tensor.values.len() / tensor.shape[0];
        tensor.values.truncate(n * row);
        tensor.shape[0] = n;
    }
}

#[test]
fn batches_of_other_sizes_are_reproduced() {
    let lenet5 = ["loss", "pgd-lenet5-l2-slm-10", "an_pgd-lenet5-linf-eval", "an_pgd-lenet5-l2-test"];
    let wide = ["pgd-wide_resnet-l2-slm-10", "an_pgd-wide_resnet-linf-eval", "augment", "standardize"];
    for name in lenet5.into_iter().chain(wide) {
        let mut case = own_case(name);
        shorten(&mut case, 5, |_| true);
        assert_eq!(failures(&case), [""; 0]);
    }
    // A shorter last step changes the means of its losses and the weights after it, but not the examples' own outputs.
    let mut case = own_case("mma-lenet5-linf-omma");
    shorten(&mut case, 7, |name| name.starts_with("step1.") && !name.ends_with("loss"));
    let found = failures(&case);
    let expected = |text: &String| text.contains("step1.clean_loss") || text.contains("step1.mma_loss");
    assert!(found.len() >= 2 && found.iter().all(|f| expected(f) || f.contains("after.")), "{found:?}");
}

/// Two steps of SGD on the clean loss of a `model` case's batch, the first at learning rate 0: the weights after them
/// follow from the stored gradient.
#[test]
fn sgd_follows_momentum_weight_decay_and_the_rates_of_its_steps() {
    let (rate, momentum, decay) = (0.5, 0.75, 0.125);
    let mut case = own_case("model-lenet5-small");
    let weights = own_case("weights-lenet5");
    let template = own_case("mma-lenet5-linf-mma");
    let mut metadata = template.metadata.clone();
    metadata.extend(
        [
            ("optimizer", "sgd".to_string()),
            ("train_steps", "2".into()),
            ("noise", "none".into()),
            ("clean_loss_coeff", "1".into()),
            ("lr", "0".into()),
            ("lr_at", format!("{{\"1\": {rate}}}")),
            ("momentum", momentum.to_string()),
            ("weight_decay", decay.to_string()),
        ]
        .map(|(key, value)| (key.to_string(), value)),
    );
    let n = case.tensors["labels"].shape[0];
    let mut tensors = BTreeMap::new();
    for k in 0..2 {
        for part in ["right", "eps", "clean_loss", "mma_loss", "logits", "index", "labels", "images"] {
            // Labels, images and logits are the model case's; the other tensors are placeholders and not checked.
            let mut tensor = case.tensors.get(part).unwrap_or(&template.tensors[&format!("step0.{part}")]).clone();
            let row = tensor.values.len() / tensor.shape[0];
            tensor.shape[0] = tensor.shape[0].min(n);
            tensor.values.truncate(tensor.shape[0] * row);
            tensors.insert(format!("step{k}.{part}"), tensor);
        }
    }
    for (name, tensor) in &weights.tensors {
        let gradient = &case.tensors[&format!("grad.{name}")].values;
        let mut after = tensor.clone();
        for (w, g) in after.values.iter_mut().zip(gradient) {
            *w -= rate * (1.0 + momentum) * (g + decay * *w);
        }
        tensors.insert(format!("after.{name}"), after);
    }
    (case.metadata, case.tensors) = (metadata, tensors);
    let failed =
        |case: &ReferenceCase| failures(case).into_iter().filter(|f| f.contains("logits") || f.contains("after."));
    assert_eq!(failed(&case).collect::<Vec<_>>(), [""; 0]);
    for (key, value) in [("momentum", "0.5"), ("weight_decay", "0"), ("lr_at", "{\"0\": 0.5}"), ("lr", "0.5")] {
        let mut case = case.clone();
        case.metadata.insert(key.into(), value.into());
        assert!(failed(&case).count() > 0, "{key} = {value}");
    }
}
