//! Gradients through a network's normalization of images, against central differences of the same network without one
//! behind a normalization that is written out here: a bias and a 1x1 convolution with a diagonal weight.

use maxmargin::model::{LeNet5, Mode, Model, Normalization, WideResNet};
use maxmargin::tape::{ConvWindow, Tape, Value};

use super::support::Array;
use super::{Given, check_against, fill, images, labels, rules};

/// Loss of a model and its input; `normalize` comes between the images and the model.
fn loss_behind(
    tape: &mut Tape,
    given: &mut Given,
    mut model: Box<dyn Model>,
    normalization: &Normalization,
    normalize: &dyn Fn(&mut Tape, &mut Given, Value) -> Value,
) -> (Value, Vec<Value>) {
    model.set_normalization(normalization.clone()).expect("values for its channels");
    fill(given, &mut *model);
    let x = images(tape, given, &*model, "x", 5);
    let y = given.leaf(tape, "labels", labels(model.classes()));
    let normalized = normalize(tape, given, x);
    let logits = model.logits(tape, normalized, Mode::Eval);
    (tape.loss(rules()[0], logits, y), vec![x])
}

/// `(x - mean) / deviation` of each channel.
fn by_hand(tape: &mut Tape, given: &mut Given, x: Value, mean: &[f64], deviation: &[f64]) -> Value {
    let channels = mean.len();
    let bias = given.leaf(tape, "minus mean", Array::f32(&[channels], mean.iter().map(|mean| -mean)));
    let diagonal =
        (0..channels * channels).map(|i| if i % (channels + 1) == 0 { 1.0 / deviation[i / channels] } else { 0.0 });
    let weight = given.leaf(tape, "1 / deviation", Array::f32(&[channels, 1, 1, channels], diagonal));
    let moved = tape.add_bias(x, bias);
    tape.conv2d(moved, weight, ConvWindow { padding: 0, stride: 1 })
}

/// Builder of a network.
type Build = fn() -> Box<dyn Model>;

fn lenet5() -> Box<dyn Model> {
    Box::new(LeNet5::with_sizes([8, 8, 2], [3, 4], 3, 6, 5))
}

fn wide_resnet() -> Box<dyn Model> {
    Box::new(WideResNet::new(10, 1))
}

#[test]
fn a_normalization_of_channels_has_the_gradient_of_one_before_the_network() {
    let of_wide_resnet: [&[f64]; 2] = [&[0.5, 0.375, 0.4375], &[0.25, 0.1875, 0.3125]];
    for (model, [mean, deviation], most) in
        [(lenet5 as Build, [&[0.125, 0.75][..], &[0.25, 0.5]], 128), (wide_resnet, of_wide_resnet, 6)]
    {
        let text = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(":");
        let normalization: Normalization = format!("{},{}", text(mean), text(deviation)).parse().unwrap();
        check_against(
            &format!("{}, {normalization}", model().describe()),
            most,
            &|tape, given| loss_behind(tape, given, model(), &normalization, &|_, _, x| x),
            &|tape, given| {
                let hand = |tape: &mut Tape, given: &mut Given, x: Value| by_hand(tape, given, x, mean, deviation);
                loss_behind(tape, given, model(), &Normalization::None, &hand)
            },
        );
    }
}

#[test]
fn a_normalization_of_each_image_has_the_gradient_of_one_before_the_network() {
    for (model, most) in [(lenet5 as Build, 128), (wide_resnet, 6)] {
        check_against(
            &format!("{}, per image", model().describe()),
            most,
            &|tape, given| loss_behind(tape, given, model(), &Normalization::PerImage, &|_, _, x| x),
            &|tape, given| loss_behind(tape, given, model(), &Normalization::None, &|tape, _, x| tape.standardize(x)),
        );
    }
}
