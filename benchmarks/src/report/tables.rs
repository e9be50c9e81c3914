//! Markdown tables of results and of goals, for the document and for the terminal.

use std::fmt::Write as _;

use crate::goals::{Goal, Verdict};
use crate::quantity::Better;
use crate::results::Results;
use crate::stats::{median, spread};

/// Everything about one run: how it was measured, its tables, its goals.
pub(crate) fn whole(results: &Results, goals: &[Goal]) -> String {
    let mut text = format!("{}\n{}", conditions(results), quantities(results));
    if !goals.is_empty() {
        let _ = write!(text, "{GOALS_HEAD}{}", goal_rows(results, goals));
    }
    text
}

/// Commit, machine, load, and why not to trust the run.
pub(crate) fn conditions(results: &Results) -> String {
    let (machine, load) = (&results.machine, &results.load);
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let mut text = format!(
        "Commit `{}`, {} UTC, {} rounds. {}, {} cores, {} GiB, Linux {}. Load average before: {}. CPU time over the \
         measured slices: idle {}, other programs {}, taken by the host {}.\n",
        results.commit,
        results.finished,
        if results.quick { "short" } else { "long" },
        machine.cpu,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        load.loadavg_before,
        percent(load.idle),
        percent(load.foreign),
        percent(load.steal)
    );
    for reason in &results.noise {
        let _ = write!(text, "\n**Too noisy to trust:** {reason}.\n");
    }
    for note in &results.notes {
        let _ = write!(text, "\n{note}\n");
    }
    text
}

/// One table for each quantity: situations down, variants across, medians with their spread.
pub(crate) fn quantities(results: &Results) -> String {
    let mut text = String::new();
    for quantity in results.distinct(|_| true, |series| &series.quantity) {
        let of_quantity = |series: &crate::results::Series| series.quantity == quantity;
        let variants = results.distinct(of_quantity, |series| &series.variant);
        let Some(first) = results.series.iter().find(|series| series.quantity == quantity) else { continue };
        let better = match first.better {
            Better::Higher => "more is better",
            Better::Lower => "less is better",
        };

        let _ = write!(text, "\n| {quantity} ({}, {better}) |", first.unit);
        for variant in &variants {
            let _ = write!(text, " {variant} |");
        }
        let _ = write!(text, "\n|---|{}\n", "---:|".repeat(variants.len()));
        for what in results.distinct(of_quantity, |series| &series.what) {
            let _ = write!(text, "| {what} |");
            for variant in &variants {
                let _ = write!(text, " {} |", cell(results, what, quantity, variant));
            }
            text.push('\n');
        }
    }
    text
}

fn cell(results: &Results, what: &str, quantity: &str, variant: &str) -> String {
    let Some(series) = results.find(what, quantity, variant) else { return "–".into() };
    let middle = median(&series.values).map_or_else(|| "–".into(), figure);
    match spread(&series.values) {
        Some(spread) if series.values.len() > 1 => format!("{middle} ± {:.0} %", spread * 50.0),
        _ => middle,
    }
}

/// Head of the table of goals.
pub(crate) const GOALS_HEAD: &str = "
| bench | what | ours | peer | ratio (95 % interval) | goal | |
|---|---|---:|---:|---:|---:|---|
";

/// A row for each goal.
pub(crate) fn goal_rows(results: &Results, goals: &[Goal]) -> String {
    let mut text = String::new();
    for goal in goals {
        let judgement = goal.judge(results);
        let middle = |variant: &str| {
            let series = results.find(&goal.what, goal.quantity.name, variant)?;
            Some(format!("{} {}", figure(median(&series.values)?), series.unit))
        };
        let peer = goal.peer.map(|peer| format!("{}: {}", peer, middle(peer).unwrap_or_else(|| "–".into())));
        let interval = judgement.figure.map(|figure_of| {
            let bounds = figure_of.interval;
            let bounds = bounds.map(|(low, high)| format!(" ({} – {})", figure(low), figure(high)));
            format!("{}{}", figure(figure_of.estimate), bounds.unwrap_or_default())
        });
        let _ = writeln!(
            text,
            "| {} | {}: {} | {} | {} | {} | {} {} | {} |",
            results.bench,
            goal.what,
            goal.quantity.name,
            middle(goal.ours).unwrap_or_else(|| "–".into()),
            peer.unwrap_or_else(|| "–".into()),
            interval.unwrap_or_else(|| "–".into()),
            if goal.quantity.better == Better::Higher { "≥" } else { "≤" },
            figure(goal.bound),
            word(judgement.verdict)
        );
    }
    text
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met => "met",
        Verdict::Reached => "met, the interval reaches it",
        Verdict::Missed => "**missed**",
        Verdict::Void => "void: the requirement was not met",
        Verdict::Unknown => "not measured",
    }
}

/// A figure with three significant digits; thousands are separated.
pub(crate) fn figure(value: f64) -> String {
    let size = value.abs();
    if size >= 1000.0 {
        let digits = format!("{:.0}", size);
        let mut grouped = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        return if value < 0.0 { format!("-{grouped}") } else { grouped };
    }
    match size {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goals::tests::{goal, results};
    use crate::quantity::Quantity;

    #[test]
    fn figures_have_three_digits() {
        let figures = [1_234_567.8, 123.4, 12.34, 1.234, 0.1234].map(figure);
        assert_eq!(figures, ["1,234,568", "123", "12.3", "1.23", "0.123"]);
    }

    #[test]
    fn variants_stand_side_by_side() {
        let cpu = Quantity::lower("CPU", "µs");
        let found = results(&[("ours", cpu, &[2.0; 7]), ("floor", cpu, &[1.0; 7])]);
        let text = quantities(&found);
        assert!(text.contains("| CPU (µs, less is better) | ours | floor |"), "{text}");
        assert!(text.contains("| w | 2.00 ± 0 % | 1.00 ± 0 % |"), "{text}");
    }

    #[test]
    fn goal_row_shows_interval_and_verdict() {
        let cpu = Quantity::lower("CPU", "µs");
        let found = results(&[("ours", cpu, &[2.0; 7]), ("floor", cpu, &[1.0; 7])]);
        let row = goal_rows(&found, &[goal(Some("floor"), 1.25)]);
        let expected =
            "| b | w: CPU | 2.00 µs | floor: 1.00 µs | 2.00 (2.00 – 2.00) | ≤ 1.25 | **missed** |\n";
        assert_eq!(row, expected);
    }
}
