//! An MMA step and its stages: LeNet5 (full width, batch 50) or the wide ResNet 28-4 (batch 128), linf, as published,
//! every example correct. `cargo bench --bench mma_step -- [--model lenet5|wide_resnet] [--precision fp32|fp16]
//! [--batch N] [--item NAME]... [--json] [--device cpu|cuda] [--threads N] [--rounds N]`.
//!
//! `benches/peers/mma_step.py` does the same work in PyTorch; `benches/peers/compare` runs both in turn.

use std::sync::Arc;
use std::time::Instant;

use maxmargin::batch::DeviceData;
use maxmargin::config::{Config, preset};
use maxmargin::device::cpu::Cpu;
use maxmargin::device::cuda::Cuda;
use maxmargin::device::{Device, Schedule};
use maxmargin::model::{self, Mode};
use maxmargin::tape::{Memory, Metric, Precision, Program, Tape};
use maxmargin::train::Mma;

/// Added to the output layer's bias of label 0, which every example has, so that all examples are correct.
const BIAS: f32 = 5.0;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let values = |flag: &str| -> Vec<&String> {
        args.iter().zip(&args[1..]).filter(|(name, _)| *name == flag).map(|(_, value)| value).collect()
    };
    let value = |flag: &str| values(flag).first().map(|value| value.as_str());
    let number =
        |flag: &str, default: usize| value(flag).map_or(default, |n| n.parse().expect("a number follows the flag"));
    let (threads, rounds, wanted) = (number("--threads", 0), number("--rounds", 7), values("--item"));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("the pool is built once");

    // The output layer's weights are multiplied by `scale`, which brings LeNet5's boundaries within reach of the
    // attack.
    let (preset_name, scale) = match value("--model") {
        None | Some("lenet5") => ("mnist-linf", 20.0),
        Some("wide_resnet") => ("cifar10-linf", 1.0),
        Some(other) => panic!("--model {other}: expected lenet5 or wide_resnet"),
    };
    let published = preset(preset_name).expect("a published preset").config;
    let batch = number("--batch", published.training_batch_size);
    let precision = match value("--precision") {
        None | Some("fp32") => Precision::Fp32,
        Some("fp16") => Precision::Fp16,
        Some(other) => panic!("--precision {other}: expected fp32 or fp16"),
    };
    // With learning rate 0 the optimizer does its work, and every round is the same step.
    let config = Config { learning_rate_schedule: vec![(0, 0.0)], training_batch_size: batch, precision, ..published };
    let mut memory = Memory::default();
    let mut model = model::build(&config.architecture());
    model.declare(&mut memory);
    let model = &*model;
    let data = DeviceData::new(&mut memory, model, "train", batch);
    let mma = Mma::new(&mut memory, model, &data, &config, None);

    let mut forward = Tape::new("forward");
    let x = forward.leaf(&mma.batch.x);
    let logits = model.logits(&mut forward, x, Mode::Eval);
    forward.keep(logits, &mma.logits);
    let forward = Arc::new(forward.finish());
    let program = |name: &str| -> Arc<Program> {
        let found = mma.schedule.stages.iter().find(|(p, _)| p.name == name);
        found.unwrap_or_else(|| panic!("the step has a program {name}")).0.clone()
    };
    let once = |program: &Arc<Program>| {
        let mut schedule = Schedule::default();
        schedule.then(program, 1);
        schedule
    };
    let mut items = vec![
        ("mma_step", mma.schedule.clone()),
        ("forward", once(&forward)),
        ("pgd_iteration", once(&program("pgd_iteration"))),
        ("probe", once(&program("search_probe"))),
        ("training_pass", once(&program("margin_pass"))),
        ("optimizer", once(&program("update"))),
    ];
    items.retain(|(name, _)| wanted.is_empty() || wanted.iter().any(|item| item == name));

    let mut device: Box<dyn Device> = match value("--device") {
        None | Some("cpu") => Box::new(Cpu::new()),
        Some("cuda") => Box::new(Cuda::open(0, false).expect("a GPU")),
        Some(other) => panic!("--device {other}: expected cpu or cuda"),
    };
    let device = &mut *device;
    let programs: Vec<&Program> = items.iter().flat_map(|(_, s)| s.programs()).chain(mma.schedule.programs()).collect();
    device.allocate(&memory, &programs).expect("memory");
    let mut state = model.initial(0);
    let last = model.params().list.last().expect("parameters").len();
    let whole = state[0].len();
    let row = model.params().list[model.params().list.len() - 2].len();
    state[0][whole - last] += BIAS;
    state[0][whole - last - row..whole - last].iter_mut().for_each(|w| *w *= scale);
    model.load(device, &state).unwrap();
    let image: usize = model.image().iter().product();
    let pixels =
        (0..batch * image).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect::<Vec<_>>();
    device.write_u8(&data.images, &pixels).unwrap();
    device.write_u32(&mma.batch.index, &(0..batch as u32).collect::<Vec<_>>()).unwrap();
    device.write_u32(&mma.batch.rows, &[batch as u32]).unwrap();
    // Stages work on the state after a whole step.
    device.replay(&mma.schedule).unwrap();

    for (name, schedule) in &items {
        let mut seconds: Vec<f64> = Vec::new();
        for _ in 0..rounds {
            // Short items are run often enough to be timed; all runs are submitted before any is waited for.
            let mut runs = 1;
            seconds.push(loop {
                let start = Instant::now();
                (0..runs).for_each(|_| device.replay(schedule).unwrap());
                device.read_u32(&mma.batch.rows).unwrap();
                let took = start.elapsed().as_secs_f64();
                if took >= 0.2 {
                    break took / f64::from(runs);
                }
                runs *= 2;
            });
        }
        seconds.sort_by(f64::total_cmp);
        let (median, least) = (seconds[rounds / 2], seconds[0]);
        let threads = rayon::current_num_threads();
        if args.iter().any(|a| a == "--json") {
            println!(
                r#"{{"name": "{name}", "median_s": {median:.7}, "min_s": {least:.7}, "n": {rounds}, "threads": {threads}, "device": "{}"}}"#,
                device.describe()
            );
        } else {
            println!("{name:16} {:9.2} ms (least {:9.2})", 1e3 * median, 1e3 * least);
        }
    }
    // The memory of this process does not include the GPU's.
    if let (None | Some("cpu"), Some(peak)) = (value("--device"), peak_memory()) {
        match args.iter().any(|a| a == "--json") {
            true => println!(r#"{{"name": "peak_memory", "peak_bytes": {peak}}}"#),
            false => println!("{:16} {:9.1} MB", "peak memory", peak as f64 / 1e6),
        }
    }
    let sums = device.read_f32(&mma.metrics).unwrap();
    let correct = device.read_u32(&mma.correct).unwrap()[0];
    assert_eq!(correct as usize, batch, "every example is correct, so every example is attacked");
    assert!(sums[Metric::MeanLoss as usize].is_finite(), "the losses are numbers");
    if preset_name == "mnist-linf" {
        assert_eq!(
            sums[Metric::ZeroWeights as usize],
            0.0,
            "every boundary lies below d_max, so every one is trained on"
        );
    }
}

/// Peak resident memory of this process in bytes; `None` if the system does not report it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?)
}
