//! How fast a device is: every op of a training step on its real shapes, attacks' own steps on a large batch, the whole
//! step; each beside what the device was measured to do at most, in the same run.
//!
//! - [`workload`](self): what is timed
//! - [`table`](Report): the result in words
//!
//! All timing is in this file. What is computed is not looked at here: the tests do that.

mod table;
mod workload;

use std::sync::Arc;

use serde::Serialize;

use crate::Result;
use crate::device::cuda::TYPICAL_MULTIPROCESSORS;
use crate::device::cuda::launch::{Cost, Total};
use crate::device::{Device, Schedule, cuda};
use crate::tape::{Memory, Program};
use workload::{AttackSteps, Copies, Products, Step};

/// Seconds that one measurement takes at least: short work is repeated so often.
const LEAST_SECONDS: f64 = 5e-3;
/// Repetitions of short work at most: a GPU is given all of them at once.
const MOST_RUNS: u32 = 512;
/// Seconds of the largest matrix product at most: after one that takes longer, larger ones are not tried.
const PRODUCT_SECONDS: f64 = 0.1;

/// What is timed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The published settings of the step.
    pub preset: String,
    /// LeNet5's width, where it is not the preset's.
    pub width: Option<f64>,
    /// Examples a step, where they are not the preset's.
    pub batch_size: Option<usize>,
    /// Bytes of each tensor of the attack's step and of the copy, in millions.
    pub megabytes: usize,
    /// The largest matrix product tried: a power of two.
    pub product: usize,
    /// Measurements of each item, of which the median is taken.
    pub rounds: usize,
    /// Of the items, only those whose name has this in it.
    pub only: Option<String>,
}

/// One thing that was timed.
#[derive(Clone, Debug, Serialize)]
pub struct Item {
    /// `attack`, `op`, `program` or `step`.
    pub group: &'static str,
    /// The op's or program's name.
    pub name: String,
    /// Its operands' shapes.
    pub shape: String,
    /// The kernels that a GPU runs for it.
    pub kernels: Vec<&'static str>,
    /// How many launches they are.
    pub launches: u64,
    /// How often a training step runs it; 0 where no step does at this size.
    pub times_a_step: u32,
    /// Median seconds of a run.
    pub median_s: f64,
    /// Least seconds of a run.
    pub least_s: f64,
    /// Bytes that it moves, each operand once.
    pub bytes: u64,
    /// Floating-point operations.
    pub flops: u64,
    /// Its bytes a second, as a share of the copy's.
    pub of_copy: f64,
    /// Its operations a second, as a share of the matrix product's.
    pub of_product: f64,
}

/// What the device was measured to do at most.
#[derive(Clone, Debug, Serialize)]
pub struct Peaks {
    /// Bytes a second, read and written, of a copy of [`Settings::megabytes`].
    pub copy_bytes_per_s: f64,
    /// Floating-point operations a second of the fastest matrix product.
    pub product_flops_per_s: f64,
    /// Rows, columns and depth of that product.
    pub product_size: usize,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The device, in words.
    pub device: String,
    /// The network and the batch.
    pub model: String,
    /// Measurements of each item.
    pub rounds: usize,
    /// Bytes of each tensor of the attack's step and of the copy, in millions.
    pub megabytes: usize,
    /// On how many copies of its program's values an op runs in turn.
    pub copies: usize,
    /// What all are compared with.
    pub peaks: Peaks,
    /// Everything that was timed.
    pub items: Vec<Item>,
}

/// Times everything on a device that has no memory yet. `said` is told each item before it is timed.
///
/// # Errors
/// There is no such preset, or the device failed or has too little memory.
pub fn run(device: &mut dyn Device, settings: &Settings, mut said: impl FnMut(&str)) -> Result<Report> {
    let mut memory = Memory::default();
    let attack = AttackSteps::new(&mut memory, settings.megabytes);
    let products = Products::new(&mut memory, settings.product);
    let step = Step::new(&mut memory, settings)?;
    let copies = Copies::new(&mut memory, &step);
    let own = attack.programs().chain(products.programs()).chain(step.training.schedule.programs());
    device.allocate(&memory, &own.chain(copies.programs()).collect::<Vec<_>>())?;
    attack.fill(device)?;
    products.fill(device)?;
    step.fill(device)?;

    let mut clock = Clock { device, rounds: settings.rounds };
    said("copy and matrix products");
    let peaks = peaks(&mut clock, &attack, &products)?;
    let wanted = |name: &str| settings.only.as_ref().is_none_or(|part| name.contains(part));
    let mut items = Vec::new();
    for program in attack.steps().iter().filter(|program| wanted(&program.name)) {
        said(&program.name);
        let time = clock.time(&[program])?;
        items.push(Item::of_op("attack", &program.name, program, time, &peaks));
    }
    // Every buffer gets what it holds in a step.
    clock.device.replay(&step.training.schedule)?;
    for op in copies.ops.iter().filter(|op| wanted(op.name)) {
        said(op.name);
        for before in &op.before {
            clock.device.execute(before)?;
        }
        let time = clock.time(&op.alone.iter().collect::<Vec<_>>())?;
        let item = Item::of_op("op", op.name, &op.alone[0], time, &peaks);
        items.push(Item { times_a_step: op.times_a_step, ..item });
    }
    for (program, times) in step.training.schedule.stages.iter().filter(|(program, _)| wanted(&program.name)) {
        said(&program.name);
        let time = clock.time(&[program])?;
        let item = Item::new("program", &program.name, Total::of(program, TYPICAL_MULTIPROCESSORS), time, &peaks);
        items.push(Item { times_a_step: *times, ..item });
    }
    if wanted(&step.name) {
        said(&step.name);
        let time = clock.measure(&step.training.schedule, 1)?;
        let item = Item::new(
            "step",
            &step.name,
            Total::of_schedule(&step.training.schedule, TYPICAL_MULTIPROCESSORS),
            time,
            &peaks,
        );
        items.push(Item { times_a_step: 1, ..item });
    }
    step.check(clock.device)?;
    let Settings { rounds, megabytes, .. } = *settings;
    let (device, model, copies) = (clock.device.describe(), step.describe(), copies.count);
    Ok(Report { device, model, rounds, megabytes, copies, peaks, items })
}

/// The copy, and the fastest of matrix products of growing size.
fn peaks(clock: &mut Clock, attack: &AttackSteps, products: &Products) -> Result<Peaks> {
    let copy = attack.copy();
    let copy_bytes_per_s = Total::of(copy, TYPICAL_MULTIPROCESSORS).cost.bytes as f64 / clock.time(&[copy])?.median;
    let mut best = (0.0, 0);
    for (size, program) in &products.by_size {
        let seconds = clock.time(&[program])?.median;
        let rate = 2.0 * (*size as f64).powi(3) / seconds;
        if rate > best.0 {
            best = (rate, *size);
        }
        if seconds > PRODUCT_SECONDS {
            break;
        }
    }
    Ok(Peaks { copy_bytes_per_s, product_flops_per_s: best.0, product_size: best.1 })
}

/// Median and least seconds of a run.
#[derive(Clone, Copy, Debug)]
struct Time {
    median: f64,
    least: f64,
}

/// The one place that times.
struct Clock<'a> {
    device: &'a mut dyn Device,
    rounds: usize,
}

impl Clock<'_> {
    /// A run of a program, of which there may be several copies on memory of their own: they take turns, so that
    /// large operands are not found in a cache.
    fn time(&mut self, copies: &[&Arc<Program>]) -> Result<Time> {
        let schedule = |runs: u32| {
            let mut schedule = Schedule::default();
            (0..runs as usize).for_each(|run| schedule.then(copies[run % copies.len()], 1));
            schedule
        };
        let once = schedule(copies.len() as u32);
        self.device.replay(&once)?;
        let seconds = self.device.time(&once)? / copies.len() as f64;
        let runs = (LEAST_SECONDS / seconds.max(1e-9)).ceil().clamp(1.0, f64::from(MOST_RUNS)) as u32;
        // Whole turns: every copy as often as the others.
        let runs = runs.next_multiple_of(copies.len() as u32);
        self.measure(&schedule(runs), runs)
    }

    /// Times a schedule that is `runs` runs.
    fn measure(&mut self, schedule: &Schedule, runs: u32) -> Result<Time> {
        self.device.replay(schedule)?;
        let mut seconds = Vec::with_capacity(self.rounds);
        for _ in 0..self.rounds {
            seconds.push(self.device.time(schedule)? / f64::from(runs));
        }
        seconds.sort_by(f64::total_cmp);
        Ok(Time { median: seconds[self.rounds / 2], least: seconds[0] })
    }
}

impl Item {
    /// Of launches that are `total` together.
    fn new(group: &'static str, name: &str, total: Total, time: Time, peaks: &Peaks) -> Item {
        let Total { launches, cost: Cost { bytes, flops } } = total;
        Item {
            group,
            name: name.to_owned(),
            shape: String::new(),
            kernels: Vec::new(),
            launches,
            times_a_step: 0,
            median_s: time.median,
            least_s: time.least,
            bytes,
            flops,
            of_copy: bytes as f64 / time.median / peaks.copy_bytes_per_s,
            of_product: flops as f64 / time.median / peaks.product_flops_per_s,
        }
    }

    /// Of a program that is a single op.
    fn of_op(group: &'static str, name: &str, program: &Program, time: Time, peaks: &Peaks) -> Item {
        let launches = cuda::launches(program, &program.nodes[0], TYPICAL_MULTIPROCESSORS);
        let kernels = launches.iter().map(|launch| launch.kernel).collect();
        Item {
            shape: workload::shape(program),
            kernels,
            ..Item::new(group, name, Total::of(program, TYPICAL_MULTIPROCESSORS), time, peaks)
        }
    }
}
