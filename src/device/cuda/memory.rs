//! The CUDA device's memory: where each buffer and each value is.
//!
//! Usually three allocations for good: buffers, the workspace of the program that runs, scratch of the node that runs.
//! For debugging every buffer and every value has an allocation of its own, so that a tool that watches over
//! allocations sees each access that leaves its operand.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::driver::{Address, Allocation, Context, Stream};
use crate::tape::{Buffer, Memory as Layout, Program, Region};
use crate::{Error, Result};

/// Where everything is.
pub(super) enum DeviceMemory {
    /// Each region is one allocation.
    Regions { persistent: Allocation, workspace: Allocation, scratch: Allocation },
    /// Each buffer is one, by its first byte in the layout; values are given theirs when their program runs.
    Apart { buffers: BTreeMap<usize, Allocation>, values: Vec<Allocation> },
}

/// Where the values of a program are, and the scratch memory of its nodes.
pub(super) struct ProgramAddresses {
    pub values: Vec<Option<Address>>,
    pub scratch: Address,
}

impl DeviceMemory {
    /// Takes memory for all buffers, zeroed, and for the largest program's values.
    pub fn new(
        stream: &Stream,
        layout: &Layout,
        workspace: usize,
        scratch: usize,
        apart: bool,
    ) -> Result<DeviceMemory> {
        let context = &stream.context;
        let take = |bytes: usize| {
            Allocation::new(context, bytes)?.ok_or_else(|| {
                let [buffers, program] = [layout.bytes(), workspace + scratch].map(megabytes);
                let needed = format!("the images and the network take {buffers} MB, the largest program {program} MB");
                out_of_memory(context, &needed).unwrap_or_else(|e| e)
            })
        };
        if apart {
            let mut buffers = BTreeMap::new();
            for buffer in &layout.buffers {
                let allocation = take(buffer.bytes())?;
                stream.zero(&allocation)?;
                buffers.insert(buffer.offset, allocation);
            }
            return Ok(DeviceMemory::Apart { buffers, values: Vec::new() });
        }
        let (persistent, workspace, scratch) = (take(layout.bytes())?, take(workspace)?, take(scratch)?);
        stream.zero(&persistent)?;
        Ok(DeviceMemory::Regions { persistent, workspace, scratch })
    }

    /// Where a byte of the layout is.
    fn persistent(&self, offset: usize) -> Address {
        match self {
            DeviceMemory::Regions { persistent, .. } => persistent.address + offset as Address,
            DeviceMemory::Apart { buffers, .. } => {
                let (start, allocation) = buffers.range(..=offset).next_back().expect("every buffer was laid out");
                allocation.address + (offset - start) as Address
            }
        }
    }

    /// Where a buffer is.
    pub fn buffer(&self, buffer: &Buffer) -> Address {
        self.persistent(buffer.offset)
    }

    /// Where a program's values are while it runs; `scratch` is what its nodes need. All work must be done before
    /// another program is entered, if values have allocations of their own.
    pub fn enter(&mut self, context: &Arc<Context>, program: &Program, scratch: usize) -> Result<ProgramAddresses> {
        if let DeviceMemory::Regions { workspace, scratch: room, .. } = self {
            let fits = program.workspace <= workspace.bytes && scratch <= room.bytes;
            assert!(fits, "memory was allocated without program {}", program.name);
        }
        let mut own = Vec::new();
        let apart = matches!(self, DeviceMemory::Apart { .. });
        let mut take = |bytes: usize| {
            let allocation = Allocation::new(context, bytes)?;
            let allocation = allocation.ok_or_else(|| {
                let needed = format!("with --sync each value of program {} has memory of its own", program.name);
                out_of_memory(context, &needed).unwrap_or_else(|e| e)
            })?;
            own.push(allocation);
            Ok(own.last().expect("pushed").address)
        };
        let mut values = Vec::with_capacity(program.places.len());
        for place in &program.places {
            values.push(match (place, &*self) {
                (None, _) => None,
                (Some(place), memory) if place.region == Region::Persistent => Some(memory.persistent(place.offset)),
                (Some(place), DeviceMemory::Regions { workspace, .. }) => {
                    Some(workspace.address + place.offset as Address)
                }
                (Some(place), DeviceMemory::Apart { .. }) => Some(take(place.bytes)?),
            });
        }
        let scratch = match &*self {
            DeviceMemory::Regions { scratch, .. } => scratch.address,
            DeviceMemory::Apart { .. } => take(scratch)?,
        };
        if let (true, DeviceMemory::Apart { values, .. }) = (apart, self) {
            *values = own;
        }
        Ok(ProgramAddresses { values, scratch })
    }
}

/// Rounded up.
fn megabytes(bytes: usize) -> usize {
    bytes.div_ceil(1_000_000)
}

/// What was needed, what is free, and what makes it less.
fn out_of_memory(context: &Context, needed: &str) -> Result<Error> {
    let (free, total) = context.memory()?;
    Ok(Error::device(format!(
        "out of memory on GPU {} ({}): {needed}; {} MB of {} MB are free. A smaller --width, --training-batch-size \
         (train), --batch-size (evaluate, bench) or --megabytes (bench) takes less; so does ending other programs on this GPU",
        context.gpu.ordinal,
        context.gpu.name,
        free / 1_000_000,
        total / 1_000_000
    )))
}
