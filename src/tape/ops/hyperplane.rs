//! FAB's projection onto a hyperplane inside the box.

use crate::tape::Op;
use crate::tape::graph::{Tape, Value};
use crate::tape::params::Norm;

impl Tape {
    /// [`Op::ProjectHyperplane`].
    pub fn project_hyperplane(&mut self, norm: Norm, z: Value, anchor: Value, w: Value, value: Value) -> Value {
        let alike = self.dims(z) == self.dims(anchor) && self.dims(z) == self.dims(w);
        assert!(alike, "project_hyperplane: z {:?}, anchor and w", self.dims(z));
        self.per_row(value, self.dims(z)[0], "project_hyperplane");
        self.same(Op::ProjectHyperplane(norm), &[z, anchor, w, value])
    }
}
