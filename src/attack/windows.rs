//! Square's windows: where they are in an image, and the relief that its l2 form puts into them.

use super::rows::{Workspace, length, number};
use crate::tape::{Buffer, Formula, Norm, Program, Tape, Value};

/// 1 or -1, for a number in [0, 1).
pub(super) fn sign(uniform: Formula) -> Formula {
    uniform.less(0.5).select(-1.0, 1.0)
}

/// `value` modulo `n`, for whole numbers.
pub(super) fn modulo(value: &Formula, n: usize) -> Formula {
    if n == 1 { number(0.0) } else { value - (value / n as f32).floor() * n as f32 }
}

/// Row and column of an element of an image `[h, w, c]`.
fn place([_, w, c]: [usize; 3]) -> [Formula; 2] {
    let row = (Formula::element() / (w * c) as f32).floor();
    let column = (Formula::element() / c as f32).floor() - &row * w as f32;
    [row, column]
}

/// 1 where `from` <= `value` < `from + count`, else 0, for whole numbers.
fn within(value: Formula, from: impl Into<Formula>, count: usize) -> Formula {
    let half = count as f32 / 2.0;
    (value - from - (half - 0.5)).abs().less(half)
}

/// Places of random numbers in a query's row: the window's, those of the window that is emptied, whether the relief lies
/// on its side; then a sign for each channel.
const WINDOW: usize = 0;
const EMPTIED: usize = 2;
const LYING: usize = 4;
/// Where the signs begin.
pub(super) const SIGNS: usize = 5;

/// A square window in images `[h, w, c]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct SearchWindow {
    pub image: [usize; 3],
    /// No more than the image's.
    pub side: usize,
}

impl SearchWindow {
    /// The first row or column (`axis` 0 or 1) of each example's window. As in AutoAttack, the last place that the image
    /// has room for is not taken, unless it is the only one.
    fn corner(&self, tape: &mut Tape, numbers: Value, window: usize, axis: usize) -> Value {
        let room = (self.image[axis] - self.side) as f32;
        let n = tape.dims(numbers)[0];
        let at = tape.fill((window + axis) as f32, &[n]);
        tape.map([at, numbers], |[at, numbers]| (at.index_into(&numbers) * room).floor())
    }

    fn inside_of(&self, tape: &mut Tape, like: Value, numbers: Value, window: usize) -> Value {
        let [top, left] = [0, 1].map(|axis| self.corner(tape, numbers, window, axis));
        let [row, column] = place(self.image);
        tape.map([like, top, left], |[_, top, left]| within(row, top, self.side) * within(column, left, self.side))
    }

    /// 1 inside each example's window, else 0, of the shape of `like`.
    pub fn inside(&self, tape: &mut Tape, like: Value, numbers: Value) -> Value {
        self.inside_of(tape, like, numbers, WINDOW)
    }

    /// 1 inside the window that is emptied.
    pub fn emptied(&self, tape: &mut Tape, like: Value, numbers: Value) -> Value {
        self.inside_of(tape, like, numbers, EMPTIED)
    }

    /// The relief of each example's window, of the shape of `like`; of no meaning outside the window.
    pub fn relief(&self, tape: &mut Tape, like: Value, numbers: Value, heights: &Buffer) -> Value {
        let [top, left] = [0, 1].map(|axis| self.corner(tape, numbers, WINDOW, axis));
        let at = [false, true].map(|across| {
            let [row, column] = place(self.image);
            tape.map([like, top, left, numbers], |[_, top, left, numbers]| {
                let lying = number(LYING as f32).index_into(&numbers).less(0.5);
                let (row, column) = (row - top, column - left);
                if across { lying.select(row, column) } else { lying.select(column, row) }
            })
        });
        relief(tape, self.side, at, heights)
    }
}

/// The tiles, five from top to bottom, that the l2 form's first point is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    image: [usize; 3],
    pub side: usize,
    first: usize,
    rows: usize,
    columns: usize,
}

impl Tiles {
    /// The tiles of images `[h, w, c]`.
    pub fn new(image: [usize; 3]) -> Tiles {
        let [h, w, _] = image;
        let side = (h / 5).max(1);
        Tiles { image, side, first: h.saturating_sub(5 * side) / 2, rows: h / side, columns: w / side }
    }

    /// Random numbers that they take: whether each lies on its side, then a sign for each channel of each.
    pub fn numbers(&self) -> usize {
        self.rows * self.columns * (1 + self.image[2])
    }

    /// A relief in each tile, each example's with its own signs, of the shape of `like`.
    pub fn change(&self, tape: &mut Tape, like: Value, numbers: Value, heights: &Buffer) -> Value {
        let Tiles { image, side, first, rows, columns } = *self;
        let first = first as f32;
        let [row, column] = place(image);
        let inside = tape.map([like], |[_]| within(row, first, rows * side) * within(column, first, columns * side));
        let [row, column] = place(image).map(|at| ((at - first) / side as f32).floor());
        let tile = tape.map([like], |[_]| row * columns as f32 + column);
        let at = [false, true].map(|across| {
            let [row, column] = place(image).map(|at| modulo(&(at - first), side));
            tape.map([tile, numbers], |[tile, numbers]| {
                let lying = tile.index_into(&numbers).less(0.5);
                if across { lying.select(row, column) } else { lying.select(column, row) }
            })
        });
        let relief = relief(tape, side, at, heights);
        let c = image[2];
        tape.map([inside, relief, tile, numbers], |[inside, relief, tile, numbers]| {
            let at = tile * c as f32 + modulo(&Formula::element(), c) + (rows * columns) as f32;
            inside.select(relief * sign(at.index_into(&numbers)), 0.0)
        })
    }
}

/// AutoAttack's `eta` at places `[i, j]` of a window: two hills, the lower one turned down, each falling by the
/// distance (of the larger coordinate) from its middle; of length 1 together.
fn relief(tape: &mut Tape, side: usize, [i, j]: [Value; 2], heights: &Buffer) -> Value {
    let upper = side / 2;
    let hills = [(0, upper), (upper, side - upper)];
    let [(up, above), (down, below)] = hills.map(|(from, rows)| {
        let squares: f64 = (0..rows * side).map(|at| height(side, at / side, at % side, rows).powi(2)).sum();
        let share = if upper == 0 { 1.0 } else { std::f64::consts::FRAC_1_SQRT_2 };
        ((from + rows / 2) as f32, (share / squares.sqrt()) as f32)
    });
    let heights = tape.leaf(heights);
    tape.map([i, j, heights], |[i, j, heights]| {
        let is_upper = || i.less(upper as f32);
        let from_middle = (&i - is_upper().select(up, down)).abs().max((j - (side / 2) as f32).abs());
        from_middle.index_into(&heights) * is_upper().select(above, -below)
    })
}

/// A hill of `rows` x `side` at row `i` and column `j`, before its length is made 1.
fn height(side: usize, i: usize, j: usize, rows: usize) -> f64 {
    let from_middle = i.abs_diff(rows / 2).max(j.abs_diff(side / 2));
    steps(side).skip(from_middle).sum()
}

/// By how much hills in a window of `side` rise at each distance from their middle, the middle first.
fn steps(side: usize) -> impl Iterator<Item = f64> {
    (1..=side / 2 + 1).map(|k| 1.0 / (k * k) as f64)
}

/// A hill's height by the distance from its middle: a table for each side of a window.
#[derive(Clone, Debug)]
pub(super) struct Heights {
    tables: Vec<(usize, Buffer)>,
}

impl Heights {
    /// Workspace for the tables of windows of these sides.
    pub fn new(room: &mut Workspace, sides: impl IntoIterator<Item = usize>) -> Heights {
        let mut tables: Vec<(usize, Buffer)> = Vec::new();
        for side in sides {
            if tables.iter().all(|(known, _)| *known != side) {
                tables.push((side, room.f32(&format!("heights_{side}"), &[side / 2 + 1])));
            }
        }
        Heights { tables }
    }

    /// The table for windows of `side`.
    pub fn of(&self, side: usize) -> &Buffer {
        &self.tables.iter().find(|(known, _)| *known == side).expect("every side that is used has its table").1
    }

    /// Writes the tables.
    pub fn program(&self) -> Program {
        /// How many steps a formula has room for.
        const AT_ONCE: usize = 10;
        let mut tape = Tape::new("square_heights");
        for (side, table) in &self.tables {
            let table = table.part(&table.name, 0, &[1, table.len()]);
            tape.map_into(&table, [], |_, []| number(0.0));
            for some in steps(*side).enumerate().collect::<Vec<_>>().chunks(AT_ONCE) {
                tape.map_into(&table, [], |old, []| {
                    let step =
                        |sum, &(at, step): &(usize, f64)| sum + Formula::element().less(at as f32 + 0.5) * step as f32;
                    some.iter().fold(old, step)
                });
            }
        }
        tape.finish()
    }
}

/// The point at distance `eps` `[n]` from `x` in the direction of `change`.
pub(super) fn point_at(tape: &mut Tape, x: Value, change: Value, eps: Value) -> Value {
    let long = length(tape, Norm::L2, [change], |[change]| change);
    tape.map([x, change, eps, long], |[x, change, eps, long]| x + change / (long + TINY) * eps)
}

/// What is added to lengths that are divided by.
pub(super) const TINY: f32 = 1e-12;
