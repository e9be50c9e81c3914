//! `ProposerGreeting`: admits a proposer of the same log, cluster, PostgreSQL version and dialect.

use wal_types::SystemId;

use super::{Acceptor, Effect, Refusal};
use crate::ConnectionId;
use crate::lineage::Dialect;
use crate::message::{AcceptorGreeting, AcceptorMessage, ProposerGreeting};

impl Acceptor {
    /// Fills in the cluster's identity while the log has none. Dialect `neon` also brings a newer configuration.
    pub(super) fn handle_greeting(
        &mut self,
        from: ConnectionId,
        greeting: ProposerGreeting,
    ) -> Result<Vec<Effect>, Refusal> {
        let lineage = &self.lineage;
        if greeting.version.dialect() != lineage.dialect {
            return Err(Refusal::Dialect { expected: lineage.dialect });
        }
        if greeting.id != lineage.id {
            return Err(Refusal::OtherTimeline { expected: lineage.id, got: greeting.id });
        }
        if greeting.segment_bytes != lineage.segment_size.bytes() {
            return Err(Refusal::SegmentSize {
                expected: lineage.segment_size.bytes(),
                got: greeting.segment_bytes,
            });
        }

        let mut learnt = lineage.clone();
        if greeting.system_id != SystemId(0) {
            if lineage.system_id != SystemId(0) && lineage.system_id != greeting.system_id {
                return Err(Refusal::OtherCluster { expected: lineage.system_id, got: greeting.system_id });
            }
            learnt.system_id = greeting.system_id;
        }
        if greeting.pg_version != 0 {
            let major = greeting.pg_version / 10_000;
            if lineage.pg_version != 0 && lineage.pg_major() != major {
                return Err(Refusal::MajorVersion { expected: lineage.pg_major(), got: major });
            }
            learnt.pg_version = greeting.pg_version;
        }

        let newer = greeting.configuration.generation > self.state.configuration.generation;
        let adopts = newer && lineage.dialect == Dialect::Neon;
        if adopts && !greeting.configuration.sets().iter().flatten().any(|&member| member == self.copy.node) {
            return Err(Refusal::NotAMember(greeting.configuration.generation));
        }

        let mut effects = Vec::new();
        if learnt != self.lineage {
            self.lineage = learnt.clone();
            effects.push(Effect::PersistLineage(learnt));
        }
        if adopts {
            self.state.configuration = greeting.configuration;
            effects.push(self.persist());
        }
        self.versions.insert(from, greeting.version);
        let message = AcceptorGreeting {
            node_id: self.copy.node,
            replica: self.copy.replica,
            birth: self.lineage.birth,
            term: self.state.term,
            configuration: self.state.configuration.clone(),
            configuration_term: self.state.configuration_term,
        };
        effects.push(Effect::Reply { to: from, message: AcceptorMessage::Greeting(message) });
        Ok(effects)
    }
}
