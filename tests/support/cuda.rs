//! The CUDA device in tests: on the fake driver (tests/fake_driver), which runs on any machine, or with
//! `MAXMARGIN_REQUIRE=gpu` on the first GPU. A process uses one of the two drivers.

use std::sync::LazyLock;

use maxmargin::device::cuda::{Cuda, NVCC};

use super::fake::{self, FakeDriver, required, rung, runs_long_tests};
use super::{TestDevice, fingerprints};

static READY: LazyLock<bool> = LazyLock::new(|| {
    let compiled = NVCC.ok_or("no nvcc compiled the kernels (scripts/setup-nvcc installs one)".to_string());
    rung("compile", compiled);
    if !required("gpu") {
        rung("gpu", Err::<(), _>("MAXMARGIN_REQUIRE=gpu runs the suites on a GPU".to_string()));
        if rung("fake", fake::load()).is_none() {
            return false;
        }
    }
    // The GPU stays open, because loading the kernels takes longer than most tests.
    std::mem::forget(Cuda::open(0, false).expect("the first GPU opens"));
    true
});

static BOTH_FORMS: LazyLock<bool> = LazyLock::new(|| runs_long_tests("tests with an allocation for every operand"));

/// True if `MAXMARGIN_APART=1` is set: every operand then has an allocation of its own, which compute-sanitizer needs,
/// and every launch is waited for, so that an error names its kernel.
fn apart_is_asked_for() -> bool {
    std::env::var("MAXMARGIN_APART").is_ok_and(|text| text == "1")
}

/// Forms of the CUDA device that a suite runs on: one arena, as programs use it, and in long tests on the fake driver
/// separate allocations, too. A [`fake::rerun`] has separate allocations alone.
pub fn devices() -> Vec<TestDevice> {
    match () {
        () if !*READY => Vec::new(),
        () if fake::is_rerun() || apart_is_asked_for() => vec![TestDevice::CudaApart],
        () if required("gpu") || fingerprints::in_use() || !*BOTH_FORMS => vec![TestDevice::CudaArena],
        () => vec![TestDevice::CudaApart, TestDevice::CudaArena],
    }
}

/// True if there is a CUDA device to test.
pub fn ready() -> bool {
    *READY
}

/// The fake driver, if the CUDA device runs on it.
pub fn fake_driver() -> Option<&'static FakeDriver> {
    if ready() && !required("gpu") { fake::load().ok() } else { None }
}

/// Opens the first GPU; with `sync` every launch is waited for.
pub fn open(sync: bool) -> Cuda {
    let cuda = Cuda::open(0, sync || apart_is_asked_for()).expect("a GPU that opened before");
    match fingerprints::multiprocessors() {
        Some(multiprocessors) => cuda.split_for(multiprocessors),
        None => cuda,
    }
}
