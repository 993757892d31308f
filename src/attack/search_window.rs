//! Search windows of the Square attack: their positions in an image, and the patterns that the l2 form adds inside
//! them.

use super::common::{TINY, constant, fill, row_norm};
use super::workspace::Workspace;
use crate::tape::{Buffer, Formula, Norm, Program, Tape, Value};

/// 1 or -1, for a number in [0, 1).
pub(super) fn sign(uniform: Formula) -> Formula {
    uniform.less(0.5).select(-1.0, 1.0)
}

/// `value` modulo `n`, for whole numbers.
pub(super) fn modulo(value: &Formula, n: usize) -> Formula {
    if n == 1 { constant(0.0) } else { value - (value / n as f32).floor() * n as f32 }
}

/// Vertical and horizontal coordinate of an element of an image `[h, w, c]`.
fn coordinates([_, w, c]: [usize; 3]) -> [Formula; 2] {
    let i = (Formula::element() / (w * c) as f32).floor();
    let j = (Formula::element() / c as f32).floor() - &i * w as f32;
    [i, j]
}

/// 1 where `from` <= `value` < `from + count`, else 0, for whole numbers.
fn within(value: Formula, from: impl Into<Formula>, count: usize) -> Formula {
    let half = count as f32 / 2.0;
    (value - from - (half - 0.5)).abs().less(half)
}

/// First of a query's random numbers for the coordinates of the window that changes, then of the window that is
/// emptied; the number that says if the pattern is transposed; the first of the channels' signs.
const CHANGED: usize = 0;
const EMPTIED: usize = 2;
const TRANSPOSED: usize = 4;
pub(super) const SIGNS: usize = 5;

/// Square windows of one side in images `[h, w, c]`. Each example has windows of its own, at random positions.
#[derive(Clone, Copy, Debug)]
pub(super) struct SearchWindow {
    pub image: [usize; 3],
    /// Side of the window, no more than the image's.
    pub side: usize,
}

impl SearchWindow {
    /// First coordinate inside each example's window, vertical (`axis` 0) or horizontal (1). As in AutoAttack, a window
    /// never touches the image's last row or column, unless it is as large as the image.
    fn corner(&self, tape: &mut Tape, numbers: Value, window: usize, axis: usize) -> Value {
        let positions = (self.image[axis] - self.side) as f32;
        let n = tape.dims(numbers)[0];
        let at = tape.fill((window + axis) as f32, &[n]);
        tape.map([at, numbers], |[at, numbers]| (at.index_into(&numbers) * positions).floor())
    }

    fn mask(&self, tape: &mut Tape, like: Value, numbers: Value, window: usize) -> Value {
        let [top, left] = [0, 1].map(|axis| self.corner(tape, numbers, window, axis));
        let [i, j] = coordinates(self.image);
        tape.map([like, top, left], |[_, top, left]| within(i, top, self.side) * within(j, left, self.side))
    }

    /// Mask of each example's window, of the shape of `like`: 1 inside, else 0.
    pub fn changed(&self, tape: &mut Tape, like: Value, numbers: Value) -> Value {
        self.mask(tape, like, numbers, CHANGED)
    }

    /// Mask of the window that is emptied.
    pub fn emptied(&self, tape: &mut Tape, like: Value, numbers: Value) -> Value {
        self.mask(tape, like, numbers, EMPTIED)
    }

    /// Pattern inside each example's window, of the shape of `like`; without meaning outside the window.
    pub fn pattern(&self, tape: &mut Tape, like: Value, numbers: Value, heights: &Buffer) -> Value {
        let [top, left] = [0, 1].map(|axis| self.corner(tape, numbers, CHANGED, axis));
        let at = [false, true].map(|horizontal| {
            let [i, j] = coordinates(self.image);
            tape.map([like, top, left, numbers], |[_, top, left, numbers]| {
                let transposed = constant(TRANSPOSED as f32).index_into(&numbers).less(0.5);
                let (i, j) = (i - top, j - left);
                if horizontal { transposed.select(i, j) } else { transposed.select(j, i) }
            })
        });
        pattern(tape, self.side, at, heights)
    }
}

/// Tiles, five from top to bottom, that the l2 form's first point is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    image: [usize; 3],
    pub side: usize,
    /// First coordinate, vertical and horizontal.
    first: usize,
    /// Tiles from top to bottom, and from left to right.
    down: usize,
    across: usize,
}

impl Tiles {
    /// Tiles of images `[h, w, c]`.
    pub fn new(image: [usize; 3]) -> Tiles {
        let [h, w, _] = image;
        let side = (h / 5).max(1);
        Tiles { image, side, first: h.saturating_sub(5 * side) / 2, down: h / side, across: w / side }
    }

    /// Random numbers of an example: one that says if a tile's pattern is transposed, for each tile; then a sign for
    /// each channel of each tile.
    pub fn numbers(&self) -> usize {
        self.down * self.across * (1 + self.image[2])
    }

    /// Change of each example's image, of the shape of `like`: a pattern in each tile.
    pub fn change(&self, tape: &mut Tape, like: Value, numbers: Value, heights: &Buffer) -> Value {
        let Tiles { image, side, first, down, across } = *self;
        let first = first as f32;
        let [i, j] = coordinates(image);
        let inside = tape.map([like], |[_]| within(i, first, down * side) * within(j, first, across * side));
        let [i, j] = coordinates(image).map(|at| ((at - first) / side as f32).floor());
        let tile = tape.map([like], |[_]| i * across as f32 + j);
        let at = [false, true].map(|horizontal| {
            let [i, j] = coordinates(image).map(|at| modulo(&(at - first), side));
            tape.map([tile, numbers], |[tile, numbers]| {
                let transposed = tile.index_into(&numbers).less(0.5);
                if horizontal { transposed.select(i, j) } else { transposed.select(j, i) }
            })
        });
        let pattern = pattern(tape, side, at, heights);
        let c = image[2];
        tape.map([inside, pattern, tile, numbers], |[inside, pattern, tile, numbers]| {
            let at = tile * c as f32 + modulo(&Formula::element(), c) + (down * across) as f32;
            inside.select(pattern * sign(at.index_into(&numbers)), 0.0)
        })
    }
}

/// AutoAttack's `eta` at coordinates `[i, j]` of a window: two hills, the lower one negative, each falling with the
/// distance (linf) from its middle; of norm 1 together.
fn pattern(tape: &mut Tape, side: usize, [i, j]: [Value; 2], heights: &Buffer) -> Value {
    let upper = side / 2;
    let hills = [(0, upper), (upper, side - upper)];
    let [(up, above), (down, below)] = hills.map(|(from, extent)| {
        let squares: f64 = (0..extent * side).map(|at| height(side, at / side, at % side, extent).powi(2)).sum();
        let norm = if upper == 0 { 1.0 } else { std::f64::consts::FRAC_1_SQRT_2 };
        ((from + extent / 2) as f32, (norm / squares.sqrt()) as f32)
    });
    let heights = tape.leaf(heights);
    tape.map([i, j, heights], |[i, j, heights]| {
        let is_upper = || i.less(upper as f32);
        let from_middle = (&i - is_upper().select(up, down)).abs().max((j - (side / 2) as f32).abs());
        from_middle.index_into(&heights) * is_upper().select(above, -below)
    })
}

/// Height of a hill of `extent` x `side` at coordinates `i`, `j`, before its norm is made 1.
fn height(side: usize, i: usize, j: usize, extent: usize) -> f64 {
    let from_middle = i.abs_diff(extent / 2).max(j.abs_diff(side / 2));
    steps(side).skip(from_middle).sum()
}

/// Rise of a hill in a window of `side` at each distance from its middle, the middle first.
fn steps(side: usize) -> impl Iterator<Item = f64> {
    (1..=side / 2 + 1).map(|k| 1.0 / (k * k) as f64)
}

/// Heights of hills by the distance from their middle: a table for each side of a window.
#[derive(Clone, Debug)]
pub(super) struct HillHeights {
    tables: Vec<(usize, Buffer)>,
}

impl HillHeights {
    /// Tables for windows of these sides.
    pub fn new(workspace: &mut Workspace, sides: impl IntoIterator<Item = usize>) -> HillHeights {
        let mut tables: Vec<(usize, Buffer)> = Vec::new();
        for side in sides {
            if tables.iter().all(|(known, _)| *known != side) {
                tables.push((side, workspace.numbers(&format!("heights_{side}"), &[side / 2 + 1])));
            }
        }
        HillHeights { tables }
    }

    /// Table for windows of `side`.
    pub fn of(&self, side: usize) -> &Buffer {
        &self.tables.iter().find(|(known, _)| *known == side).expect("every side that is used has its table").1
    }

    /// Writes the tables.
    pub fn program(&self) -> Program {
        /// Steps in one formula: more would be longer than a device takes.
        const AT_ONCE: usize = 10;
        let mut tape = Tape::new("square_heights");
        for (side, table) in &self.tables {
            let table = table.part(&table.name, 0, &[1, table.len()]);
            fill(&mut tape, &table, 0.0);
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

/// Point at distance `eps` `[n]` from `x` in the direction of `change`.
pub(super) fn point_at(tape: &mut Tape, x: Value, change: Value, eps: Value) -> Value {
    let norm = row_norm(tape, Norm::L2, [change], |[change]| change);
    tape.map([x, change, eps, norm], |[x, change, eps, norm]| x + change / (norm + TINY) * eps)
}
