//! MMA training (Ding, Sharma, Lui and Huang, ICLR 2020, arXiv 1812.02637) on kernels of our own, without a
//! deep-learning framework.
//!
//! # The story, in the order in which data flows
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`catalog`] | data sets and models: classes, shapes, published sizes, radii of published evaluations |
//! | [`data`] | images and labels as bytes, batches as lists of indices |
//! | [`tape`] | a computation recorded as data: ops on shapes, its gradient for what was asked, a memory plan |
//! | [`model`] | LeNet5 and the wide ResNet: layers recorded on a tape, parameters by PyTorch's names |
//! | [`batch`] | examples on the device: the data set as bytes, the batch that is worked on |
//! | [`attack`] | AN-PGD, PGD and the field's attacks: programs around a model's tape, one eps an example |
//! | [`train`] | Algorithm 2: clean pass, attack, margin pass, optimizer; one margin an example; other methods |
//! | [`evaluate`] | what survives which attack, how near the boundary is; what it took, what makes it doubtful |
//! | [`record`] | run folders: settings, metrics, checkpoints, events for TensorBoard |
//! | [`report`] | an HTML page about run folders and evaluations |
//! | [`text`] | short numbers and histograms for the terminal |
//! | [`device`] | runs programs; the only place that knows a machine |
//! | [`mod@bench`] | how fast a device is |
//!
//! Beside them stand [`choice`], enums whose values have names; [`config`], every setting of a run; [`rng`], counted random numbers; [`error`]; and [`cli`].
//! Who may use whom: `train` and `evaluate` use `attack`, which uses `model`, which uses `tape`; whatever is to be
//! computed goes through `device`. `data` knows none of them, `attack` knows nothing of training, and `device` knows
//! ops and buffers, not models.
//!
//! # Algorithm 1: AN-PGD, the margin of an example
//!
//! ```text
//! given x, its label y, and eps, its last margin
//! 1  x_adv = PGD(x, y, eps)                    attack/pgd.rs      Pgd::new: start, iteration
//!                                              device/cpu/attack.rs  pgd_start, pgd_step
//!                                              kernels/attack.cu     pgd_step_linf, pgd_step_l2
//! 2  u = (x_adv - x) / eps                     tape/op.rs         Op::AlongDirection
//! 3  find t with loss(x + t u) = 0             attack/an_pgd.rs   AnPgd::new: search_start, search_probe
//!    by bisection in [0, 1.05 d_max]           device/cpu/attack.rs, kernels/attack.cu  bisect
//! 4  the boundary point x + t u, the margin t  attack/an_pgd.rs   boundary_point
//! ```
//!
//! # Algorithm 2: a step of MMA training
//!
//! ```text
//! given a batch (x, y) of examples i, and the table of margins
//! 1  clean loss, its gradient                  train/mma.rs       clean_pass
//! 2  the right examples: loss(x, y) < 0        train/mma.rs       clean_pass, select_negative
//! 3  their eps = max(margin[i], mineps)        train/mma.rs       choose_right
//! 4  their boundary points, their margins      Algorithm 1
//! 5  loss of the mixed batch: the right at     train/mma.rs       margin_pass
//!    their boundary points while t < d_max,    device/cpu/loss.rs hinge_weights
//!    the wrong as they are; its gradient
//! 6  margin[i] = t, or 0 where wrong           train/mma.rs       margin_pass, scatter_rows
//! 7  gradient = 2/3 of 5 + 1/3 of 1; a step    train/mma.rs       update
//!                                              device/cpu/optimizer.rs, kernels/optimizer.cu  adam, sgd
//! ```
//!
//! A run of steps, with validation, checkpoints and resume, is in [`train::run`].
//!
//! # Steps of the other methods
//!
//! ```text
//! omma    Algorithm 2 without 1's gradient     train/mma.rs
//! std     the clean loss, its gradient         train/standard.rs
//! pgd     PGD within one eps for all; the      train/pgd.rs
//! pgdls   loss there, its gradient; eps fixed,
//!         or growing from 0                    train/pgd.rs       balls
//! trades  PGD on KL(p(x) || p(x_adv)); clean   train/trades.rs
//!         loss + beta KL; its gradient         tape/op.rs         Op::Kl
//! all     gathering, optimizer, sums           train/step.rs
//! ```
//!
//! # Attacks
//!
//! ```text
//! a step, a best point, a step size            tape/formula.rs    arithmetic on rows, as data
//! pgd, apgd, fab, square, spsa, ddn, fmn, cw   attack/            one file each
//! attacks by name, their published settings    evaluate/attacks.rs
//! is it adversarial? a clean forward pass      evaluate/verified.rs
//! what survives is attacked again              evaluate/request.rs  EvaluationRun::bounded
//! ```
//!
//! # From an op to a GPU
//!
//! ```text
//! an op on shapes                              tape/op.rs
//! its kernel, tiles, arguments, cost           device/cuda/lower/   pure: no GPU is asked
//! addresses; arguments checked                 device/cuda/mod.rs   Cuda::run
//! a GPU, opened once a process                 device/cuda/shared.rs
//! the driver                                   device/cuda/driver.rs: all `unsafe` of the project
//! a whole step as one graph                    device/cuda/mod.rs   Cuda::replay
//! the kernels                                  kernels/, whose README.md is a way in
//! ```

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod attack;
pub mod batch;
pub mod bench;
pub mod catalog;
pub mod choice;
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod evaluate;
pub mod model;
pub mod record;
pub mod report;
pub mod rng;
pub mod tape;
pub mod text;
pub mod train;

pub use error::{Error, Result};
