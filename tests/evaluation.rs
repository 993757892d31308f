//! An evaluation of a checkpoint: what survives, what is counted, what is kept, what is told beside the figures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use maxmargin::attack::StepLength;
use maxmargin::config::{Config, preset};
use maxmargin::data::{self, Dataset};
use maxmargin::device::{Device, Schedule, Snapshot, cpu::Cpu};
use maxmargin::evaluate::passes::Passes;
use maxmargin::evaluate::report::EvaluationReport;
use maxmargin::evaluate::request::{EvaluationRequest, OutputPaths, Split};
use maxmargin::evaluate::transfer::TransferRequest;
use maxmargin::evaluate::{AttackName, AttackSettings, Examples, VerifiedAttack, attacks};
use maxmargin::model::state_dict::load_model;
use maxmargin::record::{Tensor, TensorFile, write_tensors};
use maxmargin::tape::{Buffer, Loss, Memory, Program};
use maxmargin::{Error, Result};
use serde_json::Value;

/// Images that are looked at.
const IMAGES: usize = 40;

/// A folder with a small LeNet5's weights, trained for a second: right on some images, and not robust.
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

fn question(attacks: &[AttackName], eps: &[f64], nb_iter: u32) -> EvaluationRequest {
    EvaluationRequest {
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

/// The record without how long it took.
fn timeless(evaluation: &EvaluationReport) -> Value {
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
    let mut value = serde_json::to_value(evaluation).expect("JSON");
    strip(&mut value);
    value
}

fn images() -> Dataset {
    let splits = data::load(config().dataset, Path::new("data"), config().val_size).expect("the bundled digits");
    splits.test.take(IMAGES)
}

/// By example: whether `attacks` break it at `eps`, each run of each on its own and on everything that is right without
/// an attack, in batches of `batch`.
fn attacked_everything(eps: f32, batch: usize, question: &EvaluationRequest) -> Vec<bool> {
    let loaded = load_model(&question.weights).expect("weights");
    let (mut model, dataset) = (loaded.model, images());
    let mut memory = Memory::default();
    model.declare(&mut memory);
    let examples = Examples::new(&mut memory, &*model, "images", IMAGES, batch);
    let attacks =
        attacks::record(&mut memory, &*model, &examples, &question.attacks, &question.config, &question.settings)
            .expect("ten classes");
    let norm = question.config.norm;
    let judged: Vec<_> =
        attacks.into_iter().map(|a| VerifiedAttack::new(&mut memory, &*model, &examples, norm, a)).collect();
    let mut cpu = Cpu::new();
    let device: &mut dyn Device = &mut cpu;
    let programs: Vec<_> = judged.iter().flat_map(VerifiedAttack::programs).chain(examples.programs()).collect();
    device.allocate(&memory, &programs).expect("memory");
    model.load(device, &loaded.state).expect("the CPU");
    examples.upload(device, &dataset).expect("the CPU");
    let right = examples.right(device).expect("the CPU");
    let given: Vec<u32> = (0..IMAGES as u32).filter(|&i| right[i as usize]).collect();
    let mut broken = vec![false; IMAGES];
    for judged in &judged {
        for run in 0..judged.attack.runs {
            for index in given.chunks(batch) {
                let mut passes = Passes::default();
                let found = judged.run(device, &examples, index, eps, run, true, &mut passes, |_| ()).expect("the CPU");
                for (&i, found) in index.iter().zip(found) {
                    broken[i as usize] |= found.broken;
                    assert!(found.length <= eps * (1.0 + 1e-6), "outside its ball: {} of {eps}", found.length);
                    assert!(found.image.iter().all(|v| (0.0..=1.0).contains(v)), "outside the box");
                }
            }
        }
    }
    broken
}

/// The first eps of each example at which it is broken.
fn first_broken(evaluation: &EvaluationReport) -> Vec<Option<f64>> {
    evaluation.rows.iter().map(|row| row.broken_eps).collect()
}

#[test]
fn attacking_what_survives_gives_what_attacking_everything_gives() {
    let eps = [0.02, 0.05, 0.1];
    let question = question(&[AttackName::Pgd], &eps, 5);
    let evaluation = question.run(&mut Cpu::new(), &OutputPaths::default()).expect("an evaluation");
    let everything: Vec<Vec<bool>> =
        eps.iter().map(|&eps| attacked_everything(eps as f32, IMAGES, &question)).collect();
    for (i, found) in first_broken(&evaluation).into_iter().enumerate().filter(|(_, found)| *found != Some(0.0)) {
        let first = (0..eps.len()).find(|&e| everything[e][i]).map(|e| eps[e]);
        assert_eq!(found, first, "image {i}");
    }
    let robust: Vec<f64> = evaluation.robust.iter().map(|robust| robust.accuracy).collect();
    assert!(evaluation.clean_accuracy > robust[0] && robust[0] > robust[2], "nothing to see: {robust:?}");
    let stays = |e: usize| first_broken(&evaluation).iter().filter(|found| found.is_none_or(|at| at > eps[e])).count();
    for (e, robust) in robust.iter().enumerate() {
        assert_eq!(*robust, 100.0 * stays(e) as f64 / IMAGES as f64);
    }
}

/// A long attack drops what is broken on the way; alone in its batch, an example has the same fate.
#[test]
fn an_example_s_fate_does_not_hang_on_its_batch_nor_on_who_left_it() {
    let question = question(&[AttackName::PgdLoss], &[0.08], 130);
    let together = attacked_everything(0.08, IMAGES, &question);
    assert_eq!(together, attacked_everything(0.08, 1, &question));
    let broken = together.iter().filter(|broken| **broken).count();
    assert!((1..IMAGES - 1).contains(&broken), "{broken} broken: nothing to see");
}

#[test]
fn passes_are_those_of_the_examples_that_were_in_the_batch() {
    let question = question(&[AttackName::PgdLoss], &[0.05], 5);
    let evaluation = question.run(&mut Cpu::new(), &OutputPaths::default()).expect("an evaluation");
    let tally = &evaluation.robust[0].attacks[0];
    assert_eq!((&*tally.name, tally.runs), ("pgd-slm", 4));
    let right = (evaluation.clean_accuracy * IMAGES as f64 / 100.0).round() as usize;
    assert_eq!(tally.attacked, right);
    // Five iterations and the judge's pass, for whoever is left at each of four runs.
    assert_eq!(tally.passes.backward % 5, 0);
    let given = tally.passes.backward / 5;
    assert_eq!(tally.passes.forward, 6 * given);
    assert!((right as u64..=4 * right as u64).contains(&given));
    assert_eq!(evaluation.passes.forward, tally.passes.forward + IMAGES as u64, "and one clean pass");
}

#[test]
fn without_a_ball_nothing_moves_and_nothing_is_broken() {
    let question = question(&[AttackName::Pgd], &[0.0], 3);
    let evaluation = question.run(&mut Cpu::new(), &OutputPaths::default()).expect("an evaluation");
    assert_eq!(evaluation.robust[0].accuracy, evaluation.clean_accuracy);
    assert!(evaluation.robust[0].attacks.iter().all(|tally| tally.moved == 0 && tally.broken == 0));
    assert_eq!(evaluation.suspicious, Vec::<String>::new());
}

/// A CPU that fails after so many schedules.
struct Failing {
    cpu: Cpu,
    left: usize,
}

impl Device for Failing {
    fn describe(&self) -> String {
        self.cpu.describe()
    }
    fn allocate(&mut self, memory: &Memory, programs: &[&Program]) -> Result<usize> {
        self.cpu.allocate(memory, programs)
    }
    fn write_bytes(&mut self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        self.cpu.write_bytes(buffer, bytes)
    }
    fn read_bytes(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        self.cpu.read_bytes(buffer, bytes)
    }
    fn snapshot(&mut self, buffer: &Buffer) -> Result<Box<dyn Snapshot>> {
        self.cpu.snapshot(buffer)
    }
    fn execute(&mut self, program: &Program) -> Result<()> {
        self.cpu.execute(program)
    }
    fn replay(&mut self, schedule: &Schedule) -> Result<()> {
        self.left = self.left.checked_sub(1).ok_or_else(|| Error::device("stopped"))?;
        self.cpu.replay(schedule)
    }
}

#[test]
fn an_evaluation_that_was_stopped_anywhere_goes_on_to_the_same_result() {
    let mut question = question(&[AttackName::Pgd, AttackName::AnPgd], &[0.02, 0.06], 3);
    question.config.test_eps = 0.1;
    let whole = {
        let folder = tempfile::tempdir().expect("a folder");
        let places = OutputPaths { save: Some(folder.path().join("adv.safetensors")), ..OutputPaths::default() };
        let evaluation = question.run(&mut Cpu::new(), &places).expect("an evaluation");
        (timeless(&evaluation), evaluation.csv(), std::fs::read(places.save.unwrap()).expect("a file"))
    };
    for first in [1, 2, 5, 11] {
        let folder = tempfile::tempdir().expect("a folder");
        let places = OutputPaths {
            folder: Some(folder.path().into()),
            keep_every: Duration::ZERO,
            save: Some(folder.path().join("adv.safetensors")),
        };
        // Stopped again and again, each time a few batches later.
        let mut stops = 0;
        let evaluation = loop {
            match question.run(&mut Failing { cpu: Cpu::new(), left: first }, &places) {
                Ok(evaluation) => break evaluation,
                Err(error) => assert_eq!(error.to_string(), "stopped"),
            }
            stops += 1;
            assert!(stops < 200, "it goes on where it was");
        };
        assert!(stops > 0);
        let found = (timeless(&evaluation), evaluation.csv(), std::fs::read(places.save.unwrap()).expect("a file"));
        assert!(found == whole, "stopped after {first} schedules: {} and {}", found.0, whole.0);
    }
}

#[test]
fn another_question_does_not_go_on_with_what_one_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let places = OutputPaths { folder: Some(folder.path().into()), keep_every: Duration::ZERO, save: None };
    let one = question(&[AttackName::Pgd], &[0.05], 3);
    one.run(&mut Failing { cpu: Cpu::new(), left: 3 }, &places).expect_err("stopped");
    assert!(folder.path().join("unfinished.safetensors").is_file());
    let other = question(&[AttackName::Pgd], &[0.06], 3);
    let expected = other.run(&mut Cpu::new(), &OutputPaths::default()).expect("an evaluation");
    let found = other.run(&mut Cpu::new(), &places).expect("an evaluation");
    assert_eq!(timeless(&found), timeless(&expected));
}

#[test]
fn saved_images_hold_what_the_record_says_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("adv.safetensors");
    let question = question(&[AttackName::Pgd], &[0.02, 0.1], 5);
    let places = OutputPaths { save: Some(file.clone()), ..OutputPaths::default() };
    let evaluation = question.run(&mut Cpu::new(), &places).expect("an evaluation");
    let file = TensorFile::read(&file).expect("a file");
    assert_eq!(file.metadata["weights_sha256"], evaluation.weights_sha256);
    let (adversarial, eps) = (file.get::<f32>("adversarial", &[IMAGES, 28, 28, 1]), file.get::<f32>("eps", &[IMAGES]));
    let misclassified = file.get::<u8>("misclassified", &[IMAGES]).expect("a tensor");
    let predictions = file.get::<u32>("predictions", &[IMAGES]).expect("a tensor");
    for (row, (prediction, misclassified)) in evaluation.rows.iter().zip(predictions.iter().zip(misclassified)) {
        assert_eq!(*prediction != u32::from(row.label), *misclassified == 1, "{row:?}");
    }
    let (clean, dataset) = (first_broken(&evaluation), images());
    for (i, (image, &eps)) in adversarial.expect("a tensor").chunks(784).zip(eps.expect("a tensor")).enumerate() {
        assert_eq!(f64::from(eps), clean[i].map_or(f64::from(0.1f32), |eps| f64::from(eps as f32)), "image {i}");
        assert_eq!(misclassified[i] == 1, clean[i].is_some());
        let original = dataset.images[i * 784..][..784].iter().map(|&byte| f32::from(byte) / 255.0);
        let most = image.iter().zip(original).fold(0.0f32, |most, (a, x)| most.max((a - x).abs()));
        assert!(most <= eps * (1.0 + 1e-6), "image {i}: {most} of {eps}");
    }
}

#[test]
fn a_network_without_gradients_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut tensors = TensorFile::read(&trained().join("run/best.safetensors")).expect("weights").tensors;
    for tensor in tensors.iter_mut().filter(|tensor| tensor.name == "linear2.weight") {
        *tensor = Tensor::new("linear2.weight", &tensor.shape.clone(), vec![0f32; tensor.shape.iter().product()]);
    }
    let weights = folder.path().join("w.safetensors");
    write_tensors(&weights, &tensors, &BTreeMap::new()).expect("a file");
    let question = EvaluationRequest { weights, ..question(&[AttackName::Pgd], &[0.1], 3) };
    let evaluation = question.run(&mut Cpu::new(), &OutputPaths::default()).expect("an evaluation");
    assert!(evaluation.clean_accuracy > 0.0 && evaluation.robust[0].accuracy == evaluation.clean_accuracy);
    let [odd] = &evaluation.suspicious[..] else { panic!("{:?}", evaluation.suspicious) };
    assert!(odd.starts_with("the cross-entropy's gradient is zero on "), "{odd}");
}

#[test]
fn an_pgd_as_a_minimum_norm_attack_finds_distances_at_which_pgd_succeeds() {
    let mut question = question(&[AttackName::AnPgd], &[], 20);
    question.config.test_eps = 0.1;
    question.config.test_eps_iter = 0.02;
    question.config.nb_iter = 20;
    let evaluation = question.run(&mut Cpu::new(), &OutputPaths::default()).expect("an evaluation");
    let [found] = &evaluation.minimum_norm[..] else { panic!("one attack") };
    assert!(found.found > IMAGES / 4, "{} found", found.found);
    assert!(found.quartiles[0] < found.quartiles[1] && found.quartiles[1] < found.quartiles[2]);
    for row in evaluation.rows.iter().filter(|row| row.margin.is_some()) {
        assert!((0.0..=question.config.max_eps()).contains(&row.margin.unwrap()), "{row:?}");
    }
}

/// A network and the same with its classes' last weights halved: a network that is not the same, and not unlike.
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
fn images_made_on_a_network_are_tried_on_every_network() {
    let (_folder, weights) = two_networks();
    let eps = 0.06;
    let asked = question(&[AttackName::Pgd], &[eps], 5);
    let transfer = TransferRequest {
        weights: weights.clone(),
        config: asked.config.clone(),
        size: asked.size,
        data: asked.data.clone(),
        attacks: asked.attacks.clone(),
        settings: asked.settings.clone(),
        eps,
        batch_size: 16,
        quiet: true,
    };
    let found = transfer.run(&mut Cpu::new()).expect("a matrix");
    for (at, weights) in weights.into_iter().enumerate() {
        let own = EvaluationRequest { weights, ..asked.clone() }
            .run(&mut Cpu::new(), &OutputPaths::default())
            .expect("figures");
        assert_eq!(found.clean[at], own.clean_accuracy);
        assert_eq!(found.accuracy[at][at], own.robust[0].accuracy, "on itself a network fares as in an evaluation");
        assert_eq!(found.weights_sha256[at], own.weights_sha256);
        let other = 1 - at;
        assert!(found.accuracy[other][at] >= found.accuracy[at][at], "made for another, it breaks fewer here");
        assert!(found.accuracy[other][at] < found.clean[at], "nothing to see: {:?}", found.accuracy);
        let least = f64::min(found.accuracy[0][at], found.accuracy[1][at]);
        assert!(found.union[at] <= least, "all together break at least as many");
    }
    let table = found.table();
    assert!(table.contains("images made on (2)") && table.contains("images made on any"), "{table}");
}
