//! Text of a bench's report.

use std::fmt;

use super::ceilings::{Reference, References};
use super::item::BenchItem;
use super::report::BenchReport;
use super::summary::{KernelTime, StepSummary};
use crate::text::{counted, seconds, si};

/// Columns that the table has only for a GPU whose times can be predicted.
const PREDICTED: [&str; 2] = ["predicted", "error"];

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BenchReport { device, model, rounds, compared_with, items, kernels, predicted_for, .. } = self;
        writeln!(f, "{device}; {model}; medians of {rounds}")?;
        let References { copy, product, graph_node_s } = compared_with;
        writeln!(f, "rates that items are compared with:")?;
        for (Reference { per_s, source }, name, unit) in [(copy, "copy", "B/s"), (product, "product", "FLOP/s")] {
            writeln!(f, "  {name:7}  {:>14}  {source}", format!("{}{unit}", si(*per_s)))?;
        }
        writeln!(f, "each item is compared with the rate that it comes nearer to; launches and kernels are a GPU's")?;
        if let Some(gpu) = predicted_for {
            writeln!(f, "predicted times are those of explain cost for {gpu}")?;
        }
        let shown = |column: &&str| predicted_for.is_some() || !PREDICTED.contains(column);
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
            let columns = ["launches", "a step", "time", "predicted", "time a step", "of the step", "B/s", "FLOP/s"];
            write!(f, "{:width$}", "")?;
            columns.into_iter().filter(shown).try_for_each(|column| write!(f, "  {column:>11}"))?;
            writeln!(f, "  {:>16}", "of")?;
            own.iter().try_for_each(|item| writeln!(f, "{}", item_line(item, width)))?;
        }
        if !kernels.is_empty() {
            writeln!(f, "\nkernels of a step, the longest first")?;
            let columns = ["launches", "time a step", "predicted", "error", "of the step", "B/s", "FLOP/s"];
            columns.into_iter().filter(shown).try_for_each(|column| write!(f, "{column:>11}  "))?;
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
    let StepSummary { median_s, predicted_s, sum_of_ops_s, idle_share, launches, launches_s } = step;
    if let Some((median, predicted)) = median_s.zip(*predicted_s) {
        let (error, measured) = (error(predicted, median), seconds(median));
        writeln!(f, "\nthe step: predicted {}, measured {measured}, error {error}", seconds(predicted))?;
    }
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
    let BenchItem { name, shape, kernels, launches, times_a_step, median_s, predicted_s, bytes, flops, .. } = item;
    let a_step = if *times_a_step == 0 { "-".to_owned() } else { seconds(item.seconds_a_step()) };
    let columns = [
        Some(launches.to_string()),
        Some(times_a_step.to_string()),
        Some(seconds(*median_s)),
        predicted_s.map(seconds),
        Some(a_step),
        Some(item.share_of_step.map_or("-".to_owned(), share)),
        Some(si(*bytes as f64 / median_s)),
        Some(si(*flops as f64 / median_s)),
    ];
    let columns: String = columns.iter().flatten().map(|column| format!("  {column:>11}")).collect();
    let nearer = nearer(item.of_copy, item.of_product);
    format!("{name:width$}{columns}  {nearer}  {shape}  {}", kernels.join(", ")).trim_end().to_owned()
}

fn kernel_line(kernel: &KernelTime) -> String {
    let columns = [
        Some(kernel.launches.to_string()),
        Some(seconds(kernel.time_s)),
        kernel.predicted_s.map(seconds),
        kernel.predicted_s.map(|predicted| error(predicted, kernel.time_s)),
        Some(kernel.share_of_step.map_or("-".to_owned(), share)),
        Some(si(kernel.bytes_per_s)),
        Some(si(kernel.flops_per_s)),
    ];
    let columns: String = columns.iter().flatten().map(|column| format!("{column:>11}  ")).collect();
    format!("{columns}{}  {}", nearer(kernel.of_copy, kernel.of_product), kernel.kernels.join(", "))
}

/// Larger one of the fractions of the two reference rates. The references are no peaks: an item that is faster than
/// one, such as an op whose operands fit a cache, has a multiple of it instead of a percentage.
fn nearer(of_copy: f64, of_product: f64) -> String {
    let (part, name) = if of_copy > of_product { (of_copy, "copy   ") } else { (of_product, "product") };
    let part = if part > 1.0 { format!("{part:.2} x") } else { share(part) };
    format!("{:>16}", format!("{part} {name}"))
}

/// Error of a prediction relative to the measurement.
fn error(predicted: f64, measured: f64) -> String {
    format!("{:+.1} %", 100.0 * (predicted / measured - 1.0))
}

fn share(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
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
