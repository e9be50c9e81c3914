//! Metrics: every metric that the code registers is listed in `docs/metrics.md`, and every listed one is in the code.
//!
//! A metric's full name is a string literal of the product, `holdfast_…`, written once. The library that writes `/metrics`
//! adds the unit and `_total` or `_info`; the page shows the name as it is written.

use std::collections::BTreeMap;

use syn::visit::{self, Visit};

use crate::rules::is_test_only;
use crate::source::{METRICS_PAGE, Repository, SourceFile};
use crate::violation::Violation;

const PREFIX: &str = "holdfast_";

/// What the library may add to a name that the code registers.
const SUFFIXES: &[&str] =
    &["", "_total", "_info", "_seconds", "_seconds_total", "_bytes", "_bytes_total", "_ratio"];

/// Returns a violation for each metric that only the code or only the page has.
pub(crate) fn check(repository: &Repository) -> Vec<Violation> {
    let listed = listed_names(&repository.metrics_page);
    let mut found = Vec::new();
    // The programs that drive a cluster for tests read metrics and register none.
    let registering =
        repository.files.iter().filter(|file| file.is_product() && !file.path.starts_with("test_runner"));
    for file in registering {
        let mut literals = MetricNames::default();
        literals.visit_file(&file.syntax);
        found.extend(literals.found.into_iter().map(|(name, line)| (name, line, file)));
    }

    let undocumented = found.iter().filter(|(name, ..)| !listed.keys().any(|row| is_written_as(name, row)));
    let undocumented = undocumented.map(|(name, line, file)| undocumented_violation(name, *line, file));
    let unknown = listed.iter().filter(|(row, _)| !found.iter().any(|(name, ..)| is_written_as(name, row)));
    let unknown = unknown.map(|(row, line)| Violation {
        path: METRICS_PAGE.into(),
        line: *line,
        rule: "metrics",
        message: format!("no program registers {row}: remove the row, or write the full name in the code"),
    });
    undocumented.chain(unknown).collect()
}

fn undocumented_violation(name: &str, line: usize, file: &SourceFile) -> Violation {
    Violation {
        path: file.path.clone(),
        line,
        rule: "metrics",
        message: format!("{METRICS_PAGE} has no row for {name}: add one with its type, labels and meaning"),
    }
}

/// Whether the page's `row` is what the library makes of the registered `name`.
fn is_written_as(name: &str, row: &str) -> bool {
    row.strip_prefix(name).is_some_and(|suffix| SUFFIXES.contains(&suffix))
}

/// The names in the first column of the page's tables, with their lines.
fn listed_names(page: &str) -> BTreeMap<&str, usize> {
    let rows = page.lines().enumerate().filter_map(|(index, line)| {
        let name = line.strip_prefix("| `")?.split('`').next()?;
        name.starts_with(PREFIX).then_some((name, index + 1))
    });
    rows.collect()
}

/// Collects the string literals that name a metric.
#[derive(Default)]
struct MetricNames {
    found: Vec<(String, usize)>,
}

impl<'ast> Visit<'ast> for MetricNames {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test_only(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
        let text = literal.value();
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if text.len() > PREFIX.len() && text.starts_with(PREFIX) && text.bytes().all(is_name) {
            self.found.push((text, literal.span().start().line));
        }
    }
}
