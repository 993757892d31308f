//! Runs of a wide ResNet on CIFAR10: checkpoints with batch norm's running statistics, and reproducibility.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use maxmargin::config::preset;
use maxmargin::data::{Dataset, Provenance, Splits};
use maxmargin::device::{Device, Snapshot};
use maxmargin::record::run::{BEST, LAST};
use maxmargin::record::{RunFolder, write_tensors};
use maxmargin::tape::{Buffer, Memory, Program};
use maxmargin::{Error, Result, train};
use tempfile::TempDir;

use crate::resume::{Moment, killed_ends_like_an_uninterrupted_run};
use crate::{PROGRAM, assert_same, changed, cifar10, done, go_on, metrics, refused, temporary, tensors};

/// Flags of a run of a second: 7 steps, 3 an epoch, of which the last has 10 examples instead of 25.
const TINY: &str = "--preset cifar10-quick --depth 10 --width 1 --augment true --nb-iter 2 --num-search-steps 2 \
                    --train-size 60 --val-size 12 --test-size 10 --training-batch-size 25 --max-num-training-steps 7 \
                    --checkpoint-interval 2 --disp-interval 2 --learning-rate-schedule 0.05 --attack-mineps 0.02 \
                    --fidelity released --clean-loss-coeff 0.3333";

/// Temporary folder with images, for runs.
struct DataFolder(TempDir);

impl DataFolder {
    fn new() -> DataFolder {
        let folder = temporary();
        cifar10::write(folder.path());
        DataFolder(folder)
    }

    fn run(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Command of a new run in `run`: `train --quiet` with [`TINY`] and `changes`.
    fn begin(&self, run: &Path, changes: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["train", "--quiet", "--savepath"]).arg(run).args(changed(TINY, changes));
        command.arg("--data").arg(self.0.path());
        command
    }

    fn go_on(&self, run: &Path, flags: &str) -> Command {
        let mut command = go_on(run, flags);
        command.arg("--data").arg(self.0.path());
        command
    }
}

#[test]
fn a_run_writes_weights_and_running_statistics() {
    let place = DataFolder::new();
    let run = place.run("run");
    done(&mut place.begin(&run, ""));
    let (best, last) = (tensors(&run, BEST), tensors(&run, LAST));
    // 10-1: stem, three blocks of two batch norms and two convolutions, two shortcuts, batch norm, linear layer.
    let (parameters, statistics) = (1 + 3 * 6 + 2 + 2 + 2, 7 * 2);
    assert_eq!(best.tensors.len(), parameters + statistics);
    assert_eq!(last.tensors.len(), 2 * parameters + statistics + 2, "with momentum, margins and the sums of metrics");
    for (name, shape) in [
        ("1.conv1.weight", &[16, 3, 3, 3][..]),
        ("1.convgroup2.layer.0.conv_shortcut.weight", &[32, 16, 1, 1]),
        ("1.convgroup3.layer.0.bn2.running_var", &[64]),
        ("1.bn1.running_mean", &[64]),
        ("1.fc.weight", &[10, 64]),
    ] {
        best.get::<f32>(name, shape).unwrap();
        let now = last.get::<f32>(&format!("weights.{name}"), shape).unwrap();
        assert!(now.iter().any(|&value| value != now[0]), "{name} was trained");
    }
    last.get::<f32>("sgd.momentum.1.bn1.weight", &[64]).unwrap();
    assert_eq!(metrics(&run)[0]["robust_attack"], "PGD-40, eps 8/255, 2 starts (xent, cw)");
}

#[test]
fn the_running_statistics_depend_on_the_mode_of_the_search() {
    let place = DataFolder::new();
    let runs = ["train", "eval"].map(|mode| {
        let run = place.run(mode);
        done(&mut place.begin(&run, &format!("--search-mode {mode}")));
        tensors(&run, LAST).get::<f32>("weights.1.bn1.running_mean", &[64]).unwrap().to_vec()
    });
    assert_ne!(runs[0], runs[1]);
}

#[test]
fn augmentation_and_seed_change_what_is_seen() {
    let place = DataFolder::new();
    let weights = |name: &str, changes: &str| {
        let run = place.run(name);
        done(&mut place.begin(&run, &format!("--max-num-training-steps 1 {changes}")));
        tensors(&run, LAST).get::<f32>("weights.1.conv1.weight", &[16, 3, 3, 3]).unwrap().to_vec()
    };
    let [plain, augmented] = ["false", "true"].map(|on| weights(on, &format!("--augment {on}")));
    assert_ne!(plain, augmented);
    assert_eq!(weights("again", ""), augmented);
}

#[test]
fn a_killed_run_ends_like_an_uninterrupted_run() {
    let place = DataFolder::new();
    for changes in ["--checkpoint-interval 1", "--checkpoint-interval 1 --fidelity paper --clean-loss-coeff 0"] {
        let kills = killed_ends_like_an_uninterrupted_run(
            (&|run| place.begin(run, changes), &|run| place.go_on(run, "")),
            changes,
            [1, 2, 3, 4, 6].into_iter().map(Moment::Checkpoint),
        );
        assert!(kills >= 3, "{changes}: only {kills} kills");
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let place = DataFolder::new();
    let runs = ["1", "2", "3"].map(|threads| {
        let run = place.run(threads);
        done(place.begin(&run, "").args(["--threads", threads]));
        run
    });
    assert_same(&runs[1], &runs[0], "on two threads");
    assert_same(&runs[2], &runs[0], "on three threads");
}

#[test]
fn infinite_running_statistics_are_refused() {
    let place = DataFolder::new();
    let run = place.run("run");
    done(&mut place.begin(&run, ""));
    for name in [LAST, BEST] {
        let good = fs::read(run.join(name)).unwrap();
        let prefix = if name == LAST { "weights." } else { "" };
        let mut file = tensors(&run, name);
        let broken = format!("{prefix}1.bn1.running_var");
        let tensor = file.tensors.iter_mut().find(|tensor| tensor.name == broken).expect("a running variance");
        *tensor = maxmargin::record::Tensor::new(broken.clone(), &[64], vec![f32::INFINITY; 64]);
        write_tensors(&run.join(name), &file.tensors, &file.metadata).unwrap();
        let found =
            if name == LAST { "element 0: expected a finite number, found inf" } else { "found inf at element 0" };
        let parts = [name, &broken, found];
        refused(&mut place.go_on(&run, "--max-num-training-steps 9"), &parts);
        fs::write(run.join(name), good).unwrap();
    }
}

#[test]
fn training_that_diverges_stops_and_its_last_checkpoint_is_whole() {
    let place = DataFolder::new();
    let run = place.run("run");
    let mut command = place.begin(&run, "--learning-rate-schedule 1e30 --max-num-training-steps 6");
    refused(&mut command, &["training diverged by step ", "last.safetensors"]);
    assert!(tensors(&run, LAST).meta::<u32>("step").unwrap() < 6);
}

#[test]
fn a_damaged_data_file_is_refused_with_its_byte_before_a_run_is_created() {
    let place = DataFolder::new();
    let batch = place.0.path().join("cifar-10-batches-bin/data_batch_3.bin");
    let mut bytes = fs::read(&batch).unwrap();
    bytes[5 * 3073] = 11;
    fs::write(&batch, bytes).unwrap();
    let run = place.run("run");
    let parts = ["data_batch_3.bin: byte 15365: label 11 of image 5, 0 to 9 expected"];
    refused(&mut place.begin(&run, ""), &parts);
    assert!(!run.exists());
}

/// A device that counts the memory that is requested, and then fails.
struct Planned(Cell<usize>);

impl Device for Planned {
    fn describe(&self) -> String {
        "a plan".into()
    }

    fn allocate(&mut self, memory: &Memory, programs: &[&Program]) -> Result<usize> {
        self.0.set(memory.bytes() + programs.iter().map(|program| program.workspace).max().unwrap_or(0));
        Err(Error::device("planned"))
    }

    fn write_bytes(&mut self, _: &Buffer, _: &[u8]) -> Result<()> {
        unreachable!("nothing is allocated")
    }

    fn read_bytes(&self, _: &Buffer, _: &mut [u8]) -> Result<()> {
        unreachable!("nothing is allocated")
    }

    fn snapshot(&mut self, _: &Buffer) -> Result<Box<dyn Snapshot>> {
        unreachable!("nothing is allocated")
    }

    fn execute(&mut self, _: &Program) -> Result<()> {
        unreachable!("nothing is allocated")
    }
}

#[test]
fn the_published_run_takes_less_than_three_gigabytes() {
    let config = preset("cifar10-linf").expect("a preset").config;
    let images = |n: usize| Dataset {
        name: "black".into(),
        images: vec![0; n * 3072],
        labels: vec![0; n],
        height: 32,
        width: 32,
        channels: 3,
        provenance: Provenance::Other,
    };
    let splits =
        Splits { train: images(45_000), validation: images(5_000), test: images(10_000), source: "black".into() };
    let folder = temporary();
    let run = RunFolder::create(folder.path()).expect("a folder");
    let mut device = Planned(Cell::new(0));
    let began = std::time::Instant::now();
    train::run(&config, &splits, &run, &mut device, false, true).expect_err("it only plans");
    let gigabytes = device.0.get() as f64 / 1e9;
    assert!((1.0..3.0).contains(&gigabytes), "{gigabytes:.2} GB");
    assert!(began.elapsed().as_secs_f64() < 10.0, "to plan took {:?}", began.elapsed());
}
