//! Barriers and warp operations give the results that CUDA's programming guide defines, in every order of threads.

use std::time::Instant;

use crate::gpu::{Failed, Gpu};

const ORDERS: [&str; 4] = ["threads=forward", "threads=reversed", "threads=random:1", "threads=random:2"];

/// Runs a kernel and returns the `count` words that it writes.
fn words(gpu: &Gpu, kernel: &str, block: [u32; 3], shared: u32, count: usize, arguments: &[u64]) -> Vec<u32> {
    let y = gpu.alloc(4 * count).unwrap();
    let arguments: Vec<u64> = [y].iter().chain(arguments).copied().collect();
    gpu.launch(kernel, [1, 1, 1], block, shared, &arguments).unwrap();
    gpu.read(y, count).unwrap().into_iter().map(f32::to_bits).collect()
}

/// Lane that a lane of a warp reads from, by CUDA's programming guide.
fn source(operation: usize, lane: usize, amount: usize, width: usize) -> usize {
    let first = lane / width * width;
    let (at, ok) = match operation {
        0 => (first + amount % width, true),
        1 => (lane.wrapping_sub(amount), lane >= first + amount),
        2 => (lane + amount, lane + amount < first + width),
        _ => (lane ^ amount, lane ^ amount < first + width),
    };
    if ok { at } else { lane }
}

#[test]
fn warp_operations_give_what_the_hardware_gives_in_every_order() {
    const THREADS: usize = 96;
    for order in ORDERS {
        let Some(gpu) = Gpu::new(order) else { return };
        for width in [32, 16, 8, 2] {
            for amount in [0, 1, 5, 16, 31].into_iter().filter(|&a| a < width) {
                let got = words(
                    &gpu,
                    "warp_operations",
                    [THREADS as u32, 1, 1],
                    0,
                    10 * THREADS,
                    &[width as u64, amount as u64],
                );
                for t in 0..THREADS {
                    let (warp, lane) = (t / 32 * 32, t % 32);
                    let from = |operation| 3 * (warp + source(operation, lane, amount, width)) as u32;
                    let lanes = |wanted: &dyn Fn(usize) -> bool| (0..32).filter(|&l| wanted(warp + l)).count();
                    let ballot: u32 = (0..32).filter(|l| (warp + l) % 3 == 0).map(|l| 1 << l).sum();
                    let half = t / 16 * 16;
                    let expected = [
                        from(0),
                        from(1),
                        from(2),
                        from(3),
                        from(0),
                        from(3),
                        ballot,
                        u32::from(lanes(&|t| t == amount) > 0),
                        u32::from(lanes(&|t| t >= amount) == 32),
                        (half..half + 16).map(|t| 3 * t as u32).sum(),
                    ];
                    for (row, expected) in expected.into_iter().enumerate() {
                        let got = got[row * THREADS + t];
                        assert_eq!(got, expected, "{order}, width {width}, amount {amount}, row {row}, thread {t}");
                    }
                }
            }
        }
    }
}

#[test]
fn barriers_order_shared_memory_and_count_in_every_order() {
    for order in ORDERS {
        let Some(gpu) = Gpu::new(order) else { return };
        for block in [[1, 1, 1], [33, 1, 1], [8, 4, 2], [1024, 1, 1]] {
            let n = block.iter().product::<u32>();
            let amount = n / 3;
            let got = words(&gpu, "block_operations", block, 4 * n, 4 * n as usize, &[u64::from(amount)]);
            for t in 0..n {
                let got: Vec<u32> = (0..4).map(|row| got[(row * n + t) as usize]).collect();
                assert_eq!(got, [amount, 1, 0, (t + 5) % n], "{order}, block {block:?}, thread {t}");
            }
        }
    }
}

#[test]
fn threads_that_have_left_are_not_waited_for() {
    for order in ORDERS {
        let Some(gpu) = Gpu::new(order) else { return };
        let got = words(&gpu, "early_leavers", [64, 1, 1], 0, 50, &[50]);
        assert_eq!(got, (0..50).rev().collect::<Vec<u32>>(), "{order}");
    }
}

#[test]
fn a_lane_that_has_left_brings_no_number() {
    for order in ORDERS {
        let Some(gpu) = Gpu::new(order) else { return };
        let y = gpu.alloc(4 * 32).unwrap();
        gpu.launch("shuffle_from_nobody", [1, 1, 1], [32, 1, 1], 0, &[y]).unwrap();
        assert!(gpu.read(y, 32).unwrap().iter().all(|y| y.is_nan()), "{order}");
    }
}

#[test]
fn arguments_of_all_kinds_arrive() {
    let Some(gpu) = Gpu::new("") else { return };
    let x = gpu.upload(&(0..100).map(f32::from_bits).collect::<Vec<f32>>());
    let y = gpu.alloc(400).unwrap();
    let shift = 3 | u64::from(0.25f32.to_bits()) << 32;
    let arguments = [y, x, shift, 100, 1.5f64.to_bits(), 100];
    gpu.launch("select", [2, 1, 1], [64, 1, 1], 0, &arguments).unwrap();
    let expected: Vec<f32> = (0..100).map(|i| (i << 3) as f32 * 1.5 + 100.25).collect();
    assert_eq!(gpu.read(y, 100).unwrap(), expected);
    let lines = gpu.fake.kernels();
    assert!(lines.contains(&"select threads.cu 64 8 8 8 4 8 1".to_string()), "{lines:?}");
}

#[test]
fn a_shared_array_is_one_a_place_and_instantiation() {
    let Some(gpu) = Gpu::new("") else { return };
    assert_eq!(words(&gpu, "shared_places", [4, 1, 1], 0, 4, &[]), [30; 4]);
}

#[test]
fn blocks_run_on_many_threads_and_each_runs_once() {
    const BLOCKS: usize = 5000;
    for options in ["workers=1", "workers=7", "workers=7;blocks=reversed", "workers=7;blocks=random:9"] {
        let Some(gpu) = Gpu::new(options) else { return };
        let n = BLOCKS * 256 - 100;
        let y = gpu.upload(&vec![0.0; n + 100]);
        for _ in 0..5 {
            gpu.launch("add_one", [BLOCKS as u32, 1, 1], [256, 1, 1], 0, &[y, n as u64]).unwrap();
        }
        let got = gpu.read(y, n + 100).unwrap();
        assert!(got[..n].iter().all(|&y| y == 5.0), "{options}");
        assert!(got[n..].iter().all(|&y| y == 0.0), "{options}");

        let (y, arrived) = (gpu.alloc(4 * (BLOCKS + 1)).unwrap(), gpu.upload(&[0.0]));
        gpu.launch("last_block", [BLOCKS as u32, 1, 1], [64, 1, 1], 0, &[y, arrived]).unwrap();
        let sum = gpu.read(y, BLOCKS + 1).unwrap()[BLOCKS].to_bits();
        assert_eq!(sum as usize, BLOCKS * (BLOCKS - 1) / 2, "{options}");
    }
}

#[test]
fn what_a_kernel_does_not_survive_is_a_failed_launch() {
    let cases: [(&str, &[u64], &str, &str); 3] = [
        ("traps", &[], "CUDA_ERROR_LAUNCH_FAILED", "assert(y == nullptr) at "),
        ("divides_by_zero", &[0], "CUDA_ERROR_LAUNCH_FAILED", "integer division by zero"),
        ("add_one", &[1 << 20], "CUDA_ERROR_ILLEGAL_ADDRESS", "past the end of allocation"),
    ];
    for (kernel, arguments, error, why) in cases {
        let Some(gpu) = Gpu::new("workers=3") else { return };
        let y = gpu.alloc(4096).unwrap();
        let arguments: Vec<u64> = [y].iter().chain(arguments).copied().collect();
        gpu.launch(kernel, [4096, 1, 1], [256, 1, 1], 0, &arguments).unwrap();
        assert_eq!(gpu.synchronize(), Err(Failed(error.to_string())), "{kernel}");
        let log = gpu.fake.log();
        assert!(log.iter().any(|line| line.contains(why)), "{kernel}: {log:#?}");
    }
}

#[test]
fn a_matrix_product_is_right() {
    const SIZE: usize = 128;
    let Some(gpu) = Gpu::new("") else { return };
    let a: Vec<f32> = (0..SIZE * SIZE).map(|i| (i % 13) as f32 - 6.0).collect();
    let b: Vec<f32> = (0..SIZE * SIZE).map(|i| (i % 7) as f32 - 3.0).collect();
    let c = gpu.alloc(4 * SIZE * SIZE).unwrap();
    let blocks = SIZE as u32 / 64;
    gpu.launch("sgemm", [blocks, blocks, 1], [256, 1, 1], 0, &[c, gpu.upload(&a), gpu.upload(&b), SIZE as u64])
        .unwrap();
    for (i, c) in gpu.read(c, SIZE * SIZE).unwrap().into_iter().enumerate() {
        let (row, column) = (i / SIZE, i % SIZE);
        let sum: f32 = (0..SIZE).map(|k| a[row * SIZE + k] * b[k * SIZE + column]).sum();
        assert_eq!(c, sum, "row {row}, column {column}");
    }
}

/// Prints the times that the README states; `cargo test --release --test defects -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn how_fast_it_is() {
    const SIZE: usize = 512;
    let Some(gpu) = Gpu::new("workers=1") else { return };
    let milliseconds = |kernel: &str, grid: [u32; 3], block: u32, arguments: &[u64]| {
        let times = (0..5).map(|_| {
            let start = Instant::now();
            gpu.launch(kernel, grid, [block, 1, 1], 0, arguments).unwrap();
            start.elapsed().as_secs_f64() * 1e3
        });
        times.fold(f64::INFINITY, f64::min)
    };
    let matrix = || gpu.upload(&vec![1.0; SIZE * SIZE]);
    let product = milliseconds("sgemm", [8, 8, 1], 256, &[matrix(), matrix(), matrix(), SIZE as u64]);
    println!("{SIZE}^3 matrix product on one core: {product:.1} ms");
    for threads in [32, 256] {
        let count = 10_000;
        let barriers = milliseconds("barriers", [1, 1, 1], threads, &[count]);
        println!("a barrier of {threads}: {:.1} ns a thread", barriers * 1e6 / (count * u64::from(threads)) as f64);
    }
    let y = gpu.upload(&vec![0.0; 1 << 20]);
    let one = milliseconds("add_one", [4096, 1, 1], 256, &[y, 1 << 20]);
    println!("a thread that never waits: {:.1} ns", one * 1e6 / f64::from(1 << 20));
    let small = milliseconds("add_one", [1, 1, 1], 32, &[y, 32]);
    println!("a launch of one warp: {:.1} us", small * 1e3);
}
