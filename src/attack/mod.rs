//! Attacks: programs around a model's tape, with one eps an example.
//!
//! - [`pgd`]: projected gradient descent within each example's ball
//! - [`an_pgd`]: AN-PGD (Algorithm 1): PGD, then a bisection for the boundary along the direction found
//! - [`ddn`](mod@ddn), [`fmn`](mod@fmn), [`cw`](mod@cw): minimum-norm attacks: the nearest adversarial example
//! - [`apgd`](mod@apgd), [`fab`](mod@fab), [`auto`]: AutoAttack, which is made of these and of Square
//! - [`spsa`](mod@spsa), [`square`](mod@square): attacks that see logits alone
//!
//! An attack knows a model and the buffers of the examples it attacks. It knows nothing of training.

mod adam;
pub mod an_pgd;
pub mod apgd;
pub mod auto;
pub mod cw;
pub mod ddn;
pub mod fab;
pub mod fmn;
pub mod pgd;
mod rows;
pub mod spsa;
pub mod square;
mod start;
mod windows;

pub use an_pgd::{AnPgd, Search, SearchStart};
pub use apgd::{ApgdLoss, ApgdSettings, apgd};
pub use auto::{AutoAttack, auto_attack};
pub use cw::{CwSettings, cw};
pub use ddn::{DdnSettings, ddn};
pub use fab::{FabSettings, fab};
pub use fmn::{FmnSettings, fmn};
pub use pgd::{Ascent, Pgd, PgdSettings, RestartedPgd, StartNoise, StepLength};
pub use spsa::{SpsaSettings, spsa};
pub use square::{SquareSettings, square};
pub use start::Start;

use crate::device::Schedule;
use crate::model::Model;
use crate::tape::Buffer;
use crate::{Error, Result};

/// An attack on the examples of a [`Batch`](crate::batch::Batch), as whoever runs it sees it.
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

/// Number of a model's classes; the attack called `name` needs at least `least`.
fn check_classes(model: &dyn Model, name: &str, least: usize) -> Result<usize> {
    match model.classes() {
        few if few < least => {
            Err(Error::usage(format!("{name}: expected a network of {least} classes or more; found {few}")))
        }
        classes => Ok(classes),
    }
}
