//! Margins that select checkpoints: the choices between the released code, the paper and files of former versions.

mod support;

use std::path::Path;

use maxmargin::config::{Config, Fidelity, TestAttackLoss, TestAttacked, TestStarts, preset};
use maxmargin::data::{self, Dataset};
use maxmargin::device::{Device, cpu::Cpu};
use maxmargin::evaluate::{Examples, MarginMeasurement};
use maxmargin::model::{Model, ModelInPrecision};
use maxmargin::record::Margins;
use maxmargin::tape::{Loss, Memory};
use support::LinearModel;

const IMAGES: usize = 60;
const CLASSES: usize = 10;
/// Examples with a wrong label.
const MISLABELLED: [usize; 4] = [0, 7, 31, 59];

fn config(fidelity: Fidelity) -> Config {
    Config { fidelity, ..preset("quick").expect("a preset").config }
}

fn digits() -> Dataset {
    data::load(config(Fidelity::RELEASED).dataset, Path::new("data"), 20).expect("digits").test.take(IMAGES)
}

/// Parameters of a linear model that predicts the class whose mean image is nearest.
fn nearest_mean(images: &Dataset) -> Vec<f32> {
    let pixels = images.image_len();
    let (mut weights, mut bias) = (vec![0f32; CLASSES * pixels], vec![0f32; CLASSES]);
    for class in 0..CLASSES {
        let of_class: Vec<usize> = (0..images.len()).filter(|&i| usize::from(images.labels[i]) == class).collect();
        let mean = &mut weights[class * pixels..][..pixels];
        for &i in &of_class {
            let image = images.image(i).iter().map(|&byte| f32::from(byte) / 255.0);
            mean.iter_mut().zip(image).for_each(|(mean, x)| *mean += x / of_class.len() as f32);
        }
        bias[class] = -0.5 * mean.iter().map(|m| m * m).sum::<f32>();
    }
    [weights, bias].concat()
}

/// Margins that a measurement after `step` steps finds.
fn measured(config: &Config, step: u32) -> Margins {
    measured_again(config, &[step]).remove(0)
}

/// Margins that measurements after each of the `steps` find, one after another.
fn measured_again(config: &Config, steps: &[u32]) -> Vec<Margins> {
    let mut images = digits();
    let parameters = nearest_mean(&images);
    MISLABELLED.iter().for_each(|&i| images.labels[i] = (images.labels[i] + 1) % 10);
    let mut memory = Memory::default();
    let mut model = LinearModel::new(images.image_dims(), CLASSES);
    model.declare(&mut memory);
    let examples = Examples::new(&mut memory, &model, "images", IMAGES, 16);
    let margins = MarginMeasurement::new(&mut memory, &ModelInPrecision::single_precision(&model), &examples, config);
    let mut cpu = Cpu::new();
    let device: &mut dyn Device = &mut cpu;
    let programs: Vec<_> = margins.schedule().programs().chain(examples.programs()).collect();
    device.allocate(&memory, &programs).expect("memory");
    model.params().load(device, &parameters).expect("the CPU");
    examples.upload(device, &images).expect("the CPU");
    let mut measure = |&step: &u32| margins.measure(device, &examples, step, |_| ()).expect("the CPU").margins;
    steps.iter().map(&mut measure).collect()
}

#[test]
fn a_misclassified_image_has_the_margin_of_a_bisection_without_a_correct_probe_or_0() {
    for (fidelity, attacked) in [(Fidelity::RELEASED, TestAttacked::Correct), (Fidelity::PAPER, TestAttacked::All)] {
        let other = config(Fidelity { test_attacked: attacked, ..fidelity });
        let given = config(fidelity);
        let [given, other] = [given, other].map(|config| measured(&config, 3));
        assert_eq!(given.correct, other.correct);
        let (all, correct_ones) = if attacked == TestAttacked::All { (other, given) } else { (given, other) };
        assert!(MISLABELLED.iter().all(|&i| !all.correct[i]));
        // The sign at the start lowers the upper end to the start, and nine probes halve it. The released code starts
        // at half of the bound and takes the middle of the last bracket; the paper's choice starts at the attack's eps
        // and takes the upper end.
        let Config { test_eps, .. } = config(fidelity);
        let max_eps = config(fidelity).max_eps();
        let least = if fidelity == Fidelity::RELEASED { max_eps / 2048.0 } else { test_eps / 512.0 };
        for i in 0..IMAGES {
            if all.correct[i] {
                assert_eq!(all.values[i], correct_ones.values[i], "image {i}");
                assert!(all.values[i] > 0.0 && all.values[i] <= max_eps, "image {i}: {}", all.values[i]);
            } else {
                assert_eq!((all.values[i], correct_ones.values[i]), (least, 0.0), "image {i}");
            }
        }
    }
}

#[test]
fn random_starts_are_fresh_at_each_step_or_the_same_at_all_and_a_step_measured_again_has_its_own() {
    let short = |starts| {
        // After one step a point depends on its start.
        let fidelity = Fidelity { test_starts: starts, ..Fidelity::RELEASED };
        Config { nb_iter: 1, test_eps_iter: 0.1, ..config(fidelity) }
    };
    let fresh = measured_again(&short(TestStarts::Fresh), &[0, 100, 0, 100]);
    assert_eq!((&fresh[0], &fresh[1]), (&fresh[2], &fresh[3]));
    let differing = fresh[0].values.iter().zip(&fresh[1].values).filter(|(a, b)| a != b).count();
    assert!(differing > IMAGES / 2, "{differing} of {IMAGES} margins differ");
    let same = measured_again(&short(TestStarts::Same), &[0, 100]);
    assert_eq!(same[0], same[1]);
    assert_eq!(same[0], fresh[0], "those of step 0");
}

#[test]
fn the_attack_on_measured_images_ascends_slm_or_the_loss_of_training() {
    let with = |attack_loss_fn, test_attack_loss_fn| {
        let fidelity = Fidelity { test_attack_loss_fn, ..Fidelity::RELEASED };
        measured(&Config { attack_loss_fn, ..config(fidelity) }, 5)
    };
    use TestAttackLoss::{AttackLossFn, Slm};
    let released = with(Loss::Slm, Slm);
    assert_eq!(with(Loss::Cw, Slm), released, "whatever training ascends");
    assert_eq!(with(Loss::Slm, AttackLossFn), released);
    assert_ne!(with(Loss::Cw, AttackLossFn).values, released.values);
}
