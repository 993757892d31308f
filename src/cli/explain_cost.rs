//! `maxmargin explain cost`: the predicted time of a training step on a GPU, by program and by kernel.

use std::collections::BTreeMap;

use crate::device::Schedule;
use crate::device::cuda::{GpuConstants, PredictedTime};
use crate::text::{counted, seconds};

/// Predicted times of a schedule as text: a line for each program and for each kernel, and the sum.
pub(super) fn cost(schedule: &Schedule, gpu: &GpuConstants) -> String {
    let mut kernels: BTreeMap<&str, (u64, PredictedTime)> = BTreeMap::new();
    let mut programs = Vec::new();
    for (program, times) in &schedule.stages {
        let launches = gpu.program_times(program, gpu.multiprocessors);
        for (kernel, time) in &launches {
            let (count, sum) = kernels.entry(kernel).or_default();
            *count += u64::from(*times);
            *sum = *sum + *time * *times;
        }
        let one: PredictedTime = launches.iter().map(|(_, time)| *time).sum();
        programs.push((program, *times, launches.len() as u64, one));
    }
    let (count, step) = kernels
        .values()
        .fold(Default::default(), |(count, step): (u64, PredictedTime), kernel| (count + kernel.0, step + kernel.1));
    let share = |time: PredictedTime| format!("{:.1} %", 100.0 * time.seconds / step.seconds);

    let mut text = format!("predicted for {}\n\nprograms of a step\n", gpu.description);
    text += &line(["runs", "launches", "a run", "a step", "of the step", "bound by"], "");
    for (program, times, launches, one) in programs {
        let all = one * times;
        let (runs, launches) = (times.to_string(), launches.to_string());
        let [a_run, a_step, share] = [seconds(one.seconds), seconds(all.seconds), share(all)];
        text += &line([&runs, &launches, &a_run, &a_step, &share, all.bound()], &program.name);
    }
    let mut kernels: Vec<_> = kernels.into_iter().collect();
    kernels.sort_by(|(_, a), (_, b)| b.1.seconds.total_cmp(&a.1.seconds));
    text += "\nkernels of a step, the longest first\n";
    text += &line(["", "launches", "a launch", "a step", "of the step", "bound by"], "");
    for (kernel, (launches, time)) in kernels {
        let note = if time.unmeasured_s > 0.0 { "  (not measured)" } else { "" };
        let [a_launch, a_step] = [seconds(time.seconds / launches as f64), seconds(time.seconds)];
        let columns = ["", &launches.to_string(), &a_launch, &a_step, &share(time), time.bound()];
        text += &line(columns, &format!("{kernel}{note}"));
    }
    let unmeasured = PredictedTime { seconds: step.unmeasured_s, ..step };
    text + &format!(
        "\na step: {}, {}; {} of it in kernels that no visit to a GPU has timed: their constants are guesses\n",
        counted(count, "launch"),
        seconds(step.seconds),
        share(unmeasured)
    )
}

/// A line of columns aligned to the right, and a name.
fn line(columns: [&str; 6], name: &str) -> String {
    let columns: String = columns.iter().map(|column| format!("{column:>12}")).collect();
    format!("{columns}  {name}").trim_end().to_owned() + "\n"
}
