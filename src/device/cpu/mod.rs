//! The CPU device: tasks of rayon over rows, micro-kernels for convolutions, and the matrix products of `faer` for
//! linear layers.
//!
//! Work is divided by rows or by blocks of a fixed size, never by the number of threads, and every sum has a fixed
//! order. So a program gives the same bits on one thread and on many.
//!
//! - `dispatch`: from an op to its function; one file a family of ops, of the same name as on the tape
//! - `half`: ops on half-precision operands; `shapes`: operands as a function sees them
//! - `microkernel`, `padded_image`, `scratch`, `simd`: parts that the families share
//! - `arena`: memory

mod arena;
mod attack;
mod batch_norm;
mod conv;
mod conv_fused;
mod conv_pool;
mod dispatch;
mod elementwise;
mod first_layer;
mod formula;
mod half;
mod head;
mod hyperplane;
mod image;
mod linear;
mod loss;
mod microkernel;
mod optimizer;
mod padded_image;
mod pool;
mod row_wise;
mod rows;
mod scratch;
mod shapes;
mod simd;

use arena::Arena;
use sysinfo::{MemoryRefreshKind, System};

use super::{Device, Snapshot};
use crate::tape::{Buffer, Memory, Program};
use crate::{Error, Result};

/// The CPU of this machine, with the threads of rayon's pool.
#[derive(Default)]
pub struct Cpu {
    arena: Arena,
}

impl Cpu {
    /// A device without memory: see [`Device::allocate`].
    pub fn new() -> Cpu {
        Cpu::default()
    }
}

/// A copy of a buffer, complete from the start.
struct CpuSnapshot(Vec<u8>);

impl Snapshot for CpuSnapshot {
    fn ready(&self) -> Result<bool> {
        Ok(true)
    }

    fn bytes(self: Box<Self>) -> Result<Vec<u8>> {
        Ok(self.0)
    }
}

impl Device for Cpu {
    fn describe(&self) -> String {
        format!("CPU, {} threads", rayon::current_num_threads())
    }

    fn allocate(&mut self, memory: &Memory, programs: &[&Program]) -> Result<usize> {
        let workspace = programs.iter().map(|program| program.workspace).max().unwrap_or(0);
        let (needed, available) = (memory.bytes() + workspace, available_memory());
        // The system lends more than it has, and ends a process that uses it: refuse before.
        let arena = match available {
            Some(available) if needed > available => None,
            _ => Arena::new(memory.bytes(), workspace),
        };
        self.arena = arena.ok_or_else(|| {
            let available = available.map_or_else(String::new, |bytes| format!(" of {} MB", bytes / 1_000_000));
            Error::device(format!(
                "out of memory: the images and the network take {} MB, the largest program {} MB{available} that are \
                 free; a smaller --width, --training-batch-size (train), --batch-size (evaluate, bench) or --megabytes \
                 (bench) takes less",
                memory.bytes() / 1_000_000,
                workspace / 1_000_000
            ))
        })?;
        Ok(needed)
    }

    fn write_bytes(&mut self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        self.arena.persistent_mut()[buffer.offset..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read_bytes(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(&self.arena.persistent()[buffer.offset..][..bytes.len()]);
        Ok(())
    }

    fn snapshot(&mut self, buffer: &Buffer) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(CpuSnapshot(self.arena.persistent()[buffer.offset..][..buffer.bytes()].to_vec())))
    }

    fn execute(&mut self, program: &Program) -> Result<()> {
        program.nodes.iter().for_each(|node| dispatch::run(&mut self.arena, program, node));
        Ok(())
    }
}

/// Bytes that this process may still take: those of the machine, or of the control group (a container, a batch job)
/// that it runs in. `None`: the system does not tell.
fn available_memory() -> Option<usize> {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    // Files that the group has cached count as used there, but the system drops them on demand.
    let of_group = system.cgroup_limits().map_or(u64::MAX, |group| group.total_memory.saturating_sub(group.rss));
    let available = system.available_memory().min(of_group);
    (available > 0).then(|| usize::try_from(available).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_the_machine_does_not_have_is_refused_before_it_is_taken() {
        let available = available_memory().expect("this system tells");
        assert!(available > 1 << 20, "{available}");
        let mut memory = Memory::default();
        // The system would lend these bytes, and end the process that writes to them.
        memory.f32("images", &[(available + available / 2) / 4]);
        let message = Cpu::new().allocate(&memory, &[]).unwrap_err().to_string();
        assert!(message.starts_with("out of memory: the images and the network take "), "{message}");
        assert!(message.contains(" MB that are free") && message.contains("--training-batch-size"), "{message}");
    }
}
