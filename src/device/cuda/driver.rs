//! The NVIDIA driver, as far as it is used: a context, streams, memory, modules, graphs. Every `unsafe` of the project
//! stands here. What is made here frees itself.
//!
//! A device's stream carries all of its work, in order. Errors of work on it come back with some later call:
//! [`Stream::wait`] is where they surface at the latest.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{
    self, CUdevice, CUdevice_attribute as Attribute, CUevent, CUevent_flags, CUfunction, CUfunction_attribute,
    CUgraphExec, CUgraphInstantiate_flags, CUmodule, CUresult, CUstream, CUstreamCaptureMode,
};

use crate::{Error, Result};

/// An address in device memory.
pub(super) type Address = u64;

/// The least compute capability that the kernels are compiled for.
const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// What a driver's refusal is called, and its own words for it.
fn text(error: DriverError) -> String {
    let name = error.error_name().map_or_else(|_| format!("{:?}", error.0), |name| name.to_string_lossy().into_owned());
    let words = error.error_string().map(|words| words.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{name}, {words}")
}

/// An error of a call that should always work: `what` was asked of the driver.
fn failed(what: &str) -> impl FnOnce(DriverError) -> Error + '_ {
    move |error| {
        Error::device(format!(
            "CUDA: the driver refuses {what}: {}; `nvidia-smi` shows the state of driver and GPU",
            text(error)
        ))
    }
}

/// An error of work that was given before.
fn earlier(error: DriverError) -> Error {
    Error::device(format!(
        "CUDA: work on the GPU failed: {}; with --sync the program waits after every launch and names the kernel",
        text(error)
    ))
}

/// A version as the driver counts, in words: 13000 is 13.0.
fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// A GPU, as the driver describes it.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// Its number.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Bytes.
    pub memory: usize,
    /// Streaming multiprocessors.
    pub multiprocessors: i32,
}

impl Gpu {
    fn of(ordinal: usize) -> std::result::Result<(CUdevice, Gpu), DriverError> {
        let device = result::device::get(i32::try_from(ordinal).unwrap_or(i32::MAX))?;
        // SAFETY: `device` is one the driver gave.
        let attribute = |which| unsafe { result::device::get_attribute(device, which) };
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        // SAFETY: `device` is one the driver gave.
        let memory = unsafe { result::device::total_mem(device)? };
        Ok((device, Gpu { ordinal, name: result::device::get_name(device)?, capability, memory, multiprocessors }))
    }
}

/// What the machine has.
#[derive(Clone, Debug)]
pub struct DriverInfo {
    /// The CUDA version that the driver supports: 13000 is 13.0.
    pub driver: i32,
    /// Every GPU: at least one.
    pub gpus: Vec<Gpu>,
}

impl DriverInfo {
    /// The CUDA version that the driver supports, such as 13.0.
    #[must_use]
    pub fn driver_version(&self) -> String {
        version(self.driver)
    }
}

/// Whether there is an NVIDIA driver, of use or not.
#[must_use]
pub fn driver_is_here() -> bool {
    // SAFETY: it only tries to open the library.
    unsafe { sys::is_culib_present() }
}

/// Asks the driver what there is.
///
/// # Errors
/// There is no driver, or no GPU, or the driver does not work: says which.
pub fn find() -> Result<DriverInfo> {
    // Without a driver every call of it would panic.
    if !driver_is_here() {
        return Err(Error::device(
            "CUDA: there is no NVIDIA driver here (libcuda.so.1 was not found); install it, or use --device cpu",
        ));
    }
    let no_gpu = || {
        Error::device(
            "CUDA: the NVIDIA driver finds no GPU; CUDA_VISIBLE_DEVICES may hide it; --device cpu works without one",
        )
    };
    result::init().map_err(|error| match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => no_gpu(),
        _ => Error::device(format!(
            "CUDA: the NVIDIA driver does not start: {}; `nvidia-smi` shows its state, --device cpu works without it",
            text(error)
        )),
    })?;
    let mut driver = 0;
    // SAFETY: the pointer is to a local variable.
    unsafe { sys::cuDriverGetVersion(&mut driver) }.result().map_err(failed("to tell its version"))?;
    let count = result::device::get_count().map_err(failed("to count its GPUs"))?;
    let gpus: std::result::Result<Vec<Gpu>, DriverError> =
        (0..count.max(0) as usize).map(|ordinal| Ok(Gpu::of(ordinal)?.1)).collect();
    let gpus = gpus.map_err(failed("to describe its GPUs"))?;
    if gpus.is_empty() { Err(no_gpu()) } else { Ok(DriverInfo { driver, gpus }) }
}

/// A GPU in use: its primary context.
pub(super) struct Context {
    pub gpu: Gpu,
    device: CUdevice,
    context: sys::CUcontext,
}

// SAFETY: the driver's calls may come from any thread; every call that needs a current context is preceded by `bind` on
// its own thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Takes GPU `ordinal` into use. `needed` is the CUDA version that the kernels were compiled with, as
    /// `cuDriverGetVersion` counts.
    pub fn open(ordinal: usize, needed: i32) -> Result<Context> {
        let DriverInfo { driver, gpus } = find()?;
        let Some(gpu) = gpus.get(ordinal).cloned() else {
            return Err(Error::usage(format!(
                "--device cuda:{ordinal}: there {}; `maxmargin devices` lists them, and CUDA_VISIBLE_DEVICES may hide \
                 some",
                match gpus.len() - 1 {
                    0 => "is one GPU, cuda:0".into(),
                    last => format!("are {} GPUs, cuda:0 to cuda:{last}", gpus.len()),
                }
            )));
        };
        if driver < needed {
            return Err(Error::device(format!(
                "CUDA: the driver supports CUDA {}, the kernels need {}: install a newer driver (580 or newer for CUDA \
                 13), or build with an older nvcc (NVCC=path), or use --device cpu",
                version(driver),
                version(needed)
            )));
        }
        if gpu.capability < LEAST_CAPABILITY {
            return Err(Error::device(format!(
                "CUDA: GPU {ordinal} ({}) has compute capability {}.{}; the kernels need {}.{} or newer; --device cpu \
                 works without it",
                gpu.name, gpu.capability.0, gpu.capability.1, LEAST_CAPABILITY.0, LEAST_CAPABILITY.1
            )));
        }
        let (device, _) = Gpu::of(ordinal).map_err(failed("to open the GPU"))?;
        // SAFETY: `device` is one the driver gave; the context is released in `drop`, after everything made in it.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed("to open the GPU"))?;
        Ok(Context { gpu, device, context })
    }

    /// Makes this thread's driver calls go to this GPU.
    pub fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("to choose the GPU"))
    }

    /// Bytes that are free, and bytes in all.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.bind()?;
        result::mem_get_info().map_err(failed("to tell how much memory is free"))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: everything made in the context holds it, so this comes last. A failed GPU refuses; nothing is left
        // to do about it.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// A queue of work on a GPU, done in the order in which it is given.
pub(super) struct Stream {
    stream: CUstream,
    pub context: Arc<Context>,
}

// SAFETY: as for `Context`.
unsafe impl Send for Stream {}
// SAFETY: as for `Context`.
unsafe impl Sync for Stream {}

impl Stream {
    pub fn new(context: &Arc<Context>) -> Result<Arc<Stream>> {
        context.bind()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed("a stream"))?;
        Ok(Arc::new(Stream { stream, context: context.clone() }))
    }

    /// Makes this thread's driver calls go to this stream's GPU.
    pub fn bind(&self) -> Result<()> {
        self.context.bind()
    }

    /// Waits for all work given.
    pub fn wait(&self) -> Result<()> {
        self.synchronize().map_err(earlier)
    }

    /// As [`Stream::wait`], where the one launch that may have failed is known. The error is the driver's own text.
    pub fn wait_for_launch(&self) -> std::result::Result<(), String> {
        self.synchronize().map_err(text)
    }

    fn synchronize(&self) -> std::result::Result<(), DriverError> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }
    }

    /// Writes zeros, in order with other work.
    pub fn zero(&self, allocation: &Allocation) -> Result<()> {
        // SAFETY: the range is the allocation's own.
        unsafe { result::memset_d8_async(allocation.address, 0, allocation.bytes, self.stream) }.map_err(earlier)
    }

    /// Copies from pinned host memory, in order with other work. The host may not change it until then.
    pub fn copy_in(&self, to: Address, from: &Pinned, range: std::ops::Range<usize>) -> Result<()> {
        // SAFETY: pinned memory outlives the copy, because whoever owns it waits before it is freed or used again.
        unsafe { result::memcpy_htod_async(to, &from.slice()[range], self.stream) }.map_err(earlier)
    }

    /// Copies from any host memory, after all work given, and waits. (The driver's own waiting copy goes by another
    /// stream, and may return while it is still on its way: nothing orders it with work on this one.)
    pub fn copy_in_now(&self, to: Address, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller gives an address inside an allocation with so much room; the copy is done before the
        // borrow ends.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream) }.map_err(earlier)?;
        self.wait()
    }

    /// Copies to any host memory, after all work given, and waits.
    pub fn copy_out_now(&self, bytes: &mut [u8], from: Address) -> Result<()> {
        // SAFETY: the caller gives an address inside an allocation that is so long; the copy is done before the borrow
        // ends.
        unsafe { result::memcpy_dtoh_async(bytes, from, self.stream) }.map_err(earlier)?;
        self.wait()
    }

    /// Copies to pinned memory, in order with other work.
    pub fn copy_out(&self, to: &mut Pinned, from: Address) -> Result<()> {
        // SAFETY: as in `copy_in`.
        unsafe { result::memcpy_dtoh_async(to.slice_mut(), from, self.stream) }.map_err(earlier)
    }

    /// Launches a kernel. `params` are the addresses of its arguments, each of its parameter's size.
    pub fn launch(
        &self,
        function: &Function,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        params: &mut [*mut c_void],
    ) -> std::result::Result<(), String> {
        let (x, y, z) = grid.into();
        // SAFETY: the caller checked the arguments against the kernel's declaration, and addresses lie in memory
        // that lives until the work is done.
        unsafe { result::launch_kernel(function.0, (x, y, z), (block, 1, 1), shared, self.stream, params) }
            .map_err(text)
    }

    /// Records what `work` launches instead of running it.
    pub fn capture(self: &Arc<Self>, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(earlier)?;
        let outcome = work();
        // SAFETY: as above; the capture ends whatever came of the work.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        outcome?;
        let graph = graph.map_err(failed("to record a graph"))?;
        // SAFETY: `graph` is what the capture gave; it is freed here, and `Graph` frees what was made of it.
        let exec = unsafe {
            let exec = result::graph::instantiate(graph, CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            exec.map_err(failed("to prepare a graph"))?
        };
        let graph = Graph { exec, stream: self.clone() };
        // SAFETY: graph and stream live.
        unsafe { result::graph::upload(exec, self.stream) }.map_err(earlier)?;
        Ok(graph)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.bind().is_ok() {
            // SAFETY: it was made once and is destroyed once; what uses it holds it.
            unsafe {
                let _ = result::stream::synchronize(self.stream);
                let _ = result::stream::destroy(self.stream);
            }
        }
    }
}

/// Device memory.
pub(super) struct Allocation {
    pub address: Address,
    pub bytes: usize,
    context: Arc<Context>,
}

impl Allocation {
    /// `None`: there is not so much memory.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Option<Allocation>> {
        context.bind()?;
        // SAFETY: what it holds is unset until it is written, and kernels may read any bits.
        match unsafe { result::malloc_sync(bytes.max(1)) } {
            Ok(address) => Ok(Some(Allocation { address, bytes, context: context.clone() })),
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
            Err(error) => Err(failed("memory")(error)),
        }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: it was taken once and is freed once. The driver waits for work that uses it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Host memory that the GPU copies from and to by itself.
pub(super) struct Pinned {
    start: *mut u8,
    bytes: usize,
    stream: Arc<Stream>,
}

// SAFETY: the memory is its own, and is freed from any thread.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Memory for copies on `stream`.
    pub fn new(stream: &Arc<Stream>, bytes: usize) -> Result<Pinned> {
        stream.bind()?;
        // SAFETY: it is zeroed before anything reads it.
        let start = unsafe {
            let start = result::malloc_host(bytes.max(1), 0).map_err(failed("pinned host memory"))?.cast::<u8>();
            start.write_bytes(0, bytes);
            start
        };
        Ok(Pinned { start, bytes, stream: stream.clone() })
    }

    pub fn slice(&self) -> &[u8] {
        // SAFETY: so long it is, initialised, and its own.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }

    pub fn slice_mut(&mut self) -> &mut [u8] {
        // SAFETY: so long it is, initialised, and its own.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.stream.bind().is_ok() {
            let _ = self.stream.wait(); // copies from it or to it are done
            // SAFETY: it was taken once and is freed once.
            let _ = unsafe { result::free_host(self.start.cast()) };
        }
    }
}

/// A point in the stream of work.
pub(super) struct Event {
    event: CUevent,
    context: Arc<Context>,
}

impl Event {
    /// After all work given so far.
    pub fn record(stream: &Stream) -> Result<Event> {
        let event = result::event::create(CUevent_flags::CU_EVENT_DEFAULT).map_err(failed("an event"))?;
        let this = Event { event, context: stream.context.clone() };
        // SAFETY: event and stream live.
        unsafe { result::event::record(event, stream.stream) }.map_err(earlier)?;
        Ok(this)
    }

    /// Whether work has come there.
    pub fn reached(&self) -> Result<bool> {
        self.context.bind()?;
        // SAFETY: the event lives.
        match unsafe { result::event::query(self.event) } {
            Ok(()) => Ok(true),
            Err(DriverError(CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(earlier(error)),
        }
    }

    /// Waits until work has come there.
    pub fn wait(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the event lives.
        unsafe { result::event::synchronize(self.event) }.map_err(earlier)
    }

    /// Milliseconds from an earlier event to this one, both reached.
    pub fn since(&self, earlier_event: &Event) -> Result<f32> {
        // SAFETY: both events live, on the same stream.
        unsafe { result::event::elapsed(earlier_event.event, self.event) }.map_err(failed("to time work"))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: it was made once and is destroyed once.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// The kernels of one image.
pub(super) struct Module {
    module: CUmodule,
    context: Arc<Context>,
}

/// A kernel that can be launched, as long as its module lives.
pub(super) struct Function(CUfunction);

// SAFETY: as for `Context`; a module and its functions are not changed once they are loaded, but for a function's
// attribute, which the driver guards itself.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}
// SAFETY: as above.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Module {
    /// Gives an image to the driver. The error is the driver's own text.
    pub fn load(context: &Arc<Context>, image: &'static [u8]) -> std::result::Result<Module, String> {
        // SAFETY: the image is a fatbin, or text that ends with 0 and that the driver refuses.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(text)?;
        Ok(Module { module, context: context.clone() })
    }

    pub fn function(&self, name: &str) -> Result<Function> {
        let what = format!("kernel {name}");
        let c_name = CString::new(name).expect("a kernel's name has no 0");
        // SAFETY: the module lives.
        let function = unsafe { result::module::get_function(self.module, c_name) }.map_err(failed(&what))?;
        // A driver may load a kernel's code at its first use, which must not fall into a capture: this is one.
        // SAFETY: the function was given by the driver.
        unsafe { result::function::get_function_attribute(function, CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS) }
            .map_err(failed(&what))?;
        Ok(Function(function))
    }
}

impl Function {
    /// Lets launches add up to `bytes` of shared memory.
    pub fn allow_shared(&self, bytes: u32) -> Result<()> {
        let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function's module lives as long as it is used.
        unsafe { result::function::set_function_attribute(self.0, which, bytes as i32) }
            .map_err(failed("more shared memory"))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: it was loaded once and is unloaded once, after all work.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

/// Launches that are given to the GPU at once.
pub(super) struct Graph {
    exec: CUgraphExec,
    stream: Arc<Stream>,
}

impl Graph {
    pub fn launch(&self) -> Result<()> {
        // SAFETY: graph and stream live, and so does the memory that its kernels use.
        unsafe { result::graph::launch(self.exec, self.stream.stream) }.map_err(earlier)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.stream.bind().is_ok() {
            let _ = self.stream.wait();
            // SAFETY: it was made once and is destroyed once, after its last run.
            let _ = unsafe { result::graph::exec_destroy(self.exec) };
        }
    }
}
