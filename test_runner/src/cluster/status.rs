//! Status of a cluster: which parts run, the positions of each safekeeper, and what blocks commits.

use serde::Serialize;
use wal_types::Lsn;

use super::{Cluster, PartName};
use crate::proxy::ProxyStatus;
use crate::walproposer::WalproposerStatus;

/// The answer of `./dev status`; `--json` prints it as it is.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterStatus {
    /// Each program.
    pub parts: Vec<PartStatus>,
    /// Each safekeeper's log.
    pub safekeepers: Vec<SafekeeperStatus>,
    /// Status of the walproposer; `None` when it does not answer.
    pub walproposer: Option<WalproposerStatus>,
    /// Status of the proxy; `None` when it does not answer.
    pub proxy: Option<ProxyStatus>,
    /// One sentence about what blocks commits; `None` when they go through.
    pub blocked: Option<String>,
    /// Sentences about safekeepers that do not vote, and about settings of the primary that cannot be read.
    pub remarks: Vec<String>,
}

/// Status of one program.
#[derive(Clone, Debug, Serialize)]
pub struct PartStatus {
    /// Its name.
    pub name: String,
    /// `running`, `stopped` (on purpose) or `died` (by itself).
    pub state: &'static str,
    /// Its process id while it runs.
    pub pid: Option<i32>,
    /// Its address and port.
    pub address: String,
    /// Its log file.
    pub log: String,
}

/// Positions of a safekeeper. Only the id is known when it does not answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SafekeeperStatus {
    /// Its node id.
    pub id: u64,
    /// `healthy`, or the name of the problem.
    pub health: Option<String>,
    /// Its term.
    pub term: Option<u64>,
    /// Its flush LSN.
    pub flush_lsn: Option<String>,
    /// Its commit LSN.
    pub commit_lsn: Option<String>,
    /// Bytes behind the primary, or behind the furthest safekeeper while the position of the primary is unknown.
    pub lag_bytes: Option<u64>,
}

impl Cluster {
    /// Asks every program for its status.
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
        let blocked = self.blocked_reason(walproposer.as_ref());
        let mut remarks = remarks(&safekeepers, walproposer.as_ref());
        let unchecked = walproposer.as_ref().and_then(WalproposerStatus::unchecked_settings);
        remarks.extend(unchecked.map(|why| format!("walproposer: {why}")));
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

    fn blocked_reason(&self, walproposer: Option<&WalproposerStatus>) -> Option<String> {
        // First: then commits do not wait for the parts that are down.
        let unsafe_settings = walproposer.and_then(WalproposerStatus::unsafe_settings);
        if let Some(sentence) = unsafe_settings.filter(|_| self.is_running(PartName::Postgres)) {
            return Some(sentence.to_owned());
        }
        if let Some(down) = self.down_parts() {
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

    /// One sentence about parts that commits need and that do not run.
    pub(super) fn down_parts(&self) -> Option<String> {
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

/// One sentence about each safekeeper that lost WAL: it does not vote, and whether it is being repaired.
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

/// Fills in the lag, counted from the furthest known position of primary and safekeepers.
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
        let without_leader = &remarks(&[well.clone(), lost.clone()], None)[0];
        assert!(without_leader.starts_with("sk2 lost WAL and will be repaired"), "{without_leader}");
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
