//! Interface of a recorded attack: the buffers to write before a run, the schedule to run, the result to read.

use crate::device::Schedule;
use crate::tape::Buffer;

/// Attack recorded for the examples of a [`Batch`](crate::batch::Batch).
///
/// A run: write the batch, [`eps`](Attack::eps) and [`run`](Attack::run); replay the schedule; read
/// [`adv`](Attack::adv).
#[derive(Clone, Debug)]
pub struct Attack {
    /// Name in records: `pgd-xent`, `apgd-t`, `ddn`.
    pub name: String,
    /// Radius of each example's ball `[n]`, written before a run. `None`: a minimum-norm attack, which looks for the
    /// nearest adversarial example.
    pub eps: Option<Buffer>,
    /// Number of the run, u32 `[1]`, written before it: selects its random numbers, or its target class.
    pub run: Buffer,
    /// Number of runs: random starts, or target classes. Each attacks only the examples that are still robust after
    /// the ones before it.
    pub runs: u32,
    /// Result `[n, h, w, c]`: an adversarial example where one was found, else some image that is no worse than the
    /// start. Inside the box, and inside the ball where there is one.
    pub adv: Buffer,
    /// State by row `[n, ..]` that the schedule's later stages read: a row compaction moves it.
    pub carried: Vec<Buffer>,
    /// Programs of one run.
    pub schedule: Schedule,
}
