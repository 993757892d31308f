//! Parts that the suites share: the devices, arrays of numbers, and one op run on its own under watch.
#![allow(dead_code, unused_imports)] // each suite uses its own part

pub mod attacked;
pub mod cuda;
pub mod double;
pub mod fake;
pub mod fingerprints;
mod op_case;

use std::ops::AddAssign;

use maxmargin::device::{Device, cpu::Cpu};
use maxmargin::model::{Mode, Model, OutputLayer, Params};
use maxmargin::tape::{DType, Memory, Tape, Value};
pub use op_case::{FILES_WITH_LIBRARY_FUNCTIONS, OpCase};

/// A device that the suites run on; opened where it is used, so that it may run in a thread pool of any size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestDevice {
    /// The CPU.
    Cpu,
    /// The CUDA device with an allocation for every operand, each launch waited for.
    CudaApart,
    /// The CUDA device as programs use it, with one arena.
    CudaArena,
}

impl TestDevice {
    pub fn open(self) -> Box<dyn Device> {
        match self {
            TestDevice::Cpu => Box::new(Cpu::new()),
            TestDevice::CudaApart => Box::new(cuda::open(true)),
            TestDevice::CudaArena => Box::new(cuda::open(false)),
        }
    }

    /// Opens the device for long replays. The fake driver, unless it is [`fake::required`], then splits sums as a GPU of
    /// few multiprocessors does, which takes small networks less than half the time.
    pub fn open_for_replays(self) -> Box<dyn Device> {
        const FEW: usize = 8;
        match self {
            TestDevice::Cpu => self.open(),
            _ if fake::required("gpu") || fake::required("fake") => self.open(),
            TestDevice::CudaApart => Box::new(cuda::open(true).split_for(FEW)),
            TestDevice::CudaArena => Box::new(cuda::open(false).split_for(FEW)),
        }
    }
}

/// Every device that every suite runs on. Where the CUDA device alone is looked at, the CPU runs nothing.
pub fn devices() -> Vec<TestDevice> {
    let cpu = !fake::is_rerun() && !fake::required("gpu") && !fingerprints::in_use();
    cpu.then_some(TestDevice::Cpu).into_iter().chain(cuda::devices()).collect()
}

/// The devices on which thousands of iterations take seconds: the CPU, and a GPU where one is required, but no fake.
pub fn fast_devices() -> Vec<TestDevice> {
    if fake::required("gpu") { devices() } else { vec![TestDevice::Cpu] }
}

/// The law of tolerance: a result may be off by this share of the sum of its terms' magnitudes. That is 17 times the
/// rounding error of one number: the errors of long sums partly cancel, and the CPU stays below 3e-7.
pub const TOLERANCE: f64 = 1e-6;

/// A sum in double precision, and the sum of its terms' magnitudes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    pub value: f64,
    pub size: f64,
}

impl AddAssign<f64> for Sum {
    fn add_assign(&mut self, term: f64) {
        self.value += term;
        self.size += term.abs();
    }
}

/// A result without tolerance.
pub fn exact(value: f64) -> Sum {
    Sum { value, size: 0.0 }
}

/// The single-precision number next to `value`: what one correctly rounded operation gives.
pub fn rounded(value: f64) -> Sum {
    exact(f64::from(value as f32))
}

/// A result computed from terms whose magnitudes add up to `size`.
pub fn near(value: f64, size: f64) -> Sum {
    Sum { value, size }
}

impl Sum {
    /// How far `got` is off, in units of the terms' magnitudes; infinite where an exact result is missed.
    pub fn off(self, got: f64) -> f64 {
        match (got - self.value).abs() {
            _ if got == self.value || got.is_nan() && self.value.is_nan() => 0.0,
            // Below the least normal number nothing is relative.
            error if error < f64::from(f32::MIN_POSITIVE) && self.size > 0.0 => 0.0,
            error if error.is_nan() || self.size == 0.0 => f64::INFINITY,
            error => error / self.size,
        }
    }
}

/// Numbers of a shape. All element types are exact in double precision.
#[derive(Clone, Debug)]
pub struct Array {
    pub dims: Vec<usize>,
    pub dtype: DType,
    pub values: Vec<f64>,
}

impl Array {
    /// Single precision: every value is rounded to it.
    pub fn f32(dims: &[usize], values: impl IntoIterator<Item = f64>) -> Array {
        Array::new(dims, DType::F32, values.into_iter().map(|v| f64::from(v as f32)))
    }

    pub fn u32(values: impl IntoIterator<Item = u32>) -> Array {
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        Array::new(&[values.len()], DType::U32, values)
    }

    pub fn u8(dims: &[usize], values: impl IntoIterator<Item = u8>) -> Array {
        Array::new(dims, DType::U8, values.into_iter().map(f64::from))
    }

    fn new(dims: &[usize], dtype: DType, values: impl IntoIterator<Item = f64>) -> Array {
        let values: Vec<f64> = values.into_iter().collect();
        assert_eq!(values.len(), dims.iter().product::<usize>(), "{dims:?}");
        Array { dims: dims.to_vec(), dtype, values }
    }

    /// Elements of a row.
    pub fn row(&self) -> usize {
        self.dims[1..].iter().product()
    }

    fn bytes(&self) -> Vec<u8> {
        match self.dtype {
            DType::F32 => self.values.iter().flat_map(|&v| (v as f32).to_ne_bytes()).collect(),
            DType::U32 => self.values.iter().flat_map(|&v| (v as u32).to_ne_bytes()).collect(),
            DType::U8 => self.values.iter().map(|&v| v as u8).collect(),
        }
    }
}

/// Numbers without a pattern (splitmix64), the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % n as u64) as usize
    }

    /// Single precision, in [-1, 1).
    pub fn signed(&mut self, dims: &[usize]) -> Array {
        Array::f32(dims, (0..dims.iter().product()).map(|_| 2.0 * self.unit() - 1.0))
    }

    /// Single precision, in [0, 1): an image.
    pub fn image(&mut self, dims: &[usize]) -> Array {
        Array::f32(dims, (0..dims.iter().product()).map(|_| self.unit()))
    }

    /// Few different values, multiples of 1/4 up to 1: sums of their products are exact, and often equal.
    pub fn coarse(&mut self, dims: &[usize]) -> Array {
        Array::f32(dims, (0..dims.iter().product()).map(|_| self.below(9) as f64 / 4.0 - 1.0))
    }
}

/// `logits = W x + b`: a model whose margins are known.
#[derive(Clone)]
pub struct LinearModel {
    image: [usize; 3],
    params: Params,
}

impl LinearModel {
    pub fn new(image: [usize; 3], classes: usize) -> LinearModel {
        let dims = [classes, image.iter().product()];
        let mut params = Params::default();
        params.weight("weight", &dims, &dims, 0);
        params.bias("bias");
        LinearModel { image, params }
    }
}

impl Model for LinearModel {
    fn describe(&self) -> String {
        "a linear model".into()
    }

    fn image(&self) -> [usize; 3] {
        self.image
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn output_layer(&self) -> OutputLayer {
        OutputLayer { weight: "weight", bias: "bias" }
    }

    fn logits(&self, tape: &mut Tape, x: Value, _: Mode) -> Value {
        let [weight, bias] = self.params.leaves(tape)[..] else { unreachable!("a weight and a bias") };
        let product = tape.linear(x, weight);
        tape.add_bias(product, bias)
    }

    fn declare(&mut self, memory: &mut Memory) {
        self.params.declare(memory, "params");
    }
}
