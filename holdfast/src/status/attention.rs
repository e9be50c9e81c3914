//! What of a status needs attention, in sentences that say what to do. Pure.

use std::collections::BTreeMap;

use super::{ProgramState, SafekeeperRow, Status, WalproposerRow};

impl Status {
    /// Sentences, the most urgent first: commits that wait, programs that are gone, the rest.
    pub(super) fn attention(&self) -> Vec<String> {
        let blocked = self.walproposers.iter().filter_map(blocked);
        let mut all: Vec<String> = blocked.collect();
        all.extend(self.not_answering());
        all.extend(self.walproposers.iter().filter_map(lost_members));
        all.extend(self.walproposers.iter().filter_map(unsettled_change));
        all.extend(self.walproposers.iter().filter_map(unchecked_settings));
        all.extend(self.safekeepers.iter().flat_map(unhealthy));
        all.extend(self.safekeepers.iter().filter_map(misnamed));
        all.extend(self.same_disks());
        all.extend(self.unlisted_members());
        all
    }

    fn not_answering(&self) -> impl Iterator<Item = String> {
        let safekeepers = self
            .safekeepers
            .iter()
            .map(|row| ("safekeeper", row.id.to_string(), &row.http, row.state, &row.reason));
        let walproposers = self.walproposers.iter().filter(|row| row.blocked.is_none());
        let walproposers =
            walproposers.map(|row| ("walproposer", row.name.clone(), &row.http, row.state, &row.reason));
        let proxies =
            self.proxies.iter().map(|row| ("proxy", row.name.clone(), &row.http, row.state, &row.reason));

        safekeepers.chain(walproposers).chain(proxies).filter_map(|(kind, name, http, state, reason)| {
            let reason = reason.as_deref().unwrap_or("it does not say why");
            match state {
                ProgramState::Ready => None,
                ProgramState::NotReady => Some(format!("{kind} {name} is not ready: {reason}")),
                ProgramState::NoAnswer => Some(format!("{kind} {name} at {http} does not answer: {reason}")),
            }
        })
    }

    /// A copied disk has forgotten promises that the safekeepers rely on.
    fn same_disks(&self) -> Vec<String> {
        let mut owners: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for row in &self.safekeepers {
            if let Some(disk) = &row.disk_id {
                owners.entry(disk).or_default().push(row.id);
            }
        }
        let shared = owners.values().filter(|ids| ids.len() > 1);
        shared
            .map(|ids| {
                format!(
                    "safekeepers {} have the same disk id: one runs on a copy of the other's disk, or the cluster file names \
                     one twice; stop the copy",
                    list(ids)
                )
            })
            .collect()
    }

    fn unlisted_members(&self) -> Vec<String> {
        let is_listed = |id: u64| self.safekeepers.iter().any(|row| row.id == id);
        let mut missing: Vec<u64> =
            self.walproposers.iter().flat_map(|row| &row.members).map(|one| one.safekeeper).collect();
        missing.retain(|&id| !is_listed(id));
        missing.sort_unstable();
        missing.dedup();
        let sentence = || {
            format!(
                "safekeepers {} store logs and are not in the cluster file: add them to be asked",
                list(&missing)
            )
        };
        if missing.is_empty() { Vec::new() } else { vec![sentence()] }
    }
}

fn blocked(row: &WalproposerRow) -> Option<String> {
    let commits = if row.commits_at_risk { "commits are at risk" } else { "commits wait" };
    row.blocked.as_ref().map(|why| format!("walproposer {}: {commits}: {why}", row.name))
}

fn lost_members(row: &WalproposerRow) -> Option<String> {
    let lost = row.members.iter().filter(|one| one.state != "streaming");
    let lost: Vec<String> = lost
        .map(|one| match &one.last_error {
            Some(error) => format!("safekeeper {} is {} ({error})", one.safekeeper, one.state),
            None => format!("safekeeper {} is {}", one.safekeeper, one.state),
        })
        .collect();
    if lost.is_empty() || row.blocked.is_some() {
        return None;
    }
    let outlook = if row.no_spare { ": when one more is lost, commits wait" } else { "" };
    Some(format!("walproposer {}: {}{outlook}", row.name, lost.join(", ")))
}

fn unsettled_change(row: &WalproposerRow) -> Option<String> {
    row.unsettled_change
        .as_ref()
        .map(|why| format!("walproposer {}: a change of the members is unsettled: {why}", row.name))
}

fn unchecked_settings(row: &WalproposerRow) -> Option<String> {
    row.unchecked_settings.as_ref().map(|why| format!("walproposer {}: {why}", row.name))
}

fn unhealthy(row: &SafekeeperRow) -> impl Iterator<Item = String> {
    row.unhealthy.iter().map(|one| {
        let error = one.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        format!(
            "safekeeper {}: timeline {}/{} is {}{error}",
            row.id, one.tenant_id, one.timeline_id, one.health
        )
    })
}

fn misnamed(row: &SafekeeperRow) -> Option<String> {
    let other = row.answers_as.filter(|&other| other != row.id)?;
    Some(format!(
        "{} answers as safekeeper {other}, and the cluster file calls it safekeeper {}: correct the file",
        row.http, row.id
    ))
}

fn list(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}
