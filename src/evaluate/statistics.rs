//! Figures of a list of results: accuracy, mean, quantiles.

/// Percentage of `true` values; 0 for an empty list.
pub fn accuracy(values: &[bool]) -> f64 {
    if values.is_empty() { 0.0 } else { 100.0 * values.iter().filter(|v| **v).count() as f64 / values.len() as f64 }
}

/// Mean, summed in double precision; 0 for an empty list.
pub fn mean(values: &[f32]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64 }
}

/// Value below which the fraction `part` of the ascending values lie, linear between two neighbours; 0 for an empty
/// list.
pub(super) fn quantile(sorted: &[f32], part: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = part * last as f64;
    let (below, above) = (sorted[place as usize], sorted[(place as usize + 1).min(last)]);
    f64::from(below) + place.fract() * (f64::from(above) - f64::from(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_linear_between_two_neighbours() {
        assert_eq!([0.25, 0.5, 0.75].map(|part| quantile(&[1.0, 2.0, 3.0, 5.0], part)), [1.75, 2.5, 3.5]);
        assert_eq!(quantile(&[4.0], 0.75), 4.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
