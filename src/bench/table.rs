//! A report for a person.

use std::fmt;

use super::{Item, Report};
use crate::report::si;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { device, model, rounds, megabytes, copies, peaks, items } = self;
        let turns = format!(
            "ops of a step, each alone, on {copies} copies of its values in turn; more than the copy is a cache's rate"
        );
        let size = peaks.product_size;
        writeln!(f, "{device}; {model}; medians of {rounds}")?;
        writeln!(
            f,
            "peaks, measured here: copy of {megabytes} MB {}B/s, read and written; matrix product \
             {size} x {size} x {size} {}FLOP/s",
            si(peaks.copy_bytes_per_s),
            si(peaks.product_flops_per_s)
        )?;
        writeln!(f, "each is compared with the peak that it comes nearer to; launches and kernels are a GPU's")?;
        let width = items.iter().map(|item| item.name.len()).max().unwrap_or(0);
        for (title, group) in [
            ("attacks' own steps on a large batch", "attack"),
            (&turns, "op"),
            ("programs of a step, as they run in it", "program"),
            ("a training step, every example right", "step"),
        ] {
            let own: Vec<&Item> = items.iter().filter(|item| item.group == group).collect();
            if own.is_empty() {
                continue;
            }
            writeln!(f, "\n{title}")?;
            let columns = ["launches", "a step", "time", "time a step", "B/s", "FLOP/s"];
            write!(f, "{:width$}", "")?;
            columns.iter().try_for_each(|column| write!(f, "  {column:>11}"))?;
            writeln!(f, "  {:>16}", "of peak")?;
            own.iter().try_for_each(|item| writeln!(f, "{}", line(item, width)))?;
        }
        Ok(())
    }
}

fn line(item: &Item, width: usize) -> String {
    let Item { name, shape, kernels, launches, times_a_step, median_s, bytes, flops, of_copy, of_product, .. } = item;
    let a_step = if *times_a_step == 0 { "-".to_owned() } else { seconds(median_s * f64::from(*times_a_step)) };
    let columns = [
        launches.to_string(),
        times_a_step.to_string(),
        seconds(*median_s),
        a_step,
        si(*bytes as f64 / median_s),
        si(*flops as f64 / median_s),
    ];
    let columns: String = columns.iter().map(|column| format!("  {column:>11}")).collect();
    let peak = if of_copy > of_product { (of_copy, "copy   ") } else { (of_product, "product") };
    let peak = format!("{:.1} % {}", 100.0 * peak.0, peak.1);
    format!("{name:width$}{columns}  {peak:>16}  {shape}  {}", kernels.join(", ")).trim_end().to_owned()
}

fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.2} us", 1e6 * s),
        s if s < 1.0 => format!("{:.3} ms", 1e3 * s),
        s => format!("{s:.3} s"),
    }
}
