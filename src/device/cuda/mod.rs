//! An NVIDIA GPU: our own kernels, launched through the driver that is found at run time.
//!
//! From op to launch in three steps: `lower` makes launches of a node (pure: kernel, tiles, arguments, cost),
//! `Cuda::run` gives them addresses and checks them against the kernels' declarations, `driver` hands them to
//! the GPU. A [`Schedule`] is recorded once as a CUDA graph and from then on given to the GPU at once; the host waits
//! for nothing but what it reads.
//!
//! `unsafe` and cudarc stand in `driver` alone.

#[allow(unsafe_code)]
mod driver;
mod images;
pub mod launch;
mod lower;
mod memory;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Arc;

pub use driver::{Found, Gpu, driver_is_here, find};
pub use images::{KERNELS, Kernel, NVCC, TARGETS, Usage};
use launch::{Arg, Launch, Lowered};

use super::{Device, Schedule, Snapshot};
use crate::tape::{Buffer, Memory as Layout, Node, Program, Value};
use crate::{Error, Result};
use driver::{Address, Context, Event, Function, Graph, Module, Pinned};
use memory::{Addresses, Memory};

/// Shared memory that a launch may add without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 * 1024;

/// Pinned bytes through which small writes go: a training step's are some hundred.
const STAGING: usize = 1 << 20;

/// The CUDA version of the kernels where the binary was built without nvcc: any driver will do to refuse them.
const ANY_VERSION: i32 = 0;

/// A GPU.
pub struct Cuda {
    // In the order in which they are dropped: graphs use the memory and the modules.
    graphs: Vec<(Schedule, Graph)>,
    memory: Option<Memory>,
    staging: Staging,
    snapshots: Spare,
    functions: HashMap<&'static str, Loaded>,
    _modules: Vec<Module>,
    context: Rc<Context>,
    sync: bool,
}

/// A kernel on the GPU, and how much shared memory its launches may add.
struct Loaded {
    function: Function,
    params: &'static [&'static str],
    shared: RefCell<u32>,
}

/// Where a launch finds its operands.
struct Operands {
    inputs: Vec<Address>,
    outputs: Vec<Address>,
    /// Null: all rows.
    rows: Address,
    scratch: Address,
}

impl Operands {
    fn of(node: &Node, addresses: &Addresses) -> Operands {
        let address = |value: &Value| addresses.values[value.0].expect("every operand has a place");
        Operands {
            inputs: node.inputs.iter().map(address).collect(),
            outputs: node.outputs.iter().map(address).collect(),
            rows: node.rows.as_ref().map_or(0, address),
            scratch: addresses.scratch,
        }
    }

    /// Appends an argument as the driver takes it.
    fn append(&self, words: &mut Vec<u64>, arg: &Arg) {
        match arg {
            Arg::Input(i) => words.push(self.inputs[*i]),
            Arg::Output(i) => words.push(self.outputs[*i]),
            Arg::Rows => words.push(self.rows),
            Arg::Null => words.push(0),
            Arg::Scratch(offset) => words.push(self.scratch + *offset as Address),
            Arg::Int(value) => words.push(u64::from(value.cast_unsigned())),
            Arg::Unsigned(value) => words.push(u64::from(*value)),
            Arg::Float(value) => words.push(u64::from(value.to_bits())),
            Arg::Struct(_, bytes) => words.extend(bytes.chunks(8).map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            })),
            Arg::Members(_, members) => members.iter().for_each(|member| self.append(words, member)),
        }
    }
}

/// Pinned memory of a snapshot that was collected, for the next one.
type Spare = Rc<RefCell<Option<Pinned>>>;

/// Small writes on their way to the GPU: the host goes on at once.
struct Staging {
    pinned: Pinned,
    used: usize,
}

/// What the launches of a node are, without a GPU.
#[must_use]
pub fn launches(program: &Program, node: &Node) -> Vec<Launch> {
    lower::lower(program, node).launches
}

/// The CUDA version, as the driver counts, that kernels compiled by this nvcc need: the first of the same major
/// version. (Only a GPU that they were not compiled for, for which the driver compiles them itself, may need a newer driver.)
fn needed_driver(nvcc: &str) -> i32 {
    1000 * nvcc.split('.').next().and_then(|major| major.parse::<i32>().ok()).unwrap_or(0)
}

impl Cuda {
    /// Takes GPU `ordinal` into use. With `sync` the host waits after every launch, so that a failure names its
    /// kernel, and every buffer has an allocation of its own: slow, for finding a failing kernel.
    ///
    /// # Errors
    /// No driver, no such GPU, too old a driver or GPU, or a binary that was built without nvcc.
    pub fn open(ordinal: usize, sync: bool) -> Result<Cuda> {
        let context = Context::open(ordinal, NVCC.map_or(ANY_VERSION, needed_driver))?;
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
            functions.insert(kernel.name, Loaded { function, params: kernel.params, shared: RefCell::new(0) });
        }
        let staging = Staging { pinned: Pinned::new(&context, STAGING)?, used: 0 };
        let snapshots = Spare::default();
        Ok(Cuda { graphs: Vec::new(), memory: None, staging, snapshots, functions, _modules: modules, context, sync })
    }

    /// The first GPU that can be used: see [`Cuda::open`].
    ///
    /// # Errors
    /// There is none: why not the first.
    pub fn open_first(sync: bool) -> Result<Cuda> {
        let mut opened = find()?.gpus.into_iter().map(|gpu| Cuda::open(gpu.ordinal, sync));
        let first = opened.next().expect("at least one GPU was found");
        first.or_else(|reason| opened.find_map(Result::ok).ok_or(reason))
    }

    /// The GPU.
    #[must_use]
    pub fn gpu(&self) -> &Gpu {
        &self.context.gpu
    }

    /// Launches a kernel on buffers, all rows of them: for tests of kernels that no op launches. `Arg::Output(i)` is the
    /// i-th of `outputs`, `Arg::Input(i)` of `inputs`; the kernel stays within them.
    ///
    /// # Errors
    /// The driver refuses the launch. What fails while it runs is an error of the call that next waits for it.
    ///
    /// # Panics
    /// No kernel has this name, or its arguments are others; memory was not allocated; the launch asks for scratch.
    pub fn launch_on(&mut self, launch: &Launch, outputs: &[&Buffer], inputs: &[&Buffer]) -> Result<()> {
        assert!(!launch.args.iter().any(|arg| matches!(arg, Arg::Scratch(_))), "{} has no scratch", launch.kernel);
        self.context.bind()?;
        let places = |buffers: &[&Buffer]| buffers.iter().map(|buffer| self.memory().buffer(buffer)).collect();
        self.launch(launch, &Operands { inputs: places(inputs), outputs: places(outputs), rows: 0, scratch: 0 })
    }

    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("memory was allocated")
    }

    /// Launches a program's kernels.
    fn run(&mut self, program: &Program) -> Result<()> {
        let lowered: Vec<Lowered> = program.nodes.iter().map(|node| lower::lower(program, node)).collect();
        let scratch = lowered.iter().map(|l| l.scratch).max().unwrap_or(0);
        let memory = self.memory.as_mut().expect("memory was allocated");
        let addresses = memory.enter(&self.context, program, scratch)?;
        for (node, lowered) in program.nodes.iter().zip(&lowered) {
            let operands = Operands::of(node, &addresses);
            for launch in &lowered.launches {
                self.launch(launch, &operands)?;
                if self.sync {
                    self.context.wait_for_launch().map_err(|text| {
                        let Launch { kernel, grid, block, .. } = launch;
                        Error::device(format!(
                            "CUDA: kernel {kernel} failed in program {}, on {grid:?} blocks of {block} threads: {text}",
                            program.name
                        ))
                    })?;
                }
            }
        }
        Ok(())
    }

    fn launch(&self, launch: &Launch, operands: &Operands) -> Result<()> {
        let loaded = &self.functions[images::kernel(launch.kernel).name];
        let kinds: Vec<&str> = launch.args.iter().map(Arg::kind).collect();
        assert_eq!(kinds, loaded.params, "arguments of {}", launch.kernel);
        // Each argument begins on a word of its own.
        let mut words: Vec<u64> = Vec::new();
        let mut starts = Vec::with_capacity(launch.args.len());
        for arg in &launch.args {
            starts.push(words.len());
            operands.append(&mut words, arg);
        }
        let mut params: Vec<*mut c_void> = starts.iter().map(|&at| (&raw mut words[at]).cast()).collect();
        if launch.shared > SHARED_WITHOUT_ASKING && launch.shared > *loaded.shared.borrow() {
            loaded.function.allow_shared(launch.shared)?;
            *loaded.shared.borrow_mut() = launch.shared;
        }
        self.context.launch(&loaded.function, launch.grid, launch.block, launch.shared, &mut params).map_err(|text| {
            Error::device(format!(
                "CUDA: kernel {} could not be launched on {:?} blocks of {} threads with {} bytes of shared memory: \
                 {text}",
                launch.kernel, launch.grid, launch.block, launch.shared
            ))
        })
    }

    /// The graph of a schedule: recorded when it is first asked for.
    fn graph(&mut self, schedule: &Schedule) -> Result<&Graph> {
        let same = |other: &Schedule| {
            let pairs = || other.stages.iter().zip(&schedule.stages);
            other.stages.len() == schedule.stages.len() && pairs().all(|(a, b)| Arc::ptr_eq(&a.0, &b.0) && a.1 == b.1)
        };
        if let Some(at) = self.graphs.iter().position(|(other, _)| same(other)) {
            return Ok(&self.graphs[at].1);
        }
        let context = self.context.clone();
        let graph = context.capture(|| {
            for (program, times) in &schedule.stages {
                for _ in 0..*times {
                    self.run(program)?;
                }
            }
            Ok(())
        })?;
        self.graphs.push((schedule.clone(), graph));
        Ok(&self.graphs.last().expect("pushed").1)
    }
}

impl Device for Cuda {
    fn describe(&self) -> String {
        let Gpu { ordinal, name, .. } = &self.context.gpu;
        format!("GPU {ordinal}, {name}")
    }

    fn allocate(&mut self, layout: &Layout, programs: &[&Program]) -> Result<usize> {
        let workspace = programs.iter().map(|program| program.workspace).max().unwrap_or(0);
        let nodes = programs.iter().flat_map(|program| program.nodes.iter().map(move |node| (program, node)));
        let scratch = nodes.map(|(program, node)| lower::lower(program, node).scratch).max().unwrap_or(0);
        self.memory = Some(Memory::new(&self.context, layout, workspace, scratch, self.sync)?);
        Ok(layout.bytes() + workspace + scratch)
    }

    fn write_bytes(&mut self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        self.context.bind()?;
        let to = self.memory().buffer(buffer);
        if bytes.len() > STAGING / 16 {
            return self.context.copy_in_now(to, bytes);
        }
        let Staging { pinned, used } = &mut self.staging;
        if *used + bytes.len() > STAGING {
            self.context.wait()?;
            *used = 0;
        }
        let range = *used..*used + bytes.len();
        pinned.slice_mut()[range.clone()].copy_from_slice(bytes);
        *used = range.end;
        self.context.copy_in(to, pinned, range)
    }

    fn read_bytes(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        self.context.bind()?;
        self.context.copy_out_now(bytes, self.memory().buffer(buffer))
    }

    fn snapshot(&mut self, buffer: &Buffer) -> Result<Box<dyn Snapshot>> {
        self.context.bind()?;
        let spare = self.snapshots.take().filter(|pinned| pinned.slice().len() == buffer.bytes());
        let mut pinned = spare.map_or_else(|| Pinned::new(&self.context, buffer.bytes()), Ok)?;
        self.context.copy_out(&mut pinned, self.memory().buffer(buffer))?;
        Ok(Box::new(Copy { arrived: Event::record(&self.context)?, pinned, home: self.snapshots.clone() }))
    }

    fn execute(&mut self, program: &Program) -> Result<()> {
        self.context.bind()?;
        self.run(program)
    }

    fn replay(&mut self, schedule: &Schedule) -> Result<()> {
        self.context.bind()?;
        if self.sync {
            for (program, times) in &schedule.stages {
                for _ in 0..*times {
                    self.run(program)?;
                }
            }
            return Ok(());
        }
        self.graph(schedule)?.launch()
    }

    fn time(&mut self, schedule: &Schedule) -> Result<f64> {
        self.context.bind()?;
        if !self.sync {
            self.graph(schedule)?; // recorded before the clock starts
        }
        let start = Event::record(&self.context)?;
        self.replay(schedule)?;
        let end = Event::record(&self.context)?;
        end.wait()?;
        Ok(f64::from(end.since(&start)?) / 1e3)
    }
}

/// A copy of a buffer on its way to the host.
struct Copy {
    arrived: Event,
    pinned: Pinned,
    home: Spare,
}

impl Snapshot for Copy {
    fn ready(&self) -> Result<bool> {
        self.arrived.reached()
    }

    fn bytes(self: Box<Self>) -> Result<Vec<u8>> {
        let Copy { arrived, pinned, home } = *self;
        arrived.wait()?;
        let bytes = pinned.slice().to_vec();
        home.replace(Some(pinned));
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_need_a_driver_of_their_compiler_s_major_version() {
        assert_eq!(["13.0", "13.2", "12.4"].map(needed_driver), [13000, 13000, 12000]);
    }
}
