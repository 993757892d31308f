//! Attacks: programs around a model's tape, with one eps an example.
//!
//! - [`pgd`]: projected gradient descent within each example's ball
//! - [`an_pgd`]: AN-PGD (Algorithm 1): PGD, then a bisection for the boundary along the direction found
//!
//! An attack knows a model and the buffers of the examples it attacks. It knows nothing of training.

pub mod an_pgd;
mod device_data;
pub mod pgd;

pub use an_pgd::{AnPgd, Search, SearchStart};
pub use device_data::DeviceData;
pub use pgd::{Noise, Pgd, PgdSettings, RestartedPgd, StepLength};

use crate::device::Schedule;
use crate::model::{Model, image_buffer};
use crate::tape::{Buffer, Memory};

/// An attack on the examples of a [`Target`], as whoever runs it sees it.
#[derive(Clone, Debug)]
pub struct Attack {
    /// As records name it: `pgd-xent`, `apgd-t`, `ddn`.
    pub name: String,
    /// Radius of each example's ball `[n]`, which is written before a run. `None`: a minimum-norm attack, which looks for
    /// the nearest adversarial example.
    pub eps: Option<Buffer>,
    /// Which run this is, u32 `[1]`, written before it: random numbers are counted by it, targets chosen by it.
    pub run: Buffer,
    /// How many runs there are: random starts, or targets. Each attacks only what the ones before it left.
    pub runs: u32,
    /// The result `[n, h, w, c]`: an adversarial example where one was found, else some image that is no worse than
    /// the start. Inside the box, and inside the ball where there is one.
    pub adv: Buffer,
    /// What is carried by row from stage to stage, single precision `[n, ..]`: between stages, rows may be moved.
    pub state: Vec<Buffer>,
    /// One run.
    pub schedule: Schedule,
}

/// The examples that an attack is run on: buffers for up to `n` of them.
#[derive(Clone, Debug)]
pub struct Target {
    /// Images `[n, h, w, c]` in [0, 1].
    pub x: Buffer,
    /// Labels, u32 `[n]`.
    pub labels: Buffer,
    /// Each example's place in its data set, u32 `[n]`: what its random numbers are counted by.
    pub index: Buffer,
    /// How many there are, u32 `[1]`.
    pub rows: Buffer,
}

impl Target {
    /// Buffers for `n` of a model's images.
    pub fn new(memory: &mut Memory, model: &dyn Model, name: &str, n: usize) -> Target {
        Target {
            x: image_buffer(memory, model, &format!("{name}.x"), n),
            labels: memory.u32(&format!("{name}.labels"), &[n]),
            index: memory.u32(&format!("{name}.index"), &[n]),
            rows: memory.u32(&format!("{name}.rows"), &[1]),
        }
    }

    /// How many examples there is room for.
    pub fn capacity(&self) -> usize {
        self.labels.dims[0]
    }
}
