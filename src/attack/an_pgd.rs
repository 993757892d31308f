//! AN-PGD (Algorithm 1): PGD within each example's ball finds a direction, a bisection along it finds the
//! boundary. Training and evaluation use it in two forms that differ in their settings alone
//! (the released code's `ANPGD` and `ANPGDForTest`, anpgd.py).

use std::sync::Arc;

use super::{Attack, Pgd, PgdSettings};
use crate::batch::Batch;
use crate::config::{Direction, SearchResult};
use crate::device::Schedule;
use crate::model::{Mode, Model, image_buffer};
use crate::tape::{Buffer, LossRule, Memory, Norm, Tape, Value};

/// Where the bisection starts. Its first sign is that of the loss at PGD's own point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SearchStart {
    /// At PGD's eps. Along [`Direction::Unit`] that is not always PGD's own point: then the sign is that at eps.
    Eps,
    /// At half the upper bound.
    HalfMaxEps,
}

/// How the boundary is searched for.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// The loss whose zero is the boundary: negative where the example is classified right.
    pub loss: LossRule,
    /// Halvings.
    pub steps: u32,
    /// Upper end of the bracket.
    pub max_eps: f32,
    /// Where it starts.
    pub start: SearchStart,
    /// What margins are measured in.
    pub norm: Norm,
    /// What the margin is a multiple of.
    pub direction: Direction,
    /// Which end of the last bracket is the result.
    pub result: SearchResult,
    /// Batch norm's mode.
    pub mode: Mode,
}

/// AN-PGD around a model. Whoever runs it fills what [`Pgd`] asks for.
#[derive(Clone, Debug)]
pub struct AnPgd {
    /// The attack that finds the direction.
    pub pgd: Pgd,
    /// The margin of each example `[n]`, in the norm's unit.
    pub margin: Buffer,
    /// PGD and the search.
    pub schedule: Schedule,
    target: Batch,
    search: Search,
}

impl AnPgd {
    /// Records the search after `pgd` on `target`.
    pub fn new(memory: &mut Memory, model: &dyn Model, target: &Batch, pgd: Pgd, search: Search) -> AnPgd {
        let n = target.capacity();
        let name = |part: &str| format!("{}.{part}", target.name);
        let [t, low, high] = ["t", "low", "high"].map(|part| memory.f32(&name(part), &[n]));
        let margin = match search.result {
            SearchResult::Midpoint => t.clone(),
            SearchResult::Adversarial => high.clone(),
        };
        let mut schedule = pgd.schedule.clone();
        let an_pgd = AnPgd { pgd, margin, schedule: Schedule::default(), target: target.clone(), search };

        let mut tape = Tape::new("search_start");
        tape.set_rows(&target.rows);
        let point = match (search.start, search.direction) {
            // PGD's point may lie nearer than eps, where the box cut it: its sign says nothing of the point at eps.
            (SearchStart::Eps, Direction::Unit) => an_pgd.point_at(&mut tape, &an_pgd.pgd.eps, true),
            _ => tape.leaf(&an_pgd.pgd.adv),
        };
        let logits = model.logits(&mut tape, point, search.mode);
        let labels = tape.leaf(&target.labels);
        let loss = tape.loss(search.loss, logits, labels);
        let first = match search.start {
            SearchStart::Eps => {
                let eps = tape.leaf(&an_pgd.pgd.eps);
                tape.copy(eps)
            }
            SearchStart::HalfMaxEps => tape.fill(search.max_eps * 0.5, &[n]),
        };
        tape.keep(first, &t);
        for (value, buffer) in [(0.0, &low), (search.max_eps, &high)] {
            let end = tape.fill(value, &[n]);
            tape.keep(end, buffer);
        }
        tape.bisect(search.max_eps, loss, &t, &low, &high);
        schedule.then(&Arc::new(tape.finish()), 1);

        let mut tape = Tape::new("search_probe");
        tape.set_rows(&target.rows);
        let probe = an_pgd.point_at(&mut tape, &t, true);
        let logits = model.logits(&mut tape, probe, search.mode);
        let labels = tape.leaf(&target.labels);
        let loss = tape.loss(search.loss, logits, labels);
        tape.bisect(search.max_eps, loss, &t, &low, &high);
        // The bracket is halved `steps` times, once by PGD's own point.
        schedule.then(&Arc::new(tape.finish()), search.steps - 1);

        // The released code also evaluates the last middle. Nobody reads its sign, but batch norm in training mode takes
        // it into the running statistics; where nothing is left of it, nothing is done.
        let mut tape = Tape::new("search_end");
        tape.set_rows(&target.rows);
        let middle = an_pgd.point_at(&mut tape, &t, true);
        model.logits(&mut tape, middle, search.mode);
        let program = tape.finish();
        if !program.nodes.is_empty() {
            schedule.then(&Arc::new(program), 1);
        }
        AnPgd { schedule, ..an_pgd }
    }

    /// AN-PGD as a minimum-norm attack: PGD in a ball of radius `eps` for all, then the search between there and
    /// `search.max_eps`; the result is the upper end of the last bracket, the nearest point known to be misclassified.
    pub fn attack(
        memory: &mut Memory,
        model: &dyn Model,
        target: &Batch,
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
        let pgd = Pgd::new(memory, model, target, settings);
        let an_pgd = AnPgd::new(memory, model, target, pgd, search);
        let adv = image_buffer(memory, model, "an-pgd.adv", target.capacity());
        let mut tape = Tape::new("an_pgd_ball");
        tape.set_rows(&target.rows);
        tape.map_into(&an_pgd.pgd.eps, [], |_, []| eps.into());
        tape.map_into(&an_pgd.pgd.step, [], |_, []| step.into());
        let mut schedule = Schedule::default();
        schedule.then(&Arc::new(tape.finish()), 1);
        schedule.extend(&an_pgd.schedule);
        let mut tape = Tape::new("an_pgd_result");
        tape.set_rows(&target.rows);
        let point = an_pgd.boundary_point(&mut tape, true);
        tape.keep(point, &adv);
        schedule.then(&Arc::new(tape.finish()), 1);
        Attack { name: "an-pgd".into(), eps: None, run: run.clone(), runs: 1, adv, state: Vec::new(), schedule }
    }

    /// Records the point on each example's boundary.
    pub fn boundary_point(&self, tape: &mut Tape, clamp: bool) -> Value {
        self.point_at(tape, &self.margin, clamp)
    }

    fn point_at(&self, tape: &mut Tape, t: &Buffer, clamp: bool) -> Value {
        let [x, adv, eps, t] = [&self.target.x, &self.pgd.adv, &self.pgd.eps, t].map(|b| tape.leaf(b));
        tape.along_direction(self.search.norm, self.search.direction, clamp, x, adv, eps, t)
    }
}
