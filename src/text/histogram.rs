//! Histogram of margins for the terminal.

use crate::record::{MarginCounts, Margins};

/// Number of bins between 0 and the largest margin.
const BINS: usize = 10;

/// Lines of a histogram of `margins`, one a bin: its range, count, percentage, and a bar of at most `width` characters.
///
/// The first line counts misclassified images. Ten bins of equal width up to `max` follow, the largest margin that a
/// search can find (1.05 d_max); a margin on an edge counts in the bin below it. Margins above `max`, below 0 and NaN
/// have lines of their own if there are any, so that the counts add up to the number of images.
pub fn histogram(margins: &Margins, max: f32, width: usize) -> Vec<String> {
    let counts = MarginCounts::of(margins, max, BINS);
    let decimals = decimals(max / BINS as f32);
    let mut rows = vec![("misclassified".to_string(), counts.misclassified)];
    rows.extend(counts.bins.iter().enumerate().map(|(i, &count)| {
        let (low, high) = (counts.edge(i), counts.edge(i + 1));
        (format!("{low:.decimals$} to {high:.decimals$}"), count)
    }));
    let others = [
        (format!("above {max:.decimals$}"), counts.above),
        ("below 0".into(), counts.below),
        ("NaN".into(), counts.nan),
    ];
    rows.extend(others.into_iter().filter(|(_, count)| *count > 0));

    let most = rows.iter().map(|row| row.1).max().unwrap_or(0).max(1);
    let labels = rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
    let digits = most.to_string().len();
    let all = margins.values.len().max(1) as f64;
    let line = |(label, count): (String, usize)| {
        // A count above 0 has at least one character.
        let bar = "#".repeat((count as f64 / most as f64 * width as f64).ceil() as usize);
        let percent = 100.0 * count as f64 / all;
        format!("{label:<labels$}  {count:>digits$}  {percent:5.1} %  {bar}").trim_end().to_string()
    };
    rows.into_iter().map(line).collect()
}

/// Number of decimals that show two digits of a bin's width.
fn decimals(width: f32) -> usize {
    (1.0 - width.log10().floor()).clamp(1.0, 9.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(values: &[f32], max: f32, width: usize) -> Vec<String> {
        histogram(&Margins::zero_if_misclassified(values.to_vec()), max, width)
    }

    /// Count in the row that begins with `label`, if there is one.
    fn count(rows: &[String], label: &str) -> Option<usize> {
        let row = rows.iter().find(|row| row.starts_with(label))?;
        row[label.len()..].split_whitespace().next()?.parse().ok()
    }

    #[test]
    fn a_histogram_has_a_row_for_each_bin() {
        let mut margins = vec![0.0; 5];
        margins.extend([0.04, 0.1, 0.13]);
        margins.extend([1.0; 12]);
        let rows = counted(&margins, 1.0, 24);
        let expected = "\
misclassified   5   25.0 %  ##########
0.00 to 0.10    2   10.0 %  ####
0.10 to 0.20    1    5.0 %  ##
0.20 to 0.30    0    0.0 %
0.30 to 0.40    0    0.0 %
0.40 to 0.50    0    0.0 %
0.50 to 0.60    0    0.0 %
0.60 to 0.70    0    0.0 %
0.70 to 0.80    0    0.0 %
0.80 to 0.90    0    0.0 %
0.90 to 1.00   12   60.0 %  ########################";
        assert_eq!(rows.join("\n"), expected);
    }

    #[test]
    fn a_margin_on_an_edge_counts_in_the_bin_below_it() {
        let max = 0.4725_f32;
        for i in 1..=BINS {
            let edge = (f64::from(max) * i as f64 / BINS as f64) as f32;
            let rows = counted(&[edge, edge.next_up()], max, 10);
            let next = if i < BINS { format!("{edge:.3} to") } else { "above 0.472".into() };
            assert!(rows[i].contains("  1   50.0 %"), "edge {i}: {rows:?}");
            assert!(rows[i + 1].starts_with(&next) && rows[i + 1].contains("  1   50.0 %"), "edge {i}: {rows:?}");
        }
    }

    #[test]
    fn misclassified_images_have_a_row_of_their_own() {
        let values = vec![0.0, 0.2, f32::from_bits(1)];
        let rows = histogram(&Margins { values, correct: vec![false, false, true] }, 0.4725, 10);
        assert_eq!(count(&rows, "misclassified"), Some(2));
        assert_eq!(count(&rows, "0.000 to 0.047"), Some(1));
    }

    #[test]
    fn margins_out_of_range_and_nan_have_rows_of_their_own() {
        let rows = counted(&[-0.1, 0.5, f32::INFINITY, f32::NAN, f32::NEG_INFINITY, 0.2], 0.4, 10);
        assert_eq!(count(&rows, "below 0"), Some(2));
        assert_eq!(count(&rows, "above 0.400"), Some(2));
        assert_eq!(count(&rows, "NaN"), Some(1));
        assert_eq!(rows.len(), 1 + BINS + 3);
        assert_eq!(counted(&[0.2], 0.4, 10).len(), 1 + BINS, "no such row without such a margin");
    }

    #[test]
    fn edges_of_small_ranges_have_enough_decimals() {
        let rows = counted(&[0.002], 1.05 * 8.0 / 255.0, 10);
        assert!(rows[1].starts_with("0.0000 to 0.0033"), "{rows:?}");
        assert!(rows[10].starts_with("0.0296 to 0.0329"), "{rows:?}");
    }

    #[test]
    fn no_margins_give_empty_rows() {
        let rows = counted(&[], 0.4725, 10);
        assert_eq!(rows.len(), 1 + BINS);
        assert!(rows.iter().all(|row| row.ends_with("0    0.0 %")), "{rows:?}");
    }

    #[test]
    fn an_invalid_range_loses_no_margin() {
        for max in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let rows = counted(&[0.0, 0.5, f32::NAN], max, 10);
            let thirds = rows.iter().filter(|row| row.contains("33.3 %")).count();
            assert_eq!(thirds, 3, "{max}: {rows:?}");
        }
    }
}
