//! [`Stats`]: coverage of schedules. A simulation that never crashes or never elects proves nothing.

use std::fmt;
use std::ops::AddAssign;

/// A run of at least this many schedules must have enough coverage.
pub const COVERAGE_SCHEDULES_MIN: u64 = 1000;

/// Defines the counts, their sum and their texts. Each count has a field, a name, and the average per schedule, in
/// thousandths, below which a run has too little coverage.
macro_rules! counts {
    ($($(#[$doc:meta])* $field:ident: $name:literal, at least $floor:literal;)*) => {
        /// Counts over one schedule, or summed over many.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            /// Schedules.
            pub schedules: u64,
            $($(#[$doc])* pub $field: u64,)*
        }

        impl AddAssign for Stats {
            fn add_assign(&mut self, other: Self) {
                self.schedules += other.schedules;
                $(self.$field += other.$field;)*
            }
        }

        impl Stats {
            /// Each count with its name and the required average, in thousandths.
            fn counts(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
                [$(($name, self.$field, $floor)),*].into_iter()
            }
        }
    };
}

counts! {
    /// Events.
    events: "events", at least 300_000;
    /// Terms in which a proposer led.
    elections: "elections", at least 2_000;
    /// Nodes that lost power or were killed.
    crashes: "crashes", at least 3_000;
    /// Truncations of logs that held bytes of another term.
    truncations: "truncations", at least 1_000;
    /// Times that a node was told to truncate a tail that no other node has, and crashed soon after.
    dead_tails: "dead tails", at least 20;
    /// Segments that a node began beyond its first.
    segment_changes: "segment changes", at least 1_000;
    /// Records that were committed.
    committed_records: "committed records", at least 100_000;
    /// Injected disk faults: failed read, write or sync, full disk.
    disk_faults: "disk faults", at least 1_200;
    /// Standbys that were promoted with the committed log.
    failovers: "failovers", at least 1_000;
    /// Primaries that were started from an older image.
    restored_primaries: "restored primaries", at least 100;
    /// Campaigns that know only copies without members.
    newcomer_campaigns: "campaigns among new copies", at least 20;
    /// Promotions to a new PostgreSQL timeline.
    timeline_switches: "timeline switches", at least 500;
    /// Votes that were requested and not granted.
    refused_votes: "refused votes", at least 500;
    /// Messages that arrived after their writer had ended.
    late_messages: "late messages", at least 300;
    /// Connections whose messages were all sent once more over another connection.
    repeated_connections: "repeated connections", at least 150;
    /// Reads that gave a standby new bytes.
    reads: "reads of standbys", at least 3_000;
    /// Reads from a donor, for a lagging safekeeper.
    fetches: "reads from donors", at least 1_000;
    /// Elections while three rivals campaigned.
    duel_elections: "elections in duels", at least 500;
    /// Clones that tried for ten simulated minutes to lead with other WAL.
    diverged_rivals: "diverged rivals", at least 50;
    /// Members with a fault that lasted for half a simulated minute.
    persistent_faults: "faults that last", at least 50;
    /// Clusters that had to elect while all disks were full.
    full_clusters: "clusters on full disks", at least 50;
    /// Disks with damage to stored bytes.
    damages: "damaged disks", at least 120;
    /// Nodes that reported the loss of acknowledged WAL.
    lost_nodes: "nodes that lost acknowledged WAL", at least 30;
    /// Damaged nodes that were repaired completely.
    repairs: "repaired nodes", at least 100;
    /// Disks that were lost for good.
    lost_disks: "disks gone for good", at least 100;
    /// Nodes that were added later, with an empty log.
    new_nodes: "new nodes", at least 500;
    /// Changes of the members that a leader began.
    member_changes: "changes of members", at least 300;
    /// Of these: changes while most old members heard only of a rival.
    partitioned_changes: "changes of members while the network parts", at least 30;
    /// Changes to members that died or were cut off while they learnt of it.
    changes_in_vain: "changes of members in vain", at least 100;
    /// Joint configurations that a leader left again.
    abandoned_changes: "changes of members that were left", at least 25;
    /// Joint configurations that a leader was told to leave and kept, because more may depend on it.
    kept_changes: "changes of members that could not be left", at least 80;
    /// Primaries that a leader was told to designate.
    designations: "designated primaries", at least 200;
    /// Configurations that were decided.
    decided_configurations: "decided configurations", at least 2_000;
    /// Removals of old segments by a node.
    removals: "removals of old WAL", at least 500;
    /// Removals of WAL that a member still lacked.
    given_up: "members given up", at least 100;
    /// Schedules that did not heal because members were given up while too many disks were damaged.
    beyond_budget: "schedules with too many failures to heal", at least 0;
    /// Schedules in dialect `neon`.
    neon_schedules: "schedules of dialect neon", at least 50;
}

impl Stats {
    /// The first count whose average is too low, as a message. Runs below [`COVERAGE_SCHEDULES_MIN`] are not checked.
    pub fn coverage_gap(&self) -> Option<String> {
        if self.schedules < COVERAGE_SCHEDULES_MIN {
            return None;
        }
        let low = self.counts().find(|(_, count, floor)| count * 1000 < floor * self.schedules);
        low.map(|(name, count, floor)| {
            format!(
                "coverage too low: {:.2} {name} per schedule on average, at least {:.2} required",
                self.average(count),
                floor as f64 / 1000.0
            )
        })
    }

    /// The averages of all counts per schedule.
    pub fn averages(&self) -> String {
        let one = |(name, count, _)| format!("{:.2} {name}", self.average(count));
        let all: Vec<String> = self.counts().map(one).collect();
        format!("on average {}", all.join(", "))
    }

    fn average(&self, count: u64) -> f64 {
        count as f64 / self.schedules.max(1) as f64
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} schedules; {}", self.schedules, self.averages())
    }
}
