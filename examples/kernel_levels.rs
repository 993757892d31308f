//! Runs the kernels of `kernels/levels.cu`, each one idea beyond the one before: from a PGD step with a thread an
//! element to a convolution with tiles in shared memory and registers.
//!
//! ```text
//! cargo run --release --example kernel_levels
//! ```
//!
//! For each level it prints the bytes of its operands, the bytes that its threads ask global memory for, its FLOPs, and
//! the floor: the time below which no H100 does it, at 3.0 TB/s and 47 TFLOP/s (single precision, no tensor cores). On
//! a GPU the measured time stands beside it. Without one the kernels run on the fake driver (`tests/fake_driver`), on
//! the CPU: their results are checked there, too, but a time would say nothing.
//!
//! Every result is checked against a formula in double precision.

use std::time::Instant;

use maxmargin::device::Device;
use maxmargin::device::cuda::launch::{Arg, Cost, Launch, THREADS};
use maxmargin::device::cuda::{Cuda, find};
use maxmargin::tape::{Buffer, Memory};

#[path = "../tests/support/fake.rs"]
mod fake;

/// Bytes a second of an H100's memory, as large copies reach them.
const MEMORY_RATE: f64 = 3.0e12;
/// Single-precision FLOPs a second of an H100 without tensor cores.
const ARITHMETIC_RATE: f64 = 47e12;
/// Launches that are timed together on a GPU.
const TIMED: u32 = 200;

/// A batch of CIFAR10.
const IMAGES: usize = 128;
const PIXELS: usize = 32 * 32 * 3;
/// Rows, columns and depth of the product.
const PRODUCT: [usize; 3] = [512, 512, 512];
/// A convolution of 3 x 3: images, their edge, channels, filters.
const CONVOLUTION: [usize; 4] = [8, 32, 64, 64];
/// Edges of the blocks' tiles, as in `kernels/levels.cu`.
const SMALL_TILE: usize = 16;
const BLOCK_TILE: usize = 64;

/// An expected element: its value, and the sum of the magnitudes of the terms that it is the sum of.
#[derive(Clone, Copy)]
struct Expected {
    value: f64,
    magnitude: f64,
}

/// A kernel on its operands.
struct Level {
    idea: &'static str,
    launch: Launch,
    /// Content of the output before the launch, then of the inputs.
    operands: Vec<Vec<f32>>,
    /// Bytes that the threads ask global memory for, from caches or not.
    requested: usize,
    expected: Vec<Expected>,
}

/// Numbers in [-1, 1) that look random: a linear congruential generator's.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn size(n: usize) -> Arg {
    Arg::Int(i32::try_from(n).expect("a size fits an int"))
}

/// Levels 1 and 2: a PGD step on a batch, `vector` elements a thread.
fn pgd_step(kernel: &'static str, idea: &'static str, vector: usize) -> Level {
    let elements = IMAGES * PIXELS;
    let x: Vec<f32> = numbers(1, elements).iter().map(|v| (v + 1.0) / 2.0).collect();
    let dx = numbers(2, elements);
    let eps: Vec<f32> = (0..IMAGES).map(|i| 0.01 + 0.001 * i as f32).collect();
    let step: Vec<f32> = eps.iter().map(|eps| eps / 4.0).collect();
    let noise = numbers(3, elements);
    let adv: Vec<f32> = (0..elements).map(|i| (x[i] + eps[i / PIXELS] * noise[i]).clamp(0.0, 1.0)).collect();
    // In single precision, in the kernel's order: the bits are the same, so no rounding is allowed for.
    let after = |i: usize| {
        let (eps, step) = (eps[i / PIXELS], step[i / PIXELS]);
        let sign = f32::from(u8::from(dx[i] > 0.0)) - f32::from(u8::from(dx[i] < 0.0));
        (adv[i] + step * sign).max(x[i] - eps).min(x[i] + eps).clamp(0.0, 1.0)
    };
    let expected = (0..elements).map(|i| Expected { value: f64::from(after(i)), magnitude: 0.0 }).collect();
    let bytes = 16 * elements + 8 * IMAGES;
    let args = vec![Arg::Output(0), Arg::Input(0), Arg::Input(1), Arg::Input(2), Arg::Input(3)];
    let args = [args, vec![size(IMAGES), size(PIXELS / vector)]].concat();
    Level {
        idea,
        launch: launch(kernel, [(elements / vector).div_ceil(THREADS), 1], THREADS, args, bytes, 8 * elements),
        requested: 16 * elements + 8 * elements / vector,
        operands: vec![adv, x, dx, eps, step],
        expected,
    }
}

/// Level 3: the sum of squares of each image.
fn sum_of_squares() -> Level {
    let x = numbers(4, IMAGES * PIXELS);
    let sum = |row: &[f32]| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
    let expected = x.chunks(PIXELS).map(sum).map(|value| Expected { value, magnitude: value }).collect();
    let bytes = 4 * (x.len() + IMAGES);
    let args = vec![Arg::Output(0), Arg::Input(0), size(PIXELS)];
    Level {
        idea: "a block a row: shuffles, shared memory, a fixed order",
        launch: launch("level3_sum_of_squares", [IMAGES, 1], THREADS, args, bytes, 2 * x.len()),
        requested: bytes,
        operands: vec![vec![0.0; IMAGES], x],
        expected,
    }
}

/// Levels 4 to 6: a product of matrices, each element of an operand read from global memory by every `tile`-th row or
/// column of the result.
fn product(kernel: &'static str, idea: &'static str, tile: usize) -> Level {
    let [rows, columns, depth] = PRODUCT;
    let (a, b) = (numbers(5, rows * depth), numbers(6, depth * columns));
    let expected = (0..rows).flat_map(|i| products(&a[i * depth..][..depth], &b, columns)).collect();
    let operands = vec![vec![0.0; rows * columns], a, b];
    let bytes = 4 * operands.iter().map(Vec::len).sum::<usize>();
    let flops = 2 * rows * columns * depth;
    let (grid, threads) = match tile {
        1 => ([(rows * columns).div_ceil(THREADS), 1], THREADS),
        _ => ([columns / tile, rows / tile], 256),
    };
    let height = (tile == 1).then(|| size(rows));
    let args = vec![Arg::Output(0), Arg::Input(0), Arg::Input(1)];
    let args = args.into_iter().chain(height).chain([size(columns), size(depth)]).collect();
    let requested = 4 * (2 * rows * columns * depth / tile + rows * columns);
    Level { idea, launch: launch(kernel, grid, threads, args, bytes, flops), operands, requested, expected }
}

/// Level 7: a convolution of 3 x 3 with padding 1.
fn convolution() -> Level {
    let [images, edge, channels, filters] = CONVOLUTION;
    let depth = 9 * channels;
    let (x, weights) = (numbers(7, images * edge * edge * channels), numbers(8, depth * filters));
    // The window around each pixel, which the kernel never writes.
    let window = |pixel: usize| -> Vec<f32> {
        let (image, y, x0) = (pixel / (edge * edge), pixel / edge % edge, pixel % edge);
        let taps = (0..9).map(|tap| ((y + tap / 3).wrapping_sub(1), (x0 + tap % 3).wrapping_sub(1)));
        taps.flat_map(|(y, x0)| match y < edge && x0 < edge {
            true => x[((image * edge + y) * edge + x0) * channels..][..channels].to_vec(),
            false => vec![0.0; channels],
        })
        .collect()
    };
    let pixels = images * edge * edge;
    let expected = (0..pixels).flat_map(|pixel| products(&window(pixel), &weights, filters)).collect();
    let operands = vec![vec![0.0; pixels * filters], x, weights];
    let bytes = 4 * operands.iter().map(Vec::len).sum::<usize>();
    let flops = 2 * pixels * filters * depth;
    let args = vec![Arg::Output(0), Arg::Input(0), Arg::Input(1), size(filters), size(edge), size(channels)];
    let grid = [filters / BLOCK_TILE, pixels / BLOCK_TILE];
    Level {
        idea: "windows as the product's rows, never written",
        launch: launch("level7_convolution", grid, 256, args, bytes, flops),
        requested: 4 * (2 * pixels * filters * depth / BLOCK_TILE + pixels * filters),
        operands,
        expected,
    }
}

/// A row of a product: `row` times the matrix `b` `[row.len(), columns]`.
fn products(row: &[f32], b: &[f32], columns: usize) -> Vec<Expected> {
    let mut sums = vec![Expected { value: 0.0, magnitude: 0.0 }; columns];
    for (&a, b) in row.iter().zip(b.chunks(columns)) {
        for (sum, &b) in sums.iter_mut().zip(b) {
            let term = f64::from(a) * f64::from(b);
            sum.value += term;
            sum.magnitude += term.abs();
        }
    }
    sums
}

fn launch(kernel: &'static str, grid: [usize; 2], block: usize, args: Vec<Arg>, bytes: usize, flops: usize) -> Launch {
    let [across, down] = grid.map(|blocks| u32::try_from(blocks).expect("blocks fit a grid"));
    let cost = Cost { bytes: bytes as u64, flops: flops as u64 };
    Launch { kernel, grid: [across, down, 1], block: block as u32, shared: 0, args, cost }
}

/// Runs a level and checks its result. Returns the microseconds of a launch on a GPU.
fn run(level: &Level, on_gpu: bool) -> maxmargin::Result<Option<f64>> {
    let mut memory = Memory::default();
    let buffers: Vec<Buffer> =
        level.operands.iter().enumerate().map(|(i, data)| memory.f32(&format!("operand{i}"), &[data.len()])).collect();
    let mut cuda = Cuda::open_first(false)?;
    cuda.allocate(&memory, &[])?;
    let device: &mut dyn Device = &mut cuda;
    for (buffer, data) in buffers.iter().zip(&level.operands) {
        device.write_f32(buffer, data)?;
    }
    let inputs: Vec<&Buffer> = buffers[1..].iter().collect();
    cuda.launch_on(&level.launch, &[&buffers[0]], &inputs)?;
    let found = (&cuda as &dyn Device).read_f32(&buffers[0])?;

    // A rounding is 2^-24 of a number; the error of a sum grows far slower than with the number of terms.
    let allowed = |expected: &Expected| 64.0 * f64::from(f32::EPSILON) / 2.0 * expected.magnitude;
    let share = |(found, expected): (&f32, &Expected)| match (f64::from(*found) - expected.value).abs() {
        0.0 => 0.0,
        error => error / allowed(expected),
    };
    assert_eq!(found.len(), level.expected.len());
    let worst = found.iter().zip(&level.expected).map(share).fold(0.0, f64::max);
    assert!(worst <= 1.0, "{}: an element is off by {worst:.1} times what is allowed", level.launch.kernel);

    if !on_gpu {
        return Ok(None);
    }
    let start = Instant::now();
    for _ in 0..TIMED {
        cuda.launch_on(&level.launch, &[&buffers[0]], &inputs)?;
    }
    (&cuda as &dyn Device).read_f32(&buffers[0])?; // waits for them
    Ok(Some(start.elapsed().as_secs_f64() * 1e6 / f64::from(TIMED)))
}

/// Runs every level.
pub fn main() -> maxmargin::Result<()> {
    let on_gpu = find().is_ok();
    if !on_gpu && fake::rung("fake", fake::load()).is_none() {
        return Ok(()); // the reason was printed
    }
    println!("{}\n", if on_gpu { Cuda::open_first(false)?.describe() } else { "the fake driver, on the CPU".into() });
    println!(
        "{:<27} {:>9} {:>10} {:>9} {:>9} {:>9}  idea",
        "kernel", "operands", "requested", "FLOPs", "floor", "measured"
    );
    let levels = [
        pgd_step("level1_pgd_step", "a thread an element", 1),
        pgd_step("level2_pgd_step_x4", "four elements a thread, one load each", 4),
        sum_of_squares(),
        product("level4_product", "a thread an element of a product", 1),
        product("level5_product_tiled", "tiles in shared memory", SMALL_TILE),
        product("level6_product_thread_tile", "thread tiles in registers", BLOCK_TILE),
        convolution(),
    ];
    for level in &levels {
        let measured = run(level, on_gpu)?;
        let Cost { bytes, flops } = level.launch.cost;
        let floor = (bytes as f64 / MEMORY_RATE).max(flops as f64 / ARITHMETIC_RATE) * 1e6;
        println!(
            "{:<27} {:>6.2} MB {:>7.1} MB {:>7.1} M {:>6.2} us {:>9}  {}",
            level.launch.kernel,
            bytes as f64 / 1e6,
            level.requested as f64 / 1e6,
            flops as f64 / 1e6,
            floor,
            measured.map_or("-".into(), |us| format!("{us:.2} us")),
            level.idea
        );
    }
    println!("\nevery result agrees with its formula in double precision");
    Ok(())
}
