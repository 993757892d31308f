//! Margins of a set of images, and histograms of them, small enough for a line of `metrics.jsonl`. Their display is not part of this module.

use serde::{Deserialize, Serialize};

/// Margins of a set of images, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Margins {
    /// Margin of each image.
    pub values: Vec<f32>,
    /// True for each image that is classified correctly without an attack.
    pub correct: Vec<bool>,
}

impl Margins {
    /// Margins that are 0 for the images that are misclassified without an attack, and for no others.
    pub fn zero_if_misclassified(values: Vec<f32>) -> Margins {
        let correct = values.iter().map(|&margin| margin != 0.0).collect();
        Margins { values, correct }
    }
}

/// Histogram of the margins of a set of images. The counts add up to the number of images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MarginCounts {
    /// Upper edge of the last bin: 1.05 d_max, the largest margin that a search can find.
    pub max: f32,
    /// Number of images that are misclassified without an attack. Their margins are in no bin.
    #[serde(rename = "wrong")]
    pub misclassified: usize,
    /// Numbers of margins in bins of equal width from 0 to `max`; a margin on an edge counts in the bin below it.
    pub bins: Vec<usize>,
    /// Number of margins larger than `max`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub above: usize,
    /// Number of margins less than 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub below: usize,
    /// Number of margins that are NaN.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nan: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl MarginCounts {
    /// Number of bins that a run records. d_max is an edge between two of them: 1.05 d_max is 42 times 0.025 d_max.
    pub const RECORDED: usize = 42;

    /// Counts `margins` in `bins` bins from 0 to `max`.
    pub fn of(margins: &Margins, max: f32, bins: usize) -> Self {
        let mut counts = MarginCounts { max, misclassified: 0, bins: vec![0; bins], above: 0, below: 0, nan: 0 };
        let edges: Vec<f32> = (0..=bins).map(|i| counts.edge(i)).collect();
        for (&margin, &correct) in margins.values.iter().zip(&margins.correct) {
            let count = match edges.partition_point(|&edge| edge < margin) {
                _ if !correct => &mut counts.misclassified,
                _ if margin.is_nan() => &mut counts.nan,
                _ if margin < 0.0 => &mut counts.below,
                bin => counts.bins.get_mut(bin.wrapping_sub(1)).unwrap_or(&mut counts.above),
            };
            *count += 1;
        }
        counts
    }

    /// Lower edge of bin `i`, which is the upper edge of bin `i - 1`.
    pub fn edge(&self, i: usize) -> f32 {
        (f64::from(self.max) * i as f64 / self.bins.len() as f64) as f32
    }

    /// Number of images counted.
    pub fn total(&self) -> usize {
        // Counts read from a file may have any value: their sum must not overflow.
        let others = [self.misclassified, self.above, self.below, self.nan];
        self.bins.iter().chain(&others).fold(0, |sum, &count| sum.saturating_add(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(values: &[f32], max: f32, bins: usize) -> MarginCounts {
        MarginCounts::of(&Margins::zero_if_misclassified(values.to_vec()), max, bins)
    }

    #[test]
    fn every_margin_is_counted_once() {
        let margins = [0.0, -0.0, 0.05, 0.1, 0.1f32.next_up(), 0.4, 0.5, -0.1, f32::NAN, f32::INFINITY];
        let found = counts(&margins, 0.4, 4);
        let expected = MarginCounts { max: 0.4, misclassified: 2, bins: vec![2, 1, 0, 1], above: 2, below: 1, nan: 1 };
        assert_eq!(found, expected);
        assert_eq!(found.total(), margins.len());
    }

    #[test]
    fn an_image_is_misclassified_whatever_margin_a_search_found_for_it() {
        let margins = Margins { values: vec![0.2, 0.0001, 0.4, f32::NAN], correct: vec![true, false, false, false] };
        let expected = MarginCounts { max: 0.4, misclassified: 3, bins: vec![1, 0], above: 0, below: 0, nan: 0 };
        assert_eq!(MarginCounts::of(&margins, 0.4, 2), expected);
    }

    #[test]
    fn d_max_is_an_edge_of_the_recorded_bins() {
        for d_max in [0.45f32, 4.0, 0.0471, 0.1255, 1.0, 3.0] {
            let max = (f64::from(d_max) * 1.05) as f32;
            let edge = counts(&[], max, MarginCounts::RECORDED).edge(40);
            assert!((edge - d_max).abs() <= 1e-6 * d_max, "{edge} and {d_max}");
        }
    }

    #[test]
    fn counts_of_margins_out_of_range_are_written_only_if_there_are_any() {
        let text = |margins: &[f32]| serde_json::to_string(&counts(margins, 0.5, 2)).unwrap();
        assert_eq!(text(&[0.0, 0.1]), r#"{"max":0.5,"wrong":1,"bins":[1,0]}"#);
        assert_eq!(text(&[0.6]), r#"{"max":0.5,"wrong":0,"bins":[0,0],"above":1}"#);
        let back: MarginCounts = serde_json::from_str(&text(&[0.0, 0.1, f32::NAN])).unwrap();
        assert_eq!(back, counts(&[0.0, 0.1, f32::NAN], 0.5, 2));
    }

    #[test]
    fn absurd_counts_of_a_file_do_not_overflow() {
        let absurd = MarginCounts { misclassified: usize::MAX, ..counts(&[0.1], 0.5, 2) };
        assert_eq!(absurd.total(), usize::MAX);
        assert!(counts(&[], 0.5, 0).edge(0).is_nan(), "without bins the edge is NaN, but nothing panics");
    }
}
