//! [`Report`]: the result of a command, printed as tables or as JSON. The command fills in its body.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::cluster_file::{Cluster, FoundBy};
use crate::outcome::Outcome;
use crate::table::printable;

/// Sentences about what needs attention that a table is followed by, at most. `--json` has all.
const ATTENTION_SHOWN_MAX: usize = 20;

/// A part of a report that a command fills in.
pub(crate) trait Body: Serialize {
    /// The tables, as text that ends with a line break.
    fn tables(&self) -> String;

    /// The last line when nothing needs attention.
    fn healthy_line(&self) -> String;
}

/// What a command found.
#[derive(Debug, Serialize)]
pub(crate) struct Report<B> {
    cluster: ClusterNamed,
    result: Outcome,
    /// Sentences about what needs attention, the most urgent first.
    attention: Vec<String>,
    #[serde(flatten)]
    body: B,
}

/// Which cluster was asked.
#[derive(Debug, Serialize)]
struct ClusterNamed {
    file: String,
    found_by: FoundBy,
}

impl<B: Body> Report<B> {
    /// A report of a command that got `answered` answers. Without any the cluster could not be asked.
    pub(crate) fn new(cluster: &Cluster, answered: usize, mut attention: Vec<String>, body: B) -> Self {
        let result = match (answered, attention.is_empty()) {
            (0, _) => Outcome::CouldNotAsk,
            (_, true) => Outcome::Healthy,
            (_, false) => Outcome::Attention,
        };
        if answered == 0 {
            attention.push(
                "no program answered: check the network from here, and the URLs in the cluster file"
                    .to_owned(),
            );
        }
        let named = ClusterNamed { file: cluster.file.display().to_string(), found_by: cluster.found_by };
        Self { cluster: named, result, attention, body }
    }

    /// Prints the report on standard output.
    pub(crate) fn print(&self, as_json: bool) -> anyhow::Result<Outcome> {
        let text = if as_json { serde_json::to_string_pretty(self)? + "\n" } else { self.text() };
        print(&text)?;
        Ok(self.result)
    }

    fn text(&self) -> String {
        let mut text = format!(
            "cluster file: {} ({})\n\n{}\n",
            printable(&self.cluster.file),
            self.cluster.found_by.phrase(),
            self.body.tables()
        );
        for sentence in self.attention.iter().take(ATTENTION_SHOWN_MAX) {
            text.push_str(&printable(sentence));
            text.push('\n');
        }

        match self.attention.len().checked_sub(ATTENTION_SHOWN_MAX) {
            Some(more @ 1..) => text.push_str(&format!("and {more} more: --json has all\n")),
            _ if self.attention.is_empty() => text.push_str(&format!("{}\n", self.body.healthy_line())),
            _ => {}
        }
        text
    }
}

/// Prints text on standard output. A reader that closes the pipe, as `head` does, is no error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}
