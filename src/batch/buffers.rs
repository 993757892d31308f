//! Buffers of a batch.

use crate::model::{Model, image_buffer};
use crate::tape::{Buffer, Memory, Tape};

/// Buffers for a batch of up to `n` examples.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Prefix of the names of the batch's buffers, and of those that are made for it.
    pub name: String,
    /// Images `[n, h, w, c]` in [0, 1].
    pub x: Buffer,
    /// Labels, u32 `[n]`.
    pub labels: Buffer,
    /// Index of each example in its data set, u32 `[n]`: the counter of its random numbers.
    pub index: Buffer,
    /// Number of active rows, u32 `[1]`.
    pub rows: Buffer,
}

impl Batch {
    /// Buffers for `n` of a model's images.
    pub fn new(memory: &mut Memory, model: &dyn Model, name: &str, n: usize) -> Batch {
        Batch {
            name: name.to_owned(),
            x: image_buffer(memory, model, &format!("{name}.x"), n),
            labels: memory.u32(&format!("{name}.labels"), &[n]),
            index: memory.u32(&format!("{name}.index"), &[n]),
            rows: memory.u32(&format!("{name}.rows"), &[1]),
        }
    }

    /// Tape whose ops work on the batch's active rows.
    pub fn tape(&self, name: &str) -> Tape {
        let mut tape = Tape::new(name);
        tape.set_rows(&self.rows);
        tape
    }

    /// Largest number of examples that fit.
    pub fn capacity(&self) -> usize {
        self.labels.dims[0]
    }
}
