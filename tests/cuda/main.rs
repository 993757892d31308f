//! The CUDA device: its calls of the driver, its agreement with the CPU on training, and steps without work of the
//! host. `tests/ops` tests the ops, on every device.

mod first_step;
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use maxmargin::batch::DeviceData;
use maxmargin::config::{Config, OptimizerKind, preset};
use maxmargin::device::cpu::Cpu;
use maxmargin::device::cuda::launch::Arg;
use maxmargin::device::{Device, cuda};
use maxmargin::model::{self, Model};
use maxmargin::tape::{Memory, Metric, Norm, Precision, Reduction, Tape};
use maxmargin::train::Mma;
use support::Random;
use support::cuda::{fake_driver, open, ready};
use support::fake::{self, KernelBuild};

const EXAMPLES: usize = 40;
const BATCH: usize = 16;

/// A network, its training step, and its images.
struct Trained {
    model: Box<dyn Model>,
    data: DeviceData,
    mma: Mma,
    memory: Memory,
    config: Config,
    /// Bias of label 0: with it some examples are correct and some misclassified. The larger, the larger the margins.
    bias: f32,
}

impl Trained {
    /// A small LeNet5.
    fn new(nb_iter: u32) -> Trained {
        let published = preset("mnist-linf").expect("a preset").config;
        let rates = vec![(0, 1e-3)];
        Trained::of(Config {
            width: 0.125,
            nb_iter,
            training_batch_size: BATCH,
            learning_rate_schedule: rates,
            ..published
        })
    }

    /// The smallest LeNet5 and step, because ThreadSanitizer takes a millisecond for each thread of a GPU.
    fn smallest(norm: Norm) -> Trained {
        let published = preset(if norm == Norm::L2 { "mnist-l2" } else { "mnist-linf" }).expect("a preset").config;
        Trained::of(Config { width: 0.03125, nb_iter: 1, num_search_steps: 2, training_batch_size: 3, ..published })
    }

    fn of(config: Config) -> Trained {
        let mut memory = Memory::default();
        let mut model = model::build(&config.architecture());
        model.declare(&mut memory);
        let data = DeviceData::new(&mut memory, &*model, "train", EXAMPLES);
        let mma = Mma::new(&mut memory, &*model, &data, &config, None);
        Trained { model, data, mma, memory, config, bias: 3.5 }
    }

    /// Allocates a device and writes the operands of steps to it.
    fn prepare(&self, device: &mut dyn Device) {
        device.allocate(&self.memory, &self.mma.schedule.programs().collect::<Vec<_>>()).unwrap();
        let mut random = Random(5);
        let pixels: Vec<u8> = (0..self.data.images.len()).map(|_| random.below(256) as u8).collect();
        device.write_u8(&self.data.images, &pixels).unwrap();
        device.write_u32(&self.data.labels, &(0..EXAMPLES as u32).map(|i| i % 10).collect::<Vec<_>>()).unwrap();
        let mut state = self.model.initial(self.config.seed);
        let bias = state[0].len() - 10;
        state[0][bias..].fill(0.0);
        state[0][bias] = self.bias;
        self.model.load(device, &state).unwrap();
    }

    /// Runs a step on `n` examples.
    fn step(&self, device: &mut dyn Device, n: usize) {
        device.write_u32(&self.mma.batch.index, &(0..n as u32).map(|i| i * 2).collect::<Vec<_>>()).unwrap();
        device.write_u32(&self.mma.batch.rows, &[n as u32]).unwrap();
        device.replay(&self.mma.schedule).unwrap();
    }
}

/// Lock for tests that read the driver's log, which belongs to the process.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls of the driver in its log, by name.
fn calls<'a>(log: &'a [String], name: &str) -> Vec<&'a String> {
    log.iter().filter(|line| line.split_whitespace().next() == Some(name)).collect()
}

#[test]
fn a_training_step_is_two_small_writes_and_one_graph_launch() {
    let _alone = alone();
    let Some(fake) = fake_driver() else { return };
    let trained = Trained::new(4);
    fake.log(); // drops lines of other tests
    let mut device = open(false);
    trained.prepare(&mut device);
    trained.step(&mut device, BATCH);
    let first = fake.log();
    assert_eq!(calls(&first, "cuStreamBeginCapture").len(), 1, "{first:?}");

    trained.step(&mut device, BATCH);
    trained.step(&mut device, BATCH - 3);
    let log = fake.log();
    assert_eq!(calls(&log, "cuGraphLaunch").len(), 2, "{log:?}");
    assert_eq!(calls(&log, "cuMemcpyHtoDAsync").len(), 4, "index and count of each batch: {log:?}");
    let others = ["cuGraphLaunch", "cuMemcpyHtoDAsync", "cuCtxSetCurrent"];
    let strange: Vec<_> = log.iter().filter(|line| !others.iter().any(|name| line.starts_with(name))).collect();
    assert!(strange.is_empty(), "no allocation, no launch, no wait, no copy to the host: {strange:?}");
}

#[test]
fn a_snapshot_is_a_copy_that_nobody_waits_for() {
    let _alone = alone();
    let Some(fake) = fake_driver() else { return };
    let trained = Trained::new(1);
    let mut device = open(false);
    trained.prepare(&mut device);
    trained.step(&mut device, BATCH);
    device.snapshot(&trained.mma.metrics).unwrap().bytes().unwrap();
    fake.log();
    trained.step(&mut device, BATCH);
    let snapshot = device.snapshot(&trained.mma.metrics).unwrap();
    trained.step(&mut device, BATCH);
    let log = fake.log();
    assert_eq!(calls(&log, "cuMemcpyDtoHAsync").len(), 1, "{log:?}");
    for wait in ["cuStreamSynchronize", "cuEventSynchronize", "cuCtxSynchronize", "cuMemcpyDtoH"] {
        assert!(calls(&log, wait).is_empty(), "{wait}: {log:?}");
    }
    for allocation in ["cuMemAlloc", "cuMemHostAlloc", "cuMemAllocHost"] {
        assert!(calls(&log, allocation).is_empty(), "{allocation}: {log:?}");
    }
    // The snapshot was taken between the steps.
    let bytes = snapshot.bytes().unwrap();
    let sums: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect();
    assert_eq!(sums[Metric::Steps as usize], 2.0);
    assert_eq!((&device as &dyn Device).read_f32(&trained.mma.metrics).unwrap()[Metric::Steps as usize], 3.0);
}

#[test]
fn a_schedule_replayed_as_a_graph_gives_the_bits_of_its_programs_one_by_one() {
    let _alone = alone();
    if !ready() {
        return;
    }
    let trained = Trained::new(3);
    let results = [false, true].map(|one_by_one| {
        let mut device = open(false);
        trained.prepare(&mut device);
        let device: &mut dyn Device = &mut device;
        for n in [BATCH, 5, BATCH] {
            if one_by_one {
                device.write_u32(&trained.mma.batch.index, &(0..n as u32).map(|i| i * 2).collect::<Vec<_>>()).unwrap();
                device.write_u32(&trained.mma.batch.rows, &[n as u32]).unwrap();
                for (program, times) in &trained.mma.schedule.stages {
                    (0..*times).for_each(|_| device.execute(program).unwrap());
                }
            } else {
                trained.step(device, n);
            }
        }
        (device.read_f32(trained.model.params().buffer()).unwrap(), device.read_f32(&trained.mma.margins).unwrap())
    });
    assert!(results[0] == results[1]);
}

/// Bounds of the reference cases: margins within a step of the search, logits and weights within 1e-5 relative to their
/// norms.
#[test]
fn cpu_and_gpu_take_the_same_first_steps() {
    let _alone = alone();
    if !ready() {
        return;
    }
    let trained = Trained::new(5);
    let (mut cpu, mut gpu) = (Cpu::new(), open(false));
    let (cpu, gpu): (&mut dyn Device, &mut dyn Device) = (&mut cpu, &mut gpu);
    trained.prepare(cpu);
    trained.prepare(gpu);
    let Mma { correct: count, eps, logits, .. } = &trained.mma;
    for (step, n) in [BATCH, BATCH, 7].into_iter().enumerate() {
        trained.step(cpu, n);
        trained.step(gpu, n);
        let right = cpu.read_u32(count).unwrap();
        assert_eq!(right, gpu.read_u32(count).unwrap(), "step {step}: how many are right");
        assert!(right[0] > 0, "step {step} attacks something");
        let search_step = trained.config.max_eps() * 0.5f32.powi(trained.config.num_search_steps as i32);
        let margins = [cpu.read_f32(eps).unwrap(), gpu.read_f32(eps).unwrap()];
        let apart = margins[0].iter().zip(&margins[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart <= search_step, "step {step}: margins {apart} apart");
        near(&cpu.read_f32(logits).unwrap(), &gpu.read_f32(logits).unwrap(), 1e-5, &format!("step {step}: logits"));
        let weights = trained.model.params().buffer();
        let (ours, theirs) = (cpu.read_f32(weights).unwrap(), gpu.read_f32(weights).unwrap());
        near(&ours, &theirs, 1e-5, &format!("step {step}: weights"));
    }
}

/// CPU and GPU add in other orders, so a sum may round to another half. They differ by less than half precision differs
/// from single: by this share of the longest search.
#[test]
fn cpu_and_gpu_find_nearly_the_same_margins_in_half_precision() {
    const APART: f32 = 2e-3;
    let _alone = alone();
    if !ready() {
        return;
    }
    // Kernels of LeNet5's published width have both layers with pooling.
    for (preset, width, bias, n) in
        [("mnist-linf", 0.25, 2.2, 16), ("mnist-linf", 1.0, 4.5, 4), ("cifar10-quick", 1.0, 0.15, 16)]
    {
        let published = maxmargin::config::preset(preset).expect("a preset").config;
        let precision = Precision::Fp16;
        let config = Config { width, nb_iter: 3, training_batch_size: n, precision, ..published };
        let trained = Trained { bias, ..Trained::of(config) };
        let (mut cpu, mut gpu) = (Cpu::new(), open(false));
        let (cpu, gpu): (&mut dyn Device, &mut dyn Device) = (&mut cpu, &mut gpu);
        for device in [&mut *cpu, &mut *gpu] {
            trained.prepare(device);
            trained.step(device, n);
        }
        let Mma { correct, eps, .. } = &trained.mma;
        let counts = [&*cpu, &*gpu].map(|device| device.read_u32(correct).unwrap()[0] as usize);
        assert!(counts[0] > 0 && counts[0] == counts[1], "{preset}: {counts:?} examples are attacked");
        let [ours, theirs] = [&*cpu, &*gpu].map(|device| device.read_f32(eps).unwrap());
        assert!(ours.iter().any(|margin| *margin > 0.0), "{preset}: {ours:?}");
        let longest = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let share = longest / trained.config.max_eps();
        assert!(share <= APART, "{preset}: margins {ours:?} and {theirs:?}");
    }
}

fn near(a: &[f32], b: &[f32], allowed: f64, what: &str) {
    let squares = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f(f64::from(a), f64::from(b)).powi(2)).sum::<f64>().sqrt()
    };
    let relative = squares(&|a, b| a - b) / squares(&|a, _| a);
    assert!(relative <= allowed, "{what}: {relative:.1e} apart");
}

#[test]
#[ignore = "run by the next test"]
fn smallest_steps() {
    assert!(ready());
    for norm in [Norm::Linf, Norm::L2] {
        let trained = Trained::smallest(norm);
        let mut device = open(false);
        trained.prepare(&mut device);
        trained.step(&mut device, 3);
        let device: &dyn Device = &device;
        assert!(device.read_u32(&trained.mma.correct).unwrap()[0] > 0, "something is attacked");
    }
}

#[test]
fn threads_and_blocks_of_a_training_step_race_nowhere() {
    let _alone = alone();
    if fake::required("gpu") || !fake::runs_long_tests("sanitizers") {
        return;
    }
    let which = ["--exact", "smallest_steps", "--include-ignored"];
    let Some(mut command) = fake::rung("fake", fake::rerun(&which, "kernels", KernelBuild::Thread)) else { return };
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !err.contains("ThreadSanitizer"), "{out}\n{err}");
    assert!(out.contains("1 passed"), "the steps did run: {out}");
}

#[test]
fn every_launch_of_a_step_names_a_kernel_and_gives_it_what_it_declares() {
    // No driver is needed: launches are made without one.
    let trained = Trained::new(2);
    let mut launches = 0;
    for (program, times) in &trained.mma.schedule.stages {
        for node in &program.nodes {
            for launch in cuda::launches(program, node, cuda::TYPICAL_MULTIPROCESSORS) {
                let kernel = cuda::KERNELS.iter().find(|kernel| kernel.name == launch.kernel);
                let kernel = kernel.unwrap_or_else(|| panic!("no kernel is called {}", launch.kernel));
                assert_eq!(launch.args.len(), kernel.params.len(), "{}", launch.kernel);
                assert!(launch.grid.iter().all(|&blocks| blocks > 0) && launch.grid[1].max(launch.grid[2]) <= 65_535);
                launches += times;
            }
        }
    }
    assert!(launches > 0);
}

fn cifar10() -> Config {
    preset("cifar10-linf").expect("a preset").config
}

/// A training step of a wide ResNet, on a batch.
fn wide_resnet_step(config: Config) -> Mma {
    let (mut memory, mut model) = (Memory::default(), model::build(&config.architecture()));
    model.declare(&mut memory);
    let data = DeviceData::new(&mut memory, &*model, "train", config.training_batch_size);
    Mma::new(&mut memory, &*model, &data, &config, None)
}

/// Sizes in bytes of the arguments of every kernel, as g++ compiled it.
fn compiled_kernels(fake: &fake::FakeDriver) -> BTreeMap<String, Vec<usize>> {
    let words = |line: &String| line.split(' ').map(String::from).collect::<Vec<_>>();
    let sizes = |words: &[String]| words[3..].iter().map(|size| size.parse().unwrap()).collect();
    fake.kernels().iter().map(words).map(|words| (words[0].clone(), sizes(&words))).collect()
}

#[test]
fn a_kernel_s_declared_arguments_are_those_that_a_compiler_sees() {
    let Some(fake) = fake_driver() else { return };
    let compiled = compiled_kernels(fake);
    assert_eq!(compiled.len(), cuda::KERNELS.len());
    for kernel in cuda::KERNELS {
        let sizes = compiled.get(kernel.name).unwrap_or_else(|| panic!("{} was not compiled", kernel.name));
        assert_eq!(sizes.len(), kernel.params.len(), "{}", kernel.name);
        for (size, param) in sizes.iter().zip(kernel.params) {
            match *param {
                "pointer" => assert_eq!(*size, 8, "{}", kernel.name),
                "int" | "unsigned" | "float" => assert_eq!(*size, 4, "{}", kernel.name),
                _ => {} // a struct: launches are compared below
            }
        }
    }
    let [linf, l2] = [Norm::Linf, Norm::L2].map(Trained::smallest);
    let sgd = Trained::of(Config { optimizer: OptimizerKind::Sgd, ..linf.config.clone() });
    let small = Config { depth: Some(10), width: 1.0, training_batch_size: 2, ..cifar10() };
    let half = wide_resnet_step(Config { precision: Precision::Fp16, ..small.clone() });
    let steps = [&linf.mma, &l2.mma, &sgd.mma, &wide_resnet_step(small), &half];
    let mut tape = Tape::new("formula");
    let numbers = Memory::default().f32("numbers", &[2, 3]);
    let value = tape.leaf(&numbers);
    let sum = tape.reduce(Reduction::Sum, [value], |[value]| value);
    tape.map_into(&numbers, [sum], |old, [sum]| old / sum);
    let formula = tape.finish();
    let programs = steps.into_iter().flat_map(|mma| mma.schedule.programs()).chain([&formula]);
    let mut structs = BTreeSet::new();
    for launch in
        programs.flat_map(|p| p.nodes.iter().flat_map(|node| cuda::launches(p, node, cuda::TYPICAL_MULTIPROCESSORS)))
    {
        for (arg, size) in launch.args.iter().zip(&compiled[launch.kernel]) {
            assert_eq!(arg.bytes(), *size, "{arg:?} as {} takes it", launch.kernel);
            if let Arg::Struct(name, _) | Arg::Members(name, _) = arg {
                structs.insert(*name);
            }
        }
    }
    let declared: BTreeSet<&str> = cuda::KERNELS.iter().flat_map(|kernel| kernel.params).copied().collect();
    let plain = BTreeSet::from(["pointer", "int", "unsigned", "float"]);
    assert_eq!(structs, &declared - &plain, "every struct was compared");
}

/// Fingerprints of kernels in these files need not be equal to the bit.
#[test]
fn files_whose_kernels_call_functions_that_are_rounded_differently_elsewhere_are_known() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    if !root.is_dir() {
        return; // a machine without the sources
    }
    // Square roots are correctly rounded everywhere.
    let functions = ["exp", "exp2", "expm1", "log", "log2", "log1p", "tanh", "cos", "sin", "pow", "rsqrt", "erf"];
    let calls = |text: &str| {
        text.contains("#include \"loss.cuh\"")
            || functions.iter().flat_map(|name| [format!("{name}("), format!("{name}f(")]).any(|call| {
                text.match_indices(&call)
                    .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
            })
    };
    let files = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|e| e == "cu" || e == "cuh"));
    let files = files.filter(|path| calls(&fs::read_to_string(path).unwrap()));
    let found: BTreeSet<String> = files.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(found, support::FILES_WITH_LIBRARY_FUNCTIONS.map(String::from).into());
}

/// A zero of the other sign, which fmaxf gives on one machine and not on another, would be another fingerprint.
#[test]
fn no_kernel_calls_a_maximum_that_leaves_the_sign_of_zero_open() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    if !root.is_dir() {
        return; // a machine without the sources
    }
    for path in fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&path).unwrap();
        for call in ["fmax(", "fmin(", "fmaxf(", "fminf("] {
            assert!(!text.contains(call), "{}: {call}; call larger or smaller (prelude.cuh)", path.display());
        }
    }
}

#[test]
fn unsafe_code_and_calls_of_the_driver_are_in_one_file() {
    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    if !root.is_dir() {
        return; // a machine without the sources
    }
    let mut found = Vec::new();
    sources(&root, &mut found);
    let speaks = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "use cudarc"].iter().any(|word| text.contains(word))
    };
    found.retain(speaks);
    assert_eq!(found, [root.join("device/cuda/driver.rs")]);
}

#[test]
fn inline_ptx_is_in_one_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    if !root.is_dir() {
        return; // a machine without the sources
    }
    let mut found: Vec<PathBuf> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|e| e == "cu" || e == "cuh"));
    found.retain(|path| fs::read_to_string(path).unwrap().contains("asm"));
    assert_eq!(found, [root.join("ptx.cuh")]);
}
