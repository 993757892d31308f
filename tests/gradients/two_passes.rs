//! A loss that two passes over a batch make together: every parameter's gradient is the sum of both.

use maxmargin::model::{LeNet5, Mode, Model, WideResNet};
use maxmargin::tape::{Tape, Value};

use super::{Given, MODES, check, fill, images, labels, rules};

/// TRADES's loss: the cross-entropy of images, and the divergence of the logits of others from theirs. Wanted are both
/// images and the parameters.
fn trades(tape: &mut Tape, given: &mut Given, mut model: Box<dyn Model>, mode: Mode, classes: usize) -> (Value, Vec<Value>) {
    fill(given, &mut *model);
    let both = ["natural", "adversarial"].map(|name| images(tape, given, &*model, name, name.len() as u64));
    let y = given.leaf(tape, "labels", labels(classes));
    let [natural, adversarial] = both.map(|x| model.logits(tape, x, mode));
    let clean = tape.loss(rules()[0], natural, y);
    let divergence = tape.kl(natural, adversarial);
    let weighted = tape.scale(divergence, 6.0);
    let params = model.params().leaves(tape);
    (tape.add(clean, weighted), both.into_iter().chain(params).collect())
}

#[test]
fn lenet5s_gradients_by_both_images_and_every_parameter() {
    check("LeNet5", 200, &|tape, given| {
        trades(tape, given, Box::new(LeNet5::with_sizes([8, 8, 2], [3, 4], 3, 6, 5)), Mode::Train, 5)
    });
}

#[test]
fn a_wide_resnets_gradients_by_both_images_and_every_parameter() {
    for mode in MODES {
        check(&format!("wide ResNet, {mode:?}"), 20, &|tape, given| {
            trades(tape, given, Box::new(WideResNet::new(10, 1)), mode, 10)
        });
    }
}

#[test]
fn the_divergence_of_logits_has_its_gradient_by_both() {
    check("kl", 100, &|tape, given| {
        let [p, q] = [1, 2].map(|seed| given.leaf(tape, &format!("logits {seed}"), super::Random(seed).signed(&[super::CAPACITY, 7])));
        (tape.kl(p, q), vec![p, q])
    });
}
