//! Buffers of an attack: each says at its birth what a row compaction does with it.
//!
//! Between stages of a schedule, examples that are done may leave the batch (see
//! [`RowCompaction`](super::RowCompaction)). A buffer by row that stayed behind would then hold the state of other
//! examples. So none can be made without its [`Retention`], and the list of the buffers that are carried along builds
//! itself.

use super::interface::Attack;
use crate::batch::Batch;
use crate::device::Schedule;
use crate::model::{Model, batch_dims};
use crate::tape::{Buffer, DType, Memory};

/// Treatment of a buffer by row when examples leave the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Read by a later stage than the one that wrote it: each row moves with its example.
    Carried,
    /// Written before it is read in every program, or alike in all rows: stays in place.
    Scratch,
}

/// Maker of an attack's buffers, each named after the batch and the attack, and in the end of the attack itself.
pub struct Workspace<'a> {
    /// Network under attack.
    pub model: &'a dyn Model,
    /// Examples under attack.
    pub batch: &'a Batch,
    memory: &'a mut Memory,
    attack: String,
    carried: Vec<Buffer>,
}

impl<'a> Workspace<'a> {
    /// Workspace of the attack called `attack`.
    pub fn new(memory: &'a mut Memory, model: &'a dyn Model, batch: &'a Batch, attack: &str) -> Workspace<'a> {
        Workspace { model, batch, memory, attack: attack.to_owned(), carried: Vec::new() }
    }

    /// One number a pixel `[n, h, w, c]`.
    pub fn images(&mut self, retention: Retention, part: &str) -> Buffer {
        self.by_row(retention, part, &batch_dims(self.model, self.batch.capacity()), DType::F32)
    }

    /// One number a row `[n]`.
    pub fn scalars(&mut self, retention: Retention, part: &str) -> Buffer {
        self.by_row(retention, part, &[self.batch.capacity()], DType::F32)
    }

    /// One class a row, u32 `[n]`.
    pub fn classes(&mut self, retention: Retention, part: &str) -> Buffer {
        self.by_row(retention, part, &[self.batch.capacity()], DType::U32)
    }

    /// Numbers that no row compaction concerns: of the whole batch, or drawn anew by every program.
    pub fn numbers(&mut self, part: &str, dims: &[usize]) -> Buffer {
        self.buffer(part, dims, DType::F32)
    }

    /// Integers that no row compaction concerns, u32.
    pub fn integers(&mut self, part: &str, dims: &[usize]) -> Buffer {
        self.buffer(part, dims, DType::U32)
    }

    /// Counter of the whole batch, u32 `[1]`.
    pub fn counter(&mut self, part: &str) -> Buffer {
        self.integers(part, &[1])
    }

    fn by_row(&mut self, retention: Retention, part: &str, dims: &[usize], dtype: DType) -> Buffer {
        let buffer = self.buffer(part, dims, dtype);
        if retention == Retention::Carried {
            self.carried.push(buffer.clone());
        }
        buffer
    }

    fn buffer(&mut self, part: &str, dims: &[usize], dtype: DType) -> Buffer {
        self.memory.buffer(&format!("{}.{}.{part}", self.batch.name, self.attack), dims, dtype)
    }

    /// Attack of a single run, made of these buffers. `eps` is `None` of a minimum-norm attack. The network's
    /// preparation precedes the attack's own schedule.
    pub fn attack(self, run: Buffer, eps: Option<Buffer>, adv: Buffer, own: Schedule) -> Attack {
        let mut schedule = self.model.preparation();
        schedule.extend(&own);
        Attack { name: self.attack, eps, run, runs: 1, adv, carried: self.carried, schedule }
    }
}
