//! Kernels with one mistake each (`tests/fake_driver/defects/planted.cu`), and what finds it.

use crate::gpu::{Failed, Gpu};

const N: usize = 152; // two blocks of 64 and a part of a third; a buffer of them ends where a vector of four ends
const BLOCKS: usize = N.div_ceil(64);

fn x() -> Vec<f32> {
    (0..N).map(|i| (i * 7 % 11) as f32 - 3.0).collect()
}

/// What y holds before a kernel runs.
fn y() -> Vec<f32> {
    vec![0.0; N]
}

/// Runs a kernel as every kernel of the file is run.
fn run(gpu: &Gpu, kernel: &str) -> Result<Vec<f32>, Failed> {
    let (x, y) = (gpu.upload(&x()), gpu.upload(&y()));
    gpu.launch(kernel, [BLOCKS as u32, 1, 1], [64, 1, 1], 0, &[y, x, N as u64])?;
    gpu.read(y, N)
}

#[test]
fn smoke() {
    let Some(gpu) = Gpu::new("") else { return };
    for kernel in [
        "missing_barrier",
        "missing_barrier_mended",
        "divergent_barrier",
        "divergent_shuffle",
        "read_past_end",
        "read_before_start",
        "write_past_end",
        "shared_overflow",
        "misaligned",
    ] {
        gpu.fake.set("reset;guard=end");
        println!("{:?} {:?}", run(&gpu, kernel), gpu.fake.log());
    }
}
