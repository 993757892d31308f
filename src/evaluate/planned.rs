//! Passes that are still to be done, from which the time left is estimated. Attacks run only on images that are still
//! robust, so the numbers are upper bounds.

use super::passes::Passes;

impl Passes {
    /// Forward and backward passes, which take about the same time.
    pub fn total(self) -> u64 {
        self.forward + self.backward
    }
}

/// Runs of an attack that are planned.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlannedRuns {
    /// Number of runs.
    pub runs: u32,
    /// Passes of a run for an image.
    pub passes: u64,
    /// True if a run is given only the images that are still robust.
    pub robust_only: bool,
}

/// Passes of all runs of an evaluation from each run on.
#[derive(Clone, Debug)]
pub(super) struct PlannedPasses {
    /// Passes for a robust image, and for any image, from each run on to the end; the last is 0.
    from: Vec<[u64; 2]>,
}

impl PlannedPasses {
    /// Plan of runs in their order.
    pub fn new(planned: &[PlannedRuns]) -> PlannedPasses {
        let mut from = vec![[0; 2]];
        for of_attack in planned.iter().rev() {
            for _ in 0..of_attack.runs {
                let [robust, any] = from[from.len() - 1];
                from.push(match of_attack.robust_only {
                    true => [robust + of_attack.passes, any],
                    false => [robust, any + of_attack.passes],
                });
            }
        }
        from.reverse();
        PlannedPasses { from }
    }

    /// Passes after the first `done` runs, given the numbers of robust images and of all that are attacked.
    pub fn left(&self, done: usize, robust: usize, all: usize) -> u64 {
        let [of_robust, of_any] = self.from[done.min(self.from.len() - 1)];
        of_robust * robust as u64 + of_any * all as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_passes_left_are_those_of_later_runs_on_the_images_that_each_is_given() {
        // Ten starts at each of two eps, and one run of a minimum-norm attack.
        let pgd = PlannedRuns { runs: 10, passes: 200, robust_only: true };
        let plan = PlannedPasses::new(&[pgd, pgd, PlannedRuns { runs: 1, passes: 1000, robust_only: false }]);
        assert_eq!(plan.left(0, 60, 90), 20 * 200 * 60 + 1000 * 90);
        assert_eq!(plan.left(13, 40, 90), 7 * 200 * 40 + 1000 * 90);
        assert_eq!((plan.left(20, 40, 90), plan.left(21, 40, 90)), (1000 * 90, 0));
    }
}
