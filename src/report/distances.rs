//! Accuracy over eps by the distances that minimum-norm attacks found: the percentage of images whose nearest
//! adversarial image lies farther than eps. It is known at every eps, and robust accuracy is at most as large.

use super::shown::ShownEvaluation;
use crate::Result;
use crate::evaluate::folder::read_image_results;
use crate::evaluate::image_results::ImageResult;

/// Number of points of a curve.
const POINTS: usize = 400;

/// Distances of an evaluation's images.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageDistances {
    /// Ascending distances: 0 for an image that is misclassified without an attack, infinite where no adversarial image
    /// was found.
    sorted: Vec<f32>,
}

impl ImageDistances {
    /// Distances of an evaluation; `None` if it has no minimum-norm attack, or its images have no records.
    ///
    /// # Errors
    /// The images' records have another form.
    pub fn of(shown: &ShownEvaluation) -> Result<Option<ImageDistances>> {
        let report = shown.report();
        if report.minimum_norm.is_empty() {
            return Ok(None);
        }
        let results = read_image_results(&shown.evaluation.path)?;
        // Former versions have margins in place of the distances if both were measured.
        let former = results.iter().all(|result| result.distance.is_none());
        if results.is_empty() || (former && report.margins.is_some()) {
            return Ok(None);
        }
        let distance = |result: &ImageResult| match result.distance.or(if former { result.margin } else { None }) {
            _ if result.found_eps == Some(0.0) => 0.0,
            Some(distance) if !distance.is_nan() => distance,
            _ => f32::INFINITY,
        };
        let mut sorted: Vec<f32> = results.iter().map(distance).collect();
        sorted.sort_by(f32::total_cmp);
        Ok(Some(ImageDistances { sorted }))
    }

    /// Largest distance that was found.
    pub fn largest(&self) -> f64 {
        self.sorted.iter().rev().find(|distance| distance.is_finite()).map_or(0.0, |distance| f64::from(*distance))
    }

    /// Percentage of images whose distance is larger than `eps`.
    fn farther_than(&self, eps: f64) -> f64 {
        let nearer = self.sorted.partition_point(|&distance| f64::from(distance) <= eps);
        100.0 * (self.sorted.len() - nearer) as f64 / self.sorted.len() as f64
    }

    /// Curve from 0 to `end`, as points of a plot.
    pub fn curve(&self, end: f64) -> Vec<(f64, f64)> {
        let eps = (0..=POINTS).map(|i| end * i as f64 / POINTS as f64);
        eps.map(|eps| (eps, self.farther_than(eps))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_falls_at_each_distance_and_ends_above_images_without_an_adversarial_one() {
        let distances = ImageDistances { sorted: vec![0.0, 1.0, 1.0, 2.0, f32::INFINITY] };
        assert_eq!([0.0, 0.99, 1.0, 2.0, 9.0].map(|eps| distances.farther_than(eps)), [80.0, 80.0, 40.0, 20.0, 20.0]);
        assert_eq!(distances.largest(), 2.0);
        let curve = distances.curve(4.0);
        assert_eq!((curve.len(), curve[0], curve[POINTS]), (POINTS + 1, (0.0, 80.0), (4.0, 20.0)));
        assert!(curve.is_sorted_by(|a, b| a.1 >= b.1));
    }
}
