//! Elementwise programs and their reductions along rows.

use crate::tape::Op;
use crate::tape::formula::{Formula, Reduction};
use crate::tape::graph::{Tape, Value};
use crate::tape::memory::{Buffer, DType};

impl Tape {
    /// [`Op::Map`]: `formula` of the inputs' numbers, of the longest input's shape.
    pub fn map<const N: usize>(&mut self, inputs: [Value; N], formula: impl FnOnce([Formula; N]) -> Formula) -> Value {
        let formula = formula(std::array::from_fn(Formula::input));
        let dims = self.longest(&inputs, &formula);
        self.check_formula(&inputs, &dims, &formula);
        self.op(Op::Map(formula), &inputs, &dims)
    }

    /// [`Op::Map`] in place: `formula` of what `buffer` holds and of the inputs' numbers. What a buffer of integers gets
    /// loses its fraction, and is 0 where it is negative.
    pub fn map_into<const N: usize>(
        &mut self,
        buffer: &Buffer,
        inputs: [Value; N],
        formula: impl FnOnce(Formula, [Formula; N]) -> Formula,
    ) {
        let formula = formula(Formula::old(), std::array::from_fn(Formula::input));
        let out = self.leaf(buffer);
        assert!(!inputs.contains(&out), "map_into: {} is read as `old`, not as an input", buffer.name);
        assert_ne!(buffer.dtype, DType::U8, "map_into: {} holds bytes", buffer.name);
        self.check_formula(&inputs, &buffer.dims, &formula);
        self.push(Op::Map(formula), &inputs, &[out]);
    }

    /// [`Op::Reduce`]: what `formula` of the inputs' numbers comes to along each row.
    pub fn reduce<const N: usize>(
        &mut self,
        reduction: Reduction,
        inputs: [Value; N],
        formula: impl FnOnce([Formula; N]) -> Formula,
    ) -> Value {
        let formula = formula(std::array::from_fn(Formula::input));
        let dims = self.longest(&inputs, &formula);
        self.check_formula(&inputs, &dims, &formula);
        self.op(Op::Reduce(reduction, formula), &inputs, &dims[..1])
    }

    /// The shape of the longest input that is no table; of two, the first.
    fn longest(&self, inputs: &[Value], formula: &Formula) -> Vec<usize> {
        let values = (inputs.iter().enumerate()).filter(|(i, _)| !formula.is_table(*i)).map(|(_, v)| self.dims(*v));
        let longest = values.reduce(|a, b| if b.iter().product::<usize>() > a.iter().product() { b } else { a });
        longest.expect("a formula has an input with rows").to_vec()
    }

    fn check_formula(&self, inputs: &[Value], dims: &[usize], formula: &Formula) {
        formula.check(inputs.len());
        let numbers = [DType::F32, DType::U32];
        for (i, &input) in inputs.iter().enumerate() {
            let found = self.dims(input);
            let fits = match formula.is_table(i) {
                true => found.len() == 1 || found[0] == dims[0],
                false => found == dims || found == &dims[..1] || found == [1],
            };
            assert!(fits, "a formula of shape {dims:?}: input {i} is {found:?}");
            assert!(numbers.contains(&self.dtype(input)), "a formula's input {i} is of bytes");
        }
    }
}
