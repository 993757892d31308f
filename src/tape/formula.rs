//! Elementwise programs: formulas that [`Op::Map`](super::Op::Map) and [`Op::Reduce`](super::Op::Reduce) evaluate for
//! each element.
//!
//! The bookkeeping of an attack (a step, a best point, a step size that is halved) is arithmetic on rows. A formula is
//! written with the usual operators where it is recorded, and held as data: instructions for a stack machine, which
//! every device interprets. So an attack is one file and needs no kernels of its own.

use std::fmt;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// Maximum number of instructions of a formula.
pub const FORMULA_LENGTH: usize = 64;
/// Maximum number of values on the stack.
pub const FORMULA_DEPTH: usize = 8;
/// Maximum number of inputs of a formula.
pub const FORMULA_INPUTS: usize = 8;

/// Instruction of the stack machine. It takes its operands from the stack, the last one uppermost, and pushes its
/// result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Instruction {
    /// -> the value of an input for this element; or for this row, or for all elements.
    Input(u8),
    /// -> the former value of the element in the updated buffer.
    Old,
    /// -> the index of the element in its row, from 0.
    Element,
    /// -> a constant.
    Number(f32),
    /// i -> entry i of a table, or of this row's table. The index is clamped to the table; NaN reads entry 0.
    At(u8),
    /// a, b -> a + b.
    Add,
    /// a, b -> a - b.
    Sub,
    /// a, b -> a * b.
    Mul,
    /// a, b -> a / b.
    Div,
    /// a, b -> b if b < a, else a; a if either is NaN.
    Min,
    /// a, b -> b if a < b, else a; a if either is NaN.
    Max,
    /// a, b -> 1 if a < b, else 0.
    Less,
    /// a -> -a.
    Neg,
    /// a -> |a|.
    Abs,
    /// a -> 1, 0 or -1; 0 if a is NaN.
    Sign,
    /// a -> the square root of a.
    Sqrt,
    /// a -> e^a.
    Exp,
    /// a -> the natural logarithm of a.
    Ln,
    /// a -> the hyperbolic tangent of a.
    Tanh,
    /// a -> the cosine of a.
    Cos,
    /// a -> a rounded down to an integer.
    Floor,
    /// a -> a rounded to the nearest integer, ties to even.
    Round,
    /// c, a, b -> a if c is not 0, else b.
    Select,
}

impl Instruction {
    /// Number of operands.
    pub fn operands(self) -> usize {
        use Instruction::*;
        match self {
            Input(_) | Old | Element | Number(_) => 0,
            At(_) | Neg | Abs | Sign | Sqrt | Exp | Ln | Tanh | Cos | Floor | Round => 1,
            Add | Sub | Mul | Div | Min | Max | Less => 2,
            Select => 3,
        }
    }

    /// Text of the instruction applied to the texts of its operands.
    fn text(self, operands: &[String]) -> String {
        let infix = |sign: &str| format!("({} {sign} {})", operands[0], operands[1]);
        match self {
            Instruction::Input(i) => format!("x{i}"),
            Instruction::Old => "old".into(),
            Instruction::Element => "element".into(),
            Instruction::Number(number) => number.to_string(),
            Instruction::At(i) => format!("x{i}[{}]", operands[0]),
            Instruction::Add => infix("+"),
            Instruction::Sub => infix("-"),
            Instruction::Mul => infix("*"),
            Instruction::Div => infix("/"),
            Instruction::Less => infix("<"),
            Instruction::Neg => format!("-{}", operands[0]),
            other => format!("{other:?}({})", operands.join(", ")).to_lowercase(),
        }
    }
}

/// A formula for one element of a result: an elementwise program.
#[derive(Clone, PartialEq)]
pub struct Formula {
    code: Vec<Instruction>,
}

impl Formula {
    /// Formula of an instruction without operands.
    fn leaf(instruction: Instruction) -> Formula {
        Formula { code: vec![instruction] }
    }

    /// Value of input `i`.
    pub fn input(i: usize) -> Formula {
        Formula::leaf(Instruction::Input(u8::try_from(i).expect("few inputs")))
    }

    /// Former value of the element in the updated buffer.
    pub fn old() -> Formula {
        Formula::leaf(Instruction::Old)
    }

    /// Index of the element in its row, from 0.
    pub fn element() -> Formula {
        Formula::leaf(Instruction::Element)
    }

    /// `instruction` applied to `operands`.
    fn of(instruction: Instruction, operands: impl IntoIterator<Item = Formula>) -> Formula {
        let mut code: Vec<_> = operands.into_iter().flat_map(|operand| operand.code).collect();
        code.push(instruction);
        Formula { code }
    }

    /// A unary instruction applied to this formula.
    fn one(&self, instruction: Instruction) -> Formula {
        Formula::of(instruction, [self.clone()])
    }

    /// A binary instruction applied to this formula and another.
    fn two(&self, instruction: Instruction, other: impl Into<Formula>) -> Formula {
        Formula::of(instruction, [self.clone(), other.into()])
    }

    /// Smaller of two values; this one if either is NaN.
    pub fn min(&self, other: impl Into<Formula>) -> Formula {
        self.two(Instruction::Min, other)
    }

    /// Larger of two values; this one if either is NaN.
    pub fn max(&self, other: impl Into<Formula>) -> Formula {
        self.two(Instruction::Max, other)
    }

    /// Clamped to [`least`, `most`].
    pub fn clamp(&self, least: impl Into<Formula>, most: impl Into<Formula>) -> Formula {
        self.max(least).min(most)
    }

    /// 1 if it is less than the other value, else 0.
    pub fn less(&self, other: impl Into<Formula>) -> Formula {
        self.two(Instruction::Less, other)
    }

    /// `yes` if this value is not 0, else `no`.
    pub fn select(&self, yes: impl Into<Formula>, no: impl Into<Formula>) -> Formula {
        Formula::of(Instruction::Select, [self.clone(), yes.into(), no.into()])
    }

    /// Entry of `table` at this index, from 0. The table is an input `[k]`, or `[n, k]` with one table a row.
    ///
    /// # Panics
    /// If `table` is not an input.
    pub fn index_into(&self, table: &Formula) -> Formula {
        let [Instruction::Input(table)] = table.code[..] else { panic!("index_into: a table is an input") };
        self.one(Instruction::At(table))
    }

    /// Absolute value.
    pub fn abs(&self) -> Formula {
        self.one(Instruction::Abs)
    }

    /// 1, 0 or -1; 0 of NaN.
    pub fn sign(&self) -> Formula {
        self.one(Instruction::Sign)
    }

    /// Square root.
    pub fn sqrt(&self) -> Formula {
        self.one(Instruction::Sqrt)
    }

    /// e to the power of this value.
    pub fn exp(&self) -> Formula {
        self.one(Instruction::Exp)
    }

    /// Natural logarithm.
    pub fn ln(&self) -> Formula {
        self.one(Instruction::Ln)
    }

    /// Hyperbolic tangent.
    pub fn tanh(&self) -> Formula {
        self.one(Instruction::Tanh)
    }

    /// Cosine.
    pub fn cos(&self) -> Formula {
        self.one(Instruction::Cos)
    }

    /// Rounded down to an integer.
    pub fn floor(&self) -> Formula {
        self.one(Instruction::Floor)
    }

    /// Rounded to the nearest integer, ties to even.
    pub fn round(&self) -> Formula {
        self.one(Instruction::Round)
    }

    /// Instructions, in order.
    pub fn code(&self) -> &[Instruction] {
        &self.code
    }

    /// `true`: the formula reads the former content of the updated buffer.
    pub fn reads_old(&self) -> bool {
        self.code.contains(&Instruction::Old)
    }

    /// `true`: an input is a table, read by index.
    pub fn is_table(&self, input: usize) -> bool {
        self.code.iter().any(|i| matches!(i, Instruction::At(table) if usize::from(*table) == input))
    }

    /// Number of operations of one element.
    pub fn flops(&self) -> usize {
        self.code.iter().filter(|i| i.operands() > 0).count()
    }

    /// Panics if the formula exceeds a limit that all devices have.
    pub(super) fn check(&self, inputs: usize) {
        let count = self.code.len();
        assert!(count <= FORMULA_LENGTH, "a formula of {count} instructions; at most {FORMULA_LENGTH}: {self:?}");
        assert!(inputs <= FORMULA_INPUTS, "a formula of {inputs} inputs; at most {FORMULA_INPUTS}: {self:?}");
        let mut held = 0;
        for instruction in &self.code {
            held = held + 1 - instruction.operands();
            assert!(held <= FORMULA_DEPTH, "a formula holds more than {FORMULA_DEPTH} values at once: {self:?}");
        }
    }
}

impl fmt::Debug for Formula {
    /// The formula as it is written, with all brackets: `(x0 + (2 * x1))`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut stack: Vec<String> = Vec::new();
        for instruction in &self.code {
            let operands = stack.split_off(stack.len() - instruction.operands());
            stack.push(instruction.text(&operands));
        }
        f.write_str(&stack.concat())
    }
}

impl From<f32> for Formula {
    fn from(number: f32) -> Formula {
        Formula::leaf(Instruction::Number(number))
    }
}

impl From<&Formula> for Formula {
    fn from(formula: &Formula) -> Formula {
        formula.clone()
    }
}

/// Implements an operator between formulas, references to formulas and numbers.
macro_rules! operator {
    ($operator:ident, $method:ident) => {
        impl<T: Into<Formula>> $operator<T> for Formula {
            type Output = Formula;
            fn $method(self, other: T) -> Formula {
                self.two(Instruction::$operator, other)
            }
        }
        impl<T: Into<Formula>> $operator<T> for &Formula {
            type Output = Formula;
            fn $method(self, other: T) -> Formula {
                self.two(Instruction::$operator, other)
            }
        }
        impl $operator<Formula> for f32 {
            type Output = Formula;
            fn $method(self, other: Formula) -> Formula {
                Formula::from(self).two(Instruction::$operator, other)
            }
        }
        impl $operator<&Formula> for f32 {
            type Output = Formula;
            fn $method(self, other: &Formula) -> Formula {
                Formula::from(self).two(Instruction::$operator, other)
            }
        }
    };
}
operator!(Add, add);
operator!(Sub, sub);
operator!(Mul, mul);
operator!(Div, div);

impl Neg for Formula {
    type Output = Formula;
    fn neg(self) -> Formula {
        self.one(Instruction::Neg)
    }
}

impl Neg for &Formula {
    type Output = Formula;
    fn neg(self) -> Formula {
        self.one(Instruction::Neg)
    }
}

/// Reduction of a formula's values along a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Sum in double precision and in a fixed order, rounded once.
    Sum,
    /// Maximum; -infinity if there is no number. NaN is ignored, and -0 becomes 0.
    Max,
    /// Minimum; infinity if there is no number. NaN is ignored, and -0 becomes 0.
    Min,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formula_is_written_with_operators_and_printed_with_all_brackets() {
        let [x, y] = [0, 1].map(Formula::input);
        let formula = (&x + 2.0 * y.sign()).clamp(0.0, 1.0) - x.less(&y).select(-&x, 3.0);
        assert_eq!(format!("{formula:?}"), "(min(max((x0 + (2 * sign(x1))), 0), 1) - select((x0 < x1), -x0, 3))");
        formula.check(2);
    }

    #[test]
    fn a_table_is_read_by_index() {
        let [x, table] = [0, 1].map(Formula::input);
        let formula = (x + 1.0).index_into(&table);
        assert_eq!(format!("{formula:?}"), "x1[(x0 + 1)]");
        assert!(formula.is_table(1) && !formula.is_table(0));
    }

    #[test]
    #[should_panic(expected = "a formula of 65 instructions; at most 64")]
    fn a_formula_of_too_many_instructions_is_refused() {
        (0..32).fold(Formula::input(0), |sum, _| sum + 1.0).check(1);
    }

    #[test]
    #[should_panic(expected = "holds more than 8 values at once")]
    fn a_formula_of_too_many_values_at_once_is_refused() {
        (0..8).fold(Formula::input(0), |sum, _| Formula::input(0) + sum).check(1);
    }
}
