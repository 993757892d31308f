//! Attacks: programs around a model's tape, with one eps for each example.
//!
//! - [`pgd`]: projected gradient descent within each example's ball
//! - [`an_pgd`]: AN-PGD (Algorithm 1): PGD, then a bisection for the boundary along the direction found
//! - [`ddn`](mod@ddn), [`fmn`](mod@fmn), [`cw`](mod@cw): minimum-norm attacks, which look for the nearest adversarial
//!   example
//! - [`apgd`](mod@apgd), [`fab`](mod@fab), [`auto`]: AutoAttack, which is made of these and of Square
//! - [`spsa`](mod@spsa), [`square`](mod@square): attacks that see logits alone
//!
//! Every attack is recorded by one function, which makes its buffers in a workspace and returns an [`Attack`]. An
//! attack knows a model and the buffers of the batch that it attacks. It knows nothing of training, and it does not say
//! if it succeeded: evaluation computes that anew.

mod adam;
pub mod an_pgd;
pub mod apgd;
pub mod auto;
mod boundary;
mod common;
mod compaction;
pub mod cw;
pub mod ddn;
pub mod fab;
pub mod fmn;
mod interface;
mod noise;
pub mod pgd;
mod search_window;
pub mod spsa;
pub mod square;
mod state;
mod workspace;

pub use an_pgd::{AnPgd, Search, SearchResult, SearchStart};
pub use apgd::{ApgdLoss, ApgdSettings, ApgdStart, apgd};
pub use auto::{AutoAttack, auto_attack};
pub use boundary::at_boundary;
pub use compaction::RowCompaction;
pub use cw::{CwSettings, cw};
pub use ddn::{DdnSettings, ddn};
pub use fab::{FabSettings, fab};
pub use fmn::{FmnSettings, fmn};
pub use interface::Attack;
pub use pgd::{Ascent, Pgd, PgdSettings, RestartedPgd, StartNoise, StepLength};
pub use spsa::{SpsaSettings, spsa};
pub use square::{SquareSettings, square};
pub use workspace::{Retention, Workspace};
