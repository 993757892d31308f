//! A CUDA device: the project's own kernels on an NVIDIA GPU, through the driver that is found at run time.
//!
//! From op to launch in three steps: `lower` makes launches of a node (pure: kernel, tiles, arguments, cost),
//! `Cuda::run` inserts addresses and compares the arguments with the kernels' declarations, `driver` passes the
//! launches to the GPU. A [`Schedule`] is recorded once as a CUDA graph, and from then on launched as a whole; the host
//! waits only for results that it reads.
//!
//! - `abi`: constants and layouts of arguments that the kernels share
//! - `arg`, `launch`: launches as data
//! - `lower`: from ops to launches
//! - `cost_model`, `cost_table`: predicted times of launches on a GPU that is not here
//! - `images`: the compiled kernels
//! - `driver`: every call of the driver, and all `unsafe` of the project
//! - `memory`, `shared`: allocations; state that the devices of a process share

mod abi;
mod arg;
mod cost_model;
mod cost_table;
#[allow(unsafe_code)]
mod driver;
mod images;
pub mod launch;
mod lower;
mod memory;
mod shared;

use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::{Arc, PoisonError};

pub use cost_model::{Operands, PredictedTime};
pub use cost_table::{GPUS, GpuConstants};
pub use driver::{DriverInfo, Gpu, driver_is_here, find};
pub use images::{KERNELS, KernelInfo, KernelUsage, NVCC, TARGETS};
use launch::{Arg, Launch, Lowered};
pub use lower::{TYPICAL_MULTIPROCESSORS, TotalCost, launches};

use super::{Device, Schedule, Snapshot};
use crate::tape::{Buffer, Memory as Layout, Node, Program, Value};
use crate::{Error, Result};
use driver::{Address, Event, Graph, Pinned, Stream};
use memory::{CHANNEL_SUMS_OFFSET, DeviceMemory, ProgramAddresses};
use shared::{STAGING, SharedGpu, Staging, StreamLease};

/// Bytes of dynamic shared memory that a launch may use without an attribute of the kernel.
const DEFAULT_DYNAMIC_SHARED: u32 = 48 * 1024;

/// A device on an NVIDIA GPU. All devices of the process share the context and the loaded kernels.
pub struct Cuda {
    // Fields are dropped in this order: graphs use the memory, and both use the stream.
    graphs: Vec<(Schedule, Graph)>,
    memory: Option<DeviceMemory>,
    snapshots: SparePinned,
    lease: StreamLease,
    multiprocessors: usize,
    sync: bool,
}

/// Addresses of the operands of a node.
struct LaunchOperands {
    inputs: Vec<Address>,
    outputs: Vec<Address>,
    /// Address of the count of active rows; null: all rows.
    rows: Address,
    scratch: Address,
    counters: Address,
}

impl LaunchOperands {
    fn of(node: &Node, addresses: &ProgramAddresses) -> LaunchOperands {
        let address = |value: &Value| addresses.values[value.0].expect("every operand has a place");
        LaunchOperands {
            inputs: node.inputs.iter().map(address).collect(),
            outputs: node.outputs.iter().map(address).collect(),
            rows: node.rows.as_ref().map_or(0, address),
            scratch: addresses.scratch,
            counters: addresses.counters,
        }
    }

    /// Appends the words of an argument, as the driver reads them.
    fn append(&self, words: &mut Vec<u64>, arg: &Arg) {
        match arg {
            Arg::Input(i) => words.push(self.inputs[*i]),
            Arg::Output(i) => words.push(self.outputs[*i]),
            Arg::Rows => words.push(self.rows),
            Arg::Null => words.push(0),
            Arg::Scratch(offset) => words.push(self.scratch + *offset as Address),
            Arg::Counters => words.push(self.counters),
            Arg::ChannelSums => words.push(self.counters + CHANNEL_SUMS_OFFSET as Address),
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

/// Pinned memory of a finished snapshot, for the next one.
type SparePinned = Rc<RefCell<Option<Pinned>>>;

impl Cuda {
    /// Opens GPU `ordinal`. With `sync` the host waits after every launch, so that an error names its kernel, and every
    /// buffer has an allocation of its own. That is slow: it is for finding a failing kernel.
    ///
    /// # Errors
    /// No driver, no such GPU, too old a driver or GPU, or a binary that was built without nvcc.
    pub fn open(ordinal: usize, sync: bool) -> Result<Cuda> {
        let gpu = SharedGpu::get(ordinal)?;
        let multiprocessors = usize::try_from(gpu.context.gpu.multiprocessors).unwrap_or(1).max(1);
        let lease = StreamLease::take(gpu)?;
        Ok(Cuda { graphs: Vec::new(), memory: None, snapshots: SparePinned::default(), lease, multiprocessors, sync })
    }

    /// Splits sums as a GPU of `multiprocessors` multiprocessors does, so that results have that GPU's bits.
    ///
    /// # Panics
    /// Memory was allocated before.
    #[must_use]
    pub fn split_for(self, multiprocessors: usize) -> Cuda {
        assert!(self.memory.is_none(), "scratch memory depends on where sums are split");
        Cuda { multiprocessors, ..self }
    }

    /// Opens the first GPU that can be used: see [`Cuda::open`].
    ///
    /// # Errors
    /// No GPU can be used; the error is that of the first GPU.
    pub fn open_first(sync: bool) -> Result<Cuda> {
        let mut opened = find()?.gpus.into_iter().map(|gpu| Cuda::open(gpu.ordinal, sync));
        let first = opened.next().expect("at least one GPU was found");
        first.or_else(|reason| opened.find_map(Result::ok).ok_or(reason))
    }

    /// Description of the GPU.
    #[must_use]
    pub fn gpu(&self) -> &Gpu {
        &self.lease.gpu.context.gpu
    }

    /// Launches a kernel on buffers with all rows active, for tests of kernels that no op launches. `Arg::Output(i)` is
    /// the i-th of `outputs`, `Arg::Input(i)` the i-th of `inputs`. The kernel must not access memory outside them.
    ///
    /// # Errors
    /// The driver refuses the launch. A failure during the run is an error of the next call that waits.
    ///
    /// # Panics
    /// No kernel has this name, or it has other arguments; memory was not allocated; the launch uses scratch memory.
    pub fn launch_on(&mut self, launch: &Launch, outputs: &[&Buffer], inputs: &[&Buffer]) -> Result<()> {
        assert!(!launch.args.iter().any(|arg| matches!(arg, Arg::Scratch(_))), "{} has no scratch", launch.kernel);
        self.stream().bind()?;
        let places = |buffers: &[&Buffer]| buffers.iter().map(|buffer| self.memory().buffer(buffer)).collect();
        let (inputs, outputs, counters) = (places(inputs), places(outputs), self.memory().counters());
        self.launch(launch, &LaunchOperands { inputs, outputs, rows: 0, scratch: 0, counters })
    }

    fn stream(&self) -> &Arc<Stream> {
        &self.lease.get().stream
    }

    fn memory(&self) -> &DeviceMemory {
        self.memory.as_ref().expect("memory was allocated")
    }

    /// Launches the kernels of a program.
    fn run(&mut self, program: &Program) -> Result<()> {
        let lower = |node| lower::lower(program, node, self.multiprocessors);
        let lowered: Vec<Lowered> = program.nodes.iter().map(lower).collect();
        let scratch = lowered.iter().map(|l| l.scratch).max().unwrap_or(0);
        let memory = self.memory.as_mut().expect("memory was allocated");
        let addresses = memory.enter(&self.lease.get().stream.context, program, scratch)?;
        for (node, lowered) in program.nodes.iter().zip(&lowered) {
            let operands = LaunchOperands::of(node, &addresses);
            for launch in &lowered.launches {
                self.launch(launch, &operands)?;
                if self.sync {
                    self.stream().wait_for_launch().map_err(|text| {
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

    fn launch(&self, launch: &Launch, operands: &LaunchOperands) -> Result<()> {
        let loaded = &self.lease.gpu.functions[images::kernel(launch.kernel).name];
        let kinds: Vec<&str> = launch.args.iter().map(Arg::kind).collect();
        assert_eq!(kinds, loaded.params, "arguments of {}", launch.kernel);
        // Each argument begins at a multiple of 8 bytes.
        let mut words: Vec<u64> = Vec::new();
        let mut starts = Vec::with_capacity(launch.args.len());
        for arg in &launch.args {
            starts.push(words.len());
            operands.append(&mut words, arg);
        }
        let mut params: Vec<*mut c_void> = starts.iter().map(|&at| (&raw mut words[at]).cast()).collect();
        if launch.shared > DEFAULT_DYNAMIC_SHARED {
            let mut allowed = loaded.allowed_shared.lock().unwrap_or_else(PoisonError::into_inner);
            if launch.shared > *allowed {
                loaded.function.allow_shared(launch.shared)?;
                *allowed = launch.shared;
            }
        }
        self.stream().launch(&loaded.function, launch.grid, launch.block, launch.shared, &mut params).map_err(|text| {
            Error::device(format!(
                "CUDA: kernel {} could not be launched on {:?} blocks of {} threads with {} bytes of shared memory: \
                 {text}",
                launch.kernel, launch.grid, launch.block, launch.shared
            ))
        })
    }

    /// Refuses a launch whose blocks have more shared memory than the GPU gives one.
    fn check_shared(&self, program: &Program, launch: &Launch) -> Result<()> {
        let Gpu { ordinal, name, block_shared, .. } = self.gpu();
        if i64::from(launch.shared) <= i64::from(*block_shared) {
            return Ok(());
        }
        Err(Error::device(format!(
            "CUDA: kernel {} of program {} takes {} KB of shared memory a block; GPU {ordinal}, {name}, gives a block \
             {} KB; --precision fp32 runs on the GPU, --device cpu in half precision",
            launch.kernel,
            program.name,
            launch.shared.div_ceil(1024),
            block_shared / 1024
        )))
    }

    /// Graph of a schedule, recorded at the first call.
    fn graph(&mut self, schedule: &Schedule) -> Result<&Graph> {
        let same = |other: &Schedule| {
            let pairs = || other.stages.iter().zip(&schedule.stages);
            other.stages.len() == schedule.stages.len() && pairs().all(|(a, b)| Arc::ptr_eq(&a.0, &b.0) && a.1 == b.1)
        };
        if let Some(at) = self.graphs.iter().position(|(other, _)| same(other)) {
            return Ok(&self.graphs[at].1);
        }
        let stream = self.stream().clone();
        let graph = stream.capture(|| {
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
        let Gpu { ordinal, name, .. } = self.gpu();
        format!("GPU {ordinal}, {name}")
    }

    fn multiprocessors(&self) -> Option<usize> {
        Some(self.multiprocessors)
    }

    fn allocate(&mut self, layout: &Layout, programs: &[&Program]) -> Result<usize> {
        if let Some(reason) = programs.iter().find_map(|program| lower::refusal(program)) {
            return Err(Error::device(format!(
                "CUDA: {reason}; --precision fp32 runs on the GPU, --device cpu in half precision"
            )));
        }
        let workspace = programs.iter().map(|program| program.workspace).max().unwrap_or(0);
        let nodes = programs.iter().flat_map(|program| program.nodes.iter().map(move |node| (program, node)));
        let mut scratch = 0;
        for (program, node) in nodes {
            let lowered = lower::lower(program, node, self.multiprocessors);
            lowered.launches.iter().try_for_each(|launch| self.check_shared(program, launch))?;
            scratch = scratch.max(lowered.scratch);
        }
        self.memory = Some(DeviceMemory::new(self.stream(), layout, workspace, scratch, self.sync)?);
        Ok(layout.bytes() + workspace + scratch)
    }

    fn write_bytes(&mut self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        self.stream().bind()?;
        let to = self.memory().buffer(buffer);
        if bytes.len() > STAGING / 16 {
            return self.stream().copy_in_now(to, bytes);
        }
        let stream = self.stream().clone();
        let Staging { pinned, used } = &mut self.lease.get_mut().staging;
        if *used + bytes.len() > STAGING {
            stream.wait()?;
            *used = 0;
        }
        let range = *used..*used + bytes.len();
        pinned.slice_mut()[range.clone()].copy_from_slice(bytes);
        *used = range.end;
        stream.copy_in(to, pinned, range)
    }

    fn read_bytes(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        self.stream().bind()?;
        self.stream().copy_out_now(bytes, self.memory().buffer(buffer))
    }

    fn snapshot(&mut self, buffer: &Buffer) -> Result<Box<dyn Snapshot>> {
        self.stream().bind()?;
        let spare = self.snapshots.take().filter(|pinned| pinned.slice().len() == buffer.bytes());
        let mut pinned = spare.map_or_else(|| Pinned::new(self.stream(), buffer.bytes()), Ok)?;
        self.stream().copy_out(&mut pinned, self.memory().buffer(buffer))?;
        Ok(Box::new(SnapshotCopy { arrived: Event::record(self.stream())?, pinned, home: self.snapshots.clone() }))
    }

    fn execute(&mut self, program: &Program) -> Result<()> {
        self.stream().bind()?;
        self.run(program)
    }

    fn replay(&mut self, schedule: &Schedule) -> Result<()> {
        self.stream().bind()?;
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

    fn replay_observed(&mut self, schedule: &Schedule, before: &mut dyn FnMut(u32) -> Result<()>) -> Result<()> {
        before(0)?;
        self.replay(schedule)
    }

    fn time(&mut self, schedule: &Schedule) -> Result<f64> {
        self.stream().bind()?;
        if !self.sync {
            self.graph(schedule)?; // records before the timer starts
        }
        let start = Event::record(self.stream())?;
        self.replay(schedule)?;
        let end = Event::record(self.stream())?;
        end.wait()?;
        Ok(f64::from(end.since(&start)?) / 1e3)
    }
}

/// A copy of a buffer to the host, in flight.
struct SnapshotCopy {
    arrived: Event,
    pinned: Pinned,
    home: SparePinned,
}

impl Snapshot for SnapshotCopy {
    fn ready(&self) -> Result<bool> {
        self.arrived.reached()
    }

    fn bytes(self: Box<Self>) -> Result<Vec<u8>> {
        let SnapshotCopy { arrived, pinned, home } = *self;
        arrived.wait()?;
        let bytes = pinned.slice().to_vec();
        home.replace(Some(pinned));
        Ok(bytes)
    }
}
