//! Memory of a CUDA device: addresses of buffers and values.
//!
//! Usually there are four permanent allocations: the buffers, the workspace of the running program, the scratch memory
//! of the running node, and the counters and sums of the running launch, 0 between launches. For debugging every
//! buffer and every value has an allocation of its own, so that a tool that checks allocations finds each access
//! outside an operand.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::abi::CHANNEL_SUMS_BYTES;
use super::driver::{Address, Allocation, Context, Stream};
use super::launch::{COUNTERS, SUMMED_CHANNELS};
use crate::tape::{Buffer, Memory as Layout, Program, Region};
use crate::{Error, Result};

/// Offset of the channels' sums after the counters, in bytes.
pub(super) const CHANNEL_SUMS_OFFSET: usize = 4 * COUNTERS;

/// Allocations of a device.
pub(super) enum DeviceMemory {
    /// One allocation a region.
    Regions { persistent: Allocation, workspace: Allocation, scratch: Allocation, counters: Allocation },
    /// One allocation a buffer, by its offset in the layout, and one a value, made when its program runs.
    Apart { buffers: BTreeMap<usize, Allocation>, values: Vec<Allocation>, counters: Allocation },
}

/// Addresses of the values of a program, and of the scratch memory of its nodes.
pub(super) struct ProgramAddresses {
    pub values: Vec<Option<Address>>,
    pub scratch: Address,
    pub counters: Address,
}

impl DeviceMemory {
    /// Allocates all buffers, filled with zeros, and memory for the largest program's values.
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
        let zeroed_counters = || {
            let counters = take(CHANNEL_SUMS_OFFSET + CHANNEL_SUMS_BYTES * SUMMED_CHANNELS)?;
            stream.zero(&counters).map(|()| counters)
        };
        if apart {
            let mut buffers = BTreeMap::new();
            for buffer in &layout.buffers {
                let allocation = take(buffer.bytes())?;
                stream.zero(&allocation)?;
                buffers.insert(buffer.offset, allocation);
            }
            return Ok(DeviceMemory::Apart { buffers, values: Vec::new(), counters: zeroed_counters()? });
        }
        let (persistent, workspace, scratch) = (take(layout.bytes())?, take(workspace)?, take(scratch)?);
        stream.zero(&persistent)?;
        Ok(DeviceMemory::Regions { persistent, workspace, scratch, counters: zeroed_counters()? })
    }

    /// Address of a byte of the layout.
    fn persistent(&self, offset: usize) -> Address {
        match self {
            DeviceMemory::Regions { persistent, .. } => persistent.address + offset as Address,
            DeviceMemory::Apart { buffers, .. } => {
                let (start, allocation) = buffers.range(..=offset).next_back().expect("every buffer was laid out");
                allocation.address + (offset - start) as Address
            }
        }
    }

    /// Address of a buffer.
    pub fn buffer(&self, buffer: &Buffer) -> Address {
        self.persistent(buffer.offset)
    }

    /// Address of the counters.
    pub fn counters(&self) -> Address {
        match self {
            DeviceMemory::Regions { counters, .. } | DeviceMemory::Apart { counters, .. } => counters.address,
        }
    }

    /// Addresses of a program's values while it runs; `scratch` is the size of its nodes' scratch memory in bytes. If
    /// values have allocations of their own, all earlier work must be done.
    pub fn enter(&mut self, context: &Arc<Context>, program: &Program, scratch: usize) -> Result<ProgramAddresses> {
        if let DeviceMemory::Regions { workspace, scratch: allocated, .. } = self {
            let fits = program.workspace <= workspace.bytes && scratch <= allocated.bytes;
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
        if let (true, DeviceMemory::Apart { values, .. }) = (apart, &mut *self) {
            *values = own;
        }
        Ok(ProgramAddresses { values, scratch, counters: self.counters() })
    }
}

/// Millions of bytes, rounded up.
fn megabytes(bytes: usize) -> usize {
    bytes.div_ceil(1_000_000)
}

/// The error for a lack of memory: the need, the free memory, and settings that reduce the need.
fn out_of_memory(context: &Context, needed: &str) -> Result<Error> {
    let (free, total) = context.memory()?;
    Ok(Error::device(format!(
        "out of memory on GPU {} ({}): {needed}; {} MB of {} MB are free. A smaller --width, --training-batch-size \
         (train), --batch-size (evaluate, bench) or --megabytes (bench) needs less; ending other programs on this GPU frees memory",
        context.gpu.ordinal,
        context.gpu.name,
        free / 1_000_000,
        total / 1_000_000
    )))
}
