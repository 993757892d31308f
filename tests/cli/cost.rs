//! `maxmargin explain cost`: sums that agree, and the error of the model on the visit that its constants come from.

use std::fs;
use std::path::Path;

use maxmargin::device::cuda::launch::LaunchRecord;
use maxmargin::device::cuda::{GpuConstants, Operands, PredictedTime};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{done_in, refused};

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
    own: OwnRates,
    items: Vec<MeasuredItem>,
    kernels: Vec<MeasuredKernels>,
}

#[derive(Deserialize)]
struct OwnRates {
    product_flops_per_s: f64,
    product_size: u64,
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

/// Times of the same visit that the constants were not fitted to: a large matrix product, and attacks' own steps on
/// images of 200 MB. The error is small where the kernel and its use are like those of a step, and large elsewhere.
#[test]
fn the_model_is_less_exact_beyond_the_ops_of_a_step() {
    let measured: Measured = record("bench-cifar10-linf.json");
    let blocks_of = |kernel: &str, bytes: u64| match kernel {
        "pgd_step_linf_x4" => bytes.div_ceil(4 * 4 * 4 * 256), // four tensors; four numbers a thread
        _ => bytes.div_ceil(4 * 4 * 784),                      // a block an image
    };
    for (name, bound) in [("pgd_step linf", 0.12), ("pgd_step l2", 0.08), ("project_hyperplane linf", 0.65)] {
        let item = measured.items.iter().find(|item| item.name == name).expect("an attack's step");
        let [kernel] = &item.kernels[..] else { panic!("one kernel") };
        let blocks = blocks_of(kernel, item.bytes);
        let (bytes, flops) = (item.bytes, item.flops);
        let launch = LaunchRecord { kernel: kernel.clone().into(), blocks, threads: 256, shared: 0, bytes, flops };
        assert_within(bound, predicted(&[launch], Operands::InMemory).seconds, item.median_s, name);
    }
    let size = measured.own.product_size;
    let (bytes, flops) = (3 * 4 * size.pow(2), 2 * size.pow(3));
    let blocks = size.div_ceil(64).pow(2);
    let launch = LaunchRecord { kernel: "linear_square".into(), blocks, threads: 128, shared: 0, bytes, flops };
    let time = predicted(&[launch], Operands::InMemory).seconds;
    assert_within(0.6, time, flops as f64 / measured.own.product_flops_per_s, "a product");
}

/// Seconds that a text such as `8.450 ms` states, within its rounding.
fn seconds(number: &str, unit: &str) -> f64 {
    let unit = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)].into_iter().find(|known| known.0 == unit).expect("a unit").1;
    number.parse::<f64>().expect("a number") * unit
}

#[test]
fn programs_and_kernels_sum_up_to_the_predicted_step() {
    for (flags, notes) in [("", 2), ("--precision fp16", 8)] {
        let kernels = done_in(Path::new("."), &format!("explain kernels --preset mnist-linf {flags}")).out;
        let launches = kernels.lines().last().expect("a sum").split(' ').nth(2).expect("a number of launches");
        let text = done_in(Path::new("."), &format!("explain cost --preset mnist-linf {flags}")).out;
        let sum = text.lines().last().expect("a sum").split(' ').collect::<Vec<_>>();
        assert_eq!(sum[..4], ["a", "step:", launches, "launches,"], "{text}");
        let step = seconds(sum[4], sum[5].trim_end_matches(';'));
        let (programs, kernels) = text.split_once("\nkernels of a step").expect("two parts");
        // A program's line has its runs before its launches; a kernel's has not.
        for (part, a_step, count) in [(programs, 4, true), (kernels, 3, false)] {
            let lines = part.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let lines: Vec<_> = lines.filter(|words| words.len() > 8 && words[0].parse::<u32>().is_ok()).collect();
            let all: f64 = lines.iter().map(|words| seconds(words[a_step], words[a_step + 1])).sum();
            assert!((all / step - 1.0).abs() < 0.005, "{all} of {step}: {text}");
            let number = |word: &str| word.parse::<u32>().expect("a count");
            let counts = lines.iter().map(|words| number(words[0]) * if count { number(words[1]) } else { 1 });
            assert_eq!(counts.sum::<u32>(), number(launches), "{text}");
        }
        assert!(text.matches("  (not measured)\n").count() >= notes, "{text}");
        assert!(text.contains("pgd_iteration\n") && text.contains("  arithmetic  conv_pool_"), "{text}");
    }
}

#[test]
fn a_gpu_that_the_model_does_not_know_is_refused_with_the_known_ones() {
    refused("explain cost --gpu b200", &["'b200'", "--gpu", "h100, h200, a100"]);
    refused("explain kernels --gpu h100", &["--gpu: it is a flag of explain cost; found explain kernels"]);
    refused(
        "explain cost --multiprocessors 4",
        &["--multiprocessors: it is a flag of explain kernels; found explain cost"],
    );
    let step = |gpu: &str| done_in(Path::new("."), &format!("explain cost --preset quick --gpu {gpu}")).out;
    assert!(step("a100").contains("predicted for NVIDIA A100"));
    assert!(GpuConstants::of_device("GPU 0, NVIDIA H100 PCIe", 114).is_none(), "a GPU with fewer multiprocessors");
}
