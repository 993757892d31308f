//! Launches of kernels/rows.cu.

use super::desc::{Desc, rows_of};
use crate::device::cuda::launch::{Arg, Cost, Launch};

/// Bytes that a thread copies, by the kernels' order: `_by1`, `_by4`, `_by16`.
const UNITS: [usize; 3] = [1, 4, 16];

/// A launch that copies `rows` rows from or to the rows of a table that an index names. The cost counts only these
/// rows.
fn by_index(desc: &Desc, kernels: [&'static str; 3], table: &[usize], rows: usize) -> Launch {
    let bytes = rows_of(table).1 * desc.input_dtype(0).size();
    // Offsets are multiples of the element's size, so units of 4 bytes only need rows of whole words.
    let unit = match bytes {
        _ if bytes.is_multiple_of(16) && desc.aligned() => 2,
        _ if bytes.is_multiple_of(4) && desc.aligned_to(4) => 1,
        _ => 0,
    };
    let row = bytes / UNITS[unit];
    let args = vec![Arg::Output(0), Arg::Input(0), Arg::Input(1), Arg::Rows, Arg::size(rows), Arg::size(row)];
    let cost = Cost { bytes: (rows * (2 * bytes + 4)) as u64, flops: 0 };
    Launch::each(kernels[unit], rows * row, args, cost)
}

pub(super) fn gather_rows(desc: &Desc) -> Launch {
    let kernels = ["gather_rows_by1", "gather_rows_by4", "gather_rows_by16"];
    by_index(desc, kernels, desc.input(0), desc.output(0)[0])
}

pub(super) fn scatter_rows(desc: &Desc) -> Launch {
    let kernels = ["scatter_rows_by1", "scatter_rows_by4", "scatter_rows_by16"];
    by_index(desc, kernels, desc.output(0), desc.input(0)[0])
}

pub(super) fn select_negative(desc: &Desc) -> Launch {
    let args = vec![Arg::Output(0), Arg::Output(1), Arg::Input(0), Arg::Rows, Arg::size(desc.input(0)[0])];
    Launch::new("select_negative", 1, args, desc.cost(0))
}
