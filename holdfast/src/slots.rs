//! `holdfast slots`: the replication slots of each timeline, as the safekeepers tell.

use futures::StreamExt as _;
use hyper::StatusCode;
use serde::Serialize;

use crate::answers::{SlotAnswer, TimelineAnswer};
use crate::asked_safekeeper::AskedSafekeeper;
use crate::cluster_file::{Cluster, Target};
use crate::flags::{SlotsFlags, TimelineChoice};
use crate::http::{AskError, HttpClient, ask_all};
use crate::report::{Body, Report};
use crate::table::{Table, UNKNOWN, known, size};

/// Timelines that one safekeeper is asked about at the same time.
const ASKED_AT_ONCE_MAX: usize = 8;
/// A slot needs attention when it has used this many tenths of the WAL that may be kept for it.
const TENTHS_USED_MAX: u64 = 9;

/// Slots, and the safekeepers that were asked; `--json` prints it as it is.
#[derive(Debug, Serialize)]
pub(crate) struct Slots {
    safekeepers: Vec<AskedSafekeeper>,
    slots: Vec<SlotRow>,
}

/// A slot on one safekeeper.
#[derive(Debug, Serialize)]
struct SlotRow {
    tenant_id: String,
    timeline_id: String,
    safekeeper: u64,
    #[serde(flatten)]
    slot: SlotAnswer,
}

/// Asks all safekeepers for the slots of the timelines that the flags choose.
pub(crate) async fn run(cluster: &Cluster, http: &HttpClient, flags: &SlotsFlags) -> Report<Slots> {
    let answers = ask_all(&cluster.safekeepers, async |index| {
        let (id, target) = &cluster.safekeepers[index];
        (*id, target.http.text.clone(), ask(http, *id, target, &flags.timelines).await)
    })
    .await;

    let answered = answers.iter().filter(|(_, _, answer)| answer.is_ok()).count();
    let slots = Slots::new(answers);
    let attention = slots.attention();
    Report::new(cluster, answered, attention, slots)
}

/// The slots of all served timelines on one safekeeper. Timelines that are not served are the business of `timelines`.
async fn ask(
    http: &HttpClient,
    safekeeper: u64,
    target: &Target,
    choice: &TimelineChoice,
) -> Result<Vec<SlotRow>, AskError> {
    let timelines: Vec<TimelineAnswer> = http.get(target, "/v1/timelines").await?;
    let served = timelines.into_iter().filter(|one| choice.has(one) && one.flush_lsn.is_some());
    let asked = served.map(async |one| {
        let path = format!("/v1/timelines/{}/{}/slots", one.tenant_id, one.timeline_id);
        let slots: Vec<SlotAnswer> = http.get(target, &path).await.map_err(explain)?;
        let row = |slot| SlotRow {
            tenant_id: one.tenant_id.clone(),
            timeline_id: one.timeline_id.clone(),
            safekeeper,
            slot,
        };
        Ok(slots.into_iter().map(row).collect::<Vec<_>>())
    });
    let answers: Vec<Result<Vec<SlotRow>, AskError>> =
        futures::stream::iter(asked).buffered(ASKED_AT_ONCE_MAX).collect().await;
    Ok(answers.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// A safekeeper without the route answers 404 and nothing else; one that lost the timeline meanwhile says so.
fn explain(error: AskError) -> AskError {
    match error {
        AskError::Status { status: StatusCode::NOT_FOUND, text, .. } if text.is_empty() => AskError::NoSlots,
        other => other,
    }
}

impl Slots {
    fn new(answers: Vec<(u64, String, Result<Vec<SlotRow>, AskError>)>) -> Self {
        let (mut safekeepers, mut slots) = (Vec::new(), Vec::new());
        for (id, http, answer) in answers {
            safekeepers.push(AskedSafekeeper::new(id, http, &answer));
            slots.extend(answer.unwrap_or_default());
        }
        slots.sort_by(|one, other| one.key().cmp(&other.key()));
        Self { safekeepers, slots }
    }

    fn attention(&self) -> Vec<String> {
        let dead = self.safekeepers.iter().filter_map(|one| one.attention("does not list its slots"));
        dead.chain(self.slots.iter().filter_map(SlotRow::attention)).collect()
    }
}

impl SlotRow {
    fn key(&self) -> (&str, &str, &str, u64) {
        (&self.tenant_id, &self.timeline_id, &self.slot.name, self.safekeeper)
    }

    fn attention(&self) -> Option<String> {
        let SlotAnswer { name, wal_status, held_bytes, safe_bytes, .. } = &self.slot;
        let place = || {
            let (tenant, timeline) = (&self.tenant_id, &self.timeline_id);
            format!("slot {name} of timeline {tenant}/{timeline} on safekeeper {}", self.safekeeper)
        };
        if wal_status == "lost" {
            return Some(format!(
                "{} is lost: WAL that it needs was removed there; its reader has to begin anew, and the slot can be dropped",
                place()
            ));
        }
        let (held, safe) = ((*held_bytes)?, (*safe_bytes)?);
        let is_nearly_full = safe < held / TENTHS_USED_MAX;
        is_nearly_full.then(|| {
            format!(
                "{} holds {} and is lost after {} more: let its reader catch up, or drop it",
                place(),
                size(held),
                size(safe)
            )
        })
    }
}

impl Body for Slots {
    fn tables(&self) -> String {
        let mut table = Table::new(&[
            "tenant/timeline",
            "slot",
            "safekeeper",
            "WAL",
            "restart",
            "held",
            "safe",
            "read by",
            "reason",
        ]);
        for row in &self.slots {
            let slot = &row.slot;
            table.row([
                format!("{}/{}", row.tenant_id, row.timeline_id),
                slot.name.clone(),
                row.safekeeper.to_string(),
                slot.wal_status.clone(),
                known(slot.restart_lsn.as_ref()),
                known(slot.held_bytes.map(size)),
                known(slot.safe_bytes.map(size)),
                known(slot.active_by.as_ref()),
                String::new(),
            ]);
        }
        for one in &self.safekeepers {
            let Some(error) = &one.error else { continue };
            let dash = || UNKNOWN.to_owned();
            let before = [dash(), dash(), one.id.to_string(), "no answer".to_owned()];
            table.row(before.into_iter().chain(std::iter::repeat_with(dash).take(4)).chain([error.clone()]));
        }
        if table.is_empty() { "no slots\n".to_owned() } else { table.to_string() }
    }

    fn healthy_line(&self) -> String {
        format!("healthy: slots: {}, safekeepers: {}", self.slots.len(), self.safekeepers.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(safekeeper: u64, wal_status: &str, held: u64, safe: Option<u64>) -> SlotRow {
        let slot = json!({"name": "standby1", "id": "5f", "owner": "standby", "temporary": false, "wal_status": wal_status,
            "created_unix_seconds": 1, "last_active_unix_seconds": 1, "restart_lsn": "0/100", "restart_tli": 1,
            "held_bytes": held, "safe_bytes": safe, "active_by": null});
        let slot = serde_json::from_value(slot).unwrap();
        SlotRow { tenant_id: "a".into(), timeline_id: "b".into(), safekeeper, slot }
    }

    #[test]
    fn lost_and_nearly_full_slots_need_attention() {
        for (row, words) in [
            (row(1, "unreserved", 0, None), None),
            (row(1, "reserved", 0, Some(16 << 30)), None),
            (row(1, "reserved", 8 << 30, Some(2 << 30)), None),
            (
                row(2, "reserved", 15 << 30, Some(1 << 30)),
                Some("on safekeeper 2 holds 15 GiB and is lost after 1 GiB more"),
            ),
            (
                row(3, "lost", 0, None),
                Some("slot standby1 of timeline a/b on safekeeper 3 is lost: WAL that it needs"),
            ),
        ] {
            let attention = row.attention();
            assert_eq!(attention.is_some(), words.is_some(), "{attention:?}");
            assert!(words.is_none_or(|words| attention.as_ref().unwrap().contains(words)), "{attention:?}");
        }
    }

    #[test]
    fn slots_stand_by_name_and_safekeeper() {
        let dead = AskError::Connection("Connection refused".into());
        let url = |id: u64| format!("http://sk{id}:1");
        let slots = Slots::new(vec![
            (3, url(3), Ok(vec![row(3, "reserved", 1, Some(9))])),
            (1, url(1), Ok(vec![row(1, "reserved", 1, Some(9))])),
            (2, url(2), Err(dead)),
        ]);
        assert_eq!(slots.slots.iter().map(|row| row.safekeeper).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(
            slots.attention(),
            ["safekeeper 2 at http://sk2:1 does not list its slots: Connection refused"]
        );
        let tables = slots.tables();
        assert!(tables.lines().last().unwrap().ends_with("Connection refused"), "{tables}");
        let json = serde_json::to_value(&slots).unwrap();
        assert_eq!(
            (&json["slots"][0]["name"], &json["slots"][0]["safekeeper"]),
            (&json!("standby1"), &json!(1))
        );
    }

    #[test]
    fn safekeeper_without_slots_route_is_explained() {
        let status = |text: &str| AskError::Status {
            status: StatusCode::NOT_FOUND,
            path: "/p".into(),
            text: text.into(),
        };
        assert!(explain(status("")).to_string().contains("its version does not list slots"));
        assert!(explain(status("timeline does not exist")).to_string().contains("timeline does not exist"));
    }
}
