//! Parser of `regression.diffs`, the unified diffs that pg_regress writes for tests with unexpected output.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;

/// The differences of each test, by its name.
pub(crate) type Differences = BTreeMap<String, String>;

/// Reads the file. It does not exist when every test passed.
pub(crate) fn read(file: &Path) -> Result<Differences> {
    if !file.exists() {
        return Ok(Differences::new());
    }
    // Some tests print text that is not UTF-8.
    Ok(parse(&String::from_utf8_lossy(&fs::read(file)?)))
}

/// Splits the diffs by test and drops paths and times, which differ between runs.
fn parse(text: &str) -> Differences {
    let mut found = Differences::new();
    let mut current: Option<&mut String> = None;
    for line in text.lines() {
        if line.starts_with("diff ") {
            let name = line.rsplit('/').next().unwrap_or_default().trim_end_matches(".out");
            current = Some(found.entry(name.to_owned()).or_default());
        } else if let Some(body) = current.as_mut().filter(|_| !is_header(line)) {
            body.push_str(line);
            body.push('\n');
        }
    }
    found
}

fn is_header(line: &str) -> bool {
    (line.starts_with("--- /") || line.starts_with("+++ /")) && line.contains(".out\t")
}

/// Names of the tests whose differences are not the same in both runs.
pub(crate) fn compare(one: &Differences, other: &Differences) -> Vec<String> {
    let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
    names.filter(|name| one.get(*name) != other.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFFS: &str = "diff -U3 /a/expected/copy2.out /b/results/copy2.out\n\
        --- /a/expected/copy2.out\t2026-01-01 00:00:00 +0000\n\
        +++ /b/results/copy2.out\t2026-01-02 00:00:00 +0000\n@@ -1 +1 @@\n-a\n+b\n\
        diff -U3 /a/expected/portals_1.out /b/results/portals.out\n--- /x\n";

    #[test]
    fn differences_are_by_test_without_paths_or_times() {
        let found = parse(DIFFS);
        assert_eq!(found["copy2"], "@@ -1 +1 @@\n-a\n+b\n");
        assert_eq!(found["portals"], "--- /x\n");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_difference_on_one_side_only_is_told() {
        let both = parse(DIFFS);
        assert!(compare(&both, &both).is_empty());
        assert_eq!(compare(&both, &Differences::new()), ["copy2", "portals"]);
        assert_eq!(compare(&Differences::new(), &both), ["copy2", "portals"]);
        let mut other = both.clone();
        other.insert("copy2".into(), "@@ -1 +1 @@\n-a\n+c\n".into());
        assert_eq!(compare(&both, &other), ["copy2"]);
    }
}
