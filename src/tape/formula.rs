//! Formulas of numbers: what [`Op::Map`](super::Op::Map) and [`Op::Reduce`](super::Op::Reduce) compute of each element.
//!
//! An attack's bookkeeping (a step, a best point, a step size that is halved) is arithmetic on rows. It is written as
//! a formula where it is recorded, with the usual operators, and held as data: instructions for a machine with a stack,
//! which every device runs. So an attack is one file, and has no kernels of its own.

use std::fmt;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// Instructions that a formula may have.
pub const FORMULA_LENGTH: usize = 64;
/// Numbers that it may hold at once.
pub const FORMULA_DEPTH: usize = 8;
/// Inputs that it may read.
pub const FORMULA_INPUTS: usize = 8;

/// One step of a formula. It takes its operands from the stack, the last one uppermost, and leaves its result there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Instruction {
    /// An input's number of this element, of this row, or of all.
    Input(u8),
    /// What the buffer that is updated holds.
    Old,
    /// The place of the element in its row, from 0.
    Element,
    /// A constant.
    Number(f32),
    /// i -> the number at place i of a table, or of this row's; the nearest place if there is none.
    At(u8),
    /// a, b -> a + b.
    Add,
    /// a, b -> a - b.
    Sub,
    /// a, b -> a * b.
    Mul,
    /// a, b -> a / b.
    Div,
    /// a, b -> b if b < a, else a.
    Min,
    /// a, b -> b if a < b, else a.
    Max,
    /// a, b -> 1 if a < b, else 0.
    Less,
    /// a -> -a.
    Neg,
    /// a -> its magnitude.
    Abs,
    /// a -> 1, 0 or -1; 0 of not-a-number.
    Sign,
    /// a -> its square root.
    Sqrt,
    /// a -> e^a.
    Exp,
    /// a -> its natural logarithm.
    Ln,
    /// a -> its hyperbolic tangent.
    Tanh,
    /// a -> its cosine.
    Cos,
    /// a -> the largest whole number that is not larger.
    Floor,
    /// a -> the nearest whole number, the even one of two.
    Round,
    /// c, a, b -> a if c is not 0, else b.
    Select,
}

impl Instruction {
    /// How many numbers it takes.
    pub fn operands(self) -> usize {
        use Instruction::*;
        match self {
            Input(_) | Old | Element | Number(_) => 0,
            At(_) | Neg | Abs | Sign | Sqrt | Exp | Ln | Tanh | Cos | Floor | Round => 1,
            Add | Sub | Mul | Div | Min | Max | Less => 2,
            Select => 3,
        }
    }

    /// What it makes of them in words, for prints.
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

/// A formula: what one element of the result is.
#[derive(Clone, PartialEq)]
pub struct Formula {
    code: Vec<Instruction>,
}

impl Formula {
    fn leaf(instruction: Instruction) -> Formula {
        Formula { code: vec![instruction] }
    }

    /// The number of input `i`.
    pub fn input(i: usize) -> Formula {
        Formula::leaf(Instruction::Input(u8::try_from(i).expect("few inputs")))
    }

    /// What the buffer that is updated holds.
    pub fn old() -> Formula {
        Formula::leaf(Instruction::Old)
    }

    /// The place of the element in its row, from 0.
    pub fn element() -> Formula {
        Formula::leaf(Instruction::Element)
    }

    fn of(instruction: Instruction, operands: impl IntoIterator<Item = Formula>) -> Formula {
        let mut code: Vec<_> = operands.into_iter().flat_map(|operand| operand.code).collect();
        code.push(instruction);
        Formula { code }
    }

    fn one(&self, instruction: Instruction) -> Formula {
        Formula::of(instruction, [self.clone()])
    }

    fn two(&self, instruction: Instruction, other: impl Into<Formula>) -> Formula {
        Formula::of(instruction, [self.clone(), other.into()])
    }

    /// The smaller of two; this one where they cannot be compared.
    pub fn min(&self, other: impl Into<Formula>) -> Formula {
        self.two(Instruction::Min, other)
    }

    /// The larger of two; this one where they cannot be compared.
    pub fn max(&self, other: impl Into<Formula>) -> Formula {
        self.two(Instruction::Max, other)
    }

    /// Not less than `least`, not more than `most`.
    pub fn clamp(&self, least: impl Into<Formula>, most: impl Into<Formula>) -> Formula {
        self.max(least).min(most)
    }

    /// 1 where it is less than the other, else 0.
    pub fn less(&self, other: impl Into<Formula>) -> Formula {
        self.two(Instruction::Less, other)
    }

    /// `yes` where this is not 0, else `no`.
    pub fn select(&self, yes: impl Into<Formula>, no: impl Into<Formula>) -> Formula {
        Formula::of(Instruction::Select, [self.clone(), yes.into(), no.into()])
    }

    /// The number at this place (from 0) of `table`: an input `[k]`, or `[n, k]`, a table a row.
    ///
    /// # Panics
    /// `table` is not an input.
    pub fn index_into(&self, table: &Formula) -> Formula {
        let [Instruction::Input(table)] = table.code[..] else { panic!("index_into: a table is an input") };
        self.one(Instruction::At(table))
    }

    /// The magnitude.
    pub fn abs(&self) -> Formula {
        self.one(Instruction::Abs)
    }

    /// 1, 0 or -1.
    pub fn sign(&self) -> Formula {
        self.one(Instruction::Sign)
    }

    /// The square root.
    pub fn sqrt(&self) -> Formula {
        self.one(Instruction::Sqrt)
    }

    /// e to this power.
    pub fn exp(&self) -> Formula {
        self.one(Instruction::Exp)
    }

    /// The natural logarithm.
    pub fn ln(&self) -> Formula {
        self.one(Instruction::Ln)
    }

    /// The hyperbolic tangent.
    pub fn tanh(&self) -> Formula {
        self.one(Instruction::Tanh)
    }

    /// The cosine.
    pub fn cos(&self) -> Formula {
        self.one(Instruction::Cos)
    }

    /// Rounded down.
    pub fn floor(&self) -> Formula {
        self.one(Instruction::Floor)
    }

    /// Rounded to the nearest whole number, to the even one of two.
    pub fn round(&self) -> Formula {
        self.one(Instruction::Round)
    }

    /// The instructions, in order.
    pub fn code(&self) -> &[Instruction] {
        &self.code
    }

    /// Whether it reads what the buffer that is updated holds.
    pub fn reads_old(&self) -> bool {
        self.code.contains(&Instruction::Old)
    }

    /// Whether an input is a table: read by place, not by row.
    pub fn is_table(&self, input: usize) -> bool {
        self.code.iter().any(|i| matches!(i, Instruction::At(table) if usize::from(*table) == input))
    }

    /// The arithmetic of one element.
    pub fn flops(&self) -> usize {
        self.code.iter().filter(|i| i.operands() > 0).count()
    }

    /// Refuses what no device takes. A wrong formula is the program's own mistake.
    pub(super) fn check(&self, inputs: usize) {
        let count = self.code.len();
        assert!(count <= FORMULA_LENGTH, "a formula of {count} instructions; at most {FORMULA_LENGTH}: {self:?}");
        assert!(inputs <= FORMULA_INPUTS, "a formula of {inputs} inputs; at most {FORMULA_INPUTS}: {self:?}");
        let mut held = 0;
        for instruction in &self.code {
            held = held + 1 - instruction.operands();
            assert!(held <= FORMULA_DEPTH, "a formula holds more than {FORMULA_DEPTH} numbers at once: {self:?}");
        }
    }
}

impl fmt::Debug for Formula {
    /// As it would be written: `x0 + 2 * x1` with all its brackets.
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

/// An operator between formulas, references to them and numbers.
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

/// What is made of a formula's numbers along a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum, in double precision and in a fixed order, rounded once.
    Sum,
    /// The largest; -infinity of none. Not-a-number is passed over.
    Max,
    /// The smallest; infinity of none. Not-a-number is passed over.
    Min,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formula_is_written_as_usual_and_printed_with_all_its_brackets() {
        let [x, y] = [0, 1].map(Formula::input);
        let formula = (&x + 2.0 * y.sign()).clamp(0.0, 1.0) - x.less(&y).select(-&x, 3.0);
        assert_eq!(format!("{formula:?}"), "(min(max((x0 + (2 * sign(x1))), 0), 1) - select((x0 < x1), -x0, 3))");
        formula.check(2);
    }

    #[test]
    fn a_table_is_read_by_place() {
        let [x, table] = [0, 1].map(Formula::input);
        let formula = (x + 1.0).index_into(&table);
        assert_eq!(format!("{formula:?}"), "x1[(x0 + 1)]");
        assert!(formula.is_table(1) && !formula.is_table(0));
    }

    #[test]
    #[should_panic(expected = "a formula of 65 instructions; at most 64")]
    fn a_formula_that_is_too_long_is_refused() {
        (0..32).fold(Formula::input(0), |sum, _| sum + 1.0).check(1);
    }

    #[test]
    #[should_panic(expected = "holds more than 8 numbers at once")]
    fn a_formula_that_is_too_deep_is_refused() {
        (0..8).fold(Formula::input(0), |sum, _| Formula::input(0) + sum).check(1);
    }
}
