//! Captures: a captured stream runs nothing, records everything, and refuses the calls that the real driver refuses.

use std::ffi::{c_int, c_uint};
use std::ptr;

use crate::gpu::{Gpu, Handle, Result, call, failed, result};

const GLOBAL: c_int = 0;
const THREAD_LOCAL: c_int = 1;
const RELAXED: c_int = 2;

impl Gpu {
    fn begin(&self, mode: c_int) -> Result<()> {
        call!(self.fake, "cuStreamBeginCapture_v2", self.stream => Handle, mode => c_int)
    }

    fn end(&self) -> Result<Handle> {
        let mut graph: Handle = 0;
        call!(self.fake, "cuStreamEndCapture", self.stream => Handle, &raw mut graph => *mut Handle).map(|()| graph)
    }

    fn instantiate(&self, graph: Handle) -> Result<Handle> {
        let mut exec: Handle = 0;
        let to = &raw mut exec;
        call!(self.fake, "cuGraphInstantiateWithFlags", to => *mut Handle, graph => Handle, 0 => u64).map(|()| exec)
    }

    fn replay(&self, exec: Handle) -> Result<()> {
        call!(self.fake, "cuGraphLaunch", exec => Handle, self.stream => Handle)
    }

    /// Status of the capture. 0: none, 1: active, 2: invalidated.
    fn capturing(&self) -> c_int {
        let mut status: c_int = -1;
        let to = &raw mut status;
        call!(self.fake, "cuStreamIsCapturing", self.stream => Handle, to => *mut c_int).unwrap();
        status
    }
}

#[test]
fn what_is_captured_runs_when_the_graph_is_launched_with_the_arguments_of_then() {
    let Some(gpu) = Gpu::new("") else { return };
    let (x, y, z) = (gpu.upload(&[0.0; 4]), gpu.upload(&[5.0; 4]), gpu.upload(&[9.0; 4]));
    gpu.begin(THREAD_LOCAL).unwrap();
    gpu.set(x, 1.5f32.to_bits(), 4).unwrap();
    gpu.add_one(x, 3).unwrap();
    gpu.add_one(x, 2).unwrap();
    call!(gpu.fake, "cuMemcpyDtoDAsync_v2", y => Handle, x => Handle, 12 => usize, gpu.stream => Handle).unwrap();
    gpu.add_one(z, 4).unwrap();
    let graph = gpu.end().unwrap();
    assert_eq!(gpu.read(z, 4).unwrap(), [9.0; 4], "nothing has run");

    let mut nodes = 0usize;
    let to = &raw mut nodes;
    call!(gpu.fake, "cuGraphGetNodes", graph => Handle, ptr::null_mut() => *mut Handle, to => *mut usize).unwrap();
    assert_eq!(nodes, 5);
    let exec = gpu.instantiate(graph).unwrap();
    call!(gpu.fake, "cuGraphDestroy", graph => Handle).unwrap();
    call!(gpu.fake, "cuGraphUpload", exec => Handle, gpu.stream => Handle).unwrap();
    gpu.fake.log();
    gpu.replay(exec).unwrap();
    gpu.replay(exec).unwrap();
    assert_eq!(gpu.fake.log(), ["cuGraphLaunch 5 nodes"; 2], "a graph is one call, whatever it runs");
    assert_eq!(gpu.read(x, 4).unwrap(), [3.5, 3.5, 2.5, 1.5]);
    assert_eq!(gpu.read(y, 4).unwrap(), [3.5, 3.5, 2.5, 5.0]);
    assert_eq!(gpu.read(z, 4).unwrap(), [11.0; 4]);
    call!(gpu.fake, "cuGraphExecDestroy", exec => Handle).unwrap();
    assert_eq!(gpu.replay(exec), failed("INVALID_HANDLE"));
}

#[test]
fn what_waits_allocates_or_touches_the_host_breaks_a_capture() {
    type Act = fn(&Gpu, Handle) -> Result<()>;
    let acts: [(&str, Act); 7] = [
        ("cuStreamSynchronize", |gpu, _| gpu.synchronize()),
        ("cuCtxSynchronize", |gpu, _| call!(gpu.fake, "cuCtxSynchronize",)),
        ("cuMemAlloc", |gpu, _| gpu.alloc(4).map(|_| ())),
        ("cuMemFree", |gpu, y| call!(gpu.fake, "cuMemFree_v2", y => Handle)),
        ("cuMemcpyHtoDAsync", |gpu, y| gpu.write(y, &[1.0])),
        ("cuMemcpyDtoH", |gpu, y| {
            let mut word = 0f32;
            call!(gpu.fake, "cuMemcpyDtoH_v2", &raw mut word => *mut f32, y => Handle, 4 => usize)
        }),
        ("cuMemsetD32", |gpu, y| call!(gpu.fake, "cuMemsetD32_v2", y => Handle, 0 => c_uint, 1 => usize)),
    ];
    for (name, act) in acts {
        for mode in [GLOBAL, THREAD_LOCAL] {
            let Some(gpu) = Gpu::new("") else { return };
            let y = gpu.upload(&[0.0; 4]);
            gpu.begin(mode).unwrap();
            assert_eq!(gpu.capturing(), 1);
            assert_eq!(act(&gpu, y), failed("STREAM_CAPTURE_UNSUPPORTED"), "{name}");
            assert_eq!(gpu.capturing(), 2, "{name}");
            assert_eq!(gpu.add_one(y, 1), failed("STREAM_CAPTURE_INVALIDATED"), "{name}");
            assert_eq!(gpu.end(), failed("STREAM_CAPTURE_INVALIDATED"), "{name}");
            assert_eq!(gpu.capturing(), 0, "{name}");
            gpu.add_one(y, 1).unwrap();
            assert_eq!(gpu.read(y, 1).unwrap(), [1.0], "{name}: the stream works again");
        }
    }
}

#[test]
fn a_relaxed_capture_lets_other_work_pass() {
    let Some(gpu) = Gpu::new("") else { return };
    gpu.begin(RELAXED).unwrap();
    let y = gpu.alloc(16).unwrap();
    gpu.add_one(y, 4).unwrap();
    gpu.end().unwrap();
}

#[test]
fn captures_begin_and_end_in_turn_on_a_stream_of_ones_own() {
    let Some(gpu) = Gpu::new("") else { return };
    assert_eq!(gpu.end(), failed("ILLEGAL_STATE"));
    gpu.begin(THREAD_LOCAL).unwrap();
    assert_eq!(gpu.begin(THREAD_LOCAL), failed("ILLEGAL_STATE"));
    let mut context: Handle = 0;
    call!(gpu.fake, "cuCtxGetCurrent", &raw mut context => *mut Handle).unwrap();
    let elsewhere = std::thread::scope(|scope| {
        let end = || {
            call!(gpu.fake, "cuCtxSetCurrent", context => Handle).unwrap();
            gpu.end()
        };
        scope.spawn(end).join().unwrap()
    });
    assert_eq!(elsewhere, failed("STREAM_CAPTURE_WRONG_THREAD"));
    gpu.end().unwrap();
    let legacy = call!(gpu.fake, "cuStreamBeginCapture_v2", 0 => Handle, THREAD_LOCAL => c_int);
    assert_eq!(legacy, failed("STREAM_CAPTURE_UNSUPPORTED"));
}

#[test]
fn an_event_of_a_capture_is_of_no_use_outside() {
    let Some(gpu) = Gpu::new("") else { return };
    let event = || {
        let mut event: Handle = 0;
        call!(gpu.fake, "cuEventCreate", &raw mut event => *mut Handle, 0 => c_uint).unwrap();
        event
    };
    let record = |event| call!(gpu.fake, "cuEventRecord", event => Handle, gpu.stream => Handle);
    let wait = |event| call!(gpu.fake, "cuStreamWaitEvent", gpu.stream => Handle, event => Handle, 0 => c_uint);
    let (inside, outside) = (event(), event());
    record(outside).unwrap();
    call!(gpu.fake, "cuEventSynchronize", outside => Handle).unwrap();
    gpu.begin(THREAD_LOCAL).unwrap();
    record(inside).unwrap();
    wait(inside).unwrap();
    assert_eq!(call!(gpu.fake, "cuEventQuery", inside => Handle), failed("CAPTURED_EVENT"));
    assert_eq!(gpu.end(), failed("STREAM_CAPTURE_INVALIDATED"));
    gpu.begin(THREAD_LOCAL).unwrap();
    assert_eq!(wait(outside), failed("STREAM_CAPTURE_ISOLATION"));
    assert_eq!(gpu.end(), failed("STREAM_CAPTURE_INVALIDATED"));
    record(inside).unwrap();
    let mut milliseconds = -1f32;
    let to = &raw mut milliseconds;
    call!(gpu.fake, "cuEventElapsedTime", to => *mut f32, outside => Handle, inside => Handle).unwrap();
    assert!(milliseconds > 0.0);
}

#[test]
fn the_legacy_stream_does_not_pass_a_capture_of_a_stream_that_waits_for_it() {
    let Some(mut gpu) = Gpu::new("") else { return };
    let y = gpu.upload(&[0.0; 4]);
    let on_legacy = |gpu: &Gpu| call!(gpu.fake, "cuMemsetD32Async", y => Handle, 0 => c_uint, 1 => usize, 0 => Handle);
    gpu.begin(THREAD_LOCAL).unwrap();
    on_legacy(&gpu).unwrap();
    gpu.end().unwrap();
    call!(gpu.fake, "cuStreamCreate", &raw mut gpu.stream => *mut Handle, 0 => c_uint).unwrap();
    gpu.begin(THREAD_LOCAL).unwrap();
    assert_eq!(on_legacy(&gpu), failed("STREAM_CAPTURE_IMPLICIT"));
    assert_eq!(gpu.end(), failed("STREAM_CAPTURE_INVALIDATED"));
}
