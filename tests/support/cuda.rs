//! The CUDA device in tests. Usually on the fake driver (tests/fake_driver), on any machine; with
//! `MAXMARGIN_REQUIRE=gpu` on the real driver and its first GPU. A process has one driver or the other.

use std::sync::LazyLock;

use maxmargin::device::cuda::{Cuda, NVCC};

use super::fake::{self, FakeDriver, required, rung};
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
    // The GPU stays open: to load the kernels takes longer than most tests.
    std::mem::forget(Cuda::open(0, false).expect("the first GPU opens"));
    true
});

/// True if `MAXMARGIN_APART=1` asks for operands that stand apart and launches that are waited for: a tool that watches
/// over allocations needs it, and the error of a kernel that fails then names it.
fn apart_is_asked_for() -> bool {
    std::env::var("MAXMARGIN_APART").is_ok_and(|text| text == "1")
}

/// The forms of the CUDA device that a suite runs on: both on the fake driver; on a GPU and for fingerprints one; in a
/// process that is there to watch kernels ([`fake::rerun`]) the one with operands apart.
pub fn devices() -> Vec<TestDevice> {
    match () {
        () if !*READY => Vec::new(),
        () if fake::is_rerun() || apart_is_asked_for() => vec![TestDevice::CudaApart],
        () if required("gpu") || fingerprints::in_use() => vec![TestDevice::CudaArena],
        () => vec![TestDevice::CudaApart, TestDevice::CudaArena],
    }
}

/// Whether there is a CUDA device to test.
pub fn ready() -> bool {
    *READY
}

/// The fake driver, where the device is on it.
pub fn fake_driver() -> Option<&'static FakeDriver> {
    if ready() && !required("gpu") { fake::load().ok() } else { None }
}

/// The first GPU; with `sync` every launch is waited for.
pub fn open(sync: bool) -> Cuda {
    let cuda = Cuda::open(0, sync || apart_is_asked_for()).expect("a GPU that opened before");
    match fingerprints::multiprocessors() {
        Some(multiprocessors) => cuda.split_for(multiprocessors),
        None => cuda,
    }
}
