//! Elementwise programs and their reductions along rows.

use crate::tape::Op;
use crate::tape::formula::{Formula, Reduction};
use crate::tape::graph::{Tape, Value};
use crate::tape::memory::{Buffer, DType};

impl Tape {
    /// [`Op::Map`]: evaluates `formula` for each element. The result has the shape of the longest input.
    pub fn map<const N: usize>(&mut self, inputs: [Value; N], formula: impl FnOnce([Formula; N]) -> Formula) -> Value {
        let formula = formula(std::array::from_fn(Formula::input));
        let dims = self.longest(&inputs, &formula);
        self.check_formula(&inputs, &dims, &formula);
        self.op(Op::Map(formula), &inputs, &dims)
    }

    /// [`Op::Map`] in place: evaluates `formula` of the former content of `buffer` and of the inputs. A buffer of
    /// integers drops the fraction of a value; a negative value becomes 0.
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

    /// [`Op::Reduce`]: reduces the values of `formula` along each row.
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

    /// Shape of the longest input that is not a table; the first of several.
    fn longest(&self, inputs: &[Value], formula: &Formula) -> Vec<usize> {
        let values = (inputs.iter().enumerate()).filter(|(i, _)| !formula.is_table(*i)).map(|(_, v)| self.dims(*v));
        let longest = values.reduce(|a, b| if b.iter().product::<usize>() > a.iter().product() { b } else { a });
        longest.expect("a formula has an input that is not a table").to_vec()
    }

    /// Checks the shapes and types of a formula's inputs for a result of shape `dims`.
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
            assert!(numbers.contains(&self.dtype(input)), "input {i} of a formula holds bytes");
        }
    }
}
