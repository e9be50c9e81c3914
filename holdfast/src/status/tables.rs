//! Tables of a status, one a kind of program.

use super::{ProgramState, Status};
use crate::report::Body;
use crate::table::{Table, known, size};

impl Body for Status {
    fn tables(&self) -> String {
        let tables = [self.safekeepers(), self.walproposers(), self.proxies()];
        let filled = tables.iter().filter(|table| !table.is_empty());
        filled.map(|table| format!("{table}\n")).collect::<String>().trim_end_matches('\n').to_owned() + "\n"
    }

    fn healthy_line(&self) -> String {
        let answered = self.answered();
        if self.walproposers.is_empty() {
            return format!(
                "healthy: all {answered} programs answer (the cluster file names no walproposer, which could tell about commits)"
            );
        }
        format!("healthy: all {answered} programs answer, and commits go through")
    }
}

impl Status {
    fn safekeepers(&self) -> Table {
        let mut table =
            Table::new(&["safekeeper", "state", "version", "timelines", "unhealthy", "http", "reason"]);
        for row in &self.safekeepers {
            table.row([
                row.id.to_string(),
                row.state.word().to_owned(),
                known(row.version.as_ref()),
                known(row.timelines),
                known(row.timelines.map(|_| row.unhealthy.len())),
                row.http.clone(),
                row.reason.clone().unwrap_or_default(),
            ]);
        }
        table
    }

    fn walproposers(&self) -> Table {
        let mut table = Table::new(&[
            "walproposer",
            "state",
            "leadership",
            "term",
            "committed",
            "following",
            "worst lag",
            "http",
            "reason",
        ]);
        for row in &self.walproposers {
            let following = row.members.iter().filter(|one| one.state == "streaming").count();
            let answers = row.state != ProgramState::NoAnswer;
            table.row([
                row.name.clone(),
                row.state.word().to_owned(),
                known(row.leadership.as_ref()),
                known(row.term),
                known(row.commit_lsn.as_ref()),
                known(answers.then(|| format!("{following} of {}", row.members.len()))),
                known(row.members.iter().filter_map(|one| one.lag_bytes).max().map(size)),
                row.http.clone(),
                row.reason.clone().unwrap_or_default(),
            ]);
        }
        table
    }

    fn proxies(&self) -> Table {
        let mut table = Table::new(&["proxy", "state", "sessions", "http", "reason"]);
        for row in &self.proxies {
            table.row([
                row.name.clone(),
                row.state.word().to_owned(),
                known(row.sessions),
                row.http.clone(),
                row.reason.clone().unwrap_or_default(),
            ]);
        }
        table
    }
}

impl ProgramState {
    const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NotReady => "not ready",
            Self::NoAnswer => "no answer",
        }
    }
}
