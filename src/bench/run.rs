//! A bench from beginning to end: which items are timed, in which order, and when it stops.

use std::time::Instant;

use super::ceilings::{OwnRates, References};
use super::item::{BenchItem, UntimedItem};
use super::report::BenchReport;
use super::rotation::{Rotation, StepOps};
use super::settings::BenchSettings;
use super::summary::StepSummary;
use super::timer::Timer;
use super::workload::{AttackSteps, BenchStep, Products, shape};
use crate::Result;
use crate::device::Device;
use crate::device::cuda::{GpuConstants, TYPICAL_MULTIPROCESSORS, TotalCost};
use crate::interrupt;
use crate::tape::Memory;

/// Seconds of a matrix product after which no larger one is timed.
const PRODUCT_SECONDS: f64 = 0.1;

/// Observer of a running bench.
pub trait BenchObserver {
    /// Called before an item is timed.
    fn begins(&mut self, name: &str);

    /// Called when the report has a further item or has become complete.
    ///
    /// # Errors
    /// The observer failed, which ends the bench.
    fn reports(&mut self, report: &BenchReport) -> Result<()>;
}

/// Work of an item.
#[derive(Clone, Copy)]
enum BenchWork {
    /// Whole training step.
    Step,
    /// Index of a stage of the step's schedule.
    Program(usize),
    /// Index of an op of the step.
    Op(usize),
    /// Index of an attack's step.
    Attack(usize),
}

/// Times everything on a device that has no memory yet: the step, then its programs, its ops, attacks' steps. If a
/// signal asks to stop, no further item is started.
///
/// # Errors
/// There is no such preset, the ceilings are another device's, the device failed or has too little memory, or the
/// observer failed.
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
    let gpu = device.multiprocessors().and_then(|count| GpuConstants::of_device(&device.describe(), count));
    let mut ops = StepOps::new(&mut memory, schedule, multiprocessors);
    let rotation = Rotation::new(&mut memory, settings.rotated_megabytes * 1_000_000, &ops);
    // An op alone needs the scratch memory that it needs within its program.
    let programs = attack.programs().chain(products.programs()).chain(schedule.programs());
    device.allocate(&memory, &programs.collect::<Vec<_>>())?;
    attack.fill(device)?;
    products.fill(device)?;
    step.fill(device)?;

    let mut timer = Timer { device, rounds: settings.rounds, multiprocessors };
    observer.begins("copy and matrix products");
    let own = own_rates(&mut timer, &attack, &products)?;
    let compared_with = References::new(settings.ceilings.as_ref(), &own, settings.megabytes);

    let (wanted, all_ops) = plan(settings, &step, &ops, &attack);
    let step_total = TotalCost::of_schedule(schedule, multiprocessors);
    let launches = step_total.launches;
    let predicted_s = gpu.map(|gpu| gpu.schedule_time(schedule, multiprocessors).seconds);
    let BenchSettings { rounds, megabytes, rotated_megabytes, budget_s, .. } = *settings;
    let mut report = BenchReport {
        device: timer.device.describe(),
        model: step.describe(),
        predicted_for: gpu.map(|gpu| gpu.description),
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
        let spent = budget_s.is_some_and(|budget| began.elapsed().as_secs_f64() >= budget);
        if spent || interrupt::requested().is_some() {
            break;
        }
        observer.begins(name);
        if last != *group && !matches!(work, BenchWork::Attack(_)) {
            // A step restores the contents of all buffers, whatever ran before.
            timer.device.replay(schedule)?;
            step.check(timer.device)?;
        }
        last = group;
        let item = match *work {
            BenchWork::Step => {
                let time = timer.measure(schedule, 1, None)?;
                BenchItem { times_a_step: 1, predicted_s, ..BenchItem::new("step", name, step_total, time) }
            }
            BenchWork::Program(at) => {
                let (program, times) = &schedule.stages[at];
                let time = timer.time(program)?;
                let total = TotalCost::of(program, multiprocessors);
                let predicted_s = gpu.map(|gpu| gpu.program_time(program, multiprocessors).seconds);
                BenchItem { times_a_step: *times, predicted_s, ..BenchItem::new("program", name, total, time) }
            }
            BenchWork::Op(at) => {
                ops.run_to(at, timer.device)?;
                let (op, program) = (&ops.ops[at], ops.program(&ops.ops[at]));
                let (time, copies) = timer.time_rotated(program, &rotation)?;
                let item = BenchItem::of_op("op", name, program, time, multiprocessors, gpu);
                BenchItem { times_a_step: op.times_a_step, copies, ..item }
            }
            BenchWork::Attack(at) => {
                let program = &attack.steps()[at];
                BenchItem::of_op("attack", name, program, timer.time(program)?, multiprocessors, gpu)
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

/// Requested items, in the order in which they are timed; and true if all ops of the step are among them.
fn plan(
    settings: &BenchSettings,
    step: &BenchStep,
    ops: &StepOps,
    attack: &AttackSteps,
) -> (Vec<(BenchWork, UntimedItem)>, bool) {
    let item = |group, name: &str, shape: String| UntimedItem { group, name: name.to_owned(), shape };
    let mut all = vec![(BenchWork::Step, item("step", &step.name, String::new()))];
    for (at, (program, _)) in step.training.schedule.stages.iter().enumerate() {
        all.push((BenchWork::Program(at), item("program", &program.name, String::new())));
    }
    for (at, op) in ops.ops.iter().enumerate() {
        all.push((BenchWork::Op(at), item("op", op.name, shape(ops.program(op)))));
    }
    for (at, program) in attack.steps().iter().enumerate() {
        all.push((BenchWork::Attack(at), item("attack", &program.name, shape(program))));
    }
    all.retain(|(_, item)| settings.only.as_ref().is_none_or(|part| item.name.contains(part)));
    let all_ops = all.iter().filter(|(work, _)| matches!(work, BenchWork::Op(_))).count() == ops.ops.len();
    (all, all_ops)
}

/// Times our own copy and matrix products of growing size; returns the rates of the copy and of the fastest product.
fn own_rates(timer: &mut Timer, attack: &AttackSteps, products: &Products) -> Result<OwnRates> {
    let copy = attack.copy();
    let copy_bytes_per_s = TotalCost::of(copy, timer.multiprocessors).cost.bytes as f64 / timer.time(copy)?.median;
    let mut best = (0.0, 0);
    for (size, program) in &products.by_size {
        let seconds = timer.time(program)?.median;
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
