//! The fake driver through its C interface, with the kernels of `tests/fake_driver/defects`.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock};

use crate::fake::{self, FakeDriver, KernelBuild};

/// Name of a `CUresult` other than success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed(pub String);

pub type Result<T> = std::result::Result<T, Failed>;

pub fn failed<T>(name: &str) -> Result<T> {
    Err(Failed(format!("CUDA_ERROR_{name}")))
}

/// Address in device memory, or another handle of the driver.
pub type Handle = u64;

/// Folder of the kernels.
pub const KERNELS: &str = "tests/fake_driver/defects";

/// The fake driver with these kernels; `None` if it cannot be built here.
fn loaded() -> Option<&'static FakeDriver> {
    static LOADED: OnceLock<std::result::Result<FakeDriver, String>> = OnceLock::new();
    let load = || {
        FakeDriver::open(&if fake::is_rerun() { fake::library()? } else { fake::build(KERNELS, KernelBuild::Plain)? })
    };
    fake::rung("fake", LOADED.get_or_init(load).as_ref().map_err(Clone::clone))
}

/// A context on the device. One test at a time has it, because options and the log belong to the process.
pub struct Gpu {
    pub fake: &'static FakeDriver,
    pub stream: Handle,
    module: Handle,
    _alone: MutexGuard<'static, ()>,
}

/// Calls a function of the driver.
macro_rules! call {
    ($fake:expr, $name:literal, $($argument:expr => $type:ty),*) => {{
        // SAFETY: the types are those of the definition in `tests/fake_driver`.
        let function: unsafe extern "C" fn($($type),*) -> c_int = unsafe { $fake.function($name) };
        // SAFETY: pointers among the arguments point to variables of the caller.
        result($fake, unsafe { function($($argument),*) })
    }};
}
pub(crate) use call;

pub fn result(fake: &FakeDriver, code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    let mut name: *const c_char = ptr::null();
    // SAFETY: the type is that of the definition; the name is a constant.
    let function: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int = unsafe { fake.function("cuGetErrorName") };
    // SAFETY: as above.
    unsafe { function(code, &raw mut name) };
    if name.is_null() {
        return Err(Failed(format!("code {code}")));
    }
    // SAFETY: as above.
    Err(Failed(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()))
}

impl Gpu {
    /// Creates a context with these options; `None` if the fake driver cannot be built here.
    pub fn new(options: &str) -> Option<Gpu> {
        static ALONE: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
        let alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let fake = loaded()?;
        fake.set("reset");
        fake.set(options);
        let mut gpu = Gpu { fake, stream: 0, module: 0, _alone: alone };
        let mut context: Handle = 0;
        call!(fake, "cuInit", 0 => c_uint).unwrap();
        call!(fake, "cuDevicePrimaryCtxRetain", &raw mut context => *mut Handle, 0 => c_int).unwrap();
        call!(fake, "cuCtxSetCurrent", context => Handle).unwrap();
        call!(fake, "cuStreamCreate", &raw mut gpu.stream => *mut Handle, 1 => c_uint).unwrap();
        let image = c"whatever".as_ptr();
        call!(fake, "cuModuleLoadData", &raw mut gpu.module => *mut Handle, image => *const c_char).unwrap();
        fake.log();
        Some(gpu)
    }

    pub fn alloc(&self, bytes: usize) -> Result<Handle> {
        let mut start: Handle = 0;
        call!(self.fake, "cuMemAlloc_v2", &raw mut start => *mut Handle, bytes => usize).map(|()| start)
    }

    /// Allocates a buffer with these numbers.
    pub fn upload(&self, numbers: &[f32]) -> Handle {
        let start = self.alloc(size_of_val(numbers)).unwrap();
        self.write(start, numbers).unwrap();
        start
    }

    pub fn write(&self, start: Handle, numbers: &[f32]) -> Result<()> {
        let (from, bytes) = (numbers.as_ptr(), size_of_val(numbers));
        call!(self.fake, "cuMemcpyHtoDAsync_v2",
            start => Handle, from => *const f32, bytes => usize, self.stream => Handle)
    }

    pub fn read(&self, start: Handle, count: usize) -> Result<Vec<f32>> {
        let mut numbers = vec![0f32; count];
        self.synchronize()?;
        let (to, bytes) = (numbers.as_mut_ptr(), size_of_val(&numbers[..]));
        call!(self.fake, "cuMemcpyDtoHAsync_v2",
            to => *mut f32, start => Handle, bytes => usize, self.stream => Handle)?;
        Ok(numbers)
    }

    pub fn set(&self, start: Handle, value: u32, count: usize) -> Result<()> {
        call!(self.fake, "cuMemsetD32Async", start => Handle, value => c_uint, count => usize, self.stream => Handle)
    }

    pub fn synchronize(&self) -> Result<()> {
        call!(self.fake, "cuStreamSynchronize", self.stream => Handle)
    }

    pub fn kernel(&self, name: &str) -> Result<Handle> {
        let mut function: Handle = 0;
        let name = CString::new(name).unwrap();
        let to = &raw mut function;
        call!(self.fake, "cuModuleGetFunction",
            to => *mut Handle, self.module => Handle, name.as_ptr() => *const c_char)?;
        Ok(function)
    }

    pub fn launch(&self, name: &str, grid: [u32; 3], block: [u32; 3], shared: u32, arguments: &[u64]) -> Result<()> {
        let kernel = self.kernel(name)?;
        // Little-endian: the first bytes of a u64 are the int or the float.
        let mut pointers: Vec<*const u64> = arguments.iter().map(|argument| &raw const *argument).collect();
        let arguments = if pointers.is_empty() { ptr::null_mut() } else { pointers.as_mut_ptr() };
        call!(self.fake, "cuLaunchKernel", kernel => Handle,
            grid[0] => c_uint, grid[1] => c_uint, grid[2] => c_uint,
            block[0] => c_uint, block[1] => c_uint, block[2] => c_uint,
            shared => c_uint, self.stream => Handle, arguments => *mut *const u64, ptr::null_mut() => *mut c_void)
    }

    /// Adds 1 to the first `n` numbers, at most 64.
    pub fn add_one(&self, y: Handle, n: u64) -> Result<()> {
        self.launch("add_one", [1, 1, 1], [64, 1, 1], 0, &[y, n])
    }

    /// Lines of the log since the last call that contain `word`.
    pub fn log_of(&self, word: &str) -> Vec<String> {
        self.fake.log().into_iter().filter(|line| line.contains(word)).collect()
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        let _ = call!(self.fake, "cuDevicePrimaryCtxRelease_v2", 0 => c_int);
    }
}
