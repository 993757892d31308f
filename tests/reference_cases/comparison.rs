//! The outcome of a comparison, and measures of the difference of arrays.

/// A measured error and its tolerance.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Name of the compared output.
    pub what: String,
    /// Measured error.
    pub error: f64,
    /// Largest error allowed.
    pub allowed: f64,
}

impl Comparison {
    /// Creates the outcome of a comparison.
    pub fn new(what: impl Into<String>, error: f64, allowed: f64) -> Comparison {
        Comparison { what: what.into(), error, allowed }
    }

    /// True if the error is allowed; NaN never is.
    pub fn passes(&self) -> bool {
        !exceeds(self.error, self.allowed)
    }

    /// The error relative to the tolerance, by which the worst comparison of a case is found.
    pub fn share(&self) -> f64 {
        match self.error {
            0.0 => 0.0,
            error if error.is_nan() => f64::INFINITY,
            error => error / self.allowed,
        }
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} off by {:.1e}, allowed {:.0e}", self.what, self.error, self.allowed)
    }
}

/// True if an error is above `allowed`, or NaN.
pub fn exceeds(error: f64, allowed: f64) -> bool {
    error.is_nan() || error > allowed
}

/// The largest error of the examples `held`, of which it names the worst.
pub fn worst(what: &str, held: &[usize], error: impl Fn(usize) -> f64, allowed: f64) -> Comparison {
    let error = |&i: &usize| Some(error(i)).filter(|error| !error.is_nan()).unwrap_or(f64::INFINITY);
    match held.iter().max_by(|a, b| error(a).total_cmp(&error(b))) {
        Some(i) => Comparison::new(format!("{what} of example {i}"), error(i), allowed),
        None => Comparison::new(what, 0.0, allowed),
    }
}

/// `norm(found - expected) / norm(expected)`, or `norm(found)` if `expected` is 0.
pub fn relative(found: &[f32], expected: &[f64]) -> f64 {
    let found: Vec<f64> = found.iter().map(|&v| f64::from(v)).collect();
    relative_f64(&found, expected)
}

/// [`relative`] of numbers in double precision.
pub fn relative_f64(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "numbers found and expected");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let off = norm(&mut found.iter().zip(expected).map(|(f, e)| f - e));
    let size = norm(&mut expected.iter().copied());
    if size == 0.0 { off } else { off / size }
}

/// Largest difference; NaN counts as infinite.
pub fn largest(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "numbers found and expected");
    let off = found.iter().zip(expected).map(|(&f, e)| (f64::from(f) - e).abs());
    off.map(|d| if d.is_nan() { f64::INFINITY } else { d }).fold(0.0, f64::max)
}

/// Share of the elements that differ by more than `distance`.
pub fn share_beyond(found: &[f32], expected: &[f64], distance: f64) -> f64 {
    assert_eq!(found.len(), expected.len(), "numbers found and expected");
    let near = found.iter().zip(expected).filter(|&(&f, e)| (f64::from(f) - e).abs() <= distance).count();
    1.0 - near as f64 / found.len() as f64
}
