//! The NVIDIA driver API, as far as the project uses it: context, streams, memory, modules, graphs. Every `unsafe` of
//! the project is in this file. Each wrapper frees its resource when it is dropped.
//!
//! A device's stream carries all of its work in order. An error of that work is returned by a later call, at the latest
//! by [`Stream::wait`].

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{
    self, CUdevice, CUdevice_attribute as Attribute, CUevent, CUevent_flags, CUfunction, CUfunction_attribute,
    CUgraphExec, CUgraphInstantiate_flags, CUmodule, CUresult, CUstream, CUstreamCaptureMode,
};

use crate::{Error, Result};

/// Address in device memory.
pub(super) type Address = u64;

/// Lowest compute capability that the kernels are compiled for.
const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// Name of a driver's error, and the driver's description of it.
fn text(error: DriverError) -> String {
    let name = error.error_name().map_or_else(|_| format!("{:?}", error.0), |name| name.to_string_lossy().into_owned());
    let words = error.error_string().map(|words| words.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{name}, {words}")
}

/// Error of a call that should always succeed; `what` is the request.
fn failed(what: &str) -> impl FnOnce(DriverError) -> Error + '_ {
    move |error| {
        Error::device(format!(
            "CUDA: the driver refuses {what}: {}; `nvidia-smi` shows the state of driver and GPU",
            text(error)
        ))
    }
}

/// Error of work that was submitted before.
fn earlier(error: DriverError) -> Error {
    Error::device(format!(
        "CUDA: work on the GPU failed: {}; with --sync the program waits after every launch and names the kernel",
        text(error)
    ))
}

/// Text of a version as the driver encodes it: 13000 is 13.0.
fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// Description of a GPU by the driver.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// Number of the GPU.
    pub ordinal: usize,
    /// Name of the GPU.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Size of the memory in bytes.
    pub memory: usize,
    /// Number of streaming multiprocessors.
    pub multiprocessors: i32,
    /// Bytes of shared memory that a block may have.
    pub block_shared: i32,
}

impl Gpu {
    fn of(ordinal: usize) -> std::result::Result<(CUdevice, Gpu), DriverError> {
        let device = result::device::get(i32::try_from(ordinal).unwrap_or(i32::MAX))?;
        // SAFETY: the driver returned `device`.
        let attribute = |which| unsafe { result::device::get_attribute(device, which) };
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let block_shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        // SAFETY: the driver returned `device`.
        let memory = unsafe { result::device::total_mem(device)? };
        let name = result::device::get_name(device)?;
        Ok((device, Gpu { ordinal, name, capability, memory, multiprocessors, block_shared }))
    }
}

/// Driver and GPUs of the machine.
#[derive(Clone, Debug)]
pub struct DriverInfo {
    /// CUDA version that the driver supports: 13000 is 13.0.
    pub driver: i32,
    /// All GPUs, at least one.
    pub gpus: Vec<Gpu>,
}

impl DriverInfo {
    /// CUDA version that the driver supports, such as 13.0.
    #[must_use]
    pub fn driver_version(&self) -> String {
        version(self.driver)
    }
}

/// True if there is an NVIDIA driver, whether it works or not.
#[must_use]
pub fn driver_is_here() -> bool {
    // SAFETY: the call only tries to open the library.
    unsafe { sys::is_culib_present() }
}

/// Finds the driver and the GPUs.
///
/// # Errors
/// There is no driver, there is no GPU, or the driver does not work.
pub fn find() -> Result<DriverInfo> {
    // Without a driver every call of cudarc would panic.
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

/// The primary context of a GPU.
pub(super) struct Context {
    pub gpu: Gpu,
    device: CUdevice,
    context: sys::CUcontext,
}

// SAFETY: any thread may call the driver; every call that needs a current context is preceded by `bind` on the same
// thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Opens GPU `ordinal`. `needed` is the CUDA version that the kernels were compiled with, as `cuDriverGetVersion`
    /// encodes it.
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
        // SAFETY: the driver returned `device`; `drop` releases the context after everything made in it.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed("to open the GPU"))?;
        Ok(Context { gpu, device, context })
    }

    /// Makes this context current, so that this thread's driver calls go to its GPU.
    pub fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("to choose the GPU"))
    }

    /// Free memory and total memory, in bytes.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.bind()?;
        result::mem_get_info().map_err(failed("to tell how much memory is free"))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: everything made in the context holds it, so this comes last. A failed GPU returns an error, which
        // needs no treatment.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// A queue of work on a GPU, which is done in the order of submission.
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

    /// Makes the stream's context current on this thread.
    pub fn bind(&self) -> Result<()> {
        self.context.bind()
    }

    /// Waits for all submitted work.
    pub fn wait(&self) -> Result<()> {
        self.synchronize().map_err(earlier)
    }

    /// Waits for all submitted work, of which only one launch can have failed. The error is the driver's text.
    pub fn wait_for_launch(&self) -> std::result::Result<(), String> {
        self.synchronize().map_err(text)
    }

    fn synchronize(&self) -> std::result::Result<(), DriverError> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }
    }

    /// Submits writing zeros.
    pub fn zero(&self, allocation: &Allocation) -> Result<()> {
        // SAFETY: the range is the whole allocation.
        unsafe { result::memset_d8_async(allocation.address, 0, allocation.bytes, self.stream) }.map_err(earlier)
    }

    /// Submits a copy from pinned host memory, which the host must not change until it is done.
    pub fn copy_in(&self, to: Address, from: &Pinned, range: std::ops::Range<usize>) -> Result<()> {
        // SAFETY: pinned memory outlives the copy, because its owner waits before it is freed or reused.
        unsafe { result::memcpy_htod_async(to, &from.slice()[range], self.stream) }.map_err(earlier)
    }

    /// Copies from any host memory after all submitted work, and waits. (The driver's synchronous copy uses another
    /// stream, and may return before the transfer has ended, so it is not ordered with work on this stream.)
    pub fn copy_in_now(&self, to: Address, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller passes an address of an allocation that is long enough; the copy is done before the borrow
        // ends.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream) }.map_err(earlier)?;
        self.wait()
    }

    /// Copies to any host memory after all submitted work, and waits.
    pub fn copy_out_now(&self, bytes: &mut [u8], from: Address) -> Result<()> {
        // SAFETY: the caller passes an address of an allocation that is long enough; the copy is done before the borrow
        // ends.
        unsafe { result::memcpy_dtoh_async(bytes, from, self.stream) }.map_err(earlier)?;
        self.wait()
    }

    /// Submits a copy to pinned memory.
    pub fn copy_out(&self, to: &mut Pinned, from: Address) -> Result<()> {
        // SAFETY: as in `copy_in`.
        unsafe { result::memcpy_dtoh_async(to.slice_mut(), from, self.stream) }.map_err(earlier)
    }

    /// Submits a launch of a kernel. `params` are the addresses of its arguments, each of its parameter's size.
    pub fn launch(
        &self,
        function: &Function,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        params: &mut [*mut c_void],
    ) -> std::result::Result<(), String> {
        let (x, y, z) = grid.into();
        // SAFETY: the caller compared the arguments with the kernel's declaration, and all addresses are in memory that
        // lives until the work is done.
        unsafe { result::launch_kernel(function.0, (x, y, z), (block, 1, 1), shared, self.stream, params) }
            .map_err(text)
    }

    /// Records the launches of `work` as a graph, without running them.
    pub fn capture(self: &Arc<Self>, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(earlier)?;
        let outcome = work();
        // SAFETY: as above; the capture ends even if `work` failed.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        outcome?;
        let graph = graph.map_err(failed("to record a graph"))?;
        // SAFETY: the capture returned `graph`; it is freed here, and `Graph` frees the executable graph.
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
            // SAFETY: the stream is destroyed once; everything that uses it holds it.
            unsafe {
                let _ = result::stream::synchronize(self.stream);
                let _ = result::stream::destroy(self.stream);
            }
        }
    }
}

/// An allocation of device memory.
pub(super) struct Allocation {
    pub address: Address,
    pub bytes: usize,
    context: Arc<Context>,
}

impl Allocation {
    /// Allocates `bytes` bytes; `None` if there is not enough memory.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Option<Allocation>> {
        context.bind()?;
        // SAFETY: the content is undefined until it is written, and kernels may read any bits.
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
            // SAFETY: the memory is freed once. The driver waits for work that uses it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Pinned host memory, which the GPU reads and writes by itself.
pub(super) struct Pinned {
    start: *mut u8,
    bytes: usize,
    stream: Arc<Stream>,
}

// SAFETY: the value owns its memory, which any thread may free.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Allocates memory for copies on `stream`, filled with zeros.
    pub fn new(stream: &Arc<Stream>, bytes: usize) -> Result<Pinned> {
        stream.bind()?;
        // SAFETY: the memory is filled with zeros before it is read.
        let start = unsafe {
            let start = result::malloc_host(bytes.max(1), 0).map_err(failed("pinned host memory"))?.cast::<u8>();
            start.write_bytes(0, bytes);
            start
        };
        Ok(Pinned { start, bytes, stream: stream.clone() })
    }

    pub fn slice(&self) -> &[u8] {
        // SAFETY: the memory has this length, is initialised, and belongs to the value.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }

    pub fn slice_mut(&mut self) -> &mut [u8] {
        // SAFETY: the memory has this length, is initialised, and belongs to the value.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.stream.bind().is_ok() {
            let _ = self.stream.wait(); // pending copies from it or to it end
            // SAFETY: the memory is freed once.
            let _ = unsafe { result::free_host(self.start.cast()) };
        }
    }
}

/// A point in the work of a stream.
pub(super) struct Event {
    event: CUevent,
    context: Arc<Context>,
}

impl Event {
    /// Records the point after all work submitted so far.
    pub fn record(stream: &Stream) -> Result<Event> {
        let event = result::event::create(CUevent_flags::CU_EVENT_DEFAULT).map_err(failed("an event"))?;
        let this = Event { event, context: stream.context.clone() };
        // SAFETY: event and stream live.
        unsafe { result::event::record(event, stream.stream) }.map_err(earlier)?;
        Ok(this)
    }

    /// True if the work has reached the point.
    pub fn reached(&self) -> Result<bool> {
        self.context.bind()?;
        // SAFETY: the event lives.
        match unsafe { result::event::query(self.event) } {
            Ok(()) => Ok(true),
            Err(DriverError(CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(earlier(error)),
        }
    }

    /// Waits until the work has reached the point.
    pub fn wait(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the event lives.
        unsafe { result::event::synchronize(self.event) }.map_err(earlier)
    }

    /// Milliseconds from an earlier event to this one; both must have been reached.
    pub fn since(&self, earlier_event: &Event) -> Result<f32> {
        // SAFETY: both events live, on the same stream.
        unsafe { result::event::elapsed(earlier_event.event, self.event) }.map_err(failed("to time work"))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: the event is destroyed once.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// The kernels of one fatbin, loaded into a GPU.
pub(super) struct Module {
    module: CUmodule,
    context: Arc<Context>,
}

/// A kernel that can be launched while its module lives.
pub(super) struct Function(CUfunction);

// SAFETY: as for `Context`; a module and its functions do not change once they are loaded, except for a function's
// attribute, which the driver synchronises.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}
// SAFETY: as above.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Module {
    /// Loads a fatbin. The error is the driver's text.
    pub fn load(context: &Arc<Context>, image: &'static [u8]) -> std::result::Result<Module, String> {
        // SAFETY: the image is a fatbin, or a text with a final 0, which the driver refuses.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(text)?;
        Ok(Module { module, context: context.clone() })
    }

    pub fn function(&self, name: &str) -> Result<Function> {
        let what = format!("kernel {name}");
        let c_name = CString::new(name).expect("a kernel's name has no 0");
        // SAFETY: the module lives.
        let function = unsafe { result::module::get_function(self.module, c_name) }.map_err(failed(&what))?;
        // A driver may load a kernel's code at its first use, which must not be during a capture: this call is a use.
        // SAFETY: the driver returned the function.
        unsafe { result::function::get_function_attribute(function, CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS) }
            .map_err(failed(&what))?;
        Ok(Function(function))
    }
}

impl Function {
    /// Allows launches up to `bytes` bytes of dynamic shared memory.
    pub fn allow_shared(&self, bytes: u32) -> Result<()> {
        let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function's module lives as long as it is used.
        unsafe { result::function::set_function_attribute(self.0, which, bytes as i32) }
            .map_err(failed(&format!("{bytes} bytes of shared memory a block")))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: the module is unloaded once, after all work.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

/// An executable graph: launches that are submitted at once.
pub(super) struct Graph {
    exec: CUgraphExec,
    stream: Arc<Stream>,
}

impl Graph {
    pub fn launch(&self) -> Result<()> {
        // SAFETY: graph and stream live, as does the memory that its kernels use.
        unsafe { result::graph::launch(self.exec, self.stream.stream) }.map_err(earlier)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.stream.bind().is_ok() {
            let _ = self.stream.wait();
            // SAFETY: the graph is destroyed once, after its last run.
            let _ = unsafe { result::graph::exec_destroy(self.exec) };
        }
    }
}
