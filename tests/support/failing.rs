//! CPU that fails after some work.

use maxmargin::device::{Device, Schedule, Snapshot, cpu::Cpu};
use maxmargin::tape::{Buffer, Memory, Program};
use maxmargin::{Error, Result};

/// CPU that fails after `left` schedules.
pub struct FailingDevice {
    cpu: Cpu,
    left: usize,
}

impl FailingDevice {
    pub fn after(left: usize) -> FailingDevice {
        FailingDevice { cpu: Cpu::new(), left }
    }
}

impl Device for FailingDevice {
    fn describe(&self) -> String {
        self.cpu.describe()
    }
    fn allocate(&mut self, memory: &Memory, programs: &[&Program]) -> Result<usize> {
        self.cpu.allocate(memory, programs)
    }
    fn write_bytes(&mut self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        self.cpu.write_bytes(buffer, bytes)
    }
    fn read_bytes(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        self.cpu.read_bytes(buffer, bytes)
    }
    fn snapshot(&mut self, buffer: &Buffer) -> Result<Box<dyn Snapshot>> {
        self.cpu.snapshot(buffer)
    }
    fn execute(&mut self, program: &Program) -> Result<()> {
        self.cpu.execute(program)
    }
    fn replay_observed(&mut self, schedule: &Schedule, before: &mut dyn FnMut(u32) -> Result<()>) -> Result<()> {
        self.left = self.left.checked_sub(1).ok_or_else(|| Error::device("stopped"))?;
        self.cpu.replay_observed(schedule, before)
    }
}
