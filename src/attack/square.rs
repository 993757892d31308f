//! Square (Andriushchenko et al., ECCV 2020) in linf and l2, as AutoAttack runs it: an attack that sees logits alone.
//!
//! Random search: each query changes a random square window of the best point so far; the change is kept where the
//! label's margin becomes smaller. The windows shrink as the search goes on. An adversarial example is left alone.
//! (AutoAttack draws the same window for every example of a batch; here each has its own.)

use std::sync::Arc;

use super::common::{TINY, copy_into, logit_margin};
use super::interface::Attack;
use super::search_window::{HillHeights, SIGNS, SearchWindow, Tiles, modulo, point_at, sign};
use super::workspace::Retention::{Carried, Scratch};
use super::workspace::Workspace;
use crate::batch::Batch;
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::rng::Purpose;
use crate::tape::{Buffer, Formula, L2Order, Memory, Norm, PgdRule, Program, Reduction, Tape, Value};

/// Settings of Square. The defaults are AutoAttack's.
#[derive(Clone, Debug, PartialEq)]
pub struct SquareSettings {
    /// Norm of the ball.
    pub norm: Norm,
    /// Queries after the first: 5,000.
    pub queries: u32,
    /// Fraction of the image that the first windows cover: 0.8.
    pub p_init: f32,
    /// Runs, each from another start: 1.
    pub restarts: u32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl SquareSettings {
    /// AutoAttack's settings.
    pub fn published(norm: Norm) -> SquareSettings {
        SquareSettings { norm, queries: 5000, p_init: 0.8, restarts: 1, seed: 0 }
    }

    /// Fraction of the image that query `i` (from 0) changes: halved as in AutoAttack's schedule of 10,000 queries,
    /// which is scaled to the number of queries.
    fn fraction(&self, i: u32) -> f64 {
        const HALVED_AFTER: [u64; 9] = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000];
        let at = u64::from(i) * 10_000 / u64::from(self.queries);
        let halvings = HALVED_AFTER.iter().filter(|after| at > **after).count();
        f64::from(self.p_init) / f64::from(1 << halvings)
    }

    /// Side of query `i`'s window, in an image of `h` x `w`.
    fn side(&self, i: u32, [h, w]: [usize; 2]) -> usize {
        let side = (self.fraction(i) * (h * w) as f64).sqrt().round_ties_even() as usize;
        let side = match self.norm {
            Norm::Linf => side.max(1),
            // Odd, so that it has a middle.
            Norm::L2 => side.max(3) | 1,
        };
        side.min(h).min(w)
    }
}

struct Square<'a> {
    model: &'a dyn Model,
    batch: &'a Batch,
    settings: &'a SquareSettings,
    run: Buffer,
    eps: Buffer,
    /// Best point, and its logit margin `[n]`: not negative where it is adversarial.
    adv: Buffer,
    best: Buffer,
    /// linf: point that is tried.
    candidate: Buffer,
    /// Number of the query, u32 `[1]`: the counter of its random numbers.
    query: Buffer,
    /// Random numbers of the start and of a query, `[n, ..]`.
    first_numbers: Buffer,
    numbers: Buffer,
    /// l2: tiles of the first point, and the tables that patterns are made of.
    tiles: Tiles,
    heights: HillHeights,
}

/// Records Square on `batch`.
pub fn square(memory: &mut Memory, model: &dyn Model, batch: &Batch, settings: &SquareSettings) -> Attack {
    let ([h, w, c], n) = (model.image(), batch.capacity());
    let sides: Vec<usize> = (0..settings.queries).map(|i| settings.side(i, [h, w])).collect();
    let tiles = Tiles::new([h, w, c]);
    let mut workspace = Workspace::new(memory, model, batch, "square");
    let (at_first, heights) = match settings.norm {
        Norm::Linf => (w * c, HillHeights::new(&mut workspace, [])),
        Norm::L2 => (tiles.numbers(), HillHeights::new(&mut workspace, sides.iter().copied().chain([tiles.side]))),
    };
    let square = Square {
        model,
        batch,
        settings,
        run: workspace.counter("run"),
        eps: workspace.scalars(Carried, "eps"),
        adv: workspace.images(Carried, "adv"),
        best: workspace.scalars(Carried, "best"),
        candidate: workspace.images(Scratch, "candidate"),
        query: workspace.counter("query"),
        first_numbers: workspace.numbers("first_numbers", &[n, at_first]),
        numbers: workspace.numbers("numbers", &[n, SIGNS + c]),
        tiles,
        heights,
    };
    let mut schedule = Schedule::default();
    if settings.norm == Norm::L2 {
        schedule.then(&Arc::new(square.heights.program()), 1);
    }
    schedule.then(&Arc::new(square.start()), 1);
    for same in sides.chunk_by(|a, b| a == b) {
        schedule.then(&Arc::new(square.query(same[0])), same.len() as u32);
    }
    Attack { runs: settings.restarts, ..workspace.attack(square.run, Some(square.eps), square.adv, schedule) }
}

impl Square<'_> {
    /// Logit margin at a point.
    fn margin(&self, tape: &mut Tape, point: Value) -> Value {
        let logits = self.model.logits(tape, point, Mode::Eval);
        logit_margin(tape, self.batch, logits)
    }

    /// Random numbers in [0, 1), as many a row as `numbers` has.
    fn draw(&self, tape: &mut Tape, numbers: &Buffer, step: &Buffer, purpose: Purpose) -> Value {
        let [like, step, index] = [numbers, step, &self.batch.index].map(|b| tape.leaf(b));
        let drawn = tape.uniform(like, step, index, self.settings.seed, purpose, false);
        tape.keep(drawn, numbers);
        drawn
    }

    /// First point, and its margin. linf: vertical stripes, each channel at one end of the ball. l2: tiles.
    fn start(&self) -> Program {
        let [_, w, c] = self.model.image();
        let mut tape = Tape::new("square_start");
        let run = tape.leaf(&self.run);
        tape.map_into(&self.query, [run], |_, [run]| run * self.settings.queries as f32);
        tape.set_rows(&self.batch.rows);
        let numbers = self.draw(&mut tape, &self.first_numbers, &self.run, Purpose::SquareStart);
        let [x, eps] = [&self.batch.x, &self.eps].map(|b| tape.leaf(b));
        let noise = match self.settings.norm {
            Norm::Linf => {
                tape.map([x, numbers], |[_, numbers]| sign(modulo(&Formula::element(), w * c).index_into(&numbers)))
            }
            Norm::L2 => {
                let change = self.tiles.change(&mut tape, x, numbers, self.heights.of(self.tiles.side));
                point_at(&mut tape, x, change, eps)
            }
        };
        let first = tape.pgd_start(self.settings.norm, x, eps, noise);
        tape.keep(first, &self.adv);
        let margin = self.margin(&mut tape, first);
        tape.keep(margin, &self.best);
        tape.finish()
    }

    /// A query that changes windows of `side`.
    fn query(&self, side: usize) -> Program {
        let mut tape = Tape::new(&format!("square_query_{side}"));
        tape.increment(&self.query);
        tape.set_rows(&self.batch.rows);
        let numbers = self.draw(&mut tape, &self.numbers, &self.query, Purpose::SquareQuery);
        let window = SearchWindow { image: self.model.image(), side };
        let candidate = match self.settings.norm {
            Norm::Linf => self.change_linf(&mut tape, numbers, window),
            Norm::L2 => self.change_l2(&mut tape, numbers, window),
        };
        let margin = self.margin(&mut tape, candidate);
        let best = tape.leaf(&self.best);
        let better = tape.map([margin, best], |[margin, best]| best.less(margin) * best.less(0.0));
        tape.map_into(&self.adv, [better, candidate], |old, [better, new]| better.select(new, old));
        tape.map_into(&self.best, [better, margin], |old, [better, new]| better.select(new, old));
        tape.finish()
    }

    /// linf's candidate: each channel of the window moves by 2 eps, up or down, and is projected into ball and box: to
    /// one of their ends.
    fn change_linf(&self, tape: &mut Tape, numbers: Value, window: SearchWindow) -> Value {
        let [x, adv, eps] = [&self.batch.x, &self.adv, &self.eps].map(|b| tape.leaf(b));
        let inside = window.changed(tape, x, numbers);
        let direction = tape.map([inside, numbers], |[inside, numbers]| {
            inside * sign((modulo(&Formula::element(), window.image[2]) + SIGNS as f32).index_into(&numbers))
        });
        let step = tape.map([eps], |[eps]| eps * 2.0);
        copy_into(tape, &self.candidate, adv);
        let rule = PgdRule { norm: Norm::Linf, l2_order: L2Order::BoxBall, l2_grad_floor: 0.0 };
        tape.pgd_step(rule, &self.candidate, x, direction, eps, step);
        tape.leaf(&self.candidate)
    }

    /// l2's candidate: a random pattern is added to the direction of the window's change, which gets the norm of what
    /// two windows had and of what the ball has left; the other window is emptied.
    fn change_l2(&self, tape: &mut Tape, numbers: Value, window: SearchWindow) -> Value {
        let [x, adv, eps] = [&self.batch.x, &self.adv, &self.eps].map(|b| tape.leaf(b));
        let [h, w, c] = window.image;
        let pixels = (h * w) as f32;
        let change = tape.map([adv, x], |[adv, x]| adv - x);
        let inside = window.changed(tape, x, numbers);
        let emptied = window.emptied(tape, x, numbers);
        let pattern = window.pattern(tape, x, numbers, self.heights.of(window.side));

        // Mean squares over the pixels of each channel `[n, c]`.
        let squares = tape.map([change, inside], |[change, inside]| &change * &change * inside);
        let here = tape.global_mean(squares);
        let squares =
            tape.map([change, inside, emptied], |[change, inside, emptied]| &change * &change * inside.max(emptied));
        let of_both = tape.global_mean(squares);
        let of_image = tape.reduce(Reduction::Sum, [change], |[change]| &change * &change);

        let content = tape.map([inside, pattern, change, numbers, here], |[inside, pattern, change, numbers, here]| {
            let channel = modulo(&Formula::element(), c);
            let sign = sign((&channel + SIGNS as f32).index_into(&numbers));
            let norm = (channel.index_into(&here) * pixels).sqrt();
            inside.select(pattern * sign + change / (norm + TINY), 0.0)
        });
        let squares = tape.map([content], |[content]| &content * &content);
        let of_content = tape.global_mean(squares);
        let factor = tape.map([of_content, of_both, of_image, eps], |[of_content, of_both, of_image, eps]| {
            let left = (&eps * &eps - of_image).max(0.0) / c as f32;
            (left + of_both * pixels).sqrt() / ((of_content * pixels).sqrt() + TINY)
        });
        let change =
            tape.map([inside, emptied, change, content, factor], |[inside, emptied, change, content, factor]| {
                let channel = modulo(&Formula::element(), c);
                inside.select(content * channel.index_into(&factor), emptied.select(0.0, change))
            });
        let point = point_at(tape, x, change, eps);
        tape.pgd_start(Norm::L2, x, eps, point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `p_selection` and the sides of `attack_single_run` in AutoAttack's square.py, for 5,000 queries on MNIST.
    #[test]
    fn windows_become_smaller_as_in_autoattack() {
        let settings = SquareSettings::published(Norm::Linf);
        let runs = |settings: &SquareSettings| {
            let sides: Vec<usize> = (0..settings.queries).map(|i| settings.side(i, [28, 28])).collect();
            sides.chunk_by(|a, b| a == b).map(|same| (same[0], same.len())).collect::<Vec<_>>()
        };
        assert_eq!(
            runs(&settings),
            [(25, 6), (18, 20), (13, 75), (9, 150), (6, 250), (4, 500), (3, 1000), (2, 2000), (1, 999),]
        );
        let l2 = SquareSettings::published(Norm::L2);
        assert_eq!(runs(&l2), [(25, 6), (19, 20), (13, 75), (9, 150), (7, 250), (5, 500), (3, 3999)]);
    }
}
