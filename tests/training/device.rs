//! Training on a device that answers late or fails during a run. A run writes the same files as on the CPU, and a run
//! whose device failed is resumed from its last checkpoint.

use std::cell::Cell;
use std::path::Path;

use maxmargin::catalog::DatasetKind;
use maxmargin::config::{Config, preset};
use maxmargin::data::{self, Splits};
use maxmargin::device::cpu::Cpu;
use maxmargin::device::{Device, Schedule, Snapshot};
use maxmargin::error::Signal;
use maxmargin::record::RunFolder;
use maxmargin::record::run::LAST;
use maxmargin::tape::{Buffer, Memory, Program};
use maxmargin::train::run;
use maxmargin::{Error, Result};

use crate::{assert_same, begin, done, metrics, temporary, tensors};

/// A CPU device with late snapshots that fails at some step.
struct Unreliable {
    cpu: Cpu,
    /// Number of times that a snapshot reports that it has not arrived.
    late: u32,
    /// Number of steps before the one that fails.
    steps_left: u32,
    /// Number of batches of measurements before a signal asks to stop.
    measured_left: u32,
}

impl Unreliable {
    fn new(late: u32, steps: u32) -> Unreliable {
        Unreliable { cpu: Cpu::new(), late, steps_left: steps, measured_left: u32::MAX }
    }
}

struct Late(Box<dyn Snapshot>, Cell<u32>);

impl Snapshot for Late {
    fn ready(&self) -> Result<bool> {
        let left = self.1.get();
        self.1.set(left.saturating_sub(1));
        Ok(left == 0)
    }

    fn bytes(self: Box<Self>) -> Result<Vec<u8>> {
        self.0.bytes()
    }
}

impl Device for Unreliable {
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
        Ok(Box::new(Late(self.cpu.snapshot(buffer)?, Cell::new(self.late))))
    }

    fn execute(&mut self, program: &Program) -> Result<()> {
        self.cpu.execute(program)
    }

    fn replay(&mut self, schedule: &Schedule) -> Result<()> {
        if schedule.programs().any(|program| program.name == "update") {
            let left = self.steps_left.checked_sub(1);
            self.steps_left = left.ok_or_else(|| Error::device("CUDA: kernel conv_pool failed"))?;
        }
        self.cpu.replay(schedule)
    }

    fn replay_observed(&mut self, schedule: &Schedule, before: &mut dyn FnMut(u32) -> Result<()>) -> Result<()> {
        let left = self.measured_left.checked_sub(1);
        self.measured_left = left.ok_or(Error::Interrupted(Signal::Terminate))?;
        self.cpu.replay_observed(schedule, before)
    }
}

/// Settings and data of [`crate::SMALL`].
fn small() -> (Config, Splits) {
    let config = Config {
        width: 0.125,
        nb_iter: 2,
        train_size: Some(230),
        val_size: 50,
        test_size: Some(50),
        training_batch_size: 50,
        max_num_training_steps: 12,
        checkpoint_interval: 3,
        disp_interval: 2,
        learning_rate_schedule: vec![(0, 0.01)],
        ..preset("quick").expect("a preset").config
    };
    let splits = data::load(DatasetKind::Digits, Path::new("."), config.val_size).expect("the digits");
    let splits = splits.cut(config.train_size, config.test_size);
    (config, splits)
}

/// Starts a run in `path` on `device`, or resumes it.
fn train(path: &Path, device: &mut Unreliable, change: impl Fn(&mut Config)) -> Result<()> {
    let (mut config, splits) = small();
    change(&mut config);
    let resume = path.exists();
    let folder = if resume { RunFolder::open(path)? } else { RunFolder::create(path)? };
    run(&config, &splits, &folder, device, resume, true).map(drop)
}

#[test]
fn late_snapshots_give_the_same_lines_in_the_same_order() {
    let folder = temporary();
    let whole = folder.path().join("whole");
    done(&mut begin(&whole, ""));
    for late in [0, 1, 2, 3, u32::MAX] {
        let path = folder.path().join(format!("late {late}"));
        train(&path, &mut Unreliable::new(late, u32::MAX), |_| ()).unwrap();
        assert_same(&path, &whole, &format!("{late} polls late"));
    }
}

#[test]
fn a_divergence_is_found_before_a_checkpoint_however_late_the_losses_arrive() {
    let folder = temporary();
    for late in [0, u32::MAX] {
        let path = folder.path().join(late.to_string());
        let diverging = |config: &mut Config| {
            config.learning_rate_schedule = vec![(0, 0.01), (3, 1e30)];
            config.disp_interval = 1;
        };
        let error = train(&path, &mut Unreliable::new(late, u32::MAX), diverging).unwrap_err().to_string();
        assert!(error.starts_with("training diverged by step 5: clean loss "), "{late}: {error}");
        assert_eq!(tensors(&path, LAST).meta::<u32>("step").unwrap(), 3);
    }
}

#[test]
fn a_run_whose_device_fails_names_its_last_checkpoint_and_resumes_from_it() {
    let folder = temporary();
    let whole = folder.path().join("whole");
    done(&mut begin(&whole, ""));
    // Checkpoints are written every 3 steps, and at the end of an epoch, 5 steps.
    for (steps, saved, late) in [(0, 0, 0), (2, 0, 9), (3, 3, 0), (7, 6, 9), (11, 10, 0)] {
        let path = folder.path().join(format!("fails after {steps}"));
        let error = train(&path, &mut Unreliable::new(late, steps), |_| ()).unwrap_err();
        assert!(matches!(error, Error::Device(_)), "{error:?}");
        let message = format!(
            "CUDA: kernel conv_pool failed\nthe checkpoint of step {saved} is whole; `maxmargin train --resume {}` \
             goes on from it",
            path.display()
        );
        assert_eq!(error.to_string(), message);
        assert_eq!(tensors(&path, LAST).meta::<u32>("step").unwrap(), saved);
        assert!(metrics(&path).iter().all(|line| line["step"].as_u64().unwrap() <= u64::from(steps)));
        train(&path, &mut Unreliable::new(late, u32::MAX), |_| ()).unwrap();
        assert_same(&path, &whole, &format!("failed after {steps} steps"));
    }
}

#[test]
fn a_run_that_is_stopped_in_each_of_its_measurements_ends_like_an_uninterrupted_run() {
    let folder = temporary();
    let whole = folder.path().join("whole");
    done(&mut begin(&whole, ""));
    let path = folder.path().join("stopped");
    let mut validations_due = 0;
    // Each process measures one batch more than the one before, so that each kind of measurement is stopped.
    for batches in 0.. {
        let mut device = Unreliable { measured_left: batches, ..Unreliable::new(0, u32::MAX) };
        match train(&path, &mut device, |_| ()) {
            Ok(()) => break,
            Err(error) => assert!(matches!(error, Error::Interrupted(_)), "{error}"),
        }
        validations_due += u32::from(tensors(&path, LAST).metadata.contains_key("validation_due"));
    }
    assert!(validations_due >= 2, "{validations_due}: after steps 5 and 10");
    assert_same(&path, &whole, "stopped in measurements");
}
