//! Speed of a device: a training step, its programs, every op of it on its real shapes, and attacks' own steps on a
//! large batch; each beside the rates of a copy and of a matrix product on the same device.
//!
//! - [`workload`](self): programs that are timed
//! - [`rotation`](self): each op on operands that are in no cache
//! - [`ceilings`](Ceilings): rates that items are compared with
//! - [`summary`](KernelTime): the step's time by kernel
//! - [`table`](BenchReport): the report in words
//!
//! All timing is in this file. Results of what is timed are not looked at here: the tests do that.

mod ceilings;
mod rotation;
mod summary;
mod table;
mod workload;

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::Result;
use crate::device::cuda::TYPICAL_MULTIPROCESSORS;
use crate::device::cuda::launch::{Cost, TotalCost};
use crate::device::{Device, Schedule, cuda};
use crate::tape::{Memory, Program};
pub use ceilings::{Ceilings, Reference, References};
use rotation::{Rotation, StepOps};
pub use summary::{KernelTime, StepSummary};
use workload::{AttackSteps, BenchStep, Products};

/// Bytes that are touched between two uses of an op's operand, in millions: several times the L2 cache, which is 50 MB
/// on an H100 and 60 MB on an H200, because a cache does not drop the oldest line first.
pub const ROTATED_MEGABYTES: usize = 256;
/// Seconds that one measurement takes at least: short work is repeated so often.
const LEAST_SECONDS: f64 = 5e-3;
/// Repetitions of short work at most: a GPU is given all of them at once.
const MOST_RUNS: usize = 512;
/// Seconds of the largest matrix product at most: after one that takes longer, larger ones are not tried.
const PRODUCT_SECONDS: f64 = 0.1;

/// Settings of a bench.
#[derive(Clone, Debug)]
pub struct BenchSettings {
    /// Name of the published settings of the step.
    pub preset: String,
    /// LeNet5's width, where it is not the preset's.
    pub width: Option<f64>,
    /// Examples a step, where they are not the preset's.
    pub batch_size: Option<usize>,
    /// Bytes of each tensor of the attacks' steps and of the copy, in millions.
    pub megabytes: usize,
    /// Bytes that are touched between two uses of an op's operand, in millions: see [`ROTATED_MEGABYTES`].
    pub rotated_megabytes: usize,
    /// The largest matrix product tried: a power of two.
    pub product: usize,
    /// Measurements of each item, of which the median is taken.
    pub rounds: usize,
    /// Part of the names of the items that are timed; `None`: all items.
    pub only: Option<String>,
    /// Rates that items are compared with, instead of our own.
    pub ceilings: Option<Ceilings>,
    /// Seconds after which no further item is begun. Our own copy and products are timed in any case.
    pub budget_s: Option<f64>,
}

/// One thing that was timed.
#[derive(Clone, Debug, Serialize)]
pub struct BenchItem {
    /// `step`, `program`, `op` or `attack`.
    pub group: &'static str,
    /// Name of the op or program.
    pub name: String,
    /// Shapes of its operands.
    pub shape: String,
    /// Kernels that a GPU runs for it.
    pub kernels: Vec<&'static str>,
    /// Launches of these kernels.
    pub launches: u64,
    /// Runs of it in a training step; 0 where no step does it at this size.
    pub times_a_step: u32,
    /// Copies of its operands on which it ran in turn.
    pub copies: usize,
    /// Median seconds of a run.
    pub median_s: f64,
    /// Least seconds of a run.
    pub least_s: f64,
    /// `median_s` times `times_a_step`, as a share of the step's median; `None` where the step was not timed.
    pub share_of_step: Option<f64>,
    /// Bytes that it moves, each operand once.
    pub bytes: u64,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes a second, as a share of the reference copy's.
    pub of_copy: f64,
    /// Operations a second, as a share of the reference product's.
    pub of_product: f64,
}

/// An item that was not timed.
#[derive(Clone, Debug, Serialize)]
pub struct UntimedItem {
    /// See [`BenchItem::group`].
    pub group: &'static str,
    /// See [`BenchItem::name`].
    pub name: String,
    /// See [`BenchItem::shape`].
    pub shape: String,
}

/// Rates that our own kernels reached in this bench. They are no peaks of the device.
#[derive(Clone, Debug, Serialize)]
pub struct OwnRates {
    /// Bytes a second, read and written, of a copy of [`BenchSettings::megabytes`].
    pub copy_bytes_per_s: f64,
    /// Floating-point operations a second of the fastest matrix product.
    pub product_flops_per_s: f64,
    /// Rows, columns and depth of that product.
    pub product_size: usize,
}

/// Result of a bench, or of as much of it as was done.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// The device, in words.
    pub device: String,
    /// The network and the batch.
    pub model: String,
    /// Measurements of each item.
    pub rounds: usize,
    /// Bytes of each tensor of the attacks' steps and of the copy, in millions.
    pub megabytes: usize,
    /// Bytes that are touched between two uses of an op's operand, in millions.
    pub rotated_megabytes: usize,
    /// True once the bench is done, if every item was timed.
    pub complete: bool,
    /// Seconds after which no further item was begun.
    pub budget_s: Option<f64>,
    /// Rates of our own copy and product.
    pub own: OwnRates,
    /// Rates that all items are compared with.
    pub compared_with: References,
    /// The step beside the sum of its ops.
    pub step: StepSummary,
    /// The step's time by kernel, the longest first.
    pub kernels: Vec<KernelTime>,
    /// Items that were timed, in the order in which they were.
    pub items: Vec<BenchItem>,
    /// Items that were asked for and are not timed, in the order in which they would be.
    pub not_timed: Vec<UntimedItem>,
}

/// Follower of a bench.
pub trait BenchObserver {
    /// An item is about to be timed.
    fn begins(&mut self, name: &str);

    /// The report has a further item, or has become complete.
    ///
    /// # Errors
    /// The observer cannot go on, which ends the bench.
    fn reports(&mut self, report: &BenchReport) -> Result<()>;
}

/// Work that an item is.
#[derive(Clone, Copy)]
enum Work {
    Step,
    /// Index of a stage of the step's schedule.
    Program(usize),
    /// Index of an op of the step.
    Op(usize),
    /// Index of an attack's step.
    Attack(usize),
}

/// Times everything on a device that has no memory yet: the step, then its programs, its ops, attacks' steps.
///
/// # Errors
/// There is no such preset, the ceilings are another device's, the device failed or has too little memory, or the
/// observer cannot go on.
pub fn run(device: &mut dyn Device, settings: &BenchSettings, observer: &mut dyn BenchObserver) -> Result<BenchReport> {
    let began = Instant::now();
    if let Some(ceilings) = &settings.ceilings {
        ceilings.check_device(&device.describe())?;
    }
    let mut memory = Memory::default();
    let attack = AttackSteps::new(&mut memory, settings.megabytes);
    let products = Products::new(&mut memory, settings.product);
    let step = BenchStep::new(&mut memory, settings)?;
    let schedule = &step.training.schedule;
    let multiprocessors = device.multiprocessors().unwrap_or(TYPICAL_MULTIPROCESSORS);
    let mut ops = StepOps::new(&mut memory, schedule, multiprocessors);
    let rotation = Rotation::new(&mut memory, settings.rotated_megabytes * 1_000_000, &ops);
    // An op alone needs the scratch memory that it needs within its program.
    let programs = attack.programs().chain(products.programs()).chain(schedule.programs());
    device.allocate(&memory, &programs.collect::<Vec<_>>())?;
    attack.fill(device)?;
    products.fill(device)?;
    step.fill(device)?;

    let mut clock = Clock { device, rounds: settings.rounds, multiprocessors };
    observer.begins("copy and matrix products");
    let own = own_rates(&mut clock, &attack, &products)?;
    let compared_with = References::new(settings.ceilings.as_ref(), &own, settings.megabytes);

    let (wanted, all_ops) = plan(settings, &step, &ops, &attack);
    let step_total = TotalCost::of_schedule(schedule, multiprocessors);
    let launches = step_total.launches;
    let BenchSettings { rounds, megabytes, rotated_megabytes, budget_s, .. } = *settings;
    let mut report = BenchReport {
        device: clock.device.describe(),
        model: step.describe(),
        rounds,
        megabytes,
        rotated_megabytes,
        complete: false,
        budget_s,
        own,
        step: StepSummary::new(&[], launches, false, &compared_with),
        compared_with,
        kernels: Vec::new(),
        items: Vec::new(),
        not_timed: wanted.iter().map(|(_, item)| item.clone()).collect(),
    };
    observer.reports(&report)?;

    let mut last = "";
    for (work, UntimedItem { group, name, .. }) in &wanted {
        if budget_s.is_some_and(|budget| began.elapsed().as_secs_f64() >= budget) {
            break;
        }
        observer.begins(name);
        if last != *group && !matches!(work, Work::Attack(_)) {
            // Every buffer gets what it holds in a step, whatever ran how often before.
            clock.device.replay(schedule)?;
            step.check(clock.device)?;
        }
        last = group;
        let item = match *work {
            Work::Step => {
                let time = clock.measure(schedule, 1, None)?;
                BenchItem { times_a_step: 1, ..BenchItem::new("step", name, step_total, time) }
            }
            Work::Program(at) => {
                let (program, times) = &schedule.stages[at];
                let time = clock.time(program)?;
                let total = TotalCost::of(program, multiprocessors);
                BenchItem { times_a_step: *times, ..BenchItem::new("program", name, total, time) }
            }
            Work::Op(at) => {
                ops.run_to(at, clock.device)?;
                let (op, program) = (&ops.ops[at], ops.program(&ops.ops[at]));
                let (time, copies) = clock.time_rotated(program, &rotation)?;
                let item = BenchItem::of_op("op", name, program, time, multiprocessors);
                BenchItem { times_a_step: op.times_a_step, copies, ..item }
            }
            Work::Attack(at) => {
                let program = &attack.steps()[at];
                BenchItem::of_op("attack", name, program, clock.time(program)?, multiprocessors)
            }
        };
        report.items.push(item);
        report.not_timed.remove(0);
        report.settle(launches, all_ops);
        observer.reports(&report)?;
    }
    report.complete = report.not_timed.is_empty();
    observer.reports(&report)?;
    Ok(report)
}

/// Items that are asked for, in the order in which they are timed, and whether all ops of the step are among them.
fn plan(
    settings: &BenchSettings,
    step: &BenchStep,
    ops: &StepOps,
    attack: &AttackSteps,
) -> (Vec<(Work, UntimedItem)>, bool) {
    let item = |group, name: &str, shape: String| UntimedItem { group, name: name.to_owned(), shape };
    let mut all = vec![(Work::Step, item("step", &step.name, String::new()))];
    for (at, (program, _)) in step.training.schedule.stages.iter().enumerate() {
        all.push((Work::Program(at), item("program", &program.name, String::new())));
    }
    for (at, op) in ops.ops.iter().enumerate() {
        all.push((Work::Op(at), item("op", op.name, workload::shape(ops.program(op)))));
    }
    for (at, program) in attack.steps().iter().enumerate() {
        all.push((Work::Attack(at), item("attack", &program.name, workload::shape(program))));
    }
    all.retain(|(_, item)| settings.only.as_ref().is_none_or(|part| item.name.contains(part)));
    let all_ops = all.iter().filter(|(work, _)| matches!(work, Work::Op(_))).count() == ops.ops.len();
    (all, all_ops)
}

/// Rates of our own copy, and of the fastest of matrix products of growing size.
fn own_rates(clock: &mut Clock, attack: &AttackSteps, products: &Products) -> Result<OwnRates> {
    let copy = attack.copy();
    let copy_bytes_per_s = TotalCost::of(copy, clock.multiprocessors).cost.bytes as f64 / clock.time(copy)?.median;
    let mut best = (0.0, 0);
    for (size, program) in &products.by_size {
        let seconds = clock.time(program)?.median;
        let rate = 2.0 * (*size as f64).powi(3) / seconds;
        if rate > best.0 {
            best = (rate, *size);
        }
        if seconds > PRODUCT_SECONDS {
            break;
        }
    }
    Ok(OwnRates { copy_bytes_per_s, product_flops_per_s: best.0, product_size: best.1 })
}

/// Median and least seconds of a run.
#[derive(Clone, Copy, Debug)]
struct RunTime {
    median: f64,
    least: f64,
}

/// The one place that times.
struct Clock<'a> {
    device: &'a mut dyn Device,
    rounds: usize,
    multiprocessors: usize,
}

impl Clock<'_> {
    /// Times a run of a program.
    fn time(&mut self, program: &Arc<Program>) -> Result<RunTime> {
        let once = in_turn(std::slice::from_ref(program), 1);
        self.device.replay(&once)?;
        let runs = enough_runs(self.device.time(&once)?);
        self.measure(&in_turn(std::slice::from_ref(program), runs), runs, None)
    }

    /// Times a run of an op on copies of its operands, which are in no cache when they are used. Returns how many
    /// copies there were, too.
    fn time_rotated(&mut self, op: &Program, rotation: &Rotation) -> Result<(RunTime, usize)> {
        let first = rotation.copies(op, 1);
        self.device.execute(&first.fill)?;
        let once = in_turn(&first.programs, 1);
        self.device.replay(&once)?;
        let runs = enough_runs(self.device.time(&once)?);
        let copies = rotation.copies(op, runs);
        self.device.execute(&copies.fill)?;
        // Whole turns: every copy as often as the others.
        let count = copies.programs.len();
        let runs = runs.next_multiple_of(count);
        let time = self.measure(&in_turn(&copies.programs, runs), runs, copies.evict.as_ref())?;
        Ok((time, count))
    }

    /// Times a schedule that is `runs` runs; `before` runs before each measurement and is not timed.
    fn measure(&mut self, schedule: &Schedule, runs: usize, before: Option<&Program>) -> Result<RunTime> {
        self.device.replay(schedule)?;
        let mut seconds = Vec::with_capacity(self.rounds);
        for _ in 0..self.rounds {
            if let Some(before) = before {
                self.device.execute(before)?;
            }
            seconds.push(self.device.time(schedule)? / runs as f64);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(RunTime { median: seconds[self.rounds / 2], least: seconds[0] })
    }
}

/// A schedule of so many runs, for which the programs take turns.
fn in_turn(programs: &[Arc<Program>], runs: usize) -> Schedule {
    let mut schedule = Schedule::default();
    programs.iter().cycle().take(runs).for_each(|program| schedule.then(program, 1));
    schedule
}

/// Runs of a measurement, if one takes so many seconds.
fn enough_runs(seconds: f64) -> usize {
    (LEAST_SECONDS / seconds.max(1e-9)).ceil().clamp(1.0, MOST_RUNS as f64) as usize
}

impl BenchReport {
    /// Computes shares and sums anew, after an item was added.
    fn settle(&mut self, launches: u64, all_ops: bool) {
        let step = summary::step_time(&self.items);
        if let Some(item) = self.items.last_mut() {
            item.of_copy = item.bytes as f64 / item.median_s / self.compared_with.copy.per_s;
            item.of_product = item.flops as f64 / item.median_s / self.compared_with.product.per_s;
            item.share_of_step = step.filter(|_| item.times_a_step > 0).map(|step| item.seconds_a_step() / step);
        }
        let all_ops = all_ops && !self.not_timed.iter().any(|item| item.group == "op");
        self.step = StepSummary::new(&self.items, launches, all_ops, &self.compared_with);
        self.kernels = summary::by_kernel(&self.items, &self.compared_with);
    }
}

impl BenchItem {
    /// An item of launches that are `total` together. [`BenchReport::settle`] adds its shares.
    fn new(group: &'static str, name: &str, total: TotalCost, time: RunTime) -> BenchItem {
        let TotalCost { launches, cost: Cost { bytes, flops } } = total;
        BenchItem {
            group,
            name: name.to_owned(),
            shape: String::new(),
            kernels: Vec::new(),
            launches,
            times_a_step: 0,
            copies: 1,
            median_s: time.median,
            least_s: time.least,
            share_of_step: None,
            bytes,
            flops,
            of_copy: 0.0,
            of_product: 0.0,
        }
    }

    /// An item that is a program of a single op.
    fn of_op(group: &'static str, name: &str, program: &Program, time: RunTime, multiprocessors: usize) -> BenchItem {
        let launches = cuda::launches(program, &program.nodes[0], multiprocessors);
        let kernels = launches.iter().map(|launch| launch.kernel).collect();
        let total = TotalCost::of(program, multiprocessors);
        BenchItem { shape: workload::shape(program), kernels, ..BenchItem::new(group, name, total, time) }
    }

    /// Median seconds of all of its runs in a step.
    fn seconds_a_step(&self) -> f64 {
        self.median_s * f64::from(self.times_a_step)
    }
}
