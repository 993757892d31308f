//! Study of precisions that no device has: programs whose layers read rounded operands.

use super::formula::Formula;
use super::graph::{Node, Value, ValueInfo};
use super::memory::{ALIGN_WORDS, DType};
use super::op::Op;
use super::params::{HeadFeatures, HeadFusion, PgdFusion, StepLayer};
use super::plan::{Place, Program, Region};

impl Program {
    /// The program with the operands of products (activations, gradients and weights, the first layer's and the last
    /// one's, too) rounded to `bits` significant bits, ties to even, before each layer reads them: 11 bits as TF32, 8
    /// as bfloat16. Everything else stays single precision, values within an op too.
    pub fn with_rounded_operands(mut self, bits: u32) -> Program {
        for mut node in std::mem::take(&mut self.nodes) {
            for place in 0..node.inputs.len() {
                if let Some(factor) = factor(&node.op, place) {
                    let rows = node.rows.filter(|_| factor == Factor::Rows);
                    node.inputs[place] = self.rounded(node.inputs[place], bits, rows);
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

/// Factor of an op's products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Factor {
    /// A weight of a layer.
    Weight,
    /// Rows that are multiplied by a weight.
    Rows,
}

/// The factor that operand number `place` is, if it is one.
fn factor(op: &Op, place: usize) -> Option<Factor> {
    let [first_rows, weights] = match op {
        Op::ConvPoolBackwardInput(_) => [0, 2].map(|place| vec![place]),
        Op::TwoConvPools { .. } => [vec![0], vec![1, 3]],
        Op::Conv2dBackwardWeight(_) | Op::LinearBackwardWeight => [vec![0, 1], vec![]],
        Op::ConvPoolBackwardWeight(_) => [vec![0, 2], vec![]],
        Op::PgdStepFused(PgdFusion { layer: None, .. }) => return None,
        Op::PgdStepFused(PgdFusion { layer: Some(StepLayer::TwoConvPools { linear, .. }), .. }) => {
            [vec![1], [4, 6].into_iter().chain(linear.then_some(8)).collect()]
        }
        Op::PgdStepFused(_) => [1, 4].map(|place| vec![place]),
        Op::StandardizeConv2d(_) => [vec![], vec![1]],
        Op::HeadBackward(HeadFusion { features, .. }) => {
            let hidden = (*features == HeadFeatures::Hidden).then_some(1);
            [vec![0], hidden.into_iter().chain([features.operands()]).collect()]
        }
        _ if op.filter_copy(place).is_some() => return Some(Factor::Weight),
        _ => return op.filter_copy(place + 1).map(|_| Factor::Rows),
    };
    let weight = weights.contains(&place).then_some(Factor::Weight);
    weight.or(first_rows.contains(&place).then_some(Factor::Rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::device::cpu::Cpu;
    use crate::tape::graph::Tape;
    use crate::tape::loss::{Loss, LossRule};
    use crate::tape::memory::Memory;
    use crate::tape::params::{ConvFusion, ConvWindow, FirstLayerFusion, L2Order, Norm, PgdRule};

    /// Factors of ops that include several layers.
    #[test]
    fn a_fused_op_has_the_factors_of_its_layers() {
        let window = ConvWindow { padding: 1, stride: 1 };
        let rule = PgdRule { norm: Norm::Linf, l2_order: L2Order::BoxBall, l2_grad_floor: 1e-6 };
        let step = |layer| Op::PgdStepFused(PgdFusion { layer, from_norm: true, standardized: false, rule });
        let two = |linear| StepLayer::TwoConvPools { first: window, second: window, linear };
        let loss = LossRule { loss: Loss::Slm, confidence: 0.0 };
        let head = |features| Op::HeadBackward(HeadFusion { features, rule: loss, normalized: true });
        let layer = ConvFusion::alone(window);
        for (op, rows, weights) in [
            (step(None), vec![], vec![]),
            (step(Some(StepLayer::Conv(window))), vec![1], vec![4]),
            (step(Some(two(false))), vec![1], vec![4, 6]),
            (step(Some(two(true))), vec![1], vec![4, 6, 8]),
            (head(HeadFeatures::Relu), vec![0], vec![1]),
            (head(HeadFeatures::Hidden), vec![0], vec![1, 3]),
            (Op::StandardizeConv2d(FirstLayerFusion { along: None, layer, keeps_images: true }), vec![], vec![1]),
            (Op::Conv2d(window), vec![0], vec![1]),
            (Op::ConvPoolBackwardInput(window), vec![0], vec![2]),
            (Op::TwoConvPools { along: None, first: window, second: window }, vec![0], vec![1, 3]),
            (Op::Conv2dBackwardWeight(window), vec![0, 1], vec![]),
            (Op::ConvPoolBackwardWeight(window), vec![0, 2], vec![]),
            (Op::LinearBackwardWeight, vec![0, 1], vec![]),
        ] {
            let of = |kind| (0..10).filter(|&place| factor(&op, place) == Some(kind)).collect::<Vec<_>>();
            assert_eq!((of(Factor::Rows), of(Factor::Weight)), (rows, weights), "{op:?}");
        }
    }

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
