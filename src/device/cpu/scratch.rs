//! Scratch memory of a thread, and transposes.

use std::cell::RefCell;

/// Writes the transpose of a matrix, `from`, with `columns` columns. `to` has rows of `pitch` elements, which end in
/// zeros; as many rows are written as `to` has. The transpose goes tile by tile, so that both sides of a tile stay in
/// the L1 cache.
pub(super) fn transpose(to: &mut [f32], from: &[f32], columns: usize, pitch: usize) {
    const TILE: usize = 16;
    if columns == 0 || pitch == 0 {
        return;
    }
    let rows = from.len() / columns;
    for top in (0..pitch).step_by(TILE) {
        let end = pitch.min(top + TILE);
        let bottom = end.min(rows).max(top);
        for (column, to) in to.chunks_exact_mut(pitch).enumerate() {
            for (row, to) in (top..bottom).zip(&mut to[top..]) {
                *to = from[row * columns + column];
            }
            to[bottom..end].fill(0.0);
        }
    }
}

/// Calls `f` with `len` elements of scratch memory of unspecified content. Calls may nest. A thread keeps its scratch
/// memory, so nothing is allocated once every shape has been seen.
pub(super) fn scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local!(static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) });
    let mut memory = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if memory.len() < len {
        memory.resize(len, 0.0);
    }
    let result = f(&mut memory[..len]);
    FREE.with_borrow_mut(|free| free.push(memory));
    result
}
