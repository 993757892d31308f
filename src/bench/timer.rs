//! Timing of programs on a device.

use std::sync::Arc;

use super::rotation::Rotation;
use crate::Result;
use crate::device::{Device, Schedule};
use crate::tape::Program;

/// Least seconds of one measurement; shorter work is repeated until it takes as long.
const LEAST_SECONDS: f64 = 5e-3;
/// Largest number of repetitions of short work, all of which are submitted to a GPU at once.
pub(super) const MOST_RUNS: usize = 512;

/// Median and least seconds of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunTime {
    pub median: f64,
    pub least: f64,
}

/// Timer of programs on a device. No other code of a bench measures time on a device.
pub(super) struct Timer<'a> {
    pub device: &'a mut dyn Device,
    pub rounds: usize,
    pub multiprocessors: usize,
}

impl Timer<'_> {
    /// Times a run of a program.
    pub fn time(&mut self, program: &Arc<Program>) -> Result<RunTime> {
        let once = in_turn(std::slice::from_ref(program), 1);
        self.device.replay(&once)?;
        let runs = enough_runs(self.device.time(&once)?);
        self.measure(&in_turn(std::slice::from_ref(program), runs), runs, None)
    }

    /// Times a run of an op on copies of its operands, which are in no cache when they are used. Returns the number of
    /// copies too.
    pub fn time_rotated(&mut self, op: &Program, rotation: &Rotation) -> Result<(RunTime, usize)> {
        let first = rotation.copies(op, 1);
        self.device.execute(&first.fill)?;
        let once = in_turn(&first.programs, 1);
        self.device.replay(&once)?;
        let runs = enough_runs(self.device.time(&once)?);
        let copies = rotation.copies(op, runs);
        self.device.execute(&copies.fill)?;
        // Every copy is used equally often.
        let count = copies.programs.len();
        let runs = runs.next_multiple_of(count);
        let time = self.measure(&in_turn(&copies.programs, runs), runs, copies.evict.as_ref())?;
        Ok((time, count))
    }

    /// Times a schedule of `runs` runs. The program `before` runs before each measurement and is not timed.
    pub fn measure(&mut self, schedule: &Schedule, runs: usize, before: Option<&Program>) -> Result<RunTime> {
        self.device.replay(schedule)?;
        let mut seconds = Vec::with_capacity(self.rounds);
        for _ in 0..self.rounds {
            if let Some(before) = before {
                self.device.execute(before)?;
            }
            seconds.push(self.device.time(schedule)? / runs as f64);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(RunTime { median: seconds[self.rounds / 2], least: seconds[0] })
    }
}

/// Schedule of `runs` runs, in which the programs take turns.
fn in_turn(programs: &[Arc<Program>], runs: usize) -> Schedule {
    let mut schedule = Schedule::default();
    programs.iter().cycle().take(runs).for_each(|program| schedule.then(program, 1));
    schedule
}

/// Number of runs in a measurement, if one run takes `seconds`.
fn enough_runs(seconds: f64) -> usize {
    (LEAST_SECONDS / seconds.max(1e-9)).ceil().clamp(1.0, MOST_RUNS as f64) as usize
}
