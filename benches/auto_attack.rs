//! Results of APGD and FAB started at the image, a start that every implementation can have. Writes images, labels and
//! the results as tensors, which `benches/peers/auto_attack.py` compares with the `autoattack` package.
//!
//! `cargo bench --bench auto_attack -- --weights FILE --out FILE [--dataset digits|mnist|cifar10] [--data FOLDER]
//! [--images N] [--norm linf|l2] [--eps EPS] [--batch N] [--device cpu|cuda] [--threads N]`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use maxmargin::attack::{ApgdLoss, ApgdSettings, ApgdStart, Attack, FabSettings, apgd, fab};
use maxmargin::batch::Batch;
use maxmargin::catalog::DatasetKind;
use maxmargin::choice::Choice as _;
use maxmargin::data;
use maxmargin::device::Device;
use maxmargin::device::cpu::Cpu;
use maxmargin::device::cuda::Cuda;
use maxmargin::model::state_dict::{LoadedModel, load_model};
use maxmargin::record::{Tensor, write_tensors};
use maxmargin::tape::{Memory, Norm, Program};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |flag: &str| args.iter().zip(&args[1..]).find(|(name, _)| *name == flag).map(|(_, value)| &**value);
    let number = |flag: &str, default: usize| value(flag).map_or(default, |n| n.parse().expect("a number"));
    let path = |flag: &str| Path::new(value(flag).unwrap_or_else(|| panic!("{flag} FILE is needed"))).to_owned();
    rayon::ThreadPoolBuilder::new().num_threads(number("--threads", 0)).build_global().expect("one pool");
    let norm = Norm::from_name(value("--norm").unwrap_or("linf")).expect("linf or l2");
    let kind = DatasetKind::from_name(value("--dataset").unwrap_or("digits")).expect("a data set");
    let eps: f32 = value("--eps").map_or(if norm == Norm::Linf { 0.3 } else { 2.0 }, |e| e.parse().expect("a number"));

    let LoadedModel { mut model, state, .. } = load_model(&path("--weights")).expect("weights");
    let test = data::load(kind, Path::new(value("--data").unwrap_or("data")), 1).expect("images").test;
    let test = test.take(number("--images", 500));
    let pixels: Vec<f32> = test.images.iter().map(|&byte| f32::from(byte) / 255.0).collect();
    let labels: Vec<u32> = test.labels.iter().map(|&label| u32::from(label)).collect();

    let mut memory = Memory::default();
    model.declare(&mut memory);
    let model = &*model;
    let batch = number("--batch", 100).min(test.len());
    let target = Batch::new(&mut memory, model, "a.x", batch);
    let mut attacks = Vec::new();
    for loss in [ApgdLoss::Xent, ApgdLoss::Dlr, ApgdLoss::TargetedDlr] {
        let settings = ApgdSettings { start: ApgdStart::Image, ..ApgdSettings::published(loss, norm, 0) };
        attacks.push(apgd(&mut memory, model, &target, &settings).expect("ten classes"));
    }
    for targeted in [true, false] {
        // The `autoattack` package has no search at the end.
        let settings = FabSettings { search_steps: 0, ..FabSettings::published(norm, targeted, false, 0) };
        attacks.push(fab(&mut memory, model, &target, &settings).expect("ten classes"));
    }
    let mut device: Box<dyn Device> = match value("--device") {
        None | Some("cpu") => Box::new(Cpu::new()),
        Some("cuda") => Box::new(Cuda::open(0, false).expect("a GPU")),
        Some(other) => panic!("--device {other}: expected cpu or cuda"),
    };
    let device = &mut *device;
    let programs: Vec<&Program> = attacks.iter().flat_map(|attack| attack.schedule.programs()).collect();
    device.allocate(&memory, &programs).expect("memory");
    model.load(device, &state).expect("weights");

    let shape = [&[test.len()][..], &model.image()].concat();
    let mut tensors =
        vec![Tensor::new("x", &shape, pixels.clone()), Tensor::new("labels", &shape[..1], labels.clone())];
    let mut metadata = BTreeMap::from([("norm".to_owned(), norm.to_string()), ("eps".to_owned(), eps.to_string())]);
    for attack in &attacks {
        let start = Instant::now();
        for run in 0..attack.runs {
            let adv = found(device, attack, &target, run, eps, &pixels, &labels);
            tensors.push(Tensor::new(format!("{}.{run}", attack.name), &shape, adv));
        }
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("{}: {} runs, {seconds:.1} s", attack.name, attack.runs);
        metadata.insert(format!("{}.seconds", attack.name), seconds.to_string());
    }
    write_tensors(&path("--out"), &tensors, &metadata).expect("a file");
}

/// Results of a run of the attack on all images.
fn found(
    device: &mut dyn Device,
    attack: &Attack,
    target: &Batch,
    run: u32,
    eps: f32,
    pixels: &[f32],
    labels: &[u32],
) -> Vec<f32> {
    let batch = target.capacity();
    let row = target.x.len() / batch;
    let mut all = Vec::with_capacity(pixels.len());
    for (at, (x, labels)) in pixels.chunks(batch * row).zip(labels.chunks(batch)).enumerate() {
        let n = labels.len();
        device.write_f32(&target.x, x).expect("images");
        device.write_u32(&target.labels, labels).expect("labels");
        device.write_u32(&target.index, &(0..n).map(|i| (at * batch + i) as u32).collect::<Vec<_>>()).expect("index");
        device.write_u32(&target.rows, &[n as u32]).expect("rows");
        device.write_u32(&attack.run, &[run]).expect("the run");
        if let Some(radius) = &attack.eps {
            device.write_f32(radius, &vec![eps; n]).expect("radii");
        }
        device.replay(&attack.schedule).expect("the attack");
        all.extend_from_slice(&device.read_f32(&attack.adv).expect("points")[..n * row]);
    }
    all
}
