//! Parts that the suites share: devices, arrays of numbers with their tolerance, and single ops with their checks.
#![allow(dead_code, unused_imports)] // each suite uses some of it

pub mod attacked;
pub mod ball;
pub mod cuda;
pub mod double;
pub mod failing;
pub mod fake;
pub mod fingerprints;
pub mod half;
mod op_case;

use std::ops::AddAssign;

use maxmargin::device::{Device, cpu::Cpu};
use maxmargin::model::{Mode, Model, OutputLayer, Params};
use maxmargin::tape::{DType, Memory, Tape, Value};
pub use op_case::{FILES_WITH_LIBRARY_FUNCTIONS, OpCase};

/// A device that the suites run on. It is opened by each user, so that it can run in any thread pool.
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

    /// Opens the device for long replays. Unless the fake driver is [`fake::required`], it splits sums as for a GPU
    /// with few multiprocessors, so that small networks take less than half the time.
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

/// Every device that each suite runs on: the CPU and the CUDA device, or the CUDA device alone on a GPU, under a
/// sanitizer and for fingerprints.
pub fn devices() -> Vec<TestDevice> {
    let cpu = !fake::is_rerun() && !fake::required("gpu") && !fingerprints::in_use();
    cpu.then_some(TestDevice::Cpu).into_iter().chain(cuda::devices()).collect()
}

/// Devices on which thousands of iterations take seconds: the CPU, or a GPU if one is required; never the fake driver.
pub fn fast_devices() -> Vec<TestDevice> {
    if fake::required("gpu") { devices() } else { vec![TestDevice::Cpu] }
}

/// Tolerance of every result, relative to the sum of its terms' magnitudes. It is 17 times the rounding error of one
/// number. The errors of long sums partly cancel, and those of the CPU stay below 3e-7.
pub const TOLERANCE: f64 = 1e-6;

/// An expected result in double precision, with the sum of its terms' magnitudes.
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

/// An expected result without tolerance.
pub fn exact(value: f64) -> Sum {
    Sum { value, size: 0.0 }
}

/// The single-precision number nearest to `value`, as one correctly rounded operation gives it.
pub fn rounded(value: f64) -> Sum {
    exact(f64::from(value as f32))
}

/// An expected result whose terms' magnitudes add up to `size`.
pub fn near(value: f64, size: f64) -> Sum {
    Sum { value, size }
}

impl Sum {
    /// Error of `got` relative to the sum of the terms' magnitudes; infinite if an exact result is missed.
    pub fn off(self, got: f64) -> f64 {
        match (got - self.value).abs() {
            _ if got == self.value || got.is_nan() && self.value.is_nan() => 0.0,
            // Subnormal numbers have no relative precision.
            error if error < f64::from(f32::MIN_POSITIVE) && self.size > 0.0 => 0.0,
            error if error.is_nan() || self.size == 0.0 => f64::INFINITY,
            error => error / self.size,
        }
    }
}

/// An array of any element type; double precision holds all of them exactly.
#[derive(Clone, Debug)]
pub struct Array {
    pub dims: Vec<usize>,
    pub dtype: DType,
    pub values: Vec<f64>,
}

impl Array {
    /// Array of single precision, to which every value is rounded; [`half::in_half`], of half-precision numbers.
    pub fn f32(dims: &[usize], values: impl IntoIterator<Item = f64>) -> Array {
        Array::new(dims, DType::F32, values.into_iter().map(half::stored))
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

    /// Number of elements of a row.
    pub fn row(&self) -> usize {
        self.dims[1..].iter().product()
    }

    fn bytes(&self) -> Vec<u8> {
        match self.dtype {
            DType::F32 => self.values.iter().flat_map(|&v| (v as f32).to_ne_bytes()).collect(),
            DType::F16 => self.values.iter().flat_map(|&v| half::rounded(v).to_ne_bytes()).collect(),
            DType::U32 => self.values.iter().flat_map(|&v| (v as u32).to_ne_bytes()).collect(),
            DType::U8 => self.values.iter().map(|&v| v as u8).collect(),
        }
    }
}

/// Pseudorandom numbers (splitmix64), the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Number in 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % n as u64) as usize
    }

    /// Array of single precision in [-1, 1).
    pub fn signed(&mut self, dims: &[usize]) -> Array {
        Array::f32(dims, (0..dims.iter().product()).map(|_| 2.0 * self.unit() - 1.0))
    }

    /// Array of single precision in [0, 1), as an image.
    pub fn image(&mut self, dims: &[usize]) -> Array {
        Array::f32(dims, (0..dims.iter().product()).map(|_| self.unit()))
    }

    /// Array of multiples of 1/4 from -1 to 1. Sums of their products are exact, and often equal.
    pub fn coarse(&mut self, dims: &[usize]) -> Array {
        Array::f32(dims, (0..dims.iter().product()).map(|_| self.below(9) as f64 / 4.0 - 1.0))
    }
}

/// The linear model `logits = W x + b`, whose margins have a formula.
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
