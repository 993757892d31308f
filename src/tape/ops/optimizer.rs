//! Optimizers, and the counter of steps.

use crate::tape::Op;
use crate::tape::graph::{Tape, Value};
use crate::tape::memory::Buffer;
use crate::tape::params::OptimizerRule;

impl Tape {
    /// [`Op::Adam`]; `state` is m and v.
    pub fn adam(
        &mut self,
        rule: OptimizerRule,
        gradients: &[Value],
        step: Value,
        params: &Buffer,
        state: &[Buffer; 2],
    ) {
        let inputs: Vec<Value> = gradients.iter().copied().chain([step]).collect();
        let outputs = [params, &state[0], &state[1]].map(|b| self.leaf(b));
        self.push(Op::Adam(rule), &inputs, &outputs);
    }

    /// [`Op::Sgd`].
    pub fn sgd(&mut self, rule: OptimizerRule, gradients: &[Value], step: Value, params: &Buffer, momentum: &Buffer) {
        let inputs: Vec<Value> = gradients.iter().copied().chain([step]).collect();
        let outputs = [params, momentum].map(|b| self.leaf(b));
        self.push(Op::Sgd(rule), &inputs, &outputs);
    }

    /// [`Op::Increment`].
    pub fn increment(&mut self, counter: &Buffer) {
        let counter = self.leaf(counter);
        self.push(Op::Increment, &[], &[counter]);
    }
}
