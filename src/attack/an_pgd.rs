//! AN-PGD (Algorithm 1): PGD within each example's ball finds a direction, a bisection along it finds the
//! boundary. Training and evaluation use it in two forms that differ in their settings alone
//! (the released code's `ANPGD` and `ANPGDForTest`, anpgd.py).

use std::sync::Arc;

use super::common::fill;
use super::interface::Attack;
use super::pgd::{Pgd, PgdSettings};
use super::workspace::Retention::{Carried, Scratch};
use super::workspace::Workspace;
use crate::batch::Batch;
use crate::choice::choices;
use crate::device::Schedule;
use crate::model::{Mode, Model, ModelInPrecision};
use crate::tape::{AlongRule, Buffer, Direction, LossRule, Memory, Norm, Program, Tape, Value};

/// Start of the bisection. Its first sign is that of the loss at PGD's own point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SearchStart {
    /// PGD's eps. Along [`Direction::Unit`] that is not always PGD's own point: then the sign is that at eps.
    Eps,
    /// Half the upper bound.
    HalfMaxEps,
}

choices! {
    /// Point of the last bracket that becomes the boundary point.
    pub enum SearchResult {
        /// The middle, on either side of the boundary (released).
        Midpoint = "midpoint",
        /// The upper end, the nearest point known to be misclassified (paper).
        Adversarial = "adversarial",
    }
}

/// Settings of the bisection.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Loss whose zero is the boundary: negative where the example is classified correctly.
    pub loss: LossRule,
    /// Halvings of the bracket.
    pub steps: u32,
    /// Upper end of the first bracket.
    pub max_eps: f32,
    /// Start of the bisection.
    pub start: SearchStart,
    /// Norm of margins.
    pub norm: Norm,
    /// Unit of margins.
    pub direction: Direction,
    /// End of the last bracket that is the result.
    pub result: SearchResult,
    /// Mode of batch norm.
    pub mode: Mode,
}

/// AN-PGD recorded for a batch. Before a run, the buffers that [`Pgd`] reads are written.
#[derive(Clone, Debug)]
pub struct AnPgd {
    /// The attack that finds the direction.
    pub pgd: Pgd,
    /// Margin of each example `[n]`, in the norm's unit.
    pub margin: Buffer,
    /// Programs of PGD and of the search.
    pub schedule: Schedule,
    batch: Batch,
    search: Search,
}

/// Bracket of each example's margin, and the length that is tried next, each `[n]`.
struct Bracket {
    t: Buffer,
    low: Buffer,
    high: Buffer,
}

impl AnPgd {
    /// Records the search after `pgd` on `batch`.
    pub fn new(memory: &mut Memory, model: &dyn Model, batch: &Batch, pgd: Pgd, search: Search) -> AnPgd {
        AnPgd::record(&mut Workspace::new(memory, model, batch, "an-pgd"), pgd, search)
    }

    fn record(workspace: &mut Workspace, pgd: Pgd, search: Search) -> AnPgd {
        let [t, low, high] = ["t", "low", "high"].map(|part| workspace.scalars(Carried, part));
        let margin = match search.result {
            SearchResult::Midpoint => t.clone(),
            SearchResult::Adversarial => high.clone(),
        };
        let (model, bracket) = (workspace.model, Bracket { t, low, high });
        let schedule = pgd.schedule.clone();
        let mut an_pgd = AnPgd { pgd, margin, schedule, batch: workspace.batch.clone(), search };
        an_pgd.schedule.then(&Arc::new(an_pgd.start(model, &bracket)), 1);
        // The bracket is halved `steps` times, once by the sign at the start.
        an_pgd.schedule.then(&Arc::new(an_pgd.probe(model, &bracket)), search.steps - 1);
        let end = an_pgd.end(model, &bracket);
        if !end.nodes.is_empty() {
            an_pgd.schedule.then(&Arc::new(end), 1);
        }
        an_pgd
    }

    /// The first bracket, halved by the sign at the start.
    fn start(&self, model: &dyn Model, Bracket { t, low, high }: &Bracket) -> Program {
        let AnPgd { search, batch, .. } = self;
        let mut tape = batch.tape("search_start");
        let point = match (search.start, search.direction) {
            // PGD's point may lie nearer than eps, where the box cut it: its sign says nothing of the point at eps.
            (SearchStart::Eps, Direction::Unit) => self.point_at(&mut tape, &self.pgd.eps, true),
            _ => tape.leaf(&self.pgd.adv),
        };
        let loss = self.loss(&mut tape, model, point);
        let first = match search.start {
            SearchStart::Eps => {
                let eps = tape.leaf(&self.pgd.eps);
                tape.copy(eps)
            }
            SearchStart::HalfMaxEps => tape.fill(search.max_eps * 0.5, &t.dims),
        };
        tape.keep(first, t);
        fill(&mut tape, low, 0.0);
        fill(&mut tape, high, search.max_eps);
        tape.bisect(search.max_eps, loss, t, low, high);
        tape.finish()
    }

    /// One halving.
    fn probe(&self, model: &dyn Model, Bracket { t, low, high }: &Bracket) -> Program {
        let mut tape = self.batch.tape("search_probe");
        let point = self.point_at(&mut tape, t, true);
        let loss = self.loss(&mut tape, model, point);
        tape.bisect(self.search.max_eps, loss, t, low, high);
        tape.finish()
    }

    /// Logits of the last midpoint, as the released code evaluates it. Nothing reads them, but batch norm in training
    /// mode takes the midpoint into its running statistics; without it the program is empty.
    fn end(&self, model: &dyn Model, bracket: &Bracket) -> Program {
        let mut tape = self.batch.tape("search_end");
        let point = self.point_at(&mut tape, &bracket.t, true);
        model.logits(&mut tape, point, self.search.mode);
        tape.finish()
    }

    fn loss(&self, tape: &mut Tape, model: &dyn Model, point: Value) -> Value {
        let logits = model.logits(tape, point, self.search.mode);
        let labels = tape.leaf(&self.batch.labels);
        tape.loss(self.search.loss, logits, labels)
    }

    /// AN-PGD as a minimum-norm attack: PGD in a ball of radius `eps` for all, then the search between there and
    /// `search.max_eps`. The result is the upper end of the last bracket, the nearest point known to be misclassified.
    /// PGD is in the model's precision, the search in single precision: in half, the boundary would be another.
    pub fn attack(
        memory: &mut Memory,
        model: &ModelInPrecision,
        batch: &Batch,
        settings: &PgdSettings,
        search: Search,
        [eps, step]: [f32; 2],
        run: &Buffer,
    ) -> Attack {
        let search = Search {
            start: SearchStart::Eps,
            direction: Direction::Unit,
            result: SearchResult::Adversarial,
            mode: Mode::Eval,
            ..search
        };
        let mut workspace = Workspace::new(memory, model, batch, "an-pgd");
        let pgd = Pgd::untargeted(&mut workspace, settings);
        workspace.model = model.itself();
        let an_pgd = AnPgd::record(&mut workspace, pgd, search);
        workspace.model = model;
        let adv = workspace.images(Scratch, "boundary_point");
        let mut ball = batch.tape("an_pgd_ball");
        fill(&mut ball, &an_pgd.pgd.eps, eps);
        fill(&mut ball, &an_pgd.pgd.step, step);
        let mut result = batch.tape("an_pgd_result");
        let point = an_pgd.boundary_point(&mut result, true);
        result.keep(point, &adv);
        let mut schedule = Schedule::default();
        schedule.then(&Arc::new(ball.finish()), 1);
        schedule.extend(&an_pgd.schedule);
        schedule.then(&Arc::new(result.finish()), 1);
        workspace.attack(run.clone(), None, adv, schedule)
    }

    /// Records the point on each example's boundary.
    pub fn boundary_point(&self, tape: &mut Tape, clamp: bool) -> Value {
        self.point_at(tape, &self.margin, clamp)
    }

    fn point_at(&self, tape: &mut Tape, t: &Buffer, clamp: bool) -> Value {
        let [x, adv, eps, t] = [&self.batch.x, &self.pgd.adv, &self.pgd.eps, t].map(|b| tape.leaf(b));
        let rule = AlongRule { norm: self.search.norm, direction: self.search.direction, clamp };
        tape.along_direction(rule, x, adv, eps, t)
    }
}
