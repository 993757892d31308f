//! Kernels with one mistake each (`tests/fake_driver/defects/planted.cu`), and the modes that find it.

use std::process::Command;

use crate::fake::{KernelBuild, rerun, rung};
use crate::gpu::{Failed, Gpu, KERNELS};

/// Length of the buffers: two blocks of 64 and a part of a third. It is a multiple of four, as vectors need.
const N: usize = 152;
const BLOCK: usize = 64;

fn x() -> Vec<f32> {
    (0..N).map(|i| (i * 7 % 11) as f32 - 3.0).collect()
}

/// Element `i`, or 0 outside.
fn at(x: &[f32], i: usize) -> f32 {
    x.get(i).copied().unwrap_or(0.0)
}

/// Applies a function of the index to make `y`.
fn each(formula: impl Fn(usize) -> f32) -> Vec<f32> {
    (0..N).map(formula).collect()
}

/// Sum of `x[start..end]`.
fn sum(x: &[f32], start: usize, end: usize) -> f32 {
    x[start..end.min(N)].iter().sum()
}

/// Number of elements of x that are not negative, as bits of y\[0\].
fn not_negative(x: &[f32]) -> Vec<f32> {
    let count = x.iter().filter(|&&x| x >= 0.0).count();
    each(|i| f32::from_bits(if i == 0 { count as u32 } else { 0 }))
}

/// Expected results of a mended kernel.
fn expected(kernel: &str) -> Vec<f32> {
    let x = &x()[..];
    let first = |i: usize| i / BLOCK * BLOCK;
    match kernel {
        "missing_barrier" => each(|i| at(x, first(i) + BLOCK - 1 - i % BLOCK)),
        "read_past_end" => each(|i| x[i] + at(x, i + 1)),
        "read_before_start" => each(|i| x[i] + at(x, i.wrapping_sub(1))),
        "write_past_end" | "copy_not_awaited" | "misaligned" => x.to_vec(),
        "race_between_blocks" | "race_in_block" => not_negative(x),
        "unwritten_shared" => each(|i| if i == first(i) { sum(x, i, i + BLOCK) } else { 0.0 }),
        "shared_overflow" => each(|i| if i == first(i) { 0.0 } else { x[i - 1] }),
        "thread_order" => each(|i| sum(x, first(i), i + 1)),
        "block_order" => each(|i| if i + 1 == (first(i) + BLOCK).min(N) { sum(x, 0, i + 1) } else { 0.0 }),
        "missing_fence" => each(|i| match i {
            0..3 => sum(x, BLOCK * i, BLOCK * i + BLOCK),
            3 => sum(x, 0, N),
            4 => f32::from_bits(3),
            _ => 0.0,
        }),
        "divergent_barrier" => each(|i| x[i / 2 * 2]),
        "divergent_shuffle" => each(|i| if i % 32 == 0 { sum(x, i, i + 32) } else { 0.0 }),
        _ => panic!("no formula for {kernel}"),
    }
}

const ALL: [&str; 15] = [
    "missing_barrier",
    "read_past_end",
    "read_before_start",
    "write_past_end",
    "race_between_blocks",
    "race_in_block",
    "unwritten_shared",
    "shared_overflow",
    "thread_order",
    "block_order",
    "missing_fence",
    "copy_not_awaited",
    "divergent_barrier",
    "divergent_shuffle",
    "misaligned",
];

/// Runs a kernel of the file.
fn run(gpu: &Gpu, kernel: &str) -> Result<Vec<f32>, Failed> {
    let (x, y) = (gpu.upload(&x()), gpu.upload(&[0.0; N]));
    gpu.launch(kernel, [N.div_ceil(BLOCK) as u32, 1, 1], [BLOCK as u32, 1, 1], 0, &[y, x, N as u64])?;
    gpu.read(y, N)
}

/// Asserts that the kernel gives wrong numbers with options `seen` and correct ones with `unseen`.
fn gives_wrong_numbers(kernel: &str, seen: &[&str], unseen: &[&str]) {
    let right = Ok(expected(kernel));
    for options in seen {
        let Some(gpu) = Gpu::new(options) else { return };
        let got = run(&gpu, kernel);
        assert!(got.is_ok(), "{kernel}, {options}: {got:?}");
        assert_ne!(got, right, "{kernel}, {options}");
    }
    for options in unseen {
        let Some(gpu) = Gpu::new(options) else { return };
        assert_eq!(run(&gpu, kernel), right, "{kernel}, {options}");
    }
}

/// Asserts that the launch fails with `error` under `options`, and that the log has the reason. The context is unusable
/// after that; the process is not.
fn is_a_failed_launch(kernel: &str, options: &str, error: &str, why: &[&str]) {
    let Some(gpu) = Gpu::new(options) else { return };
    assert_eq!(run(&gpu, kernel), Err(Failed(error.to_string())), "{kernel}, {options}");
    let log = gpu.fake.log();
    let line = log.iter().find(|line| line.starts_with(&format!("{error}: kernel {kernel} ")));
    let line = line.unwrap_or_else(|| panic!("{kernel}, {options}: no report in {log:#?}"));
    for part in why {
        assert!(line.contains(part), "{kernel}, {options}: {part:?} is not in {line:?}");
    }
    assert_eq!(gpu.alloc(4), Err(Failed(error.to_string())), "the context has failed");
    drop(gpu);
    let Some(gpu) = Gpu::new("") else { return };
    assert_eq!(run(&gpu, &format!("{kernel}_mended")), Ok(expected(kernel)), "a fresh context works");
}

/// Runs these kernels in a process of their own, under a sanitizer.
pub fn apart(build: KernelBuild, kernels: &[String]) -> Option<Command> {
    let mut command =
        rung("fake", rerun(&["--exact", "planted::kernels_of_another_test", "--include-ignored"], KERNELS, build))?;
    command.env("DEFECTS", kernels.join(","));
    Some(command)
}

#[test]
#[ignore = "run by other tests"]
fn kernels_of_another_test() {
    let Some(gpu) = Gpu::new("") else { return };
    for kernel in std::env::var("DEFECTS").expect("DEFECTS names kernels").split(',') {
        let got = run(&gpu, kernel);
        if let Some(name) = kernel.strip_suffix("_mended") {
            assert_eq!(got, Ok(expected(name)), "{kernel}");
        }
    }
}

/// Asserts that a sanitizer finds the mistake, and names the kernel and its file.
fn is_found_by(build: KernelBuild, kernel: &str, what: &str) {
    let Some(mut command) = apart(build, &[kernel.to_string()]) else { return };
    let output = command.output().unwrap();
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{kernel} passes {build:?}: {report}");
    for part in [what, "planted.cu:"] {
        assert!(report.contains(part), "{kernel}, {build:?}: {part:?} is not in\n{report}");
    }
}

#[test]
fn a_missing_barrier_is_found_by_poisoned_shared_memory_in_every_order_and_by_thread_sanitizer() {
    gives_wrong_numbers("missing_barrier", &["", "threads=reversed", "threads=random:1"], &[]);
    is_found_by(KernelBuild::Thread, "missing_barrier", "data race");
}

#[test]
fn a_read_past_the_end_is_found_by_the_guard_page_and_by_address_sanitizer() {
    let why = ["block (2,0,0) thread (23,0,0)", "read 0 bytes past the end of allocation", "(608 bytes)"];
    is_a_failed_launch("read_past_end", "guard=end", "CUDA_ERROR_ILLEGAL_ADDRESS", &why);
    is_found_by(KernelBuild::Address, "read_past_end", "heap-buffer-overflow");
}

#[test]
fn a_read_before_the_start_is_found_by_the_guard_page_and_by_address_sanitizer() {
    let why = ["block (0,0,0) thread (0,0,0)", "read 4 bytes before allocation"];
    is_a_failed_launch("read_before_start", "guard=begin", "CUDA_ERROR_ILLEGAL_ADDRESS", &why);
    is_found_by(KernelBuild::Address, "read_before_start", "heap-buffer-overflow");
}

#[test]
fn a_write_past_the_end_is_found_in_every_mode() {
    let why = ["block (2,0,0) thread (24,0,0)", "write 0 bytes past the end of allocation"];
    is_a_failed_launch("write_past_end", "guard=end", "CUDA_ERROR_ILLEGAL_ADDRESS", &why);
    is_a_failed_launch("write_past_end", "", "CUDA_ERROR_ILLEGAL_ADDRESS", &["wrote 0 bytes past the end"]);
    is_found_by(KernelBuild::Address, "write_past_end", "heap-buffer-overflow");
}

#[test]
fn a_race_between_blocks_is_found_by_thread_sanitizer() {
    gives_wrong_numbers("race_between_blocks", &[], &["", "threads=reversed;blocks=random:3"]);
    is_found_by(KernelBuild::Thread, "race_between_blocks", "data race");
}

#[test]
fn a_race_in_a_block_is_found_by_thread_sanitizer() {
    gives_wrong_numbers("race_in_block", &[], &["", "threads=reversed;blocks=random:3"]);
    is_found_by(KernelBuild::Thread, "race_in_block", "data race");
}

/// Unless they are late, the fake driver's stores are visible at once, so the numbers are right.
#[test]
fn a_missing_fence_is_found_by_late_stores_and_by_thread_sanitizer() {
    let late = ["stores=late", "stores=late;blocks=random:3"];
    gives_wrong_numbers("missing_fence", &late, &["", "threads=reversed;blocks=random:3"]);
    is_found_by(KernelBuild::Thread, "missing_fence", "data race");
}

#[test]
fn shared_memory_that_was_never_written_is_not_a_number() {
    gives_wrong_numbers("unwritten_shared", &["", "threads=reversed"], &[]);
}

#[test]
fn a_write_beside_an_array_in_shared_memory_is_found_by_its_canaries_and_by_address_sanitizer() {
    let why = ["block (0,0,0)", "wrote 0 bytes past the end of tile (256 bytes) in shared memory"];
    is_a_failed_launch("shared_overflow", "", "CUDA_ERROR_ILLEGAL_ADDRESS", &why);
    is_found_by(KernelBuild::Address, "shared_overflow", "index 64 out of bounds");
}

#[test]
fn a_kernel_that_relies_on_the_order_of_threads_is_found_by_another_order() {
    gives_wrong_numbers("thread_order", &["threads=reversed", "threads=random:1"], &["threads=forward"]);
}

#[test]
fn a_kernel_that_relies_on_the_order_of_blocks_is_found_by_another_order() {
    gives_wrong_numbers("block_order", &["blocks=reversed", "blocks=random:1"], &["blocks=forward;workers=1"]);
}

#[test]
fn a_copy_that_is_not_awaited_is_found_by_late_copies() {
    gives_wrong_numbers("copy_not_awaited", &["cp_async=wait"], &["cp_async=issue"]);
}

#[test]
fn threads_that_meet_at_different_barriers_are_a_failed_launch() {
    let why = ["meet at different barriers", "32 threads from (0,0,0)", "32 threads from (1,0,0)", "planted.cu:"];
    for options in ["", "threads=reversed", "threads=random:5"] {
        is_a_failed_launch("divergent_barrier", options, "CUDA_ERROR_LAUNCH_FAILED", &why);
    }
}

#[test]
fn a_warp_of_which_some_wait_elsewhere_is_a_failed_launch() {
    let why = ["block (2,0,0)", "deadlock", "wait at a warp shuffle", "wait at __syncthreads", "planted.cu:"];
    for options in ["", "threads=reversed", "threads=random:5"] {
        is_a_failed_launch("divergent_shuffle", options, "CUDA_ERROR_LAUNCH_FAILED", &why);
    }
}

#[test]
fn a_misaligned_vector_is_found_by_the_sanitizer_of_undefined_behaviour() {
    is_found_by(KernelBuild::Address, "misaligned", "misaligned address");
}

#[test]
fn what_is_mended_passes_in_every_mode() {
    for threads in ["forward", "reversed", "random:1", "random:2"] {
        for blocks in ["forward", "reversed", "random:1"] {
            for (copies, guard) in [("issue", "begin"), ("issue", "end"), ("wait", "begin"), ("wait", "end")] {
                let options = format!("threads={threads};blocks={blocks};cp_async={copies};guard={guard}");
                let Some(gpu) = Gpu::new(&options) else { return };
                for kernel in ALL {
                    assert_eq!(run(&gpu, &format!("{kernel}_mended")), Ok(expected(kernel)), "{kernel}, {options}");
                }
            }
        }
    }
}

#[test]
fn what_is_mended_gives_no_alarm_under_a_sanitizer() {
    for build in [KernelBuild::Address, KernelBuild::Thread] {
        let Some(mut command) = apart(build, &ALL.map(|kernel| format!("{kernel}_mended"))) else { return };
        let output = command.output().unwrap();
        let report = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !report.contains("Sanitizer"), "{build:?}: {report}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the kernels did run");
    }
}
