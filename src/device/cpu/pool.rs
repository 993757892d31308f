//! 2x2 max-pooling.

use rayon::prelude::*;

/// Calls `f(output, channel, maximum, place)` for each output of a 2x2 max-pool of an image `[h, w, k]`. `place` is the
/// first of the window's four elements (row-major) that holds the maximum.
#[inline(always)] // so that it is compiled for the caller's vector instructions
pub(super) fn pool(conv: &[f32], w: usize, k: usize, mut f: impl FnMut(usize, usize, f32, u8)) {
    for (oy, rows) in conv.chunks_exact(2 * w * k).enumerate() {
        let (upper, lower) = rows.split_at(w * k);
        for (ox, (upper, lower)) in upper.chunks_exact(2 * k).zip(lower.chunks_exact(2 * k)).enumerate() {
            let ((a, b), (c, d)) = (upper.split_at(k), lower.split_at(k));
            let base = (oy * (w / 2) + ox) * k;
            for i in 0..k {
                let (mut best, mut choice) = (a[i], 0);
                for (value, place) in [(b[i], 1), (c[i], 2), (d[i], 3)] {
                    let more = value > best;
                    best = if more { value } else { best };
                    choice = if more { place } else { choice };
                }
                f(base + i, i, best, choice);
            }
        }
    }
}

/// Writes out and choice `[n, h/2, w/2, c]`, computed from x of shape `dims`, `[n, h, w, c]`.
pub(super) fn max_pool2d(out: &mut [f32], choice: &mut [u8], x: &[f32], n: usize, dims: &[usize]) {
    let &[_, h, w, c] = dims else { unreachable!("shapes were checked when recorded") };
    let pooled = h * w * c / 4;
    let images = out.par_chunks_mut(pooled).zip(choice.par_chunks_mut(pooled)).zip(x.par_chunks(h * w * c));
    images.take(n).for_each(|((out, choice), x)| {
        pool(x, w, c, |at, _, best, place| (out[at], choice[at]) = (best, place));
    });
}

/// Writes dx of shape `dims`, `[n, h, w, c]`, computed from dy and choice `[n, h/2, w/2, c]`.
pub(super) fn max_pool2d_backward(dx: &mut [f32], dy: &[f32], choice: &[u8], n: usize, dims: &[usize]) {
    let &[_, h, w, c] = dims else { unreachable!("shapes were checked when recorded") };
    let pooled = h * w * c / 4;
    let images = dx.par_chunks_mut(h * w * c).zip(dy.par_chunks(pooled)).zip(choice.par_chunks(pooled));
    images.take(n).for_each(|((dx, dy), choice)| {
        dx.fill(0.0);
        for (at, (&dy, &choice)) in dy.iter().zip(choice).enumerate() {
            let (pixel, channel) = (at / c, at % c);
            let (y, x) =
                (2 * (pixel / (w / 2)) + usize::from(choice) / 2, 2 * (pixel % (w / 2)) + usize::from(choice) % 2);
            dx[(y * w + x) * c + channel] = dy;
        }
    });
}
