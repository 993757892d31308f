//! The boundary: a device holds memory and runs programs. Nothing above it knows which device it is.
//!
//! [`Device`] has few methods: allocate once, copy in, copy out, run a program, replay a whole training step.
//! Each device is one exhaustive `match` over [`Op`](crate::tape::Op), so a new op does not compile until
//! every device has it. A device knows ops and buffers; it knows nothing of models, attacks or training.

pub mod cpu;
pub mod cuda;

use std::sync::Arc;
use std::time::Instant;

use crate::Result;
use crate::tape::{Buffer, DType, Memory, Program};

/// Programs with how often each runs: a whole step, which a device can be given at once.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    /// In order: a program, and how many times it runs before the next.
    pub stages: Vec<(Arc<Program>, u32)>,
}

impl Schedule {
    /// Adds a program that runs `times` times.
    pub fn then(&mut self, program: &Arc<Program>, times: u32) {
        self.stages.push((program.clone(), times));
    }

    /// Its programs, each once a stage.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.stages.iter().map(|(program, _)| &**program)
    }

    /// Adds all stages of another schedule.
    pub fn extend(&mut self, other: &Schedule) {
        self.stages.extend(other.stages.iter().cloned());
    }
}

/// Something that holds buffers and runs programs.
pub trait Device {
    /// What it is, in words.
    fn describe(&self) -> String;

    /// Multiprocessors of a GPU; `None` of a device that has none.
    fn multiprocessors(&self) -> Option<usize> {
        None
    }

    /// Takes all memory that will be used: the buffers of `memory`, zeroed, and what the largest of `programs` needs
    /// while it runs. Called once, when every program is known. Returns the bytes taken.
    ///
    /// # Errors
    /// There is not so much memory: says how much was asked for and what makes it less.
    fn allocate(&mut self, memory: &Memory, programs: &[&Program]) -> Result<usize>;

    /// Copies bytes to the front of a buffer, after all work given so far.
    ///
    /// # Errors
    /// The device failed, here or in work given before.
    fn write_bytes(&mut self, buffer: &Buffer, bytes: &[u8]) -> Result<()>;

    /// Waits for all work given so far, and copies a buffer's content out, from the front, until `bytes` is full.
    ///
    /// # Errors
    /// The device failed, here or in work given before.
    fn read_bytes(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()>;

    /// A copy of a buffer as it is after all work given so far, without waiting for it.
    ///
    /// # Errors
    /// The device failed, here or in work given before.
    fn snapshot(&mut self, buffer: &Buffer) -> Result<Box<dyn Snapshot>>;

    /// Runs a program, or gives it to the device to run after all work given so far.
    ///
    /// # Errors
    /// The device failed, here or in work given before.
    fn execute(&mut self, program: &Program) -> Result<()>;

    /// Runs a whole schedule. A device that can be given it at once overrides this.
    ///
    /// # Errors
    /// The device failed, here or in work given before.
    fn replay(&mut self, schedule: &Schedule) -> Result<()> {
        for (program, times) in &schedule.stages {
            for _ in 0..*times {
                self.execute(program)?;
            }
        }
        Ok(())
    }

    /// Seconds that a schedule takes from its first op to its last, after all work given so far. A device that works
    /// beside the host overrides this with its own clock.
    ///
    /// # Errors
    /// The device failed, here or in work given before.
    fn time(&mut self, schedule: &Schedule) -> Result<f64> {
        let start = Instant::now();
        self.replay(schedule)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// A buffer's content on its way from the device.
pub trait Snapshot {
    /// Whether it has arrived.
    ///
    /// # Errors
    /// The device failed.
    fn ready(&self) -> Result<bool>;

    /// Waits until it has arrived.
    ///
    /// # Errors
    /// The device failed.
    fn bytes(self: Box<Self>) -> Result<Vec<u8>>;
}

impl dyn Snapshot {
    /// Waits for it, as single precision.
    ///
    /// # Errors
    /// The device failed.
    pub fn f32s(self: Box<Self>) -> Result<Vec<f32>> {
        let bytes = self.bytes()?;
        Ok(bytes.chunks_exact(4).map(|word| f32::from_ne_bytes(word.try_into().expect("four bytes"))).collect())
    }
}

impl dyn Device + '_ {
    /// Copies numbers to the front of a buffer of single precision: see [`Device::write_bytes`].
    ///
    /// # Errors
    /// The device failed, here or in work given before.
    pub fn write_f32(&mut self, buffer: &Buffer, data: &[f32]) -> Result<()> {
        check(buffer, DType::F32, data.len());
        self.write_bytes(buffer, bytemuck::cast_slice(data))
    }

    /// Copies integers to the front of a buffer of integers: see [`Device::write_bytes`].
    ///
    /// # Errors
    /// The device failed, here or in work given before.
    pub fn write_u32(&mut self, buffer: &Buffer, data: &[u32]) -> Result<()> {
        check(buffer, DType::U32, data.len());
        self.write_bytes(buffer, bytemuck::cast_slice(data))
    }

    /// Copies bytes to the front of a buffer of bytes: see [`Device::write_bytes`].
    ///
    /// # Errors
    /// The device failed, here or in work given before.
    pub fn write_u8(&mut self, buffer: &Buffer, data: &[u8]) -> Result<()> {
        check(buffer, DType::U8, data.len());
        self.write_bytes(buffer, data)
    }

    /// The whole content of a buffer of single precision: see [`Device::read_bytes`].
    ///
    /// # Errors
    /// The device failed, here or in work given before.
    pub fn read_f32(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        check(buffer, DType::F32, 0);
        let mut out = vec![0f32; buffer.len()];
        self.read_bytes(buffer, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    }

    /// The whole content of a buffer of integers: see [`Device::read_bytes`].
    ///
    /// # Errors
    /// The device failed, here or in work given before.
    pub fn read_u32(&self, buffer: &Buffer) -> Result<Vec<u32>> {
        check(buffer, DType::U32, 0);
        let mut out = vec![0u32; buffer.len()];
        self.read_bytes(buffer, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    }
}

fn check(buffer: &Buffer, dtype: DType, len: usize) {
    assert_eq!(buffer.dtype, dtype, "{} holds {}", buffer.name, buffer.dtype.name());
    assert!(len <= buffer.len(), "{} has {} elements, not {len}", buffer.name, buffer.len());
}
