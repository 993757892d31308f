//! Failures that a test asks for, and calls that the real driver would refuse.

use std::ffi::{c_char, c_int, c_uint};

use crate::fake::KernelBuild;
use crate::gpu::{Gpu, Handle, call, failed, result};
use crate::planted::apart;

impl Gpu {
    fn attribute(&self, which: c_int) -> c_int {
        let mut value: c_int = -1;
        let to = &raw mut value;
        call!(self.fake, "cuDeviceGetAttribute", to => *mut c_int, which => c_int, 0 => c_int).unwrap();
        value
    }

    fn free_and_total(&self) -> (usize, usize) {
        let (mut free, mut total) = (0, 0);
        call!(self.fake, "cuMemGetInfo_v2", &raw mut free => *mut usize, &raw mut total => *mut usize).unwrap();
        (free, total)
    }
}

#[test]
fn without_a_device_the_driver_does_not_start() {
    let Some(gpu) = Gpu::new("") else { return };
    gpu.fake.set("devices=0");
    assert_eq!(call!(gpu.fake, "cuInit", 0 => c_uint), failed("NO_DEVICE"));
    gpu.fake.set("devices=2");
    let (mut count, mut device) = (0, -1);
    call!(gpu.fake, "cuDeviceGetCount", &raw mut count => *mut c_int).unwrap();
    assert_eq!(count, 2);
    call!(gpu.fake, "cuDeviceGet", &raw mut device => *mut c_int, 1 => c_int).unwrap();
    let third = call!(gpu.fake, "cuDeviceGet", &raw mut device => *mut c_int, 2 => c_int);
    assert_eq!(third, failed("INVALID_DEVICE"));
}

#[test]
fn the_driver_and_the_device_are_as_old_as_asked_for() {
    let Some(gpu) = Gpu::new("") else { return };
    gpu.fake.set("driver=11040;capability=7.5");
    let mut version = 0;
    call!(gpu.fake, "cuDriverGetVersion", &raw mut version => *mut c_int).unwrap();
    assert_eq!((version, gpu.attribute(75), gpu.attribute(76)), (11040, 7, 5));
}

#[test]
fn a_device_that_is_too_old_loads_no_module() {
    let Some(gpu) = Gpu::new("") else { return };
    gpu.fake.set("capability=7.5");
    let mut module: Handle = 0;
    let image = c"image".as_ptr();
    let loaded = call!(gpu.fake, "cuModuleLoadData", &raw mut module => *mut Handle, image => *const c_char);
    assert_eq!(loaded, failed("NO_BINARY_FOR_GPU"));
}

#[test]
fn memory_ends_where_asked_for_and_comes_back() {
    let Some(gpu) = Gpu::new("memory=10000") else { return };
    let first = gpu.alloc(6000).unwrap();
    assert_eq!(gpu.free_and_total(), (4000, 10000));
    assert_eq!(gpu.alloc(4001), failed("OUT_OF_MEMORY"));
    gpu.alloc(4000).unwrap();
    call!(gpu.fake, "cuMemFree_v2", first => Handle).unwrap();
    assert_eq!(gpu.free_and_total(), (6000, 10000));
    gpu.alloc(6000).unwrap();
    let again = call!(gpu.fake, "cuMemFree_v2", 12345 => Handle);
    assert_eq!(again, failed("INVALID_VALUE"));
}

#[test]
fn fresh_memory_holds_no_number() {
    let Some(gpu) = Gpu::new("") else { return };
    let y = gpu.alloc(400).unwrap();
    assert!(gpu.read(y, 100).unwrap().iter().all(|y| y.is_nan()));
}

#[test]
fn the_kth_allocation_fails_and_the_next_does_not() {
    let Some(gpu) = Gpu::new("fail_alloc=3") else { return };
    gpu.alloc(4).unwrap();
    gpu.alloc(4).unwrap();
    assert_eq!(gpu.alloc(4), failed("OUT_OF_MEMORY"));
    gpu.alloc(4).unwrap();
}

#[test]
fn the_kth_launch_fails_and_the_next_call_that_waits_says_so() {
    let Some(gpu) = Gpu::new("fail_launch=2") else { return };
    let y = gpu.upload(&[0.0; 4]);
    gpu.add_one(y, 4).unwrap();
    gpu.synchronize().unwrap();
    gpu.add_one(y, 4).unwrap();
    gpu.add_one(y, 4).unwrap();
    gpu.set(y, 0, 1).unwrap();
    assert_eq!(gpu.synchronize(), failed("LAUNCH_FAILED"));
    // From now on all is lost, as on a real device.
    assert_eq!(gpu.synchronize(), failed("LAUNCH_FAILED"));
    assert_eq!(gpu.add_one(y, 4), failed("LAUNCH_FAILED"));
    assert_eq!(gpu.alloc(4), failed("LAUNCH_FAILED"));
    assert_eq!(gpu.write(y, &[0.0]), failed("LAUNCH_FAILED"));
    assert_eq!(gpu.log_of("fail_launch").len(), 1);
}

#[test]
fn the_kth_launch_may_be_within_a_graph() {
    let Some(gpu) = Gpu::new("fail_launch=5") else { return };
    let y = gpu.upload(&[0.0; 4]);
    let (mut graph, mut exec): (Handle, Handle) = (0, 0);
    call!(gpu.fake, "cuStreamBeginCapture_v2", gpu.stream => Handle, 1 => c_int).unwrap();
    for _ in 0..3 {
        gpu.add_one(y, 4).unwrap();
    }
    call!(gpu.fake, "cuStreamEndCapture", gpu.stream => Handle, &raw mut graph => *mut Handle).unwrap();
    let to = &raw mut exec;
    call!(gpu.fake, "cuGraphInstantiateWithFlags", to => *mut Handle, graph => Handle, 0 => u64).unwrap();
    let replay = || call!(gpu.fake, "cuGraphLaunch", exec => Handle, gpu.stream => Handle);
    replay().unwrap();
    assert_eq!(gpu.read(y, 4).unwrap(), [3.0; 4]);
    replay().unwrap();
    assert_eq!(gpu.read(y, 4), failed("LAUNCH_FAILED"));
}

#[test]
fn launches_that_a_device_could_not_run_are_refused() {
    let Some(gpu) = Gpu::new("") else { return };
    let y = gpu.upload(&[0.0; 4]);
    let launch = |grid, block, shared| gpu.launch("add_one", grid, block, shared, &[y, 4]);
    // add_one has __launch_bounds__(256).
    let refused: [([u32; 3], [u32; 3], u32, &str); 8] = [
        ([0, 1, 1], [1, 1, 1], 0, "an empty grid"),
        ([1, 1, 1], [0, 1, 1], 0, "an empty block"),
        ([1, 1, 1], [1025, 1, 1], 0, "at most 1024"),
        ([1, 1, 1], [2, 2, 65], 0, "64 of them in z"),
        ([1, 1, 1], [257, 1, 1], 0, "__launch_bounds__ of 256"),
        ([1, 65536, 1], [1, 1, 1], 0, "at most 65535"),
        ([1, 1, 65536], [1, 1, 1], 0, "at most 65535"),
        ([1, 1, 1], [1, 1, 1], 49153, "49152 bytes"),
    ];
    for (grid, block, shared, why) in refused {
        assert_eq!(launch(grid, block, shared), failed("INVALID_VALUE"), "{why}");
        assert_eq!(gpu.log_of(why).len(), 1, "{why}");
    }
    assert_eq!(gpu.launch("add_one", [1, 1, 1], [1, 1, 1], 0, &[]), failed("INVALID_VALUE"));
    assert_eq!(gpu.launch("add_two", [1, 1, 1], [1, 1, 1], 0, &[]), failed("NOT_FOUND"));
    launch([70000, 1, 1], [2, 2, 2], 49152).unwrap();
    assert_eq!(gpu.synchronize(), Ok(()), "none of that is an error of the context");
}

#[test]
fn more_dynamic_shared_memory_must_be_asked_for() {
    let Some(gpu) = Gpu::new("") else { return };
    let kernel = gpu.kernel("block_operations").unwrap();
    let allow = |bytes| call!(gpu.fake, "cuFuncSetAttribute", kernel => Handle, 8 => c_int, bytes => c_int);
    let y = gpu.alloc(4 * 4 * 32).unwrap();
    let launch = |bytes| gpu.launch("block_operations", [1, 1, 1], [32, 1, 1], bytes, &[y, 1]);
    assert_eq!(launch(100_000), failed("INVALID_VALUE"));
    assert_eq!(allow(gpu.attribute(97) + 1), failed("INVALID_VALUE"));
    allow(100_000).unwrap();
    launch(100_000).unwrap();
    assert_eq!(launch(100_001), failed("INVALID_VALUE"));
    allow(48 * 1024).unwrap();
    gpu.synchronize().unwrap();
}

#[test]
fn copies_and_memsets_stay_within_an_allocation() {
    let Some(gpu) = Gpu::new("") else { return };
    let y = gpu.upload(&[1.0; 4]);
    assert_eq!(gpu.write(y, &[0.0; 5]), failed("INVALID_VALUE"));
    assert_eq!(gpu.write(y + 4, &[0.0; 4]), failed("INVALID_VALUE"));
    assert_eq!(gpu.set(y, 0, 5), failed("INVALID_VALUE"));
    assert_eq!(gpu.set(y + 1, 0, 1), failed("INVALID_VALUE"));
    assert_eq!(gpu.read(y, 5), failed("INVALID_VALUE"));
    gpu.set(y + 4, 2f32.to_bits(), 3).unwrap();
    assert_eq!(gpu.read(y, 4).unwrap(), [1.0, 2.0, 2.0, 2.0]);
}

#[test]
fn the_log_has_a_line_for_every_call() {
    let Some(gpu) = Gpu::new("") else { return };
    let y = gpu.upload(&[0.0; 4]);
    gpu.add_one(y, 4).unwrap();
    gpu.read(y, 4).unwrap();
    let _ = gpu.alloc(0);
    let expected = [
        "cuMemAlloc 16",
        "cuMemcpyHtoDAsync 16",
        "cuModuleGetFunction add_one",
        "cuLaunchKernel add_one grid 1,1,1 block 64 shared 0",
        "cuStreamSynchronize",
        "cuMemcpyDtoHAsync 16",
        "cuMemAlloc 0 -> CUDA_ERROR_INVALID_VALUE (no bytes)",
    ];
    assert_eq!(gpu.fake.log(), expected);
    assert_eq!(gpu.fake.log(), [""; 0], "it was taken");
}

#[test]
fn an_unknown_option_is_not_passed_over() {
    let Some(gpu) = Gpu::new("") else { return };
    for wrong in ["threads=backwards", "thread=forward", "memory=much", "devices=17", "reset=1", "capability=9"] {
        let set = || gpu.fake.set(&format!("workers=2;{wrong};blocks=forward"));
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(set)).unwrap_err();
        let expected = format!("not an option of the fake driver: {wrong}");
        assert_eq!(panic.downcast_ref::<String>(), Some(&expected));
    }
}

#[test]
fn options_and_the_log_come_from_the_environment_too() {
    let log = std::env::temp_dir().join(format!("fake-cuda-log-{}", std::process::id()));
    let run = |options: String| {
        let mut command = apart(KernelBuild::Plain, &["missing_barrier_mended".to_string()])?;
        Some(command.env("FAKE_CUDA", options).output().unwrap())
    };
    let Some(right) = run(format!("log={}", log.display())) else { return };
    assert!(right.status.success());
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("cuLaunchKernel missing_barrier_mended grid 3,1,1 block 64 shared 0\n"), "{text}");
    std::fs::remove_file(&log).unwrap();
    let Some(wrong) = run("thread=reversed".to_string()) else { return };
    assert!(!wrong.status.success());
    let errors = String::from_utf8_lossy(&wrong.stderr);
    assert!(errors.contains("FAKE_CUDA: not an option of the fake driver: thread=reversed"), "{errors}");
}
