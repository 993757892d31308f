//! PGD, the bisection for the decision boundary, and their random numbers.

use crate::rng::Purpose;
use crate::tape::Op;
use crate::tape::graph::{Tape, Value};
use crate::tape::memory::Buffer;
use crate::tape::params::{AlongRule, Norm, PgdRule};

impl Tape {
    /// [`Op::Uniform`] of the shape of `like`.
    pub fn uniform(
        &mut self,
        like: Value,
        step: Value,
        index: Value,
        seed: u64,
        purpose: Purpose,
        signed: bool,
    ) -> Value {
        let dims = self.dims(like).to_vec();
        self.per_row(index, dims[0], "uniform");
        self.op(Op::Uniform { seed, purpose, signed }, &[step, index], &dims)
    }

    /// [`Op::PgdStart`].
    pub fn pgd_start(&mut self, norm: Norm, x: Value, eps: Value, noise: Value) -> Value {
        assert_eq!(self.dims(x), self.dims(noise), "pgd_start: x and noise");
        self.per_row(eps, self.dims(x)[0], "pgd_start");
        self.same(Op::PgdStart(norm), &[x, eps, noise])
    }

    /// [`Op::PgdStep`], which updates `adv`.
    pub fn pgd_step(&mut self, rule: PgdRule, adv: &Buffer, x: Value, dx: Value, eps: Value, step: Value) {
        let adv = self.leaf(adv);
        assert!(self.dims(adv) == self.dims(x) && self.dims(x) == self.dims(dx), "pgd_step: adv, x and dx");
        self.per_row(eps, self.dims(x)[0], "pgd_step");
        self.per_row(step, self.dims(x)[0], "pgd_step");
        self.push(Op::PgdStep(rule), &[x, dx, eps, step], &[adv]);
    }

    /// [`Op::AlongDirection`].
    pub fn along_direction(&mut self, rule: AlongRule, x: Value, adv: Value, ball: Value, t: Value) -> Value {
        assert_eq!(self.dims(x), self.dims(adv), "along_direction: x and adv");
        self.same(Op::AlongDirection(rule), &[x, adv, ball, t])
    }

    /// [`Op::Bisect`].
    pub fn bisect(&mut self, max_eps: f32, loss: Value, t: &Buffer, low: &Buffer, high: &Buffer) {
        let [t, low, high] = [t, low, high].map(|b| self.leaf(b));
        self.push(Op::Bisect { max_eps }, &[loss], &[t, low, high]);
    }
}
