//! Text of a bench's report.

use std::fmt;

use super::ceilings::{Reference, References};
use super::item::BenchItem;
use super::report::BenchReport;
use super::summary::{KernelTime, StepSummary};
use crate::text::{counted, si};

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BenchReport { device, model, rounds, compared_with, items, kernels, .. } = self;
        writeln!(f, "{device}; {model}; medians of {rounds}")?;
        let References { copy, product, graph_node_s } = compared_with;
        writeln!(f, "rates that items are compared with:")?;
        for (Reference { per_s, source }, name, unit) in [(copy, "copy", "B/s"), (product, "product", "FLOP/s")] {
            writeln!(f, "  {name:7}  {:>14}  {source}", format!("{}{unit}", si(*per_s)))?;
        }
        writeln!(f, "each item is compared with the rate that it comes nearer to; launches and kernels are a GPU's")?;
        let width = items.iter().map(|item| item.name.len()).max().unwrap_or(0);
        let turns = format!(
            "ops of a step, each alone, on operands that are in no cache: {} MB are touched between two uses of one",
            self.rotated_megabytes
        );
        for (title, group) in [
            ("a training step, every prediction correct", "step"),
            ("programs of a step, as they run in it", "program"),
            (&turns, "op"),
            ("attacks' own steps on a large batch", "attack"),
        ] {
            let own: Vec<&BenchItem> = items.iter().filter(|item| item.group == group).collect();
            if own.is_empty() {
                continue;
            }
            writeln!(f, "\n{title}")?;
            let columns = ["launches", "a step", "time", "time a step", "of the step", "B/s", "FLOP/s"];
            write!(f, "{:width$}", "")?;
            columns.iter().try_for_each(|column| write!(f, "  {column:>11}"))?;
            writeln!(f, "  {:>16}", "of")?;
            own.iter().try_for_each(|item| writeln!(f, "{}", item_line(item, width)))?;
        }
        if !kernels.is_empty() {
            writeln!(f, "\nkernels of a step, the longest first")?;
            let columns = ["launches", "time a step", "of the step", "B/s", "FLOP/s"];
            columns.iter().try_for_each(|column| write!(f, "{column:>11}  "))?;
            writeln!(f, "{:>16}", "of")?;
            kernels.iter().try_for_each(|kernel| writeln!(f, "{}", kernel_line(kernel)))?;
        }
        summary(f, &self.step, *graph_node_s)?;
        if !self.not_timed.is_empty() {
            let budget = self.budget_s.map_or(String::new(), |budget| format!(": the budget of {budget} s was spent"));
            writeln!(f, "\n{} not timed{budget}", counted(self.not_timed.len() as u64, "item"))?;
        }
        Ok(())
    }
}

/// Line that compares the step with the sum of its ops, if both were timed.
fn summary(f: &mut fmt::Formatter<'_>, step: &StepSummary, graph_node_s: Option<f64>) -> fmt::Result {
    let StepSummary { median_s, sum_of_ops_s, idle_share, launches, launches_s } = step;
    let Some((step, idle)) = median_s.zip(*idle_share) else { return Ok(()) };
    writeln!(
        f,
        "\na step {}; its ops, each alone, {} in sum; idle {}; {}",
        seconds(step),
        seconds(*sum_of_ops_s),
        idle_time(idle),
        counted(*launches, "launch")
    )?;
    if let Some((all, each)) = launches_s.zip(graph_node_s) {
        writeln!(f, "launches that do nothing, {} each, would take {}", seconds(each), seconds(all))?;
    }
    Ok(())
}

/// Share of the step in which no kernel runs. Ops that take longer alone than within the step leave no idle time to be
/// found.
fn idle_time(idle: f64) -> String {
    if idle >= 0.0 { share(idle) } else { "0.0 %: within the step, ops find operands in a cache".to_owned() }
}

fn item_line(item: &BenchItem, width: usize) -> String {
    let BenchItem { name, shape, kernels, launches, times_a_step, median_s, bytes, flops, .. } = item;
    let a_step = if *times_a_step == 0 { "-".to_owned() } else { seconds(item.seconds_a_step()) };
    let columns = [
        launches.to_string(),
        times_a_step.to_string(),
        seconds(*median_s),
        a_step,
        item.share_of_step.map_or("-".to_owned(), share),
        si(*bytes as f64 / median_s),
        si(*flops as f64 / median_s),
    ];
    let columns: String = columns.iter().map(|column| format!("  {column:>11}")).collect();
    let nearer = nearer(item.of_copy, item.of_product);
    format!("{name:width$}{columns}  {nearer}  {shape}  {}", kernels.join(", ")).trim_end().to_owned()
}

fn kernel_line(kernel: &KernelTime) -> String {
    let columns = [
        kernel.launches.to_string(),
        seconds(kernel.time_s),
        kernel.share_of_step.map_or("-".to_owned(), share),
        si(kernel.bytes_per_s),
        si(kernel.flops_per_s),
    ];
    let columns: String = columns.iter().map(|column| format!("{column:>11}  ")).collect();
    format!("{columns}{}  {}", nearer(kernel.of_copy, kernel.of_product), kernel.kernels.join(", "))
}

/// Larger one of the fractions of the two reference rates. The references are no peaks: an item that is faster than
/// one, such as an op whose operands fit a cache, has a multiple of it instead of a percentage.
fn nearer(of_copy: f64, of_product: f64) -> String {
    let (part, name) = if of_copy > of_product { (of_copy, "copy   ") } else { (of_product, "product") };
    let part = if part > 1.0 { format!("{part:.2} x") } else { share(part) };
    format!("{:>16}", format!("{part} {name}"))
}

fn share(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.2} us", 1e6 * s),
        s if s < 1.0 => format!("{:.3} ms", 1e3 * s),
        s => format!("{s:.3} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_share_of_a_step_is_negative() {
        assert_eq!(idle_time(0.031), "3.1 %");
        assert!(idle_time(-0.049).starts_with("0.0 %: "), "{}", idle_time(-0.049));
    }

    #[test]
    fn no_percentage_of_a_reference_rate_is_above_100() {
        assert_eq!(nearer(0.5, 0.998).trim(), "99.8 % product");
        assert_eq!(nearer(1.0, 0.2).trim(), "100.0 % copy");
        assert_eq!(nearer(1.306, 0.2).trim(), "1.31 x copy");
    }
}
