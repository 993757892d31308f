//! State of a GPU that all devices of the process share: its context, the kernels loaded into it, and idle lanes.
//!
//! Loading the kernels takes far longer than a small program runs, so the first [`SharedGpu::get`] does it and later ones
//! find it. The last device to be dropped closes the GPU.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::driver::{Context, Function, Module, Pinned, Stream};
use super::images::{self, KERNELS, NVCC};
use crate::{Error, Result};

/// Pinned bytes through which small writes go: a training step's are some hundred.
pub(super) const STAGING: usize = 1 << 20;

/// The CUDA version of the kernels where the binary was built without nvcc: any driver will do to refuse them.
const ANY_VERSION: i32 = 0;

/// Every GPU that is open in this process, by its number.
static OPEN: Mutex<Vec<(usize, Weak<SharedGpu>)>> = Mutex::new(Vec::new());

/// A kernel on the GPU.
pub(super) struct LoadedKernel {
    pub function: Function,
    pub params: &'static [&'static str],
    /// Dynamic shared memory in bytes that the driver was told its launches may ask for.
    pub allowed_shared: Mutex<u32>,
}

/// A stream, and pinned memory for small writes on it. One device at a time uses it.
pub(super) struct PooledStream {
    pub stream: Arc<Stream>,
    pub staging: Staging,
}

/// Small writes on their way to the GPU: the host goes on at once.
pub(super) struct Staging {
    pub pinned: Pinned,
    pub used: usize,
}

/// A GPU that is open.
pub(super) struct SharedGpu {
    // In the order in which they are dropped: the context goes last.
    idle: Mutex<Vec<PooledStream>>,
    pub functions: HashMap<&'static str, LoadedKernel>,
    _modules: Vec<Module>,
    pub context: Arc<Context>,
}

impl SharedGpu {
    /// GPU `ordinal`, opened unless a device of this process has it open.
    ///
    /// # Errors
    /// No driver, no such GPU, too old a driver or GPU, or a binary that was built without nvcc.
    pub fn get(ordinal: usize) -> Result<Arc<SharedGpu>> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, gpu)| gpu.strong_count() > 0);
        if let Some(gpu) = open.iter().find(|(known, _)| *known == ordinal).and_then(|(_, gpu)| gpu.upgrade()) {
            return Ok(gpu);
        }
        let gpu = Arc::new(SharedGpu::open(ordinal)?);
        open.push((ordinal, Arc::downgrade(&gpu)));
        Ok(gpu)
    }

    fn open(ordinal: usize) -> Result<SharedGpu> {
        let context = Arc::new(Context::open(ordinal, NVCC.map_or(ANY_VERSION, needed_driver))?);
        context.bind()?;
        let mut modules = Vec::new();
        for image in images::IMAGES {
            modules.push(Module::load(&context, image.bytes).map_err(|refusal| match NVCC {
                Some(nvcc) => Error::device(format!(
                    "CUDA: GPU {ordinal} ({}) does not take the kernels of {}, compiled by nvcc {nvcc}: {refusal}; a \
                     newer driver may, and --device cpu works without it",
                    context.gpu.name, image.file
                )),
                None => Error::device(
                    "CUDA: this binary was built without nvcc and has no kernels for a GPU; scripts/setup-nvcc \
                     installs it, then build again",
                ),
            })?);
        }
        let mut functions = HashMap::new();
        for kernel in KERNELS {
            let function = modules[kernel.image].function(kernel.name)?;
            functions
                .insert(kernel.name, LoadedKernel { function, params: kernel.params, allowed_shared: Mutex::new(0) });
        }
        Ok(SharedGpu { idle: Mutex::default(), functions, _modules: modules, context })
    }

    /// An idle lane, or a new one.
    fn lane(&self) -> Result<PooledStream> {
        if let Some(lane) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(lane);
        }
        let stream = Stream::new(&self.context)?;
        let pinned = Pinned::new(&stream, STAGING)?;
        Ok(PooledStream { stream, staging: Staging { pinned, used: 0 } })
    }
}

/// A lane in use, which goes back to its GPU when it is dropped.
pub(super) struct StreamLease {
    lane: Option<PooledStream>,
    pub gpu: Arc<SharedGpu>,
}

impl StreamLease {
    /// Takes a lane of the GPU.
    ///
    /// # Errors
    /// The driver gives no stream or no pinned memory.
    pub fn take(gpu: Arc<SharedGpu>) -> Result<StreamLease> {
        Ok(StreamLease { lane: Some(gpu.lane()?), gpu })
    }

    pub fn lane(&self) -> &PooledStream {
        self.lane.as_ref().expect("it is given back when it is dropped")
    }

    pub fn lane_mut(&mut self) -> &mut PooledStream {
        self.lane.as_mut().expect("it is given back when it is dropped")
    }
}

impl Drop for StreamLease {
    fn drop(&mut self) {
        let Some(mut lane) = self.lane.take() else { return };
        // A stream whose work failed is of no use to the next device.
        if lane.stream.bind().is_ok() && lane.stream.wait().is_ok() {
            lane.staging.used = 0;
            self.gpu.idle.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
        }
    }
}

/// The CUDA version, as the driver counts, that kernels compiled by this nvcc need: the first of the same major
/// version. (Only a GPU that they were not compiled for, for which the driver compiles them itself, may need a newer driver.)
fn needed_driver(nvcc: &str) -> i32 {
    1000 * nvcc.split('.').next().and_then(|major| major.parse::<i32>().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_need_a_driver_of_their_compiler_s_major_version() {
        assert_eq!(["13.0", "13.2", "12.4"].map(needed_driver), [13000, 13000, 12000]);
    }
}
