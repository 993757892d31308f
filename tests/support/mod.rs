//! What the suites share: the devices, arrays of numbers, and one op run on its own under watch.
#![allow(dead_code)] // each suite uses its own part

pub mod attacked;
pub mod cuda;
pub mod double;
pub mod fake;

use std::fmt::Debug;
use std::ops::AddAssign;
use std::sync::LazyLock;

use maxmargin::device::{Device, cpu::Cpu};
use maxmargin::model::{Mode, Model, Params};
use maxmargin::tape::{DType, Memory, Node, Op, Place, Region, Tape, Value};
use rayon::ThreadPool;

/// Makes a device; made where it is used, so that it may run in a thread pool of any size.
pub type Make = fn() -> Box<dyn Device>;

/// Every device that every suite runs on.
pub fn devices() -> Vec<Make> {
    let cpu: Make = || Box::new(Cpu::new());
    let cpu = (!fake::is_again()).then_some(cpu);
    cpu.into_iter().chain(cuda::devices()).collect()
}

/// The devices on which thousands of iterations take seconds: the CPU, and a GPU where one is required, but no fake.
pub fn fast_devices() -> Vec<Make> {
    if fake::required("gpu") { devices() } else { vec![|| Box::new(Cpu::new())] }
}

/// How often an op is run for equal bits, on each number of threads: twice; on a GPU, whose blocks run in another order
/// each time, twenty times. `MAXMARGIN_REPEAT` says otherwise.
static REPEAT: LazyLock<usize> = LazyLock::new(|| match std::env::var("MAXMARGIN_REPEAT") {
    Ok(text) => text.parse().expect("MAXMARGIN_REPEAT is a number"),
    Err(_) if fake::required("gpu") => 20,
    Err(_) => 2,
});

fn threads(n: usize) -> ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap()
}

static ONE_AND_TWO_THREADS: LazyLock<[ThreadPool; 2]> = LazyLock::new(|| [threads(1), threads(2)]);

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

fn numbers(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let words = bytes.chunks_exact(4).map(|b| u32::from_ne_bytes(b.try_into().unwrap()));
    match dtype {
        DType::F32 => words.map(|w| f64::from(f32::from_bits(w))).collect(),
        DType::U32 => words.map(f64::from).collect(),
        DType::U8 => bytes.iter().copied().map(f64::from).collect(),
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

/// What memory holds before an op runs: a NaN that no computation makes, and no index of anything.
const POISON: u32 = 0x7FC0_DEAD;

struct Operand {
    start: Option<Array>,
    dims: Vec<usize>,
    dtype: DType,
    by_rows: bool,
}

impl Operand {
    fn len(&self, rows: usize) -> usize {
        if self.by_rows { rows * self.dims[1..].iter().product::<usize>() } else { self.dims.iter().product() }
    }
}

/// One op on given operands. Memory is poisoned wherever nothing is given: outputs, rows beyond the active ones, and
/// guards between all operands.
pub struct Case {
    op: Op,
    inputs: Vec<Operand>,
    outputs: Vec<Operand>,
}

impl Case {
    pub fn new(op: Op) -> Case {
        Case { op, inputs: Vec::new(), outputs: Vec::new() }
    }

    fn input(mut self, a: &Array, by_rows: bool) -> Case {
        self.inputs.push(Operand { start: Some(a.clone()), dims: a.dims.clone(), dtype: a.dtype, by_rows });
        self
    }

    /// An operand that is read by rows.
    pub fn rows(self, a: &Array) -> Case {
        self.input(a, true)
    }

    /// An operand that is read as a whole, such as weights.
    pub fn whole(self, a: &Array) -> Case {
        self.input(a, false)
    }

    fn output(mut self, start: Option<&Array>, dims: &[usize], dtype: DType, by_rows: bool) -> Case {
        self.outputs.push(Operand { start: start.cloned(), dims: dims.to_vec(), dtype, by_rows });
        self
    }

    /// A result by rows.
    pub fn gives_rows(self, dims: &[usize], dtype: DType) -> Case {
        self.output(None, dims, dtype, true)
    }

    /// A result that all rows make together, such as a weight's gradient.
    pub fn gives_whole(self, dims: &[usize], dtype: DType) -> Case {
        self.output(None, dims, dtype, false)
    }

    /// A buffer that is updated by rows.
    pub fn updates_rows(self, a: &Array) -> Case {
        self.output(Some(a), &a.dims, a.dtype, true)
    }

    /// A buffer that is updated as a whole.
    pub fn updates_whole(self, a: &Array) -> Case {
        self.output(Some(a), &a.dims, a.dtype, false)
    }

    fn capacity(&self) -> Option<usize> {
        self.inputs.iter().chain(&self.outputs).find(|o| o.by_rows).map(|o| o.dims[0])
    }

    /// Runs the op on every device for all rows (no count given) and for counts of none, one, some and all; what it
    /// writes must be what `formula(rows)` says of each output, within [`TOLERANCE`].
    pub fn check(&self, formula: impl Fn(usize) -> Vec<Vec<Sum>>) {
        let mut counts = vec![None];
        if let Some(all) = self.capacity() {
            counts.extend([0, 1, all / 2, all].map(Some));
            counts.dedup();
        }
        for make in devices() {
            for &count in &counts {
                let n = count.or(self.capacity()).unwrap_or(0);
                let expected = formula(n);
                assert_eq!(expected.len(), self.outputs.len());
                let mut worst = 0f64;
                for (place, (got, expected)) in self.run(make, count).iter().zip(&expected).enumerate() {
                    let output = &self.outputs[place];
                    assert_eq!(output.len(n), expected.len(), "the formula speaks of every active element");
                    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
                        let off = expected.off(got);
                        assert!(
                            off <= TOLERANCE,
                            "{self:?}, {n} rows, output {place} {:?}, element {i}: {got}, not {expected:?} (off by {off:.1e})",
                            output.dims,
                        );
                        worst = worst.max(off);
                    }
                }
                println!("{:<26} {worst:.1e} {self:?}, {n} rows", self.op.name());
            }
        }
    }

    /// The active elements of each output. Whatever else is in memory must keep its bits, and bits must not depend on
    /// the run or on the number of threads.
    fn run(&self, make: Make, count: Option<usize>) -> Vec<Vec<f64>> {
        let n = count.or(self.capacity()).unwrap_or(0);
        let mut memory = Memory::default();
        let mut tape = Tape::new(self.op.name());
        let mut operands = Vec::new();
        for operand in self.inputs.iter().chain(&self.outputs) {
            memory.f32("guard", &[32]);
            let name = format!("operand {}", operands.len());
            operands.push((operand, memory.buffer(&name, &operand.dims, operand.dtype)));
        }
        memory.f32("guard", &[32]);
        let rows = memory.u32("rows", &[1]);

        // A program is data: this one is a single op on buffers.
        let mut values: Vec<_> = operands.iter().map(|(_, buffer)| tape.leaf(buffer)).collect();
        let rows_value = tape.leaf(&rows);
        let outputs = values.split_off(self.inputs.len());
        let mut program = tape.finish();
        program.places = (operands.iter().map(|(_, buffer)| buffer).chain([&rows]))
            .map(|b| Some(Place { region: Region::Persistent, offset: b.offset, bytes: b.bytes() }))
            .collect();
        program.nodes.push(Node {
            op: self.op.clone(),
            inputs: values,
            outputs,
            rows: count.is_some().then_some(rows_value),
        });

        let mut image: Vec<u8> = POISON.to_ne_bytes().into_iter().cycle().take(memory.bytes()).collect();
        for (operand, buffer) in &operands {
            if let Some(start) = &operand.start {
                let len = operand.len(n) * operand.dtype.size();
                image[buffer.offset..][..len].copy_from_slice(&start.bytes()[..len]);
            }
        }
        image[rows.offset..][..4].copy_from_slice(&(n as u32).to_ne_bytes());
        // A GPU's results do not hang on the host's threads, and to open it takes long.
        let pools = if fake::required("gpu") { &ONE_AND_TWO_THREADS[..1] } else { &ONE_AND_TWO_THREADS[..] };
        let on_threads = |pool: &ThreadPool| {
            pool.install(|| {
                let mut device = make();
                device.allocate(&memory, &[&program]).expect("memory");
                let run = |_| {
                    // Buffer by buffer: a device may keep each in a place of its own.
                    let mut after = image.clone();
                    for buffer in &memory.buffers {
                        device.write_bytes(buffer, &image[buffer.offset..][..buffer.bytes()]).unwrap();
                    }
                    device.execute(&program).unwrap();
                    for buffer in &memory.buffers {
                        device.read_bytes(buffer, &mut after[buffer.offset..][..buffer.bytes()]).unwrap();
                    }
                    after
                };
                (0..*REPEAT).map(run).collect::<Vec<_>>()
            })
        };
        let results: Vec<Vec<Vec<u8>>> = pools.iter().map(on_threads).collect();
        let after = &results[0][0];
        assert!(results[0].iter().all(|again| again == after), "{self:?}, {n} rows: other bits at another run");
        assert!(
            results[1..].iter().flatten().all(|other| other == after),
            "{self:?}, {n} rows: other bits on two threads"
        );

        let mut written = vec![false; image.len()];
        for (operand, buffer) in &operands[self.inputs.len()..] {
            written[buffer.offset..][..operand.len(n) * operand.dtype.size()].fill(true);
        }
        let stray = (0..image.len()).find(|&i| !written[i] && image[i] != after[i]);
        if let Some(byte) = stray {
            let home = memory.buffers.iter().rev().find(|b| b.offset <= byte).unwrap();
            panic!("{self:?}, {n} rows: wrote byte {} of {}", byte - home.offset, home.name);
        }
        operands[self.inputs.len()..]
            .iter()
            .map(|(o, buffer)| numbers(o.dtype, &after[buffer.offset..][..o.len(n) * o.dtype.size()]))
            .collect()
    }
}

impl Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims: Vec<_> = self.inputs.iter().map(|o| &o.dims).collect();
        write!(f, "{:?} of {dims:?}", self.op)
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

    fn logits(&self, tape: &mut Tape, x: Value, _: Mode) -> Value {
        let [weight, bias] = self.params.leaves(tape)[..] else { unreachable!("a weight and a bias") };
        let product = tape.linear(x, weight);
        tape.add_bias(product, bias)
    }

    fn declare(&mut self, memory: &mut Memory) {
        self.params.declare(memory, "params");
    }
}
