//! Gradients of values that are used twice, such as parameters by two passes over a batch: the sum of both
//! contributions.

use maxmargin::model::{LeNet5, Mode, Model};
use maxmargin::tape::{BatchNorm, ConvWindow, Tape, Value};

use super::support::{Array, Random};
use super::{CAPACITY, Given, check, devices, fill, gradients, images, labels, rules};

/// Loss of TRADES: the cross-entropy of natural images, and the divergence of their logits and those of adversarial
/// images. Both images and the parameters are wanted.
fn trades(tape: &mut Tape, given: &mut Given, mut model: LeNet5) -> (Value, Vec<Value>) {
    fill(given, &mut model);
    let both = ["natural", "adversarial"].map(|name| images(tape, given, &model, name, name.len() as u64));
    let y = given.leaf(tape, "labels", labels(5));
    let [natural, adversarial] = both.map(|x| model.logits(tape, x, Mode::Train));
    let clean = tape.loss(rules()[0], natural, y);
    let divergence = tape.kl(natural, adversarial);
    let weighted = tape.scale(divergence, 6.0);
    let params = model.params().leaves(tape);
    (tape.add(clean, weighted), both.into_iter().chain(params).collect())
}

#[test]
fn lenet5_has_the_expected_gradients_with_respect_to_both_images_and_every_parameter() {
    check("LeNet5", 200, &|tape, given| trades(tape, given, LeNet5::with_sizes([8, 8, 2], [3, 4], 3, 6, 5)));
}

/// Batch norm in training mode: each pass has its own statistics, and the running statistics move twice.
#[test]
fn a_normalized_layer_has_the_expected_gradients_with_respect_to_both_images_and_every_parameter() {
    check("normalized", 100, &|tape, given| {
        let both = [1, 2].map(|seed| given.leaf(tape, &format!("x {seed}"), Random(seed).image(&[CAPACITY, 5, 6, 3])));
        let mut parameter = |tape: &mut Tape, name: &str, dims: &[usize]| {
            given.leaf(tape, name, Random(name.len() as u64).signed(dims))
        };
        let [filters, last] = [("filters", &[8, 3, 3, 3][..]), ("last", &[7, 8])].map(|(n, d)| parameter(tape, n, d));
        let [weight, bias] = ["weight", "bias"].map(|name| parameter(tape, name, &[8]));
        let [running_mean, running_variance] = ["running mean", "running variance"].map(|name| {
            given.leaf(tape, name, Array::f32(&[8], [0.5; 8]));
            given.leaves.last().expect("it was added").0.clone()
        });
        let norm = BatchNorm { weight, bias, running_mean, running_variance };
        let y = given.leaf(tape, "labels", labels(7));
        let [natural, adversarial] = both.map(|x| {
            let convolved = tape.conv2d(x, filters, ConvWindow { padding: 1, stride: 1 });
            let normalized = tape.batch_norm_training(convolved, &norm);
            let active = tape.relu(normalized);
            let features = tape.global_mean(active);
            tape.linear(features, last)
        });
        let (clean, divergence) = (tape.loss(rules()[0], natural, y), tape.kl(natural, adversarial));
        let [first, second] = both;
        (tape.add(clean, divergence), vec![first, second, filters, weight, bias, last])
    });
}

#[test]
fn the_divergence_has_the_expected_gradient_with_respect_to_both_logits() {
    check("kl", 100, &|tape, given| {
        let [p, q] =
            [1, 2].map(|seed| given.leaf(tape, &format!("logits {seed}"), Random(seed).signed(&[CAPACITY, 7])));
        (tape.kl(p, q), vec![p, q])
    });
}

#[test]
fn the_gradient_of_a_value_used_twice_is_the_sum_of_both_contributions() {
    let weights = Array::f32(&[CAPACITY], [0.5, -1.0, 2.0, 0.0]);
    let (found, _) = gradients(devices()[0], true, &weights, &|tape, given| {
        let a = given.leaf(tape, "a", Random(1).signed(&[CAPACITY]));
        let scaled = tape.scale(a, 3.0);
        let sum = tape.add(a, scaled);
        (tape.add(sum, sum), vec![a])
    });
    assert_eq!(found[0][..3], [4.0, -8.0, 16.0]); // 2 (1 + 3) times the weight
}
