//! Every op once more on the fake driver, in each of its modes and under the sanitizers, in a process of its own. What
//! each mode finds, `tests/defects` shows.

use super::support::fake::{Build, again, required, rung, under_sanitizers};

/// The other tests of this suite, with the driver's `options`; those of large layers have the code of small ones.
fn pass(build: Build, options: &str) {
    if required("gpu") {
        return; // that process is on the real driver
    }
    let Some(mut command) = rung("fake", again(&["--skip", "modes::", "--skip", "in_large_layers"], "kernels", build))
    else {
        return;
    };
    let output = command.env("FAKE_CUDA", options).env("MAXMARGIN_REPEAT", "1").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{build:?}, {options:?}:\n{out}\n{err}");
    assert!(out.contains("test result: ok.") && !out.contains(" 0 passed"), "{build:?}, {options:?}: nothing ran");
}

#[test]
fn every_op_passes_with_threads_and_blocks_reversed_and_a_guard_page_behind_every_operand() {
    pass(Build::Plain, "threads=reversed;blocks=reversed;cp_async=wait;guard=end;workers=1");
}

#[test]
fn every_op_passes_with_threads_and_blocks_in_random_order_and_a_guard_page_before_every_operand() {
    pass(Build::Plain, "threads=random:3;blocks=random:5;guard=begin");
}

#[test]
fn every_op_passes_under_address_sanitizer() {
    if under_sanitizers() {
        pass(Build::Address, "");
    }
}
