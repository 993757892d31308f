//! Row compaction: between pieces of a long run, examples that are done leave the batch, and the others move to its
//! front.
//!
//! Nothing can change the result of an example whose adversarial image was found. Without it, the forward and backward
//! passes that follow take fewer rows.

use std::sync::Arc;

use super::interface::Attack;
use crate::Result;
use crate::batch::Batch;
use crate::device::{Device, Schedule};
use crate::tape::{Buffer, Memory, Program};

/// Repetitions of a schedule's programs in a piece.
const PIECE: u32 = 50;

impl Attack {
    /// The schedule in pieces of at most 50 repetitions of its programs. Rows may be compacted between two of them.
    pub fn pieces(&self) -> Vec<Schedule> {
        let mut pieces = vec![Schedule::default()];
        let mut free = PIECE;
        for (program, times) in &self.schedule.stages {
            let mut left = *times;
            while left > 0 {
                if free == 0 {
                    pieces.push(Schedule::default());
                    free = PIECE;
                }
                let now = left.min(free);
                pieces.last_mut().expect("there is one").then(program, now);
                (left, free) = (left - now, free - now);
            }
        }
        pieces
    }
}

/// Program that moves rows of all buffers that an attack carries from stage to stage.
#[derive(Clone, Debug)]
pub struct RowCompaction {
    /// Former row of each row, u32 `[n]`.
    from: Buffer,
    program: Arc<Program>,
}

impl RowCompaction {
    /// Records the movement of the rows of [`Attack::carried`].
    pub fn new(memory: &mut Memory, batch: &Batch, attack: &Attack) -> RowCompaction {
        let from = memory.u32(&format!("{}.{}.from", batch.name, attack.name), &[batch.capacity()]);
        let mut tape = batch.tape("move_rows");
        let at = tape.leaf(&from);
        for buffer in &attack.carried {
            let old = tape.leaf(buffer);
            let moved = tape.gather_rows(old, at);
            tape.map_into(buffer, [moved], |_, [moved]| moved);
        }
        RowCompaction { from, program: Arc::new(tape.finish()) }
    }

    /// The program, for [`Device::allocate`].
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Moves the rows `kept`, in ascending order, to the front. The batch already holds the examples that stay.
    ///
    /// # Errors
    /// The device failed.
    pub fn run(&self, device: &mut dyn Device, kept: &[u32]) -> Result<()> {
        device.write_u32(&self.from, kept)?;
        device.execute(&self.program)
    }
}
