//! Inline PTX (`kernels/ptx.cuh`): the results of each function are those of the PTX manual, to the bit, on a GPU and,
//! for its host twin, on the fake driver. The fake driver performs asynchronous copies at once, and as late as
//! possible.
//!
//! The sums of `mma` are compared for halves whose products and sums a float holds exactly: the manual leaves order and
//! rounding of the additions open.

mod support;

use std::sync::{Mutex, PoisonError};

use half::f16;
use maxmargin::device::Device;
use maxmargin::device::cuda::launch::{Arg, Cost, Launch, WARP};
use maxmargin::tape::Memory;
use support::Random;
use support::cuda::{fake_driver, open, ready};

/// Runs a test on a CUDA device, if there is one; on the fake driver with copies performed at once, and at the wait.
fn wherever_copies_run(test: impl Fn()) {
    static ONE: Mutex<()> = Mutex::new(());
    let _alone = ONE.lock().unwrap_or_else(PoisonError::into_inner); // the driver's options belong to the process
    match fake_driver() {
        Some(fake) => ["cp_async=wait", "cp_async=issue"].into_iter().for_each(|copies| {
            fake.set(copies);
            test();
        }),
        None if ready() => test(),
        None => {}
    }
}

/// Runs a kernel of one warp with the arguments out, from and `last`; returns `out`, of as many words as `from`.
fn run(kernel: &'static str, from: &[u32], last: Arg) -> Vec<u32> {
    run_with(kernel, from, last, from.len())
}

/// Runs a kernel of one warp that writes `words` words.
fn run_with(kernel: &'static str, from: &[u32], last: Arg, words: usize) -> Vec<u32> {
    let mut memory = Memory::default();
    let (out, input) = (memory.u32("out", &[words]), memory.u32("from", &[from.len()]));
    let mut cuda = open(false);
    cuda.allocate(&memory, &[]).unwrap();
    let device: &mut dyn Device = &mut cuda;
    device.write_u32(&input, from).unwrap();
    let args = vec![Arg::Output(0), Arg::Input(0), last];
    let launch = Launch { kernel, grid: [1; 3], block: WARP as u32, shared: 0, args, cost: Cost::default() };
    cuda.launch_on(&launch, &[&out], &[&input]).unwrap();
    (&cuda as &dyn Device).read_u32(&out).unwrap()
}

/// Random words other than zero, so that written zeros are visible.
fn words(count: usize) -> Vec<u32> {
    let mut random = Random(11);
    (0..count).map(|_| random.word() as u32 | 1).collect()
}

/// Exchanges neighbouring lanes, of `width` words each.
fn crossed(words: &[u32], width: usize) -> Vec<u32> {
    words.chunks(2 * width).flat_map(|pair| [&pair[width..], &pair[..width]].concat()).collect()
}

/// Asserts that a copy of `width` words a lane gives the words, or zeros in lanes that are not live.
fn copies(kernel: &'static str, width: usize) {
    wherever_copies_run(|| {
        let from = words(WARP * width);
        for live in [0, u32::MAX, 1, 1 << 31, 0xa53c_0f71] {
            let mut expected = from.clone();
            for lane in (0..WARP).filter(|lane| live >> lane & 1 == 0) {
                expected[lane * width..][..width].fill(0);
            }
            assert_eq!(run(kernel, &from, Arg::Unsigned(live)), crossed(&expected, width), "live: {live:#x}");
        }
    });
}

#[test]
fn cp_async_4_copies_four_bytes_or_writes_zeros() {
    copies("conformance_cp_async_4", 1);
}

#[test]
fn cp_async_16_copies_sixteen_bytes_or_writes_zeros() {
    copies("conformance_cp_async_16", 4);
}

#[test]
fn cp_async_wait_waits_for_all_groups_but_the_latest() {
    wherever_copies_run(|| {
        for rows in [1, 2, 3, 64] {
            let from = words(rows * WARP);
            let found = run("conformance_cp_async_groups", &from, Arg::Int(rows as i32));
            assert_eq!(found, crossed(&from, 1), "{rows} rows");
        }
    });
}

/// Floats at the edges of halves: powers of two and their neighbours, ties, infinite numbers, NaN, zeros; and random
/// bits.
fn floats() -> Vec<u32> {
    let mut words: Vec<u32> =
        [0.0f32, 65504.0, 65519.996, 65520.0, f32::MAX, f32::INFINITY, f32::NAN, f32::MIN_POSITIVE]
            .into_iter()
            .chain((-26..17).flat_map(|e| [1.0, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 1.5].map(|m| m * 2f32.powi(e))))
            .flat_map(|x| [x.to_bits(), x.to_bits() + 1, x.to_bits().saturating_sub(1)])
            .flat_map(|word| [word, word ^ (1 << 31)])
            .collect();
    let mut random = Random(5);
    words.extend((0..2000).map(|_| random.word() as u32));
    // Exponents near those of halves.
    words.extend(
        (0..6000).map(|_| (random.word() as u32 & 0x87FF_FFFF) | (0x3000_0000 + (random.word() as u32 & 0x1800_0000))),
    );
    words
}

/// Asserts that two halves are equal to the bit, or both NaN.
fn same_half(found: u32, expected: f16, of: u32) {
    let found = f16::from_bits(u16::try_from(found).expect("16 bits"));
    let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
    assert!(same, "{}: {found:?} instead of {expected:?}", f32::from_bits(of));
}

#[test]
fn half_of_rounds_to_the_nearest_half_and_ties_to_even() {
    wherever_copies_run(|| {
        let from = floats();
        let found = run("conformance_half_of", &from, Arg::Int(from.len() as i32));
        for (&word, found) in from.iter().zip(found) {
            same_half(found, f16::from_f32(f32::from_bits(word)), word);
        }
    });
}

#[test]
fn half_pair_of_has_the_first_number_in_the_low_bits() {
    wherever_copies_run(|| {
        let from = floats();
        let found = run("conformance_half_pair_of", &from, Arg::Int(from.len() as i32));
        for ((&first, &second), found) in from.iter().zip(from.iter().rev()).zip(found) {
            same_half(found & 0xFFFF, f16::from_f32(f32::from_bits(first)), first);
            same_half(found >> 16, f16::from_f32(f32::from_bits(second)), second);
        }
    });
}

#[test]
fn float_of_is_exact_for_every_half() {
    wherever_copies_run(|| {
        let from: Vec<u32> = (0..=0xFFFF).collect();
        let found = run("conformance_float_of", &from, Arg::Int(from.len() as i32));
        for (half, found) in from.into_iter().zip(found) {
            let (found, expected) = (f32::from_bits(found), f16::from_bits(half as u16).to_f32());
            let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(same, "{half:#x}: {found} instead of {expected}");
        }
    });
}

/// Halves of a word, the first one in the low bits.
fn halves(words: &[u32]) -> Vec<u16> {
    words.iter().flat_map(|word| [*word as u16, (word >> 16) as u16]).collect()
}

/// Asserts that fragment m of lane i holds two elements of matrix m: (row, column) as `at` gives for lane and element.
fn loads_matrices(kernel: &'static str, at: impl Fn(usize, usize) -> (usize, usize)) {
    wherever_copies_run(|| {
        let from = words(4 * WARP);
        for order in [0, 1, 6, 9, 31] {
            let found = halves(&run(kernel, &from, Arg::Unsigned(order)));
            let all = halves(&from);
            for (lane, matrix, i) in (0..WARP * 8).map(|n| (n / 8, n / 2 % 4, n % 2)) {
                let (row, column) = at(lane, i);
                let address = (8 * matrix + row) ^ order as usize; // the row that lane 8 m + r passes
                assert_eq!(found[lane * 8 + matrix * 2 + i], all[address * 8 + column], "lane {lane}, matrix {matrix}");
            }
        }
    });
}

#[test]
fn ldmatrix_x4_gives_a_lane_two_elements_of_a_row_of_each_matrix() {
    loads_matrices("conformance_ldmatrix_x4", |lane, i| (lane / 4, 2 * (lane % 4) + i));
}

#[test]
fn ldmatrix_x4_trans_gives_a_lane_two_elements_of_a_column_of_each_matrix() {
    loads_matrices("conformance_ldmatrix_x4_trans", |lane, i| (2 * (lane % 4) + i, lane / 4));
}

/// The PTX manual's tables of fragments of m16n8k16 with halves.
#[test]
fn mma_multiplies_the_fragments_of_the_manual() {
    const ROWS: usize = 2;
    const COLUMNS: usize = 3;
    wherever_copies_run(|| {
        let mut random = Random(3);
        // Integers up to 32: each sum is below 2^14 and exact in any order.
        let mut number = |_| (random.word() % 65) as f32 - 32.0;
        let a: Vec<f32> = (0..16 * ROWS * 16).map(&mut number).collect();
        let b: Vec<f32> = (0..16 * COLUMNS * 8).map(&mut number).collect();
        let pair = |first: f32, second: f32| {
            let [first, second] = [first, second].map(|x| u32::from(f16::from_f32(x).to_bits()));
            first | second << 16
        };
        let mut from = Vec::new();
        for (lane, tile, i) in (0..WARP * ROWS * 4).map(|n| (n / 4 / ROWS, n / 4 % ROWS, n % 4)) {
            let (group, thread) = (lane / 4, lane % 4);
            let row = if i == 0 || i == 2 { group } else { group + 8 };
            let column = thread * 2 + if i < 2 { 0 } else { 8 };
            let at = (tile * 16 + row) * 16 + column;
            from.push(pair(a[at], a[at + 1]));
        }
        for (lane, tile, i) in (0..WARP * COLUMNS * 2).map(|n| (n / 2 / COLUMNS, n / 2 % COLUMNS, n % 2)) {
            let (row, column) = (lane % 4 * 2 + 8 * i, tile * 8 + lane / 4);
            from.push(pair(b[row * COLUMNS * 8 + column], b[(row + 1) * COLUMNS * 8 + column]));
        }
        let found = run_with("conformance_mma", &from, Arg::Float(0.5), WARP * ROWS * COLUMNS * 4);
        for (at, word) in found.into_iter().enumerate() {
            let (lane, tile, i) = (at / 4 / COLUMNS / ROWS, at / 4 % (ROWS * COLUMNS), at % 4);
            let row = tile / COLUMNS * 16 + lane / 4 + if i < 2 { 0 } else { 8 };
            let column = tile % COLUMNS * 8 + lane % 4 * 2 + i % 2;
            let sum: f32 = (0..16).map(|k| a[row * 16 + k] * b[k * COLUMNS * 8 + column]).sum();
            assert_eq!(f32::from_bits(word), sum + 0.5, "row {row}, column {column}");
        }
    });
}
