//! Every op once more on the fake driver in each of its modes and under AddressSanitizer, in a process of its own.
//! These are long tests. `tests/defects` proves that each mode finds the defects that it is for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use maxmargin::device::cuda::KERNELS;

use super::support::fake::{
    AlteredKernel, KernelBuild, build_altered, library, required, rerun, rung, runs_long_tests,
};

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs the other tests of this suite with the driver's `options`, except those of large layers.
fn pass(build: KernelBuild, options: &str) {
    if required("gpu") || !runs_long_tests("every op with other schedules and under a sanitizer") {
        return; // the process of a GPU's tests is on the real driver
    }
    let Some(mut command) = rung("fake", rerun(&["--skip", "modes::", "--skip", "in_large_layers"], "kernels", build))
    else {
        return;
    };
    let output = command.env("FAKE_CUDA", options).env("MAXMARGIN_REPEAT", "1").output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{build:?}, {options:?}:\n{said}");
    assert!(said.contains("test result: ok.") && !said.contains(" 0 passed"), "{build:?}, {options:?}: nothing ran");
}

#[test]
fn every_op_passes_with_threads_and_blocks_reversed_and_a_guard_page_behind_every_operand() {
    pass(KernelBuild::Plain, "threads=reversed;blocks=reversed;cp_async=wait;guard=end;workers=1");
}

/// Tests take memory from the one device of the process: to open it for each case would take a GPU minutes.
#[test]
fn every_op_passes_with_threads_and_blocks_in_random_order_and_a_guard_page_before_every_operand_on_one_open_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    pass(KernelBuild::Plain, &format!("threads=random:3;blocks=random:5;guard=begin;log={}", log.display()));
    let Ok(log) = fs::read_to_string(log) else { return };
    let mut calls: BTreeMap<&str, usize> = BTreeMap::new();
    log.lines().for_each(|line| *calls.entry(line.split(' ').next().unwrap_or_default()).or_default() += 1);
    let files = KERNELS.iter().map(|kernel| kernel.file()).collect::<std::collections::BTreeSet<_>>().len();
    let counted = |name: &str| calls.get(name).copied().unwrap_or(0);
    assert_eq!(counted("cuDevicePrimaryCtxRetain"), 1, "{calls:?}");
    assert_eq!(counted("cuModuleLoadData"), files, "one load a module: {calls:?}");
    assert_eq!(counted("cuModuleGetFunction"), KERNELS.len(), "one look-up a kernel: {calls:?}");
    // A device stays open, and each thread of the harness has one.
    let devices = 1 + std::thread::available_parallelism().unwrap().get();
    assert!(counted("cuMemHostAlloc") <= devices, "pinned memory is used again: {calls:?}");
    assert!(counted("cuLaunchKernel") > 1000, "the suite ran: {calls:?}");
}

/// Tests of this suite whose names have `filter` in them, on the driver of a folder as on a GPU.
fn as_on_a_gpu(driver: &Path, filter: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([filter, "--skip", "modes::", "--nocapture"]).env("LD_LIBRARY_PATH", driver);
    command.env("MAXMARGIN_REQUIRE", "gpu").env("MAXMARGIN_REPEAT", "1");
    command
}

#[test]
fn a_kernel_with_one_rounding_changed_is_named_by_its_fingerprint_and_no_other_is() {
    if required("gpu") {
        return; // the process of a GPU's tests is on the real driver
    }
    let contracted =
        AlteredKernel { file: "attack.cu", from: "x + radius * u, x, radius", to: "fmaf(radius, u, x), x, radius" };
    let Some([plain, altered]) = rung("fake", library().and_then(|plain| Ok([plain, build_altered(&contracted)?])))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let recorded = folder.path().join("fingerprints");
    let output = as_on_a_gpu(&plain, "attack::").env("MAXMARGIN_FINGERPRINTS_RECORD", &recorded).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));

    let compared = |driver: &Path| {
        let output = as_on_a_gpu(driver, "attack::").env("MAXMARGIN_FINGERPRINTS", &recorded).output().unwrap();
        let said = text(&output);
        assert!(output.status.success(), "a rounding is within the law of tolerance: {said}");
        let lines = said.lines().filter_map(|line| Some(line.split_once("fingerprint ")?.1.to_owned()));
        lines.map(|line| line.split_once(' ').map(|(word, case)| (word.to_owned(), case.to_owned())).unwrap()).collect()
    };
    let same: Vec<(String, String)> = compared(&plain);
    assert!(same.len() > 100 && same.iter().all(|(word, _)| word == "equal"), "{same:?}");

    let other: Vec<(String, String)> = compared(&altered);
    let different: Vec<&String> = other.iter().filter(|(word, _)| word == "DIFFERENT").map(|(_, case)| case).collect();
    let kernels = ["pgd_start_linf ", "pgd_start_linf_x4 "];
    for kernel in kernels {
        assert!(different.iter().any(|case| case.starts_with(kernel)), "{kernel}: {different:?}");
    }
    for case in &different {
        assert!(kernels.iter().any(|kernel| case.starts_with(kernel)), "{case}");
        assert!(case.contains(" rows: largest difference: output 0 ") && case.contains(", element "), "{case}");
    }
    assert!(other.iter().all(|(word, _)| word == "equal" || word == "DIFFERENT"), "{other:?}");
    assert_eq!(other.len(), same.len());
}

#[test]
fn every_op_passes_under_address_sanitizer() {
    pass(KernelBuild::Address, "");
}

/// Kernels whose last block reads what the others stored. Small cases: memory is compared after every block.
#[test]
fn sums_by_the_last_block_are_right_if_stores_become_visible_late() {
    if required("gpu") || !runs_long_tests("sums by the last block with late stores") {
        return;
    }
    let which = ["--exact", "half::small_convolutions_of_each_kernel", "batch_norm::sums_of_three_blocks"];
    let Some(mut command) = rung("fake", rerun(&which, "kernels", KernelBuild::Plain)) else { return };
    let output = command.env("FAKE_CUDA", "stores=late").env("MAXMARGIN_REPEAT", "1").output().unwrap();
    let said = text(&output);
    assert!(output.status.success() && said.contains("2 passed"), "{said}");
}

/// ThreadSanitizer takes a millisecond a thread: the stages of shared memory and sums by the last block are what it is
/// needed for. A training step runs under it in `tests/cuda`.
#[test]
fn stages_of_tensor_core_kernels_and_sums_by_the_last_block_race_nowhere() {
    if required("gpu") || !runs_long_tests("tensor-core kernels and batch norm under ThreadSanitizer") {
        return;
    }
    let which = ["--exact", "half::small_convolutions_of_each_kernel", "batch_norm::sums_of_three_blocks"];
    let Some(mut command) = rung("fake", rerun(&which, "kernels", KernelBuild::Thread)) else { return };
    let output = command.env("MAXMARGIN_REPEAT", "1").output().unwrap();
    let said = text(&output);
    assert!(output.status.success() && !said.contains("ThreadSanitizer"), "{said}");
    assert!(said.contains("2 passed"), "{said}");
}
