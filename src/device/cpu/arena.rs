//! Memory of the CPU device, and disjoint views of it.

use crate::tape::{Place, Region};

/// A cache line. Every place begins at one.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct CacheLine([u8; 64]);

/// Two regions of memory: buffers, and the workspace of the running program.
#[derive(Default)]
pub(super) struct Arena {
    persistent: Vec<CacheLine>,
    workspace: Vec<CacheLine>,
}

impl Arena {
    /// Allocates both regions, zeroed. `None`: the system has too little memory.
    pub(super) fn new(persistent: usize, workspace: usize) -> Option<Arena> {
        let lines = |bytes: usize| {
            let mut lines: Vec<CacheLine> = Vec::new();
            lines.try_reserve_exact(bytes.div_ceil(64)).ok()?;
            lines.resize(bytes.div_ceil(64), bytemuck::Zeroable::zeroed());
            Some(lines)
        };
        Some(Arena { persistent: lines(persistent)?, workspace: lines(workspace)? })
    }

    /// Bytes of the buffers.
    pub(super) fn persistent(&self) -> &[u8] {
        bytemuck::cast_slice(&self.persistent)
    }

    /// Bytes of the buffers.
    pub(super) fn persistent_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.persistent)
    }

    /// Bytes of the places to read and of the places to write. A place may be read several times; a place to write
    /// overlaps no other.
    ///
    /// # Panics
    /// If a place to write overlaps another place.
    pub(super) fn views(&mut self, reads: &[Place], writes: &[Place]) -> (Vec<&[u8]>, Vec<&mut [u8]>) {
        let mut distinct: Vec<Place> = reads.iter().chain(writes).copied().collect();
        distinct.sort();
        distinct.dedup();
        let (mut persistent, mut workspace) =
            (bytemuck::cast_slice_mut::<_, u8>(&mut self.persistent), bytemuck::cast_slice_mut(&mut self.workspace));
        let (mut persistent_at, mut workspace_at) = (0, 0);
        let mut cut: Vec<Option<&mut [u8]>> = Vec::with_capacity(distinct.len());
        for place in &distinct {
            let (rest, at) = match place.region {
                Region::Persistent => (&mut persistent, &mut persistent_at),
                Region::Workspace => (&mut workspace, &mut workspace_at),
            };
            assert!(place.offset >= *at, "places overlap: {distinct:?}");
            let (_, tail) = std::mem::take(rest).split_at_mut(place.offset - *at);
            let (view, tail) = tail.split_at_mut(place.bytes);
            (*rest, *at) = (tail, place.offset + place.bytes);
            cut.push(Some(view));
        }
        let at = |place: &Place| distinct.binary_search(place).expect("every place has a view");
        let written: Vec<&mut [u8]> =
            writes.iter().map(|p| cut[at(p)].take().expect("an op writes a place once and does not read it")).collect();
        let shared: Vec<Option<&[u8]>> = cut.into_iter().map(|view| view.map(|v| &*v)).collect();
        let read = reads.iter().map(|p| shared[at(p)].expect("an op does not read what it writes")).collect();
        (read, written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_no_machine_has_is_refused() {
        assert!(Arena::new(1 << 60, 0).is_none() && Arena::new(0, 1 << 60).is_none());
    }

    #[test]
    #[should_panic(expected = "places overlap")]
    fn a_place_to_write_overlaps_nothing() {
        let place = |offset| Place { region: Region::Workspace, offset, bytes: 8 };
        Arena::new(0, 64).expect("64 bytes").views(&[place(0)], &[place(4)]);
    }
}
