//! `docs/metrics.md` says what the running programs show at `/metrics`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};
use test_runner::clients;
use test_runner::cluster_under_test::ClusterUnderTest;
use test_runner::env::checkout;

/// What the page or a program says of one metric.
#[derive(Debug, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
}

/// A program shows no metric that the page lacks, none of another type, and none with other labels. (A metric whose labels
/// were not used yet is not shown. That the page lists nothing else is checked against the code by `./dev lint`.)
#[tokio::test]
async fn metrics_page_matches_running_programs() -> Result<()> {
    let test = ClusterUnderTest::start("metrics").await?;
    let cluster = &test.cluster;
    clients::connect(&cluster.application_uri()).await?.batch_execute("CREATE TABLE t (x int)").await?;
    let page = page(&fs::read_to_string(checkout().join("docs/metrics.md"))?);

    for address in [cluster.safekeeper(1)?.http(), cluster.walproposer().http(), cluster.proxy().http()] {
        let text = reqwest::get(format!("{address}/metrics")).await?.text().await?;
        let shown = exposition(&text);
        ensure!(shown.len() > 10, "{address} shows only {} metrics", shown.len());
        for (name, metric) in shown {
            let row = page.get(&name).with_context(|| format!("docs/metrics.md has no row for {name}"))?;
            ensure!(row.kind == metric.kind, "{name} is a {}, not a {}", metric.kind, row.kind);
            ensure!(
                metric.labels.is_subset(&row.labels),
                "{name} has the labels {:?}, not {:?}",
                metric.labels,
                row.labels
            );
        }
    }
    test.passed();
    Ok(())
}

/// The rows of the page: `` | `name` | type | `label`, `label` | meaning | ``.
fn page(text: &str) -> BTreeMap<String, Metric> {
    let rows = text.lines().filter(|line| line.starts_with("| `holdfast_")).filter_map(|line| {
        let mut cells = line.split('|').skip(1).map(str::trim);
        let name = cells.next()?.trim_matches('`').to_owned();
        let kind = cells.next()?.to_owned();
        let labels = cells.next()?.split(", ").map(|label| label.trim_matches('`').to_owned());
        Some((name, Metric { kind, labels: labels.filter(|label| !label.is_empty()).collect() }))
    });
    rows.collect()
}

/// The metrics of OpenMetrics text, under the names that the page uses: as samples show them, histograms without suffix.
fn exposition(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics = BTreeMap::new();
    let mut current: Option<(String, Metric)> = None;
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            metrics.extend(current.take());
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            current =
                Some((format!("{name}{suffix}"), Metric { kind: kind.to_owned(), labels: BTreeSet::new() }));
        } else if let (Some((_, metric)), false) = (&mut current, line.starts_with('#')) {
            metric.labels.extend(labels(line));
        }
    }
    metrics.extend(current);
    metrics
}

/// The names of a sample's labels, without `le` of a histogram.
fn labels(sample: &str) -> Vec<String> {
    let Some((_, rest)) = sample.split_once('{') else { return Vec::new() };
    // A label's value is quoted, so what stands before `="` is a name.
    let parts = rest.split("=\"").map(|part| part.rsplit(['{', ',', '"']).next().unwrap_or_default());
    let mut names: Vec<String> = parts.map(str::to_owned).collect();
    names.pop();
    names.retain(|name| name != "le");
    names
}
