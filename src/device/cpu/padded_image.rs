//! Images in a border of zeros.

/// Shape of an image in a border of zeros: `[h, w, c]`, with the image's first pixel at (`top`, `left`).
#[derive(Clone, Copy)]
pub(super) struct PaddedImage {
    pub top: usize,
    pub left: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
}

impl PaddedImage {
    /// Number of elements of a row.
    pub(super) fn pitch(&self) -> usize {
        self.w * self.c
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.h * self.pitch()
    }

    /// Copies an image of `width` pixels a row into the zero-padded buffer `padded`. Elements beyond the padded image
    /// become 0.
    pub(super) fn pad(&self, padded: &mut [f32], image: &[f32], width: usize) {
        let (left, row) = (self.left * self.c, width * self.c);
        let (above, rest) = padded.split_at_mut(self.top * self.pitch());
        let (inside, below) = rest.split_at_mut(image.len() / row * self.pitch());
        above.fill(0.0);
        below.fill(0.0);
        for (padded, image) in inside.chunks_exact_mut(self.pitch()).zip(image.chunks_exact(row)) {
            padded[..left].fill(0.0);
            padded[left..][..row].copy_from_slice(image);
            padded[left + row..].fill(0.0);
        }
    }

    /// Copies an image of `width` pixels a row out of its zero-padded buffer.
    pub(super) fn crop(&self, image: &mut [f32], padded: &[f32], width: usize) {
        let (left, row) = (self.left * self.c, width * self.c);
        let lines = padded.chunks_exact(self.pitch()).skip(self.top);
        for (image, padded) in image.chunks_exact_mut(row).zip(lines) {
            image.copy_from_slice(&padded[left..][..row]);
        }
    }
}
