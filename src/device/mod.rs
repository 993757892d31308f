//! The boundary: a device holds memory and runs programs. Nothing above it knows which device it is.
//!
//! [`Device`] has few methods: allocate once, copy in, copy out, run a program, replay a whole training step.
//! Each device is one exhaustive `match` over [`Op`](crate::tape::Op), so a new op does not compile until
//! every device has it. A device knows ops and buffers; it knows nothing of models, attacks or training.

pub mod cpu;

use std::sync::Arc;

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
    pub fn programs(&self) -> impl Iterator<Item = &Arc<Program>> {
        self.stages.iter().map(|(program, _)| program)
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

    /// Takes all memory that will be used: the buffers of `memory`, zeroed, and `workspace` bytes for the values
    /// of the program that runs. Called once, when every program is known.
    ///
    /// # Errors
    /// There is not so much memory: says how much was asked for and what makes it less.
    fn allocate(&mut self, memory: &Memory, workspace: usize) -> Result<()>;

    /// Copies bytes to the front of a buffer.
    fn write_bytes(&mut self, buffer: &Buffer, bytes: &[u8]);

    /// Copies a buffer's content out, from the front, until `bytes` is full.
    fn read_bytes(&self, buffer: &Buffer, bytes: &mut [u8]);

    /// Runs a program.
    fn execute(&mut self, program: &Program);

    /// Runs a whole schedule. A device that can be given it at once overrides this.
    fn replay(&mut self, schedule: &Schedule) {
        for (program, times) in &schedule.stages {
            for _ in 0..*times {
                self.execute(program);
            }
        }
    }
}

impl dyn Device + '_ {
    /// Copies numbers to the front of a buffer of single precision.
    pub fn write_f32(&mut self, buffer: &Buffer, data: &[f32]) {
        check(buffer, DType::F32, data.len());
        self.write_bytes(buffer, bytemuck::cast_slice(data));
    }

    /// Copies integers to the front of a buffer of integers.
    pub fn write_u32(&mut self, buffer: &Buffer, data: &[u32]) {
        check(buffer, DType::U32, data.len());
        self.write_bytes(buffer, bytemuck::cast_slice(data));
    }

    /// Copies bytes to the front of a buffer of bytes.
    pub fn write_u8(&mut self, buffer: &Buffer, data: &[u8]) {
        check(buffer, DType::U8, data.len());
        self.write_bytes(buffer, data);
    }

    /// The whole content of a buffer of single precision.
    pub fn read_f32(&self, buffer: &Buffer) -> Vec<f32> {
        check(buffer, DType::F32, 0);
        let mut out = vec![0f32; buffer.len()];
        self.read_bytes(buffer, bytemuck::cast_slice_mut(&mut out));
        out
    }

    /// The whole content of a buffer of integers.
    pub fn read_u32(&self, buffer: &Buffer) -> Vec<u32> {
        check(buffer, DType::U32, 0);
        let mut out = vec![0u32; buffer.len()];
        self.read_bytes(buffer, bytemuck::cast_slice_mut(&mut out));
        out
    }
}

fn check(buffer: &Buffer, dtype: DType, len: usize) {
    assert_eq!(buffer.dtype, dtype, "{} holds {}", buffer.name, buffer.dtype.name());
    assert!(len <= buffer.len(), "{} has {} elements, not {len}", buffer.name, buffer.len());
}
