//! The error of the model of a launch's time on the visit that its constants come from.

use std::fs;
use std::path::Path;

use maxmargin::device::cuda::launch::LaunchRecord;
use maxmargin::device::cuda::{GpuConstants, Operands, PredictedTime};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Visit from which the constants come.
const VISIT: &str = "benches/results/h200-2026-11-28";

/// Record `launches-PRESET.json`: launches of the step at the visit's commit.
#[derive(Deserialize)]
struct Launches {
    programs: Vec<LaunchedProgram>,
}

#[derive(Deserialize)]
struct LaunchedProgram {
    name: String,
    times_a_step: u32,
    ops: Vec<LaunchedOp>,
}

#[derive(Deserialize)]
struct LaunchedOp {
    name: String,
    shape: String,
    times: u32,
    launched: Vec<LaunchRecord>,
}

/// Record `bench-PRESET.json`: measured times.
#[derive(Deserialize)]
struct Measured {
    items: Vec<MeasuredItem>,
    kernels: Vec<MeasuredKernels>,
}

#[derive(Deserialize)]
struct MeasuredItem {
    group: String,
    name: String,
    shape: String,
    kernels: Vec<String>,
    times_a_step: u32,
    median_s: f64,
    bytes: u64,
    flops: u64,
}

#[derive(Deserialize)]
struct MeasuredKernels {
    kernels: Vec<String>,
    time_s: f64,
    share_of_step: f64,
}

fn record<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(VISIT).join(name);
    serde_json::from_slice(&fs::read(path).expect("a record")).expect("the record's form")
}

fn predicted(launched: &[LaunchRecord], operands: Operands) -> PredictedTime {
    let gpu = GpuConstants::of_device("GPU 0, NVIDIA H200", 132).expect("a known GPU");
    launched.iter().map(|launch| gpu.launch_time(launch, operands)).sum()
}

impl Launches {
    /// Launches of a timed op.
    fn of(&self, item: &MeasuredItem) -> &[LaunchRecord] {
        let is_it = |op: &&LaunchedOp| {
            let sum = |figure: fn(&LaunchRecord) -> u64| op.launched.iter().map(figure).sum::<u64>();
            (&op.name, &op.shape, sum(|launch| launch.bytes), sum(|launch| launch.flops))
                == (&item.name, &item.shape, item.bytes, item.flops)
                && op.launched.iter().map(|launch| &launch.kernel).eq(&item.kernels)
        };
        let mut ops = self.programs.iter().flat_map(|program| &program.ops);
        &ops.find(is_it).unwrap_or_else(|| panic!("no launches of {} {}", item.name, item.shape)).launched
    }
}

/// Asserts that a prediction is within `bound` of a measurement, relative to it.
fn assert_within(bound: f64, predicted: f64, measured: f64, what: &str) {
    let error = predicted / measured - 1.0;
    println!("{what}: predicted {predicted:.3e} s, measured {measured:.3e} s, error {:+.1} %", 100.0 * error);
    assert!(error.abs() <= bound, "{what}: predicted {predicted:.3e} s, measured {measured:.3e} s");
}

/// The bounds are those that `docs/performance.md` states. The constants were fitted to these very times.
#[test]
fn the_model_reproduces_the_visit_of_its_constants() {
    for preset in ["cifar10-linf", "mnist-linf"] {
        let launches: Launches = record(&format!("launches-{preset}.json"));
        let measured: Measured = record(&format!("bench-{preset}.json"));
        let of = |group: &str| measured.items.iter().filter(move |item| item.group == group).collect::<Vec<_>>();
        let step = of("step")[0].median_s;

        let mut sum = 0.0;
        for (program, item) in launches.programs.iter().zip(of("program")) {
            assert_eq!(program.name, item.name);
            let ops = program.ops.iter().map(|op| predicted(&op.launched, Operands::OfAStep) * op.times);
            let time = ops.sum::<PredictedTime>().seconds;
            let a_step = item.median_s * f64::from(item.times_a_step);
            let bound = if a_step >= 0.01 * step { 0.03 } else { 0.3 };
            assert_within(bound, time, item.median_s, &format!("{preset}, {}", program.name));
            sum += time * f64::from(program.times_a_step);
        }
        assert_within(0.02, sum, step, &format!("{preset}, step"));

        for kernels in &measured.kernels {
            let own = of("op").into_iter().filter(|item| item.kernels == kernels.kernels);
            let time = own.map(|item| predicted(launches.of(item), Operands::InMemory) * item.times_a_step);
            let time: PredictedTime = time.sum();
            assert_eq!(time.unmeasured_s, 0.0, "{:?} were timed", kernels.kernels);
            let bound = match kernels.share_of_step {
                share if share >= 0.05 => 0.03,
                share if share >= 0.01 => 0.15,
                _ => 1.0,
            };
            assert_within(bound, time.seconds, kernels.time_s, &format!("{preset}, {}", kernels.kernels.join(" + ")));
        }
        let mut errors: Vec<f64> = of("op")
            .iter()
            .map(|item| (predicted(launches.of(item), Operands::InMemory).seconds / item.median_s - 1.0).abs())
            .collect();
        errors.sort_by(f64::total_cmp);
        let (median, largest) = (errors[errors.len() / 2], errors[errors.len() - 1]);
        println!("{preset}: ops' errors: median {:.1} %, largest {:.1} %", 100.0 * median, 100.0 * largest);
        assert!(median <= 0.05 && largest <= 1.0, "errors of the ops: median {median}, largest {largest}");
    }
}
