//! Ops that gather, scatter and select rows.

use maxmargin::tape::{DType, Op};

use super::support::{Array, OpCase, Random, exact, near};

/// Rows of every element type.
fn tables(rows: usize) -> [Array; 5] {
    let mut random = Random(5);
    [
        random.signed(&[rows]),
        random.signed(&[rows, 3, 5]),
        random.signed(&[rows, 28, 28, 1]),
        Array::u32((0..rows as u32).map(|i| i * 7 + 1)),
        Array::u8(&[rows, 4, 4, 3], (0..rows * 48).map(|_| random.word() as u8)),
    ]
}

#[test]
pub fn gather_rows() {
    for src in tables(7) {
        let index = Array::u32([6, 0, 3, 3, 1]);
        let dims = [&[5], &src.dims[1..]].concat();
        OpCase::new(Op::GatherRows).whole(&src).rows(&index).gives_rows(&dims, src.dtype).check(|n| {
            let row = |&at: &f64| src.values[at as usize * src.row()..][..src.row()].to_vec();
            vec![index.values[..n].iter().flat_map(row).map(exact).collect()]
        });
    }
}

#[test]
pub fn scatter_rows() {
    for (dst, src) in tables(7).iter().zip(tables(5)) {
        let index = Array::u32([6, 0, 3, 5, 1]);
        OpCase::new(Op::ScatterRows).rows(&src).rows(&index).updates_whole(dst).check(|n| {
            let mut values = dst.values.clone();
            for (src, &at) in src.values.chunks(src.row()).zip(&index.values[..n]) {
                values[at as usize * src.len()..][..src.len()].copy_from_slice(src);
            }
            vec![values.into_iter().map(exact).collect()]
        });
    }
}

/// 0, -0 and NaN are not negative. The indices beyond the count are unspecified.
#[test]
pub fn select_negative() {
    let corners = vec![-1.0, 0.0, -0.0, f64::NAN, -1e-45, f64::INFINITY, f64::NEG_INFINITY];
    let many = Random(7).signed(&[1031]).values;
    for values in [corners, vec![1.0; 5], vec![-2.0; 9], vec![-1.0; 513], many] {
        let values = Array::f32(&[values.len()], values);
        // The indices found are at the front. The op may write anything behind them.
        OpCase::new(Op::SelectNegative)
            .rows(&values)
            .gives_rows(&values.dims, DType::U32)
            .gives_whole(&[1], DType::U32)
            .check(|n| {
                let found: Vec<usize> = (0..n).filter(|&i| values.values[i] < 0.0).collect();
                let count = exact(found.len() as f64);
                let free = near(0.0, f64::INFINITY);
                let places = found.iter().map(|&i| exact(i as f64)).chain(std::iter::repeat(free)).take(n);
                vec![places.collect(), vec![count]]
            });
    }
}
