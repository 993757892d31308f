//! Gathers, scatters and selects rows.

/// `out[i] = src[index[i]]` for `n` rows of `row` bytes.
pub(super) fn gather_rows(out: &mut [u8], src: &[u8], index: &[u32], n: usize, row: usize) {
    for (out, &at) in out.chunks_exact_mut(row).zip(index).take(n) {
        out.copy_from_slice(&src[at as usize * row..][..row]);
    }
}

/// `dst[index[i]] = src[i]` for `n` rows of `row` bytes.
pub(super) fn scatter_rows(dst: &mut [u8], src: &[u8], index: &[u32], n: usize, row: usize) {
    for (src, &at) in src.chunks_exact(row).zip(index).take(n) {
        dst[at as usize * row..][..row].copy_from_slice(src);
    }
}

/// Writes the indices of negative values, ascending, to the front of `selected`. Returns their number.
pub(super) fn select_negative(selected: &mut [u32], values: &[f32]) -> u32 {
    let mut count = 0;
    for (i, _) in values.iter().enumerate().filter(|(_, v)| **v < 0.0) {
        selected[count] = i as u32;
        count += 1;
    }
    count as u32
}
