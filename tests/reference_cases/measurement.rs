//! The measurement of margins that selects checkpoints, against the AN-PGD of the cases of form `test`.

use maxmargin::attack::Search;
use maxmargin::config::{Config, preset};
use maxmargin::data::{Dataset, Provenance};
use maxmargin::device::{Device, cpu::Cpu};
use maxmargin::evaluate::{Examples, MarginMeasurement};
use maxmargin::model::ModelInPrecision;
use maxmargin::rng::{Purpose, philox, signed_unit, unit};
use maxmargin::tape::{Memory, Norm};

use super::ReferenceCase;
use super::attack::SearchReplay;
use super::comparison::{Comparison, largest};

/// Checks on the CPU that [`MarginMeasurement`] gives a case of form `test` the margins of the case's own AN-PGD. Both
/// start at the random numbers of the measurement at step 0.
pub fn compare(case: &ReferenceCase) -> Comparison {
    let mut replay = SearchReplay::new(case);
    let Search { max_eps, norm, .. } = replay.search;
    let n = replay.attacked.batch.capacity();
    let number = |key: &str| case.number::<f64>(key) as f32;
    let config = Config {
        norm,
        seed: 5,
        nb_iter: case.number("steps"),
        num_search_steps: case.number("search_steps"),
        hinge_maxeps: (f64::from(max_eps) / 1.05) as f32,
        test_eps: number("pgd_eps"),
        test_eps_iter: number("pgd_step"),
        ..preset("quick").expect("a preset").config
    };

    let (mut model, state) = case.model();
    let (images, _) = case.images("images", &*model);
    let [height, width, channels] = model.image();
    let labels = case.u32s("labels").into_iter().map(|label| label as u8).collect();
    let (name, provenance) = (case.name.clone(), Provenance::Other);
    let dataset = Dataset { name, images, labels, height, width, channels, provenance };
    let mut memory = Memory::default();
    model.declare(&mut memory);
    let examples = Examples::new(&mut memory, &*model, "examples", n, 5);
    let measurement =
        MarginMeasurement::new(&mut memory, &ModelInPrecision::single_precision(&*model), &examples, &config);
    let programs: Vec<_> = measurement.schedule().programs().chain(examples.programs()).collect();
    let mut cpu = Cpu::new();
    let device: &mut dyn Device = &mut cpu;
    device.allocate(&memory, &programs).expect("memory");
    model.load(device, &state).unwrap();
    examples.upload(device, &dataset).unwrap();
    let measured = measurement.measure(device, &examples, 0, |_| ()).unwrap();

    let number = |i: usize, e: usize| {
        let word = philox(config.seed, Purpose::MarginStart, 0, i as u32, e as u32 / 4)[e % 4];
        if norm == Norm::Linf { signed_unit(word) } else { unit(word) }
    };
    let row = dataset.image_len();
    replay.attacked.start = (0..n * row).map(|i| number(i / row, i % row)).collect();
    let expected: Vec<f64> = replay.run(case, &mut Cpu::new()).into_iter().map(f64::from).collect();
    Comparison::new("margins (in search steps)", largest(&measured.margins.values, &expected) / replay.step(), 1e-3)
}
