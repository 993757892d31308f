//! State of a GPU that all devices of the process share: its context, the loaded kernels, and idle streams.
//!
//! Loading the kernels takes far longer than running a small program, so the first [`SharedGpu::get`] loads them and
//! later calls reuse them. The last device to be dropped closes the GPU.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::driver::{Context, Function, Module, Pinned, Stream};
use super::images::{self, KERNELS, NVCC};
use crate::{Error, Result};

/// Bytes of pinned memory for small writes. A training step writes some hundred bytes.
pub(super) const STAGING: usize = 1 << 20;

/// CUDA version that a binary without kernels needs: with any driver the error is that of the missing kernels.
const ANY_VERSION: i32 = 0;

/// GPUs that are open in this process, by number.
static OPEN: Mutex<Vec<(usize, Weak<SharedGpu>)>> = Mutex::new(Vec::new());

/// A kernel that is loaded into a GPU.
pub(super) struct LoadedKernel {
    pub function: Function,
    pub params: &'static [&'static str],
    /// Bytes of dynamic shared memory that the driver allows for its launches so far.
    pub allowed_shared: Mutex<u32>,
}

/// A stream with pinned memory for small writes. One device at a time uses it.
pub(super) struct PooledStream {
    pub stream: Arc<Stream>,
    pub staging: Staging,
}

/// Pinned memory of small writes in flight, for which the host does not wait.
pub(super) struct Staging {
    pub pinned: Pinned,
    pub used: usize,
}

/// An open GPU.
pub(super) struct SharedGpu {
    // Fields are dropped in this order: the context last.
    idle: Mutex<Vec<PooledStream>>,
    pub functions: HashMap<&'static str, LoadedKernel>,
    _modules: Vec<Module>,
    pub context: Arc<Context>,
}

impl SharedGpu {
    /// GPU `ordinal`. Opens it unless a device of this process has opened it.
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
                    "CUDA: GPU {ordinal} ({}) refuses the kernels of {}, compiled by nvcc {nvcc}: {refusal}; a newer \
                     driver may accept them, and --device cpu works without one",
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

    /// An idle stream, or a new one.
    fn stream(&self) -> Result<PooledStream> {
        if let Some(idle) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(idle);
        }
        let stream = Stream::new(&self.context)?;
        let pinned = Pinned::new(&stream, STAGING)?;
        Ok(PooledStream { stream, staging: Staging { pinned, used: 0 } })
    }
}

/// A stream in use. It returns to its GPU when the lease is dropped.
pub(super) struct StreamLease {
    stream: Option<PooledStream>,
    pub gpu: Arc<SharedGpu>,
}

impl StreamLease {
    /// Takes a stream of the GPU.
    ///
    /// # Errors
    /// The driver gives no stream or no pinned memory.
    pub fn take(gpu: Arc<SharedGpu>) -> Result<StreamLease> {
        Ok(StreamLease { stream: Some(gpu.stream()?), gpu })
    }

    pub fn get(&self) -> &PooledStream {
        self.stream.as_ref().expect("the stream returns when the lease is dropped")
    }

    pub fn get_mut(&mut self) -> &mut PooledStream {
        self.stream.as_mut().expect("the stream returns when the lease is dropped")
    }
}

impl Drop for StreamLease {
    fn drop(&mut self) {
        let Some(mut pooled) = self.stream.take() else { return };
        // A stream whose work failed is not reused.
        if pooled.stream.bind().is_ok() && pooled.stream.wait().is_ok() {
            pooled.staging.used = 0;
            self.gpu.idle.lock().unwrap_or_else(PoisonError::into_inner).push(pooled);
        }
    }
}

/// CUDA version, as `cuDriverGetVersion` counts, that kernels compiled by this nvcc need: the first one of the same
/// major version. (A GPU that has no compiled kernels, for which the driver compiles PTX, may need a newer driver.)
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
