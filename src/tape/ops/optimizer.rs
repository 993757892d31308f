//! Optimizers, and the counter of steps.

use crate::tape::Op;
use crate::tape::graph::{Tape, Value};
use crate::tape::memory::Buffer;
use crate::tape::params::OptimizerRule;

impl Tape {
    /// [`Op::FindOverflow`].
    pub fn find_overflow(&mut self, gradients: &[Value], step: Value, overflow: &Buffer, sums: &Buffer) {
        let inputs: Vec<Value> = gradients.iter().copied().chain([step]).collect();
        let outputs = [overflow, sums].map(|buffer| self.leaf(buffer));
        self.push(Op::FindOverflow, &inputs, &outputs);
    }

    /// [`Op::Adam`]; `state` is m and v. `operands` are the gradients, the step and, with a loss scale, the overflow.
    pub fn adam(&mut self, rule: OptimizerRule, operands: &[Value], params: &Buffer, state: &[Buffer; 2]) {
        let outputs = [params, &state[0], &state[1]].map(|b| self.leaf(b));
        self.push(Op::Adam(rule), operands, &outputs);
    }

    /// [`Op::Sgd`]; `operands` as those of [`Tape::adam`].
    pub fn sgd(&mut self, rule: OptimizerRule, operands: &[Value], params: &Buffer, momentum: &Buffer) {
        let outputs = [params, momentum].map(|b| self.leaf(b));
        self.push(Op::Sgd(rule), operands, &outputs);
    }

    /// [`Op::Increment`].
    pub fn increment(&mut self, counter: &Buffer) {
        let counter = self.leaf(counter);
        self.push(Op::Increment, &[], &[counter]);
    }
}
