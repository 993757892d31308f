//! Programs as text, for `maxmargin explain`.

use std::fmt;

use super::graph::Value;
use super::op::Op;
use super::plan::{Program, Region};

impl Program {
    /// Text of a value: its buffer's name, or `%` and its number.
    fn label(&self, value: Value) -> String {
        self.values[value.0].home.as_ref().map_or_else(|| format!("%{}", value.0), |b| b.name.clone())
    }

    /// Size of the workspace, then a line for each value in it: offset, bytes, shape.
    pub fn explain_memory(&self) -> String {
        let mut lines = format!("{}: workspace {} bytes\n", self.name, self.workspace);
        for (v, place) in self.places.iter().enumerate() {
            if let Some(place) = place.filter(|p| p.region == Region::Workspace) {
                let info = &self.values[v];
                lines += &format!(
                    "  %{v:<4} at {:>9} {:>9} bytes  {} {:?}\n",
                    place.offset,
                    place.bytes,
                    info.dtype.name(),
                    info.dims
                );
            }
        }
        lines
    }
}

impl fmt::Display for Program {
    /// One line an op: results and shape, name, operands.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} ops", self.name, self.nodes.len())?;
        for node in &self.nodes {
            let list = |values: &[Value]| values.iter().map(|&v| self.label(v)).collect::<Vec<_>>().join(", ");
            write!(f, "  {} {:?}", list(&node.outputs), self.values[node.outputs[0].0].dims)?;
            write!(f, " = {}({})", node.op.name(), list(&node.inputs))?;
            match &node.op {
                Op::Map(formula) => write!(f, " {formula:?}")?,
                Op::Reduce(reduction, formula) => write!(f, " {reduction:?} of {formula:?}")?,
                _ => {}
            }
            match node.rows {
                Some(rows) => writeln!(f, " for {} rows", self.label(rows))?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
