//! What a person is told about a cluster: which parts run, how far each safekeeper is, what blocks commits.

use serde::Serialize;
use wal_types::Lsn;

use super::{Cluster, PartName};
use crate::proxy::ProxyStatus;
use crate::walproposer::WalproposerStatus;

/// The whole answer of `./dev status`.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterStatus {
    /// Each program.
    pub parts: Vec<PartStatus>,
    /// Each safekeeper's log.
    pub safekeepers: Vec<SafekeeperStatus>,
    /// What the walproposer says, when it answers.
    pub walproposer: Option<WalproposerStatus>,
    /// What the proxy says, when it answers.
    pub proxy: Option<ProxyStatus>,
    /// What blocks commits now, in one sentence; none when they go through.
    pub blocked: Option<String>,
    /// What else a person should know, a sentence each.
    pub remarks: Vec<String>,
}

/// One program.
#[derive(Clone, Debug, Serialize)]
pub struct PartStatus {
    /// Its name.
    pub name: String,
    /// `running`, `stopped` (on purpose) or `died`.
    pub state: &'static str,
    /// Its process id while it runs.
    pub pid: Option<i32>,
    /// Where it listens.
    pub address: String,
    /// Its log file.
    pub log: String,
}

/// How far a safekeeper is. Without an answer only the id is known.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SafekeeperStatus {
    /// Its node id.
    pub id: u64,
    /// `healthy`, or what is wrong.
    pub health: Option<String>,
    /// Its term.
    pub term: Option<u64>,
    /// What it has on disk.
    pub flush_lsn: Option<String>,
    /// What it knows as committed.
    pub commit_lsn: Option<String>,
    /// How far it is behind the primary, or behind the furthest safekeeper while the primary is unknown.
    pub lag_bytes: Option<u64>,
}

impl Cluster {
    /// Asks everybody.
    pub async fn status(&self) -> anyhow::Result<ClusterStatus> {
        let walproposer = self.walproposer().status().await.ok();
        let proxy = self.proxy().status().await.ok();
        let mut safekeepers = Vec::new();
        for safekeeper in self.safekeepers()? {
            let timeline = safekeeper.timeline(&self.state.tenant_id, &self.state.timeline_id).await.ok();
            safekeepers.push(match timeline {
                None => SafekeeperStatus { id: safekeeper.id, ..SafekeeperStatus::default() },
                Some(timeline) => SafekeeperStatus {
                    id: safekeeper.id,
                    health: Some(timeline.health),
                    term: Some(timeline.term),
                    flush_lsn: Some(timeline.flush_lsn),
                    commit_lsn: Some(timeline.commit_lsn),
                    lag_bytes: None,
                },
            });
        }
        fill_in_lag(&mut safekeepers, walproposer.as_ref());
        let parts =
            self.parts().into_iter().map(|name| self.part_status(name)).collect::<anyhow::Result<_>>()?;
        let blocked = self.what_blocks(walproposer.as_ref());
        let remarks = remarks(&safekeepers, walproposer.as_ref());
        Ok(ClusterStatus { parts, safekeepers, walproposer, proxy, blocked, remarks })
    }

    fn part_status(&self, name: PartName) -> anyhow::Result<PartStatus> {
        let part = self.part(name)?;
        let state = match part.process {
            None => "stopped",
            Some(process) if process.is_alive() => "running",
            Some(_) => "died",
        };
        Ok(PartStatus {
            name: name.to_string(),
            state,
            pid: part.process.filter(|_| state == "running").map(|process| process.pid),
            address: format!("127.0.0.1:{}", part.port),
            log: self.log(name).display().to_string(),
        })
    }

    fn what_blocks(&self, walproposer: Option<&WalproposerStatus>) -> Option<String> {
        if let Some(down) = self.what_is_down() {
            return Some(down);
        }
        match walproposer {
            None => Some("the walproposer does not answer".into()),
            Some(status) if status.state != "streaming" => {
                Some(status.blocked.clone().unwrap_or_else(|| format!("the walproposer is {}", status.state)))
            }
            Some(status) => status.blocked.clone(),
        }
    }

    /// The parts without which no commit goes through, as far as they do not run.
    pub(super) fn what_is_down(&self) -> Option<String> {
        let down = |name: PartName| !self.is_running(name);
        if down(PartName::Postgres) {
            let proxy =
                if down(PartName::Proxy) { "" } else { ", or connect through the proxy, which wakes it" };
            return Some(format!("postgres does not run: ./dev start postgres{proxy}"));
        }
        if down(PartName::Walproposer) {
            return Some("the walproposer does not run: ./dev start walproposer".into());
        }
        let stopped: Vec<String> = self
            .parts()
            .into_iter()
            .filter(|name| matches!(name, PartName::Safekeeper(_)) && down(*name))
            .map(|name| name.to_string())
            .collect();
        if stopped.len() * 2 > self.state.safekeepers.len() {
            let (all, first) = (self.state.safekeepers.len(), &stopped[0]);
            return Some(format!(
                "no quorum: {} of {all} safekeepers are down ({}): ./dev start {first}",
                stopped.len(),
                stopped.join(", ")
            ));
        }
        None
    }
}

/// Safekeepers that don't vote, and what becomes of them.
fn remarks(safekeepers: &[SafekeeperStatus], walproposer: Option<&WalproposerStatus>) -> Vec<String> {
    let lost = safekeepers.iter().filter(|safekeeper| safekeeper.health.as_deref() == Some("lost"));
    let sentence = |safekeeper: &SafekeeperStatus| {
        let follows = |status: &WalproposerStatus| {
            let views = status.safekeepers.iter();
            let mut own = views.filter(|view| view.id == safekeeper.id);
            own.any(|view| ["streaming", "catching_up"].contains(&view.state.as_str()))
        };
        let then = match walproposer.is_some_and(follows) {
            true => "is being repaired",
            false => "will be repaired by the walproposer, once that leads the others and reaches it",
        };
        format!("sk{} lost WAL and {then}; until then it does not vote", safekeeper.id)
    };
    lost.map(sentence).collect()
}

/// Lag is counted from the furthest that anybody is known to be.
fn fill_in_lag(safekeepers: &mut [SafekeeperStatus], walproposer: Option<&WalproposerStatus>) {
    let parse = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<Lsn>().ok());
    let primary = walproposer.and_then(|status| parse(&status.primary_flush_lsn));
    let furthest =
        safekeepers.iter().filter_map(|safekeeper| parse(&safekeeper.flush_lsn)).chain(primary).max();
    for safekeeper in safekeepers {
        let flushed = parse(&safekeeper.flush_lsn);
        safekeeper.lag_bytes = flushed.zip(furthest).map(|(flushed, furthest)| furthest.bytes_since(flushed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(flush_lsn: Option<&str>) -> SafekeeperStatus {
        SafekeeperStatus { flush_lsn: flush_lsn.map(Into::into), ..SafekeeperStatus::default() }
    }

    #[test]
    fn a_safekeeper_that_lost_something_is_spoken_of() {
        let lost = SafekeeperStatus { id: 2, health: Some("lost".into()), ..SafekeeperStatus::default() };
        let well = SafekeeperStatus { id: 1, health: Some("healthy".into()), ..SafekeeperStatus::default() };
        assert!(remarks(std::slice::from_ref(&well), None).is_empty());
        let nobody_leads = &remarks(&[well.clone(), lost.clone()], None)[0];
        assert!(nobody_leads.starts_with("sk2 lost WAL and will be repaired"), "{nobody_leads}");
        let leading = r#"{"state": "streaming", "safekeepers": [{"id": 2, "state": "streaming"}]}"#;
        let leading = serde_json::from_str(leading).unwrap();
        let repaired = &remarks(&[well, lost], Some(&leading))[0];
        assert!(repaired.starts_with("sk2 lost WAL and is being repaired"), "{repaired}");
    }

    #[test]
    fn lag_is_counted_from_the_furthest_known_position() {
        let mut safekeepers = [at(Some("0/3000010")), at(Some("0/3000000")), at(None)];
        fill_in_lag(&mut safekeepers, None);
        assert_eq!(safekeepers.map(|safekeeper| safekeeper.lag_bytes), [Some(0), Some(16), None]);
    }
}
