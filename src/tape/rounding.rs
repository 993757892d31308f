//! Study of precisions that no device has: programs whose layers read rounded operands.

use super::formula::Formula;
use super::graph::{Node, Value, ValueInfo};
use super::memory::{ALIGN_WORDS, DType};
use super::op::Op;
use super::plan::{Place, Program, Region};

impl Program {
    /// The program with the operands of products (activations, gradients and weights, the first layer's and the last
    /// one's, too) rounded to `bits` significant bits, ties to even, before each layer reads them: 11 bits as TF32, 8
    /// as bfloat16. Everything else stays single precision.
    pub fn with_rounded_operands(mut self, bits: u32) -> Program {
        for mut node in std::mem::take(&mut self.nodes) {
            for place in 0..node.inputs.len() {
                if is_factor(&node.op, place) {
                    let by_rows = node.op.filter_copy(place).is_none();
                    let exact = node.inputs[place];
                    node.inputs[place] = self.rounded(exact, bits, node.rows.filter(|_| by_rows));
                }
            }
            self.nodes.push(node);
        }
        self
    }

    /// Adds the rounding of a value, with a place of its own.
    fn rounded(&mut self, exact: Value, bits: u32, rows: Option<Value>) -> Value {
        let ValueInfo { dims, .. } = self.values[exact.0].clone();
        let bytes = dims.iter().product::<usize>() * DType::F32.size();
        self.values.push(ValueInfo { dims, dtype: DType::F32, home: None });
        self.places.push(Some(Place { region: Region::Workspace, offset: self.workspace, bytes }));
        self.workspace += bytes.next_multiple_of(4 * ALIGN_WORDS);
        let result = Value(self.values.len() - 1);
        // Veltkamp's splitting: of a number with 24 bits, its leading ones.
        let x = Formula::input(0);
        let scaled = &x * ((1u32 << (24 - bits)) + 1) as f32;
        let leading = &scaled - (&scaled - &x);
        self.nodes.push(Node { op: Op::Map(leading), inputs: vec![exact], outputs: vec![result], rows });
        result
    }
}

/// True if operand number `place` is a factor of an op's products: a weight of a layer, or what is multiplied by it.
fn is_factor(op: &Op, place: usize) -> bool {
    let multiplied = match op {
        Op::ConvPoolBackwardInput(_) => place == 0,
        _ => op.filter_copy(place + 1).is_some(),
    };
    multiplied || op.filter_copy(place).is_some()
}

#[cfg(test)]
mod tests {
    use crate::device::Device;
    use crate::device::cpu::Cpu;
    use crate::tape::graph::Tape;
    use crate::tape::memory::Memory;

    #[test]
    fn operands_are_rounded_to_the_nearest_number_of_few_bits() {
        let mut memory = Memory::default();
        let (x, w, y) = (memory.f32("x", &[5, 1]), memory.f32("w", &[1, 1]), memory.f32("y", &[5, 1]));
        let mut tape = Tape::new("product");
        let [from, weight] = [&x, &w].map(|buffer| tape.leaf(buffer));
        let product = tape.linear(from, weight);
        tape.keep(product, &y);
        let program = tape.finish().with_rounded_operands(11);
        let device: &mut dyn Device = &mut Cpu::new();
        device.allocate(&memory, &[&program]).unwrap();
        let unit = 0.5f32.powi(10);
        // Below half a unit, above it, ties to even, and a number that has few bits.
        let numbers = [1.0 + 0.49 * unit, 1.0 + 0.51 * unit, 1.0 + 0.5 * unit, 1.0 + 1.5 * unit, -3.0];
        device.write_f32(&x, &numbers).unwrap();
        device.write_f32(&w, &[-1.0]).unwrap();
        device.execute(&program).unwrap();
        let expected = [-1.0, -1.0 - unit, -1.0, -1.0 - 2.0 * unit, 3.0];
        assert_eq!(device.read_f32(&y).unwrap(), expected);
    }
}
