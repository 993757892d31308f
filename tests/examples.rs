//! The examples run, and what they assert holds.
#![allow(clippy::duplicate_mod)] // each example is a program of its own, with `examples/digits` as its module

#[path = "../examples/attack_weights.rs"]
mod attack_weights;
#[path = "../examples/kernel_levels.rs"]
mod kernel_levels;
#[path = "../examples/new_attack.rs"]
mod new_attack;
#[path = "../examples/precision.rs"]
mod precision;
#[path = "../examples/train_digits.rs"]
mod train_digits;

#[test]
fn training_on_the_digits_raises_accuracy_and_margins() {
    train_digits::main().unwrap();
}

#[test]
fn weights_of_a_file_are_attacked() {
    attack_weights::main().unwrap();
}

#[test]
fn a_new_attack_needs_the_public_api_alone() {
    new_attack::main().unwrap();
}

#[test]
fn half_precision_follows_the_gradients_of_single_precision() {
    precision::main().unwrap();
}

#[test]
fn every_level_of_the_kernels_computes_its_formula() {
    kernel_levels::main().unwrap();
}
