//! Tests of a single op on every device: its results, and the memory around them.

use std::cell::OnceCell;
use std::fmt::Debug;
use std::sync::LazyLock;

use ::half::f16;
use maxmargin::device::cuda::{KERNELS, KernelInfo, TYPICAL_MULTIPROCESSORS, launches};
use maxmargin::tape::{Buffer, DType, Memory, Node, Op, Place, Program, Region, Tape};
use rayon::ThreadPool;

use super::fingerprints::{self, Fingerprint, Verdict};
use super::half::{self, HalfOperands};
use super::{Array, Sum, TOLERANCE, TestDevice, devices};

/// Number of runs of an op on each number of threads, whose bits must be equal: 2, or `MAXMARGIN_REPEAT`. Twenty runs
/// find more on a GPU, whose blocks run in another order each time.
static REPEAT: LazyLock<usize> = LazyLock::new(|| match std::env::var("MAXMARGIN_REPEAT") {
    Ok(text) => text.parse().expect("MAXMARGIN_REPEAT is a number"),
    Err(_) => 2,
});

fn threads(n: usize) -> ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap()
}

static ONE_AND_TWO_THREADS: LazyLock<[ThreadPool; 2]> = LazyLock::new(|| [threads(1), threads(2)]);

fn numbers(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let words = bytes.chunks_exact(4).map(|b| u32::from_ne_bytes(b.try_into().unwrap()));
    let halves = bytes.chunks_exact(2).map(|b| f16::from_ne_bytes(b.try_into().unwrap()));
    match dtype {
        DType::F16 => halves.map(f64::from).collect(),
        DType::F32 => words.map(|w| f64::from(f32::from_bits(w))).collect(),
        DType::U32 => words.map(f64::from).collect(),
        DType::U8 => bytes.iter().copied().map(f64::from).collect(),
    }
}

/// Content of memory before an op runs: a NaN that no computation gives, and as an index beyond the end of every
/// buffer.
const POISON: u32 = 0x7FC0_DEAD;

#[derive(Clone)]
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

/// One op on given operands. All other memory is poisoned: outputs, rows beyond the active ones, and guards between the
/// operands.
pub struct OpCase {
    op: Op,
    inputs: Vec<Operand>,
    outputs: Vec<Operand>,
    signed_zeros: bool,
}

impl OpCase {
    pub fn new(op: Op) -> OpCase {
        OpCase { op, inputs: Vec::new(), outputs: Vec::new(), signed_zeros: false }
    }

    fn input(mut self, a: &Array, by_rows: bool) -> OpCase {
        self.inputs.push(Operand { start: Some(a.clone()), dims: a.dims.clone(), dtype: a.dtype, by_rows });
        self
    }

    /// Adds an operand of which the active rows are read.
    pub fn rows(self, a: &Array) -> OpCase {
        self.input(a, true)
    }

    /// Adds an operand that is read as a whole, such as weights.
    pub fn whole(self, a: &Array) -> OpCase {
        self.input(a, false)
    }

    fn output(mut self, start: Option<&Array>, dims: &[usize], dtype: DType, by_rows: bool) -> OpCase {
        self.outputs.push(Operand { start: start.cloned(), dims: dims.to_vec(), dtype, by_rows });
        self
    }

    /// Adds an output of which the active rows are written.
    pub fn gives_rows(self, dims: &[usize], dtype: DType) -> OpCase {
        self.output(None, dims, dtype, true)
    }

    /// Adds an output that is written as a whole, such as a weight's gradient.
    pub fn gives_whole(self, dims: &[usize], dtype: DType) -> OpCase {
        self.output(None, dims, dtype, false)
    }

    /// Adds a buffer whose active rows are updated.
    pub fn updates_rows(self, a: &Array) -> OpCase {
        self.output(Some(a), &a.dims, a.dtype, true)
    }

    /// Adds a buffer that is updated as a whole.
    pub fn updates_whole(self, a: &Array) -> OpCase {
        self.output(Some(a), &a.dims, a.dtype, false)
    }

    /// A zero of the other sign is an error.
    pub fn signed_zeros(self) -> OpCase {
        OpCase { signed_zeros: true, ..self }
    }

    fn capacity(&self) -> Option<usize> {
        self.inputs.iter().chain(&self.outputs).find(|o| o.by_rows).map(|o| o.dims[0])
    }

    /// Runs the op on every device, without a count of active rows and with counts of none, one, half and all rows.
    /// Each output must equal `formula(rows)` within [`TOLERANCE`].
    ///
    /// Results with the recorded fingerprint ([`fingerprints`]) are known to be correct; `formula` is not called for
    /// them.
    pub fn check(&self, formula: impl Fn(usize) -> Vec<Vec<Sum>>) {
        let mut counts = vec![None];
        if let Some(all) = self.capacity() {
            counts.extend([0, 1, all / 2, all].map(Some));
            counts.dedup();
        }
        let formulas: Vec<OnceCell<Vec<Vec<Sum>>>> = counts.iter().map(|_| OnceCell::new()).collect();
        let expected = |at: usize| &formulas[at].get_or_init(|| formula(self.active(counts[at])))[..];
        if half::is_on() {
            for &operands in HalfOperands::of(&self.op) {
                self.in_half(operands).check_on_devices(operands.is_on_gpu(&self.op), &counts, &expected);
            }
        } else {
            self.check_on_devices(true, &counts, &expected);
        }
    }

    /// [`OpCase::check`] with the case's own operand types, for which a GPU has kernels if it is `on_gpu`.
    fn check_on_devices<'a>(&self, on_gpu: bool, counts: &[Option<usize>], expected: &dyn Fn(usize) -> &'a [Vec<Sum>]) {
        for test_device in devices() {
            if test_device != TestDevice::Cpu && !on_gpu {
                self.is_refused(test_device);
                continue;
            }
            let results = self.run(test_device, counts);
            for (at, outputs) in results.iter().enumerate() {
                let (count, n) = (counts[at], self.active(counts[at]));
                let case = || format!("{} {self:?}, {n} rows", self.kernels().join(", "));
                let verdict = match test_device {
                    TestDevice::Cpu => Verdict::NotRecorded,
                    _ => fingerprints::compare(self.key(count), self.fingerprint(n, outputs), self.by_law(), &case()),
                };
                if verdict == Verdict::Equal {
                    continue;
                }
                let worst = self.worst(n, outputs, expected(at));
                if verdict == Verdict::Different {
                    let exact = if worst.off == 0.0 { "; all are exact but for the sign of a zero" } else { "" };
                    fingerprints::list(&case(), &format!("{}{exact}", worst.text));
                }
                assert!(worst.off <= TOLERANCE, "{self:?}, {n} rows, {}", worst.text);
                println!("{:<26} {:.1e} {self:?}, {n} rows", self.op.name(), worst.off.max(0.0));
            }
        }
    }

    /// The device refuses the op before it runs, and says which types its operands have.
    fn is_refused(&self, test_device: TestDevice) {
        let (program, memory, ..) = self.program(false);
        let refusal = test_device.open().allocate(&memory, &[&program]).expect_err("there is no kernel").to_string();
        let expected = format!("there is no kernel of {} that reads", self.op.name());
        assert!(refusal.contains(&expected) && refusal.contains("F16"), "{refusal}");
    }

    /// The element of `n` rows of outputs that is farthest from what is expected.
    fn worst(&self, n: usize, outputs: &[Vec<u8>], expected: &[Vec<Sum>]) -> Worst {
        assert_eq!(expected.len(), self.outputs.len());
        let mut worst = Worst { off: -1.0, text: "no element".into() };
        for (place, (bytes, expected)) in outputs.iter().zip(expected).enumerate() {
            let output = &self.outputs[place];
            assert_eq!(output.len(n), expected.len(), "the formula speaks of every active element");
            let elements = numbers(output.dtype, bytes);
            for (i, (got, &expected)) in elements.into_iter().zip(expected).enumerate() {
                let other_zero =
                    got == 0.0 && expected.value == 0.0 && got.is_sign_negative() != expected.value.is_sign_negative();
                let off = match output.dtype {
                    _ if self.signed_zeros && other_zero => f64::INFINITY,
                    DType::F16 => half::off(expected, got),
                    _ => expected.off(got),
                };
                if off > worst.off || off.is_nan() {
                    let dims = &output.dims;
                    let text =
                        format!("output {place} {dims:?}, element {i}: {got}, not {expected:?} (off by {off:.1e})");
                    worst = Worst { off, text };
                }
            }
        }
        worst
    }

    /// The case with these operands in half precision.
    fn in_half(&self, operands: HalfOperands) -> OpCase {
        let input = |(place, operand): (usize, &Operand)| match operands.input(&self.op, place) {
            DType::F16 => {
                let start = operand.start.as_ref().expect("an operand");
                let array = half::operand(start, self.op.filter_copy(place));
                Operand { dims: array.dims.clone(), dtype: array.dtype, start: Some(array), by_rows: operand.by_rows }
            }
            _ => operand.clone(),
        };
        let output = |(place, operand): (usize, &Operand)| match operands.output(&self.op, place) {
            DType::F16 => Operand { dtype: DType::F16, ..operand.clone() },
            _ => operand.clone(),
        };
        OpCase {
            op: self.op.clone(),
            inputs: self.inputs.iter().enumerate().map(input).collect(),
            outputs: self.outputs.iter().enumerate().map(output).collect(),
            ..*self
        }
    }

    /// Number of active rows: `count` if given, or all.
    fn active(&self, count: Option<usize>) -> usize {
        count.or(self.capacity()).unwrap_or(0)
    }

    /// The program of this one op, with a count of active rows if `counted`; its memory, with guards around every
    /// operand; the operands' buffers; and the buffer of the count.
    fn program(&self, counted: bool) -> (Program, Memory, Vec<Buffer>, Buffer) {
        let mut memory = Memory::default();
        let mut tape = Tape::new(self.op.name());
        let mut operands = Vec::new();
        for operand in self.inputs.iter().chain(&self.outputs) {
            memory.f32("guard", &[32]);
            let name = format!("operand {}", operands.len());
            operands.push(memory.buffer(&name, &operand.dims, operand.dtype));
        }
        memory.f32("guard", &[32]);
        let rows = memory.u32("rows", &[1]);

        // The tape records no single ops on buffers, so the program's node is added by hand.
        let mut values: Vec<_> = operands.iter().map(|buffer| tape.leaf(buffer)).collect();
        let rows_value = tape.leaf(&rows);
        let outputs = values.split_off(self.inputs.len());
        let mut program = tape.finish();
        program.places = (operands.iter().chain([&rows]))
            .map(|b| Some(Place { region: Region::Persistent, offset: b.offset, bytes: b.bytes() }))
            .collect();
        let rows_value = counted.then_some(rows_value);
        program.nodes.push(Node { op: self.op.clone(), inputs: values, outputs, rows: rows_value });
        (program, memory, operands, rows)
    }

    /// Names of the kernels that compute the op on an H100.
    fn kernels(&self) -> Vec<&'static str> {
        let (program, ..) = self.program(true);
        let launches = launches(&program, &program.nodes[0], TYPICAL_MULTIPROCESSORS);
        launches.iter().map(|launch| launch.kernel).collect()
    }

    /// True if a GPU may give other bits than the fake driver: the file of one of its kernels calls functions that the C
    /// library and CUDA round differently, or a kernel multiplies on tensor cores, whose order of additions is open.
    fn by_law(&self) -> bool {
        let file = |name| KERNELS.iter().find(|kernel| kernel.name == name).map(KernelInfo::file);
        let half_filter = |place| self.op.filter_copy(place).is_some() && self.inputs[place].dtype == DType::F16;
        (0..self.inputs.len()).any(half_filter)
            || self.kernels().into_iter().filter_map(file).any(|file| FILES_WITH_LIBRARY_FUNCTIONS.contains(&file))
    }

    /// Hash that identifies this case with its inputs and its count of rows.
    fn key(&self, count: Option<usize>) -> u64 {
        let mut hasher = Fingerprint::new();
        hasher.add(format!("{self:?} {count:?}").as_bytes());
        for operand in self.inputs.iter().chain(&self.outputs) {
            hasher.add(format!("{:?} {:?}", operand.dims, operand.dtype).as_bytes());
            hasher.add(&operand.start.as_ref().map(Array::bytes).unwrap_or_default());
        }
        hasher.finish()
    }

    /// Hash of the bits of the active elements of each output; all NaNs count as equal.
    fn fingerprint(&self, n: usize, outputs: &[Vec<u8>]) -> u64 {
        let mut hasher = Fingerprint::new();
        for (output, bytes) in self.outputs.iter().zip(outputs) {
            assert_eq!(bytes.len(), output.len(n) * output.dtype.size());
            match output.dtype {
                DType::F32 => hasher.add_f32s(bytes),
                _ => hasher.add(bytes),
            }
        }
        hasher.finish()
    }

    /// Bytes of the active elements of each output, for each of the `counts`. All other memory must keep its bits, and
    /// the results' bits must not depend on the run or on the number of threads.
    fn run(&self, test_device: TestDevice, counts: &[Option<usize>]) -> Vec<Vec<Vec<u8>>> {
        let (all, memory, operands, rows) = self.program(false);
        let (some, ..) = self.program(true);
        let image = |n: usize| {
            let mut image: Vec<u8> = POISON.to_ne_bytes().into_iter().cycle().take(memory.bytes()).collect();
            for (operand, buffer) in self.inputs.iter().chain(&self.outputs).zip(&operands) {
                if let Some(start) = &operand.start {
                    let len = operand.len(n) * operand.dtype.size();
                    image[buffer.offset..][..len].copy_from_slice(&start.bytes()[..len]);
                }
            }
            image[rows.offset..][..4].copy_from_slice(&(n as u32).to_ne_bytes());
            image
        };
        let images: Vec<Vec<u8>> = counts.iter().map(|&count| image(self.active(count))).collect();
        // One copy moves the whole arena; operands with allocations of their own are copied one by one.
        let whole = Buffer { dims: vec![memory.bytes()], dtype: DType::U8, ..memory.buffers[0].clone() };
        let copied = if test_device == TestDevice::CudaApart { memory.buffers.clone() } else { vec![whole] };
        let on_threads = |pool: &ThreadPool| -> Vec<Vec<Vec<u8>>> {
            pool.install(|| {
                let mut device = test_device.open();
                device.allocate(&memory, &[&all, &some]).expect("memory");
                let mut run = |image: &Vec<u8>, program: &Program| {
                    let mut after = image.clone();
                    for buffer in &copied {
                        device.write_bytes(buffer, &image[buffer.offset..][..buffer.bytes()]).unwrap();
                    }
                    device.execute(program).unwrap();
                    for buffer in &copied {
                        device.read_bytes(buffer, &mut after[buffer.offset..][..buffer.bytes()]).unwrap();
                    }
                    after
                };
                let each = images.iter().zip(counts);
                each.map(|(image, count)| {
                    let program = if count.is_some() { &some } else { &all };
                    (0..*REPEAT).map(|_| run(image, program)).collect()
                })
                .collect()
            })
        };
        // A GPU's results do not depend on the host's threads.
        let pools = if test_device == TestDevice::Cpu { &ONE_AND_TWO_THREADS[..] } else { &ONE_AND_TWO_THREADS[1..] };
        let results: Vec<Vec<Vec<Vec<u8>>>> = pools.iter().map(on_threads).collect();
        let outputs =
            (self.inputs.len()..operands.len()).map(|at| (&self.outputs[at - self.inputs.len()], &operands[at]));
        let mut found = Vec::new();
        for (at, (image, &count)) in images.iter().zip(counts).enumerate() {
            let n = self.active(count);
            let after = &results[0][at][0];
            assert!(results[0][at].iter().all(|again| again == after), "{self:?}, {n} rows: other bits at another run");
            assert!(
                results[1..].iter().flat_map(|result| &result[at]).all(|other| other == after),
                "{self:?}, {n} rows: other bits on two threads"
            );
            let mut written = vec![false; image.len()];
            for (operand, buffer) in outputs.clone() {
                written[buffer.offset..][..operand.len(n) * operand.dtype.size()].fill(true);
            }
            let stray = (0..image.len()).find(|&i| !written[i] && image[i] != after[i]);
            if let Some(byte) = stray {
                let home = memory.buffers.iter().rev().find(|b| b.offset <= byte).unwrap();
                panic!("{self:?}, {n} rows: wrote byte {} of {}", byte - home.offset, home.name);
            }
            let active =
                |(o, buffer): (&Operand, &Buffer)| after[buffer.offset..][..o.len(n) * o.dtype.size()].to_vec();
            found.push(outputs.clone().map(active).collect());
        }
        found
    }
}

/// The element of a case with the largest error.
struct Worst {
    off: f64,
    text: String,
}

/// Kernel files that call `expf`, `logf`, `tanhf`, `cosf` or `pow`, or include a header that does; a test in `tests/cuda` compares the list with the
/// sources.
pub const FILES_WITH_LIBRARY_FUNCTIONS: [&str; 6] =
    ["formula.cu", "head.cu", "loss.cu", "loss.cuh", "optimizer.cu", "row_wise.cu"];

impl Debug for OpCase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims: Vec<_> = self.inputs.iter().map(|o| &o.dims).collect();
        let half = |operands: &[Operand]| -> String {
            operands.iter().map(|o| if o.dtype == DType::F16 { 'h' } else { '-' }).collect()
        };
        write!(f, "{:?} of {dims:?}", self.op)?;
        match (half(&self.inputs), half(&self.outputs)) {
            (inputs, outputs) if (inputs.clone() + &outputs).contains('h') => {
                write!(f, ", half precision (h): {inputs} -> {outputs}")
            }
            _ => Ok(()),
        }
    }
}
