//! Inline PTX (`kernels/ptx.cuh`): the results of each function are those of the PTX manual, to the bit, on a GPU and,
//! for its host twin, on the fake driver. The fake driver performs asynchronous copies at once, and as late as
//! possible.

mod support;

use std::sync::{Mutex, PoisonError};

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

/// Runs a kernel of one warp with the arguments out, from and `last`; returns `out`.
fn run(kernel: &'static str, from: &[u32], last: Arg) -> Vec<u32> {
    let mut memory = Memory::default();
    let [out, input] = ["out", "from"].map(|name| memory.u32(name, &[from.len()]));
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
