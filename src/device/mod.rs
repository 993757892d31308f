//! Devices: they hold memory and run programs. Modules above know the trait [`Device`] alone, not which device it is.
//!
//! A device allocates once, copies in, copies out, runs a program, and replays a whole training step. Each device is
//! one exhaustive `match` over [`Op`](crate::tape::Op), so a new op does not compile until every device has it. A
//! device knows ops and buffers; it knows no model, attack or training.

pub mod cpu;
pub mod cuda;

use std::sync::Arc;
use std::time::Instant;

use crate::Result;
use crate::tape::{Buffer, DType, Memory, Program};

/// A sequence of programs, such as a whole training step, which is given to a device at once.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    /// Stages in order: a program, and how many times it runs before the next stage.
    pub stages: Vec<(Arc<Program>, u32)>,
}

impl Schedule {
    /// Appends a stage: a program that runs `times` times.
    pub fn then(&mut self, program: &Arc<Program>, times: u32) {
        self.stages.push((program.clone(), times));
    }

    /// Programs of the stages, in order.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.stages.iter().map(|(program, _)| &**program)
    }

    /// Number of times that a program runs.
    pub fn executions(&self) -> u32 {
        self.stages.iter().map(|(_, times)| times).sum()
    }

    /// Appends the stages of another schedule.
    pub fn extend(&mut self, other: &Schedule) {
        self.stages.extend(other.stages.iter().cloned());
    }
}

/// A device: it holds buffers and runs programs. Work runs in the order in which it was given.
pub trait Device {
    /// Description of the device for people.
    fn describe(&self) -> String;

    /// Number of multiprocessors of a GPU; `None`: the device has none.
    fn multiprocessors(&self) -> Option<usize> {
        None
    }

    /// Allocates all memory: the buffers of `memory`, zeroed, and the workspace of the largest of `programs`. Called
    /// once, when every program is known. Returns the number of bytes.
    ///
    /// # Errors
    /// The device has too little memory. The message gives the bytes needed and the settings that reduce them.
    fn allocate(&mut self, memory: &Memory, programs: &[&Program]) -> Result<usize>;

    /// Copies bytes to the front of a buffer, after all work given so far.
    ///
    /// # Errors
    /// The device failed, in this call or in work given before.
    fn write_bytes(&mut self, buffer: &Buffer, bytes: &[u8]) -> Result<()>;

    /// Waits for all work given so far, then fills `bytes` with the front of a buffer.
    ///
    /// # Errors
    /// The device failed, in this call or in work given before.
    fn read_bytes(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()>;

    /// Starts to copy a buffer, as it is after all work given so far, and does not wait for it.
    ///
    /// # Errors
    /// The device failed, in this call or in work given before.
    fn snapshot(&mut self, buffer: &Buffer) -> Result<Box<dyn Snapshot>>;

    /// Runs a program, or queues it after all work given so far.
    ///
    /// # Errors
    /// The device failed, in this call or in work given before.
    fn execute(&mut self, program: &Program) -> Result<()>;

    /// Runs a whole schedule, or queues it. A device that takes a schedule at once overrides this.
    ///
    /// # Errors
    /// The device failed, in this call or in work given before.
    fn replay(&mut self, schedule: &Schedule) -> Result<()> {
        for (program, times) in &schedule.stages {
            for _ in 0..*times {
                self.execute(program)?;
            }
        }
        Ok(())
    }

    /// Runs a whole schedule like [`Device::replay`], and calls `before` with the number of programs done before each
    /// program. A device that takes a schedule at once calls it once, with 0.
    ///
    /// # Errors
    /// That of `before`, which ends the schedule; or the device failed, in this call or in work given before.
    fn replay_observed(&mut self, schedule: &Schedule, before: &mut dyn FnMut(u32) -> Result<()>) -> Result<()> {
        let mut done = 0;
        for (program, times) in &schedule.stages {
            for _ in 0..*times {
                before(done)?;
                self.execute(program)?;
                done += 1;
            }
        }
        Ok(())
    }

    /// Seconds of a schedule from its first op to its last, after all work given so far. A device that runs
    /// asynchronously overrides this with its own clock.
    ///
    /// # Errors
    /// The device failed, in this call or in work given before.
    fn time(&mut self, schedule: &Schedule) -> Result<f64> {
        let start = Instant::now();
        self.replay(schedule)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Content of a buffer on its way from the device.
pub trait Snapshot {
    /// `true`: the content has arrived.
    ///
    /// # Errors
    /// The device failed.
    fn ready(&self) -> Result<bool>;

    /// Waits for the content.
    ///
    /// # Errors
    /// The device failed.
    fn bytes(self: Box<Self>) -> Result<Vec<u8>>;
}

impl dyn Snapshot {
    /// Waits for the content, as single-precision numbers.
    ///
    /// # Errors
    /// The device failed.
    pub fn f32s(self: Box<Self>) -> Result<Vec<f32>> {
        let bytes = self.bytes()?;
        Ok(bytes.chunks_exact(4).map(|word| f32::from_ne_bytes(word.try_into().expect("four bytes"))).collect())
    }
}

impl dyn Device + '_ {
    /// Copies numbers to the front of a single-precision buffer: see [`Device::write_bytes`].
    ///
    /// # Errors
    /// The device failed, in this call or in work given before.
    pub fn write_f32(&mut self, buffer: &Buffer, data: &[f32]) -> Result<()> {
        check(buffer, DType::F32, data.len());
        self.write_bytes(buffer, bytemuck::cast_slice(data))
    }

    /// Copies integers to the front of a buffer of integers: see [`Device::write_bytes`].
    ///
    /// # Errors
    /// The device failed, in this call or in work given before.
    pub fn write_u32(&mut self, buffer: &Buffer, data: &[u32]) -> Result<()> {
        check(buffer, DType::U32, data.len());
        self.write_bytes(buffer, bytemuck::cast_slice(data))
    }

    /// Copies bytes to the front of a buffer of bytes: see [`Device::write_bytes`].
    ///
    /// # Errors
    /// The device failed, in this call or in work given before.
    pub fn write_u8(&mut self, buffer: &Buffer, data: &[u8]) -> Result<()> {
        check(buffer, DType::U8, data.len());
        self.write_bytes(buffer, data)
    }

    /// Whole content of a single-precision buffer: see [`Device::read_bytes`].
    ///
    /// # Errors
    /// The device failed, in this call or in work given before.
    pub fn read_f32(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        check(buffer, DType::F32, 0);
        let mut out = vec![0f32; buffer.len()];
        self.read_bytes(buffer, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    }

    /// Whole content of a buffer of integers: see [`Device::read_bytes`].
    ///
    /// # Errors
    /// The device failed, in this call or in work given before.
    pub fn read_u32(&self, buffer: &Buffer) -> Result<Vec<u32>> {
        check(buffer, DType::U32, 0);
        let mut out = vec![0u32; buffer.len()];
        self.read_bytes(buffer, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    }
}

/// Panics if the buffer has another element type or fewer than `len` elements.
fn check(buffer: &Buffer, dtype: DType, len: usize) {
    assert_eq!(buffer.dtype, dtype, "{} holds {}", buffer.name, buffer.dtype.name());
    assert!(len <= buffer.len(), "{} has {} elements, not {len}", buffer.name, buffer.len());
}
