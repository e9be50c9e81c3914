//! `ConfigureRequest`: accepts a configuration from the leader of the term and keeps it with that term.

use super::{Acceptor, Effect, Refusal, require_holdfast2};
use crate::ConnectionId;
use crate::configuration::Configuration;
use crate::lineage::ProtocolVersion;
use crate::message::{AcceptorMessage, ConfigureRequest, ConfigureResponse};
use wal_types::Term;

impl Acceptor {
    /// Persists the configuration, then replies. A leader of a lower term gets the higher term as its reply.
    pub(super) fn handle_configure(
        &mut self,
        from: ConnectionId,
        version: ProtocolVersion,
        request: ConfigureRequest,
    ) -> Result<Vec<Effect>, Refusal> {
        require_holdfast2(version)?;
        let ConfigureRequest { term, configuration } = request;
        let mut effects = Vec::new();

        if term >= self.state.term {
            if term > self.state.term || !self.leads(from) {
                return Err(Refusal::NotElected { term, own: self.state.term });
            }
            if self.is_next_configuration(term, &configuration)? {
                self.state.configuration = configuration;
                self.state.configuration_term = term;
                effects.push(self.persist());
            }
        }

        let generation = self.state.configuration.generation;
        let message = AcceptorMessage::Configure(ConfigureResponse { term: self.state.term, generation });
        effects.push(Effect::Reply { to: from, message });
        Ok(effects)
    }

    /// True when `next` is a new configuration from the leader of `term`, which this node follows. Within one term
    /// generations only rise, and each generation has one meaning.
    pub(super) fn is_next_configuration(&self, term: Term, next: &Configuration) -> Result<bool, Refusal> {
        next.validate().map_err(Refusal::Configuration)?;
        let (known, got) = (&self.state.configuration, next.generation);
        if self.state.configuration_term < term || known.generation < got {
            return Ok(true);
        }
        if got < known.generation {
            return Err(Refusal::OlderConfiguration { known: known.generation, got });
        }
        if known == next { Ok(false) } else { Err(Refusal::TwoConfigurations(got)) }
    }
}
