//! Max-Margin Adversarial (MMA) training (Ding, Sharma, Lui and Huang, ICLR 2020, arXiv 1812.02637) on hand-written
//! kernels, without a deep-learning framework.
//!
//! This page is the map. `ARCHITECTURE.md` adds the invariants and follows one flag from the command line to a launch
//! and back; `docs/GLOSSARY.md` explains the terms; `examples/` shows the API.
//!
//! # Modules, in the order in which data flows
//!
//! | module | content |
//! | --- | --- |
//! | [`catalog`] | data sets and models: classes, shapes, published sizes, radii of published evaluations |
//! | [`data`] | images and labels as bytes; batches as lists of indices |
//! | [`tape`] | computations recorded as data: ops on shapes, gradients, fusion, the memory plan |
//! | [`model`] | LeNet5 and the wide ResNet: layers recorded on a tape; parameters by PyTorch's names |
//! | [`batch`] | a data set on a device, and the batch of it that is worked on |
//! | [`attack`] | AN-PGD, PGD and other attacks: programs around a model's tape, with one eps for each example |
//! | [`train`] | training steps of MMA (Algorithm 2) and other methods; runs of steps |
//! | [`evaluate`] | robust accuracy, margins and minimum-norm distances; costs and checks |
//! | [`record`] | run folders: settings, metrics, checkpoints, TensorBoard events |
//! | [`report`] | HTML pages of run folders and evaluations |
//! | [`text`] | numbers with units and histograms for the terminal |
//! | [`device`] | the CPU and NVIDIA GPUs, which run programs |
//! | [`mod@bench`] | speed of a device, by op, kernel and step |
//!
//! Beside them stand [`config`], every setting of a run; [`choice`], enums whose values have names in flags and files;
//! [`rng`], counter-based random numbers; [`hash`], SHA-256; [`formats`], names of files that are not what was
//! expected; [`interrupt`], signals that ask to stop; [`error`]; and [`cli`], the commands.
//!
//! # Algorithm 1: AN-PGD, the margin of an example
//!
//! ```text
//! given x, its label y, and eps, its last margin
//! 1  x_adv = PGD(x, y, eps)                    attack/pgd.rs          Pgd: start, iteration
//!                                              device/cpu/attack.rs   pgd_start, pgd_step
//!                                              kernels/attack.cu      pgd_step_linf, pgd_step_l2
//! 2  u = (x_adv - x) / eps                     tape/op.rs             Op::AlongDirection
//! 3  find t with loss(x + t u) = 0             attack/an_pgd.rs       AnPgd: start, probe
//!    by bisection in [0, 1.05 d_max]           device/cpu/attack.rs, kernels/attack.cu  bisect
//! 4  the boundary point x + t u, the margin t  attack/an_pgd.rs       boundary_point
//! ```
//!
//! # Algorithm 2: a step of MMA training
//!
//! ```text
//! given a batch (x, y) of examples i, and the table of margins
//! 1  clean loss, its gradient                  train/mma.rs           clean_pass
//! 2  the correct examples: loss(x, y) < 0      train/mma.rs           clean_pass, select_negative
//! 3  their eps = max(margin[i], mineps)        train/mma.rs           gather_correct
//! 4  their boundary points, their margins      Algorithm 1
//! 5  loss of the mixed batch: correct examples train/mma.rs           margin_pass
//!    at their boundary points while t < d_max, device/cpu/loss.rs     hinge_weights
//!    misclassified ones unchanged; gradient
//! 6  margin[i] = t, or 0 if misclassified      train/mma.rs           margin_pass, scatter_rows
//! 7  gradient = 2/3 of 5 + 1/3 of 1; a step    train/step.rs          update
//!                                              device/cpu/optimizer.rs, kernels/optimizer.cu  adam, sgd
//! ```
//!
//! A run of steps, with validation, checkpoints and resume, is in [`train::run()`].
//!
//! # Steps of the other methods
//!
//! ```text
//! omma    Algorithm 2 without the gradient of line 1          train/mma.rs
//! std     the clean loss and its gradient                     train/standard.rs
//! pgd     PGD within one eps for all; the loss there          train/pgd.rs
//! pgdls   as pgd, with an eps that grows from 0               train/pgd.rs       balls
//! trades  PGD on KL(p(x) || p(x_adv)); clean loss + beta KL   train/trades.rs
//! all     gathering, optimizer, metrics                       train/step.rs
//! ```
//!
//! # Attacks
//!
//! ```text
//! arithmetic on rows (a step, a best point), as data          tape/formula.rs
//! pgd, apgd, fab, square, spsa, ddn, fmn, cw                  attack/            one file each
//! attacks by name, with their published settings              evaluate/attacks.rs
//! verification by a forward pass and a distance               evaluate/verified.rs
//! only robust examples are attacked again                     evaluate/run.rs    EvaluationRun::bounded
//! values that are stored in half precision                    tape/precision.rs, model/in_precision.rs
//! ```
//!
//! # From an op to a GPU
//!
//! ```text
//! an op on shapes                                             tape/op.rs
//! its kernel, tiles, arguments, cost; no driver is asked      device/cuda/lower/
//! its predicted time on a GPU that is not here                device/cuda/cost_model.rs
//! addresses; arguments checked                                device/cuda/mod.rs   Cuda::run
//! a GPU, opened once a process                                device/cuda/shared.rs
//! the driver; all `unsafe` of the crate                       device/cuda/driver.rs
//! a whole step as one graph                                   device/cuda/mod.rs   Cuda::replay
//! the kernels, with a guide                                   kernels/README.md
//! ```
//!
//! # Who may use whom
//!
//! A module uses items of those beside its name and of no others; no two files use each other, not even over others.
//! `tests/layers.rs` holds both.
//!
//! ```text
//! error     -
//! interrupt error
//! rng       -
//! hash      error
//! choice    -
//! formats   -
//! tape      choice, rng
//! catalog   choice, tape
//! data      catalog, choice, error, formats, hash, rng
//! record    error, formats, hash, interrupt
//! text      record
//! device    error, rng, tape
//! model     catalog, device, error, record, rng, tape
//! batch     data, device, error, model, tape
//! attack    batch, choice, device, error, model, rng, tape
//! config    attack, catalog, choice, error, formats, tape
//! evaluate  attack, batch, catalog, choice, config, data, device, error, formats, hash, interrupt, model, record, rng,
//!           tape, text
//! train     attack, batch, config, data, device, error, evaluate, interrupt, model, record, rng, tape, text
//! report    catalog, choice, config, data, error, evaluate, formats, hash, model, record, tape, text
//! bench     batch, config, device, error, formats, interrupt, model, tape, text, train
//! cli       attack, batch, bench, catalog, choice, config, data, device, error, evaluate, interrupt, model, record,
//!           report, tape, text, train
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
pub mod formats;
pub mod hash;
pub mod interrupt;
pub mod model;
pub mod record;
pub mod report;
pub mod rng;
pub mod tape;
pub mod text;
pub mod train;

pub use error::{Error, Result};

/// The examples of `docs/extending.md`, as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/extending.md")]
pub struct Extending;
