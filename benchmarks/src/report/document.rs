//! The document: writes generated parts of docs/benchmarks.md between their markers, and plots beside it. Text outside
//! the markers is written by people and stays.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use test_runner::env::checkout;

use super::svg::{Bar, Chart, draw};
use super::tables;
use crate::bench::Plot;
use crate::benches::ALL;
use crate::results::Results;
use crate::stats::{median, quantile};

fn document() -> PathBuf {
    checkout().join("docs/benchmarks.md")
}

fn file(name: &str) -> PathBuf {
    checkout().join("docs/benchmarks").join(name)
}

/// Saves the results of one bench in place of its earlier ones.
pub(crate) fn save(results: &Results) -> Result<()> {
    fs::create_dir_all(file(""))?;
    results.save(&file(&format!("{}.json", results.bench)))
}

/// Writes all generated parts and plots from the saved results.
pub(crate) fn render() -> Result<()> {
    let path = document();
    let mut text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut goal_rows = String::new();
    for bench in ALL {
        let goals = (bench.goals)();
        let Some(results) = Results::load(&file(&format!("{}.json", bench.name)))? else { continue };
        goal_rows += &tables::goal_rows(&results, &goals);
        let mut part = format!("{}{}", tables::conditions(&results), tables::quantities(&results));
        for plot in bench.plots {
            let name = format!("{}-{}.svg", bench.name, plot.file);
            fs::write(file(&name), draw(&chart(&results, plot)))?;
            part += &format!("\n![{}](benchmarks/{name})\n", plot.title);
        }
        text = replaced(&text, bench.name, &part)?;
    }

    text = replaced(&text, "goals", &format!("{}{goal_rows}", tables::GOALS_HEAD))?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Replaces the text between the markers of this name.
fn replaced(text: &str, name: &str, part: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- begin {name} -->"), format!("<!-- end {name} -->"));
    let missing = || format!("docs/benchmarks.md lacks the line {begin} or {end}: put both back");
    let (before, rest) = text.split_once(&begin).with_context(missing)?;
    let (_, after) = rest.split_once(&end).with_context(missing)?;
    Ok(format!("{before}{begin}\n{}\n\n{end}{after}", part.trim()))
}

fn chart(results: &Results, plot: &Plot) -> Chart {
    let shown = |series: &crate::results::Series| {
        series.quantity == plot.quantity && series.what.contains(plot.situations)
    };
    let variants = results.distinct(shown, |series| &series.variant);
    let bar = |what: &str, variant: &str| {
        let series = results.find(what, plot.quantity, variant)?;
        let divisor = match plot.relative_to {
            None => 1.0,
            Some(reference) => median(&results.find(what, plot.quantity, reference)?.values)?,
        };
        let at = |share| Some(quantile(&series.values, share)? / divisor);
        Some(Bar { value: at(0.5)?, quartiles: (at(0.25)?, at(0.75)?) })
    };
    let whats = results.distinct(shown, |series| &series.what);
    let groups = whats
        .iter()
        .map(|what| {
            ((*what).to_owned(), variants.iter().map(|variant| bar(what, variant)).collect::<Vec<_>>())
        })
        .collect();
    Chart { title: plot.title.into(), variants: variants.into_iter().map(Into::into).collect(), groups }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_between_markers_changes() {
        let text = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n";
        assert_eq!(replaced(text, "x", "new\n").unwrap(), "a\n<!-- begin x -->\nnew\n\n<!-- end x -->\nb\n");
        assert!(replaced(text, "y", "new").unwrap_err().to_string().contains("begin y"));
    }

    #[test]
    fn document_has_markers_for_every_bench() {
        let text = fs::read_to_string(document()).unwrap();
        for name in ALL.iter().map(|bench| bench.name).chain(["goals"]) {
            replaced(&text, name, "").unwrap();
        }
    }
}
