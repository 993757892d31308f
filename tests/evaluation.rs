//! Evaluation of a checkpoint: robust examples, passes, interruption, saved images, warnings, transfer.

#[path = "support/failing.rs"]
mod failing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use maxmargin::attack::StepLength;
use maxmargin::catalog::DatasetKind;
use maxmargin::config::{Config, TestAttacked, preset};
use maxmargin::data::{self, Dataset};
use maxmargin::device::{Device, cpu::Cpu};
use maxmargin::evaluate::report::EvaluationReport;
use maxmargin::evaluate::transfer::TransferRequest;
use maxmargin::evaluate::verified::BatchRun;
use maxmargin::evaluate::{
    AttackName, AttackSettings, EvaluationRequest, Examples, OutputPaths, Split, VerifiedAttack, attacks,
};
use maxmargin::model::ModelInPrecision;
use maxmargin::model::state_dict::{WeightsOptions, load_model};
use maxmargin::record::{OutputFile, Tensor, TensorFile, write_tensors};
use maxmargin::tape::{Loss, Memory, Precision};

use failing::FailingDevice;
use serde_json::Value;

/// Number of images.
const IMAGES: usize = 40;

/// Folder with the weights of a small LeNet5, trained for a second: correct on some images, and not robust.
fn trained() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let train = || {
        let folder = tempfile::tempdir().expect("a folder");
        let flags = "train --savepath run --quiet --width 0.125 --nb-iter 1 --lr 0.01 --steps 40 --train-size 2000 \
                     --val-size 20 --test-size 20 --device cpu";
        let mut program = Command::new(env!("CARGO_BIN_EXE_maxmargin"));
        let status = program.args(flags.split_whitespace()).current_dir(&folder).status();
        assert!(status.expect("the program runs").success());
        folder
    };
    FOLDER.get_or_init(train).path()
}

fn config() -> Config {
    preset("quick").expect("a preset").config
}

fn request(attacks: &[AttackName], eps: &[f64], nb_iter: u32) -> EvaluationRequest {
    EvaluationRequest {
        weights_options: WeightsOptions::default(),
        weights: trained().join("run/best.safetensors"),
        config: config(),
        trained: None,
        split: Split::Test,
        size: Some(IMAGES),
        data: PathBuf::from("data"),
        protocol: None,
        attacks: attacks.to_vec(),
        settings: AttackSettings {
            nb_iter: Some(nb_iter),
            nb_restart: 4,
            step: StepLength::EpsOver(4.0),
            loss: Loss::Slm,
            nb_sample: 64,
            seed: 3,
        },
        eps: eps.to_vec(),
        margins: false,
        batch_size: 16,
        quiet: true,
    }
}

/// Report without durations.
fn timeless(report: &EvaluationReport) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.remove("seconds");
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(report).expect("JSON");
    strip(&mut value);
    value
}

fn images() -> Dataset {
    let splits = data::load(config().dataset, Path::new("data"), config().val_size).expect("the bundled digits");
    splits.test.take(IMAGES)
}

/// True for each example that an attack of the request finds an adversarial image for at `eps`. Each run of each attack
/// is given all examples that are correct without an attack, in batches of `batch_size`.
fn found_without_skipping(eps: f32, batch_size: usize, request: &EvaluationRequest) -> Vec<bool> {
    let loaded = load_model(&request.weights).expect("weights");
    let (mut model, dataset) = (loaded.model, images());
    let mut memory = Memory::default();
    model.declare(&mut memory);
    let examples = Examples::new(&mut memory, &*model, "images", IMAGES, batch_size);
    let attacks = attacks::record(
        &mut memory,
        &ModelInPrecision::single_precision(&*model),
        &examples,
        &request.attacks,
        &request.config,
        &request.settings,
    )
    .expect("ten classes");
    let norm = request.config.norm;
    let attacks: Vec<_> =
        attacks.into_iter().map(|one| VerifiedAttack::new(&mut memory, &*model, &examples, norm, one.attack)).collect();
    let mut cpu = Cpu::new();
    let device: &mut dyn Device = &mut cpu;
    let programs: Vec<_> = attacks.iter().flat_map(VerifiedAttack::programs).chain(examples.programs()).collect();
    device.allocate(&memory, &programs).expect("memory");
    model.load(device, &loaded.state).expect("the CPU");
    examples.upload(device, &dataset).expect("the CPU");
    let correct = examples.correct(device).expect("the CPU");
    let given: Vec<u32> = (0..IMAGES as u32).filter(|&i| correct[i as usize]).collect();
    let mut found = vec![false; IMAGES];
    for attack in &attacks {
        for run in 0..attack.attack.runs {
            for index in given.chunks(batch_size) {
                let batch = BatchRun { index, eps, run, images: true };
                let results = attack.run(device, &examples, &batch, |_| ()).expect("the CPU").examples;
                for (&i, result) in index.iter().zip(results) {
                    found[i as usize] |= result.adversarial;
                    assert!(result.distance <= eps * (1.0 + 1e-6), "outside its ball: {} of {eps}", result.distance);
                    assert!(result.image.iter().all(|v| (0.0..=1.0).contains(v)), "outside the box");
                }
            }
        }
    }
    found
}

/// Least eps of each example at which an adversarial image was found.
fn least_eps(report: &EvaluationReport) -> Vec<Option<f64>> {
    report.image_results.iter().map(|result| result.found_eps).collect()
}

#[test]
fn attacking_the_robust_examples_alone_gives_the_result_of_attacking_all() {
    let eps = [0.02, 0.05, 0.1];
    let request = request(&[AttackName::Pgd], &eps, 5);
    let report = request.run(&mut Cpu::new(), &OutputPaths::default()).expect("an evaluation");
    let all: Vec<Vec<bool>> = eps.iter().map(|&eps| found_without_skipping(eps as f32, IMAGES, &request)).collect();
    for (i, found) in least_eps(&report).into_iter().enumerate().filter(|(_, found)| *found != Some(0.0)) {
        let least = (0..eps.len()).find(|&e| all[e][i]).map(|e| eps[e]);
        assert_eq!(found, least, "image {i}");
    }
    let robust: Vec<f64> = report.robust.iter().map(|robust| robust.accuracy).collect();
    assert!(report.clean_accuracy > robust[0] && robust[0] > robust[2], "the case shows nothing: {robust:?}");
    let stays = |e: usize| least_eps(&report).iter().filter(|found| found.is_none_or(|at| at > eps[e])).count();
    for (e, robust) in robust.iter().enumerate() {
        assert_eq!(*robust, 100.0 * stays(e) as f64 / IMAGES as f64);
    }
}

/// Adversarial examples leave the batch of a long attack; an example alone in its batch has the same result.
#[test]
fn an_example_s_result_depends_neither_on_its_batch_nor_on_the_examples_that_left_it() {
    let request = request(&[AttackName::PgdLoss], &[0.08], 130);
    let together = found_without_skipping(0.08, IMAGES, &request);
    assert_eq!(together, found_without_skipping(0.08, 1, &request));
    let found = together.iter().filter(|found| **found).count();
    assert!((1..IMAGES - 1).contains(&found), "{found} found: the case shows nothing");
}

#[test]
fn passes_are_those_of_the_examples_in_the_batch() {
    let request = request(&[AttackName::PgdLoss], &[0.05], 5);
    let report = request.run(&mut Cpu::new(), &OutputPaths::default()).expect("an evaluation");
    let statistics = &report.robust[0].attacks[0];
    assert_eq!((&*statistics.name, statistics.runs), ("pgd-slm", 4));
    let correct = (report.clean_accuracy * IMAGES as f64 / 100.0).round() as usize;
    assert_eq!(statistics.attacked, correct);
    // Five iterations and the verification, for the examples that are left at each of four runs.
    assert_eq!(statistics.passes.backward % 5, 0);
    let given = statistics.passes.backward / 5;
    assert_eq!(statistics.passes.forward, 6 * given);
    assert!((correct as u64..=4 * correct as u64).contains(&given));
    assert_eq!(report.forward_passes, statistics.passes.forward + IMAGES as u64, "and one clean pass");
}

#[test]
fn passes_of_the_margins_are_counted() {
    let plain = request(&[], &[], 1);
    let report = |request: &EvaluationRequest| request.run(&mut Cpu::new(), &OutputPaths::default()).expect("figures");
    let without = report(&plain);
    let n = IMAGES as u64;
    assert_eq!((without.forward_passes, without.backward_passes), (n, 0));
    let correct = (without.clean_accuracy * IMAGES as f64 / 100.0).round() as u64;
    let Config { nb_iter, num_search_steps, .. } = plain.config;
    for (test_attacked, attacked) in [(TestAttacked::All, n), (TestAttacked::Correct, correct)] {
        let mut request = EvaluationRequest { margins: true, ..plain.clone() };
        request.config.fidelity.test_attacked = test_attacked;
        let with = report(&request);
        assert_eq!(with.backward_passes, attacked * u64::from(nb_iter), "an iteration of PGD goes back once");
        let least = attacked * u64::from(nb_iter + num_search_steps);
        let found = with.forward_passes - 2 * n;
        assert!((least..=least + 2 * attacked).contains(&found), "{found}, not about {least}");
    }
}

#[test]
fn in_a_ball_of_radius_0_nothing_moves_and_nothing_is_found() {
    let request = request(&[AttackName::Pgd], &[0.0], 3);
    let report = request.run(&mut Cpu::new(), &OutputPaths::default()).expect("an evaluation");
    assert_eq!(report.robust[0].accuracy, report.clean_accuracy);
    assert!(report.robust[0].attacks.iter().all(|statistics| statistics.moved == 0 && statistics.found == 0));
    assert_eq!(report.warnings, Vec::<String>::new());
}

#[test]
fn an_evaluation_that_was_interrupted_anywhere_continues_to_the_same_result() {
    let mut request = request(&[AttackName::Pgd, AttackName::AnPgd], &[0.02, 0.06], 3);
    request.config.test_eps = 0.1;
    let whole = {
        let paths = OutputPaths { keep_images: true, ..OutputPaths::default() };
        let report = request.run(&mut Cpu::new(), &paths).expect("an evaluation");
        (timeless(&report), report.csv(), report.adversarial)
    };
    for first in [1, 2, 5, 11] {
        let folder = tempfile::tempdir().expect("a folder");
        let paths =
            OutputPaths { folder: Some(folder.path().into()), checkpoint_interval: Duration::ZERO, keep_images: true };
        // Interrupted again and again, each time a few batches later.
        let mut interruptions = 0;
        let report = loop {
            match request.run(&mut FailingDevice::after(first), &paths) {
                Ok(report) => break report,
                Err(error) => assert_eq!(error.to_string(), "stopped"),
            }
            interruptions += 1;
            assert!(interruptions < 200, "the evaluation does not continue");
        };
        assert!(interruptions > 0);
        let found = (timeless(&report), report.csv(), report.adversarial);
        assert!(found == whole, "interrupted after {first} schedules: {} and {}", found.0, whole.0);
    }
}

#[test]
fn a_request_does_not_continue_from_the_state_of_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let paths =
        OutputPaths { folder: Some(folder.path().into()), checkpoint_interval: Duration::ZERO, keep_images: false };
    let one = request(&[AttackName::Pgd], &[0.05], 3);
    one.run(&mut FailingDevice::after(3), &paths).expect_err("stopped");
    assert!(folder.path().join("unfinished.safetensors").is_file());
    let other = request(&[AttackName::Pgd], &[0.06], 3);
    let expected = other.run(&mut Cpu::new(), &OutputPaths::default()).expect("an evaluation");
    let found = other.run(&mut Cpu::new(), &paths).expect("an evaluation");
    assert_eq!(timeless(&found), timeless(&expected));
}

/// Writes the first test digits as MNIST's test files into a folder of data, from image `first` on.
fn as_mnist(folder: &Path, first: usize) {
    let splits = data::load(config().dataset, Path::new("data"), config().val_size).expect("the bundled digits");
    let digits = splits.test;
    let place = folder.join("mnist");
    std::fs::create_dir_all(&place).expect("a folder");
    let number = |n: usize| (n as u32).to_be_bytes();
    let pixels = &digits.images[first * 784..][..IMAGES * 784];
    let images = [&[0, 0, 8, 3][..], &number(IMAGES), &number(28), &number(28), pixels].concat();
    let labels = [&[0, 0, 8, 1][..], &number(IMAGES), &digits.labels[first..][..IMAGES]].concat();
    std::fs::write(place.join("t10k-images-idx3-ubyte"), images).expect("a file");
    std::fs::write(place.join("t10k-labels-idx1-ubyte"), labels).expect("a file");
}

#[test]
fn an_evaluation_does_not_continue_with_other_images_under_the_same_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let on = |name: &str, first: usize| {
        as_mnist(&folder.path().join(name), first);
        let mut request =
            EvaluationRequest { data: folder.path().join(name), ..request(&[AttackName::Pgd], &[0.05], 3) };
        request.config.dataset = DatasetKind::Mnist;
        request
    };
    let (one, other) = (on("one", 0), on("other", 100));
    let out = folder.path().join("out");
    std::fs::create_dir(&out).expect("a folder");
    let paths = OutputPaths { folder: Some(out), checkpoint_interval: Duration::ZERO, keep_images: false };
    one.run(&mut FailingDevice::after(3), &paths).expect_err("stopped");
    let expected = other.run(&mut Cpu::new(), &OutputPaths::default()).expect("an evaluation");
    let found = other.run(&mut Cpu::new(), &paths).expect("an evaluation");
    assert_eq!(timeless(&found), timeless(&expected));
    let first = one.run(&mut Cpu::new(), &OutputPaths::default()).expect("an evaluation");
    assert_ne!((first.request, first.images_sha256), (found.request, found.images_sha256));
}

#[test]
fn saved_images_are_as_the_report_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("adv.safetensors");
    let request = request(&[AttackName::Pgd], &[0.02, 0.1], 5);
    let paths = OutputPaths { keep_images: true, ..OutputPaths::default() };
    let report = request.run(&mut Cpu::new(), &paths).expect("an evaluation");
    let output = OutputFile::check("--save", &file, &[]).expect("a file that can be written");
    report.adversarial.as_ref().expect("images").write(&output).expect("a file");
    let file = TensorFile::read(&file).expect("a file");
    assert_eq!(file.metadata["weights_sha256"], report.weights_sha256);
    assert_eq!(file.metadata["images_sha256"], report.images_sha256);
    assert_eq!(file.metadata["request"], report.request);
    let (adversarial, eps) = (file.get::<f32>("adversarial", &[IMAGES, 28, 28, 1]), file.get::<f32>("eps", &[IMAGES]));
    let misclassified = file.get::<u8>("misclassified", &[IMAGES]).expect("a tensor");
    let predictions = file.get::<i64>("predictions", &[IMAGES]).expect("a tensor");
    for (row, (prediction, misclassified)) in report.image_results.iter().zip(predictions.iter().zip(misclassified)) {
        assert_eq!(*prediction != i64::from(row.label), *misclassified == 1, "{row:?}");
    }
    // PyTorch compares and indexes with integers of 64 bits.
    let labels = file.get::<i64>("labels", &[IMAGES]).expect("a tensor");
    assert!(labels.iter().zip(&images().labels).all(|(label, known)| *label == i64::from(*known)));
    assert_eq!(file.get::<i64>("index", &[IMAGES]).expect("a tensor"), (0..IMAGES as i64).collect::<Vec<_>>());
    let (found, dataset) = (least_eps(&report), images());
    for (i, (image, &eps)) in adversarial.expect("a tensor").chunks(784).zip(eps.expect("a tensor")).enumerate() {
        assert_eq!(f64::from(eps), found[i].map_or(f64::from(0.1f32), |eps| f64::from(eps as f32)), "image {i}");
        assert_eq!(misclassified[i] == 1, found[i].is_some());
        let original = dataset.images[i * 784..][..784].iter().map(|&byte| f32::from(byte) / 255.0);
        let largest = image.iter().zip(original).fold(0.0f32, |largest, (a, x)| largest.max((a - x).abs()));
        assert!(largest <= eps * (1.0 + 1e-6), "image {i}: {largest} of {eps}");
    }
}

#[test]
fn a_network_without_gradients_raises_a_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut tensors = TensorFile::read(&trained().join("run/best.safetensors")).expect("weights").tensors;
    for tensor in tensors.iter_mut().filter(|tensor| tensor.name == "linear2.weight") {
        *tensor = Tensor::new("linear2.weight", &tensor.shape.clone(), vec![0f32; tensor.shape.iter().product()]);
    }
    let weights = folder.path().join("w.safetensors");
    write_tensors(&weights, &tensors, &BTreeMap::new()).expect("a file");
    let request = EvaluationRequest { weights, ..request(&[AttackName::Pgd], &[0.1], 3) };
    let report = request.run(&mut Cpu::new(), &OutputPaths::default()).expect("an evaluation");
    assert!(report.clean_accuracy > 0.0 && report.robust[0].accuracy == report.clean_accuracy);
    let [constant, warning] = &report.warnings[..] else { panic!("{:?}", report.warnings) };
    assert!(constant.starts_with("constant-prediction: class ") && constant.ends_with(" is linear2"), "{constant}");
    assert!(warning.starts_with("zero-gradient: the gradient of the cross-entropy is zero for "), "{warning}");
}

#[test]
fn an_pgd_as_a_minimum_norm_attack_finds_distances_at_which_pgd_succeeds() {
    let mut request = request(&[AttackName::AnPgd], &[], 20);
    request.config.test_eps = 0.1;
    request.config.test_eps_iter = 0.02;
    request.config.nb_iter = 20;
    let report = request.run(&mut Cpu::new(), &OutputPaths::default()).expect("an evaluation");
    let [found] = &report.minimum_norm[..] else { panic!("one attack") };
    assert!(found.found > IMAGES / 4, "{} found", found.found);
    let [lower, median, upper] = found.quartiles.expect("some were found");
    assert!(lower < median && median < upper);
    for row in report.image_results.iter().filter(|row| row.margin.is_some()) {
        assert!((0.0..=request.config.max_eps()).contains(&row.margin.unwrap()), "{row:?}");
    }
}

/// Files of a network and of the same with another bias: two similar networks.
fn two_networks() -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().expect("a folder");
    let trained = TensorFile::read(&trained().join("run/best.safetensors")).expect("weights").tensors;
    let mut other = trained.clone();
    for tensor in other.iter_mut().filter(|tensor| tensor.name == "conv2.bias") {
        let shape = tensor.shape.clone();
        *tensor = Tensor::new("conv2.bias", &shape, vec![0.1f32; shape.iter().product()]);
    }
    let files = [("a", trained), ("b", other)].map(|(name, tensors)| {
        let file = folder.path().join(name);
        write_tensors(&file, &tensors, &BTreeMap::new()).expect("a file");
        file
    });
    (folder, files.to_vec())
}

#[test]
fn images_made_on_a_network_are_classified_by_every_network() {
    let (_folder, weights) = two_networks();
    let eps = 0.06;
    let request = request(&[AttackName::Pgd], &[eps], 5);
    let transfer = TransferRequest {
        weights: weights.clone(),
        weights_options: WeightsOptions::default(),
        config: request.config.clone(),
        size: request.size,
        data: request.data.clone(),
        attacks: request.attacks.clone(),
        settings: request.settings.clone(),
        eps,
        batch_size: 16,
        quiet: true,
    };
    let found = transfer.run(&mut Cpu::new()).expect("a matrix");
    for (at, weights) in weights.into_iter().enumerate() {
        let own = EvaluationRequest { weights, ..request.clone() }
            .run(&mut Cpu::new(), &OutputPaths::default())
            .expect("figures");
        assert_eq!(found.clean[at], own.clean_accuracy);
        assert_eq!(
            found.accuracy[at][at], own.robust[0].accuracy,
            "on its own images a network is as robust as in an evaluation"
        );
        assert_eq!(found.weights_sha256[at], own.weights_sha256);
        assert_eq!(found.images_sha256, own.images_sha256);
        let strengths = own.robust[0].attacks.iter().map(|attack| attack.strength.clone().expect("it is known"));
        assert!(found.strengths.iter().map(|named| named.strength.clone()).eq(strengths));
        let other = 1 - at;
        assert!(
            found.accuracy[other][at] >= found.accuracy[at][at],
            "images made for another network mislead this one less"
        );
        assert!(found.accuracy[other][at] < found.clean[at], "the case shows nothing: {:?}", found.accuracy);
        let least = f64::min(found.accuracy[0][at], found.accuracy[1][at]);
        assert!(found.union[at] <= least, "the union misleads at least as often");
    }
    let table = found.table();
    assert!(table.contains("images made on (2)") && table.contains("images made on any"), "{table}");
}

/// The request with attacks in half precision.
fn in_half(request: &EvaluationRequest) -> EvaluationRequest {
    let mut half = request.clone();
    half.config.precision = Precision::Fp16;
    half
}

#[test]
fn attacks_in_half_precision_find_what_those_of_single_precision_find() {
    let attacks = [AttackName::Pgd, AttackName::ApgdT, AttackName::Square, AttackName::Fmn, AttackName::AnPgd];
    let single = EvaluationRequest { margins: true, ..request(&attacks, &[0.05, 0.1], 20) };
    let paths = OutputPaths { keep_images: true, ..OutputPaths::default() };
    // Every image that is kept is classified again by the network itself.
    let [one, other] =
        [single.clone(), in_half(&single)].map(|request| request.run(&mut Cpu::new(), &paths).expect("an evaluation"));
    assert_eq!((&*one.precision, &*other.precision), ("fp32", "fp16"));
    assert_ne!(one.request, other.request, "they are two evaluations");
    assert_eq!(one.clean_accuracy, other.clean_accuracy);
    assert!(other.table().contains("attacks in fp16, verdicts in fp32") && !one.table().contains("fp16"));
    for (one, other) in one.robust.iter().zip(&other.robust) {
        let of_an_image = 100.0 / IMAGES as f64;
        assert!((one.accuracy - other.accuracy).abs() <= of_an_image, "{} and {}", one.accuracy, other.accuracy);
    }
    for (one, other) in one.minimum_norm.iter().zip(&other.minimum_norm) {
        assert_eq!((one.found, one.attacked), (other.found, other.attacked), "{}", one.name);
        let [one, other] = [one.mean, other.mean].map(|mean| mean.expect("some are found"));
        // The bisection in the end shortens a distance by up to 1/32.
        assert!((0.96..1.005).contains(&(other / one)), "mean distances {one} and {other}");
    }
    let [one, other] = [one.mean_margin, other.mean_margin].map(|mean| mean.expect("margins"));
    assert!((one / other - 1.0).abs() < 0.01, "mean margins {one} and {other}");
}

#[test]
fn in_half_precision_too_an_example_s_result_does_not_depend_on_its_batch() {
    let half = in_half(&request(&[AttackName::ApgdCe, AttackName::Fmn], &[0.1], 12));
    let [one, other] = [16, 7].map(|batch_size| {
        let request = EvaluationRequest { batch_size, ..half.clone() };
        request.run(&mut Cpu::new(), &OutputPaths::default()).expect("an evaluation")
    });
    assert_eq!(one.image_results, other.image_results);
}

/// The first tensor that half precision cannot hold is named; single precision attacks the network.
#[test]
fn weights_beyond_half_precision_are_refused_by_name() {
    let file = TensorFile::read(&trained().join("run/best.safetensors")).expect("weights");
    let large = |name: &str, factor: f32| {
        let tensors: Vec<Tensor> = file
            .tensors
            .iter()
            .map(|tensor| {
                let values: &[f32] = file.get(&tensor.name, &tensor.shape).expect("single precision");
                let factor = if tensor.name == name { factor } else { 1.0 };
                Tensor::new(
                    &*tensor.name,
                    &tensor.shape,
                    values.iter().map(|value| value * factor).collect::<Vec<f32>>(),
                )
            })
            .collect();
        let folder = tempfile::tempdir().expect("a folder");
        let weights = folder.path().join("large.safetensors");
        write_tensors(&weights, &tensors, &BTreeMap::new()).expect("a file");
        (folder, EvaluationRequest { weights, ..request(&[AttackName::Pgd], &[0.1], 1) })
    };
    let (_folder, request) = large("conv2.weight", 1e6);
    let message = in_half(&request).run(&mut Cpu::new(), &OutputPaths::default()).unwrap_err().to_string();
    assert!(message.contains("--precision fp16: conv2.weight: expected weights of at most 65504"), "{message}");
    assert!(request.run(&mut Cpu::new(), &OutputPaths::default()).is_ok());
    // The first layer and the last are single precision.
    let (_folder, request) = large("linear2.weight", 1e6);
    assert!(in_half(&request).run(&mut Cpu::new(), &OutputPaths::default()).is_ok());
}
