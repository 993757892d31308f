//! Programs as text, for `maxmargin explain`.

use std::fmt;

use super::graph::{Node, Value};
use super::memory::DType;
use super::op::Op;
use super::plan::{Program, Region};

impl Program {
    /// Text of a value: its buffer's name, or `%` and its number.
    fn label(&self, value: Value) -> String {
        self.values[value.0].home.as_ref().map_or_else(|| format!("%{}", value.0), |b| b.name.clone())
    }

    /// Text of a result: its label, and its type if that is half precision.
    fn result(&self, value: Value) -> String {
        let half = if self.values[value.0].dtype == DType::F16 { " f16" } else { "" };
        self.label(value) + half
    }

    /// In a program that stores values in half precision, the reason why a result that an op could store so is single
    /// precision.
    fn why_single(&self, node: &Node) -> Option<String> {
        let (result, at) = (node.outputs[0], self.nodes.iter().position(|other| std::ptr::eq(other, node))?);
        let info = &self.values[result.0];
        if info.dtype != DType::F32 || !node.op.writes_half(0) || !self.stores_half() {
            return None;
        }
        let reads = |reader: &&Node| {
            let mut operands = reader.inputs.iter().enumerate();
            operands.any(|(place, value)| *value == result && !reader.op.reads_half(place))
        };
        Some(match self.nodes[at..].iter().find(reads) {
            _ if info.home.is_some() => "a buffer holds it".into(),
            Some(reader) => format!("{} reads it", reader.op.name()),
            None => "as the other operands".into(),
        })
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
    /// One line an op: results and shape, name, operands. With half precision, the reason of a single result.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} ops", self.name, self.nodes.len())?;
        for node in &self.nodes {
            let outputs: Vec<_> = node.outputs.iter().map(|&v| self.result(v)).collect();
            let inputs: Vec<_> = node.inputs.iter().map(|&v| self.label(v)).collect();
            write!(f, "  {} {:?}", outputs.join(", "), self.values[node.outputs[0].0].dims)?;
            write!(f, " = {}({})", node.op.name(), inputs.join(", "))?;
            match &node.op {
                Op::Map(formula) => write!(f, " {formula:?}")?,
                Op::Reduce(reduction, formula) => write!(f, " {reduction:?} of {formula:?}")?,
                Op::RowWise(steps) => {
                    let names: Vec<_> = steps.iter().map(|step| step.op.name()).collect();
                    write!(f, " of {}", names.join(", "))?;
                }
                _ => {}
            }
            if let Some(rows) = node.rows {
                write!(f, " for {} rows", self.label(rows))?;
            }
            match self.why_single(node) {
                Some(why) => writeln!(f, "; f32: {why}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
