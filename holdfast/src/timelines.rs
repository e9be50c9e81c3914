//! `holdfast timelines`: the copies of each timeline, as the safekeepers tell.

use std::collections::BTreeMap;

use serde::Serialize;
use wal_types::Lsn;

use crate::answers::TimelineAnswer;
use crate::asked_safekeeper::AskedSafekeeper;
use crate::cluster_file::Cluster;
use crate::flags::TimelinesFlags;
use crate::http::{AskError, HttpClient, ask_all};
use crate::report::{Body, Report};
use crate::table::{Table, UNKNOWN, known, size};

/// Health of a copy that a safekeeper should have and does not.
const MISSING: &str = "missing";

/// Timelines, and the safekeepers that were asked; `--json` prints it as it is.
#[derive(Debug, Serialize)]
pub(crate) struct Timelines {
    safekeepers: Vec<AskedSafekeeper>,
    timelines: Vec<TimelineRows>,
}

/// A timeline with its copies, by safekeeper.
#[derive(Debug, Serialize)]
struct TimelineRows {
    tenant_id: String,
    timeline_id: String,
    copies: Vec<CopyRow>,
}

/// The copy of one safekeeper. Positions are PostgreSQL's text form.
#[derive(Debug, Serialize)]
struct CopyRow {
    safekeeper: u64,
    /// As the safekeeper tells, or `missing`: other copies name it as a member, and it has none.
    health: String,
    error: Option<String>,
    term: Option<u64>,
    last_log_term: Option<u64>,
    flush_lsn: Option<String>,
    commit_lsn: Option<String>,
    oldest_lsn: Option<String>,
    /// Bytes behind the copy that is furthest.
    lag_bytes: Option<u64>,
    /// Numbers of the members, as this copy knows them.
    members: Vec<u64>,
    writers: Option<u64>,
    readers: Option<u64>,
}

/// Answers of all safekeepers, by number.
type Answers = Vec<(u64, Result<Vec<TimelineAnswer>, AskError>)>;

/// Asks all safekeepers for the timelines that the flags choose.
pub(crate) async fn run(cluster: &Cluster, http: &HttpClient, flags: &TimelinesFlags) -> Report<Timelines> {
    let answers: Answers = ask_all(&cluster.safekeepers, async |index| {
        let (id, target) = &cluster.safekeepers[index];
        (*id, http.get(target, "/v1/timelines").await)
    })
    .await;

    let answered = answers.iter().filter(|(_, answer)| answer.is_ok()).count();
    let urls = cluster.safekeepers.iter().map(|(_, target)| target.http.text.clone());
    let timelines = Timelines::new(urls, &answers, flags);
    let attention = timelines.attention();
    Report::new(cluster, answered, attention, timelines)
}

impl Timelines {
    fn new(urls: impl Iterator<Item = String>, answers: &Answers, flags: &TimelinesFlags) -> Self {
        let asked = |((id, answer), http): (&(u64, Result<_, AskError>), String)| {
            AskedSafekeeper::new(*id, http, answer)
        };
        let mut copies: BTreeMap<(&str, &str), Vec<CopyRow>> = BTreeMap::new();
        for (id, answer) in answers {
            for one in answer.iter().flatten().filter(|one| flags.timelines.has(one)) {
                copies.entry((&one.tenant_id, &one.timeline_id)).or_default().push(CopyRow::new(*id, one));
            }
        }

        let answering: Vec<u64> =
            answers.iter().filter(|(_, answer)| answer.is_ok()).map(|(id, _)| *id).collect();
        let rows = copies.into_iter().map(|((tenant, timeline), copies)| TimelineRows {
            tenant_id: tenant.to_owned(),
            timeline_id: timeline.to_owned(),
            copies: complete(copies, &answering),
        });
        let shown =
            |rows: &TimelineRows| !flags.unhealthy || rows.copies.iter().any(|copy| !copy.is_healthy());
        Self {
            safekeepers: answers.iter().zip(urls).map(asked).collect(),
            timelines: rows.filter(shown).collect(),
        }
    }

    fn attention(&self) -> Vec<String> {
        let dead = self.safekeepers.iter().filter_map(|one| one.attention("does not answer"));
        let unhealthy = self.timelines.iter().flat_map(|rows| {
            rows.copies.iter().filter(|copy| !copy.is_healthy()).map(|copy| {
                let (tenant, timeline) = (&rows.tenant_id, &rows.timeline_id);
                let error = copy.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
                format!(
                    "timeline {tenant}/{timeline} is {} on safekeeper {}{error}",
                    copy.health, copy.safekeeper
                )
            })
        });
        dead.chain(unhealthy).collect()
    }
}

impl CopyRow {
    fn new(safekeeper: u64, answer: &TimelineAnswer) -> Self {
        Self {
            safekeeper,
            health: answer.health.clone(),
            error: answer.error.clone(),
            term: answer.term,
            last_log_term: answer.last_log_term,
            flush_lsn: answer.flush_lsn.clone(),
            commit_lsn: answer.commit_lsn.clone(),
            oldest_lsn: answer.oldest_lsn.clone(),
            lag_bytes: None,
            members: answer.members.iter().map(|member| member.id).collect(),
            writers: answer.wal_receivers,
            readers: answer.wal_senders,
        }
    }

    fn missing(safekeeper: u64) -> Self {
        Self {
            safekeeper,
            health: MISSING.to_owned(),
            error: Some(
                "other copies name this safekeeper as a member, and it has no such timeline".to_owned(),
            ),
            term: None,
            last_log_term: None,
            flush_lsn: None,
            commit_lsn: None,
            oldest_lsn: None,
            lag_bytes: None,
            members: Vec::new(),
            writers: None,
            readers: None,
        }
    }

    fn is_healthy(&self) -> bool {
        self.health == "healthy"
    }

    fn flushed(&self) -> Option<Lsn> {
        self.flush_lsn.as_ref()?.parse().ok()
    }
}

/// Fills in how far each copy is behind, and the copies that safekeepers which answered should have and do not. A safekeeper
/// should have one when most of the copies name it: a member that was removed may have the old members still.
fn complete(mut copies: Vec<CopyRow>, answering: &[u64]) -> Vec<CopyRow> {
    let furthest = copies.iter().filter_map(CopyRow::flushed).max();
    for copy in &mut copies {
        copy.lag_bytes = furthest.zip(copy.flushed()).map(|(furthest, own)| furthest.bytes_since(own));
    }

    let tellers = copies.iter().filter(|copy| !copy.members.is_empty()).count();
    let named = |id: u64| copies.iter().filter(|copy| copy.members.contains(&id)).count();
    let has = |id: u64| copies.iter().any(|copy| copy.safekeeper == id);
    let missing = answering.iter().filter(|&&id| !has(id) && named(id) * 2 > tellers);
    let missing: Vec<CopyRow> = missing.map(|&id| CopyRow::missing(id)).collect();
    copies.extend(missing);
    copies.sort_by_key(|copy| copy.safekeeper);
    copies
}

impl Body for Timelines {
    fn tables(&self) -> String {
        let mut table = Table::new(&[
            "tenant/timeline",
            "safekeeper",
            "health",
            "term",
            "flushed",
            "committed",
            "lag",
            "readers",
            "reason",
        ]);
        for rows in &self.timelines {
            for copy in &rows.copies {
                table.row([
                    format!("{}/{}", rows.tenant_id, rows.timeline_id),
                    copy.safekeeper.to_string(),
                    copy.health.clone(),
                    known(copy.term),
                    known(copy.flush_lsn.as_ref()),
                    known(copy.commit_lsn.as_ref()),
                    known(copy.lag_bytes.map(size)),
                    known(copy.readers),
                    copy.error.clone().unwrap_or_default(),
                ]);
            }
        }
        for one in &self.safekeepers {
            let Some(error) = &one.error else { continue };
            let [dash, health] = [UNKNOWN, "no answer"].map(ToOwned::to_owned);
            let unknown = std::iter::repeat_n(dash.clone(), 5);
            table.row([dash, one.id.to_string(), health].into_iter().chain(unknown).chain([error.clone()]));
        }
        if table.is_empty() { "no timeline to show\n".to_owned() } else { table.to_string() }
    }

    fn healthy_line(&self) -> String {
        format!("healthy: timelines: {}, safekeepers: {}", self.timelines.len(), self.safekeepers.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn timeline(health: &str, flush: &str) -> TimelineAnswer {
        let members: Vec<_> = (1..=3).map(|id| json!({"id": id, "host": "h", "port": 1})).collect();
        let answer = json!({"tenant_id": "a", "timeline_id": "b", "health": health, "term": 1, "flush_lsn": flush, "members": members});
        serde_json::from_value(answer).unwrap()
    }

    fn shown(answers: Answers, flags: &TimelinesFlags) -> Timelines {
        Timelines::new((1..).map(|id| format!("http://sk{id}:1")), &answers, flags)
    }

    #[test]
    fn copies_show_lag_and_missing_members() {
        let dead = AskError::Connection("Connection refused".into());
        let answers = vec![
            (1, Ok(vec![timeline("healthy", "0/300")])),
            (2, Ok(vec![timeline("lost", "0/100")])),
            (3, Ok(vec![])),
        ];
        let timelines = shown(answers, &TimelinesFlags::default());
        let copies = &timelines.timelines[0].copies;
        assert_eq!(
            copies.iter().map(|copy| copy.lag_bytes).collect::<Vec<_>>(),
            [Some(0), Some(0x200), None]
        );
        let attention = timelines.attention();
        assert_eq!(attention[0], "timeline a/b is lost on safekeeper 2");
        assert!(
            attention[1].starts_with("timeline a/b is missing on safekeeper 3: other copies name"),
            "{attention:?}"
        );

        // A safekeeper that does not answer is not said to lack anything.
        let answers = vec![(1, Ok(vec![timeline("healthy", "0/300")])), (3, Err(dead))];
        let timelines = shown(answers, &TimelinesFlags::default());
        let attention = timelines.attention();
        assert_eq!(attention, ["safekeeper 3 at http://sk2:1 does not answer: Connection refused"]);
        let dead = timelines.tables().lines().last().unwrap().to_owned();
        assert!(dead.starts_with("-") && dead.ends_with("Connection refused"), "{dead}");
    }

    #[test]
    fn unhealthy_flag_leaves_out_healthy_timelines() {
        let flags = TimelinesFlags { unhealthy: true, ..TimelinesFlags::default() };
        let answers = |health| (1..=3).map(|id| (id, Ok(vec![timeline(health, "0/1")]))).collect();
        assert!(shown(answers("healthy"), &flags).timelines.is_empty());
        assert_eq!(shown(answers("full"), &flags).timelines.len(), 1);
    }
}
