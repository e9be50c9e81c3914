//! [`AccessCache`]: verifiers of roles. With the allowlists of [`super::endpoint_rules`] they say which clients may
//! connect. One lookup fills both caches, and serves all clients that ask at the same time. An endpoint that does not
//! exist costs one lookup in its `negative_ttl`, whatever the roles.
//!
//! A verifier that a password does not fit may be outdated. [`AccessCache::refetch`] looks it up once more, with one
//! lookup for all clients and at most one a second for each role, and keeps the old entry until there is an answer: a
//! client that guesses passwords while the provider is down does not lock others out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pq_proto::Text;
use scram::Verifier;
use tokio::time::Instant;
use utils::SingleFlight;
use utils::leaky_bucket::Rate;
use utils::single_flight::RunOrigin;

use super::address_cache::AddressCache;
use super::endpoint_rules::EndpointRules;
use super::error::ControlPlaneError;
use super::lookup_cache::{CacheLookup, Hit, LookupCache};
use super::lookup_order::{Epoch, LookupStart};
use super::provider::{Access, LookupContext};
use super::shared_provider::SharedProvider;
use crate::config::{CacheOptions, RateOptions};
use crate::limits::rate_limit::Limit;
use crate::route::EndpointName;

/// A verifier that a password does not fit is looked up again when it is at least this old.
const REFETCH_AGE_MIN: Duration = Duration::from_secs(1);
/// The same role is looked up again at most once in that time, even when lookups get no answer.
const REFETCH_RATE: RateOptions = RateOptions { rate: Some(Rate::new(REFETCH_AGE_MIN, 1)) };
/// Roles whose repeated lookups are counted, at most.
const REFETCH_LIMITS_MAX: usize = 10_000;

/// A role of an endpoint.
type Key = (EndpointName, Text);
type AccessResult = Result<KnownAccess, ControlPlaneError>;

/// Access of a role, and the lookup that it came from.
#[derive(Debug, Clone)]
pub(crate) struct KnownAccess {
    pub(crate) access: Access,
    /// `None` when the provider has it in memory.
    answer: Option<(LookupStart, Instant)>,
}

impl KnownAccess {
    fn verifier(&self) -> Option<String> {
        self.access.verifier.as_ref().map(Verifier::to_string)
    }
}

/// Reason why a role has no verifier.
#[derive(Debug, Clone)]
pub(super) enum NoVerifier {
    /// The endpoint has no such role, or the role has no password.
    NoRole,
    /// The provider could not answer a moment ago.
    Failed(ControlPlaneError),
}

/// Cache of verifiers.
#[derive(Debug)]
pub(super) struct AccessCache {
    provider: Arc<SharedProvider>,
    rules: Arc<EndpointRules>,
    addresses: Arc<AddressCache>,
    pub(super) entries: LookupCache<Key, Verifier, NoVerifier>,
    no_role_ttl: Duration,
    /// For each endpoint one client at a time finds out whether it exists.
    endpoints_in_flight: SingleFlight<(EndpointName, Epoch), AccessResult>,
    roles_in_flight: SingleFlight<(Key, Epoch), AccessResult>,
    refetches_in_flight: SingleFlight<(Key, Epoch), Option<AccessResult>>,
    refetches: Limit<Key>,
}

impl AccessCache {
    pub(super) fn new(
        provider: Arc<SharedProvider>,
        rules: Arc<EndpointRules>,
        addresses: Arc<AddressCache>,
        options: &CacheOptions,
    ) -> Self {
        let (order, metrics) = (Arc::clone(&provider.order), provider.metrics.caches.clone());
        Self {
            provider,
            rules,
            addresses,
            entries: LookupCache::new("role_secret", options, order, metrics),
            no_role_ttl: options.negative_ttl_as_positive(),
            endpoints_in_flight: SingleFlight::new(),
            roles_in_flight: SingleFlight::new(),
            refetches_in_flight: SingleFlight::new(),
            refetches: Limit::new(REFETCH_RATE, REFETCH_LIMITS_MAX),
        }
    }

    /// Looks up which clients may connect as `role`.
    pub(super) async fn access(self: &Arc<Self>, context: &LookupContext, role: &Text) -> AccessResult {
        if self.provider.plane.is_in_memory() {
            return Ok(KnownAccess {
                access: self.provider.plane.access(context, role).await?,
                answer: None,
            });
        }
        let key = key(context, role);
        let rules = self.rules.entries.find(&context.endpoint).label();
        let verifiers = self.entries.find(&key).label();
        if let Some(known) = self.find(&key) {
            self.count_lookup(rules, verifiers);
            return known;
        }

        let (answer, is_own) = self.look_up(context, key).await;
        let label = |own: &'static str| if is_own || own == "hit" { own } else { "shared" };
        self.count_lookup(label(rules), label(verifiers));
        answer
    }

    /// Looks the role up again, because a password did not fit `doubted`. `None` when `doubted` is still to be
    /// trusted, because the last lookup is too recent: each role costs one such lookup a second, however many clients
    /// guess passwords.
    pub(super) async fn refetch(
        self: &Arc<Self>,
        context: &LookupContext,
        role: &Text,
        doubted: &KnownAccess,
    ) -> Option<AccessResult> {
        self.provider.plane.report_doubt(context, role);
        let (start, began_at) = doubted.answer?;
        if began_at.elapsed() < REFETCH_AGE_MIN {
            return None;
        }

        let key = key(context, role);
        let (cache, context) = (Arc::clone(self), context.clone());
        let answer = self.provider.in_own_task(context.endpoint.clone(), async move {
            let flight = (key.clone(), cache.provider.order.epoch(&context.endpoint));
            let ask = || cache.ask_again(&context, &key, start);
            Ok(cache.refetches_in_flight.run(flight, ask).await.0)
        });
        let answer = answer.await.unwrap_or_else(|error| Some(Err(error)))?;
        if answer.as_ref().is_ok_and(|newer| newer.verifier() != doubted.verifier()) {
            self.entries.count_spurious_hit();
        }
        Some(answer)
    }

    /// Removes expired entries.
    pub(super) fn sweep(&self) {
        self.entries.sweep();
        self.refetches.sweep();
    }

    /// What both caches answer together; `None` when one of them has no entry.
    fn find(&self, key: &Key) -> Option<AccessResult> {
        let verifier = self.entries.find(key);
        if let CacheLookup::Negative(Hit { value: NoVerifier::Failed(error), .. }) = verifier {
            return Some(Err(error));
        }
        let allowlist = match self.rules.entries.find(&key.0) {
            CacheLookup::Hit(hit) => hit.value,
            CacheLookup::Negative(hit) => return Some(Err(hit.value)),
            CacheLookup::Expired | CacheLookup::Miss => return None,
        };
        let (verifier, start, age) = match verifier {
            CacheLookup::Hit(hit) => (Some(hit.value), hit.start, hit.age),
            CacheLookup::Negative(hit) => (None, hit.start, hit.age),
            CacheLookup::Expired | CacheLookup::Miss => return None,
        };

        let access = Access { verifier, allowlist, ..Access::default() };
        // The clock did not begin with this process, but an entry is never older than that.
        let began_at = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        Some(Ok(KnownAccess { access, answer: Some((start, began_at)) }))
    }

    fn insert(&self, key: &Key, access: &Access, start: LookupStart) {
        self.rules.insert(&key.0, access, start);
        let project = access.project.clone();
        match access.verifier.clone() {
            Some(verifier) => {
                self.entries.insert(key.clone(), verifier, project, start);
            }
            None => {
                self.entries.insert_negative(
                    key.clone(),
                    NoVerifier::NoRole,
                    self.no_role_ttl,
                    project,
                    start,
                );
            }
        }
    }

    /// Counts a lookup in both caches. Where there is no endpoint no role is looked up.
    fn count_lookup(&self, rules: &'static str, verifiers: &'static str) {
        self.rules.entries.count_lookup(rules);
        if rules != "negative" {
            self.entries.count_lookup(verifiers);
        }
    }

    /// Asks the provider, or waits for the lookup of another client. Returns the answer, and whether this caller made
    /// the request.
    async fn look_up(self: &Arc<Self>, context: &LookupContext, key: Key) -> (AccessResult, bool) {
        let (cache, context) = (Arc::clone(self), context.clone());
        let answer = self.provider.in_own_task(context.endpoint.clone(), async move {
            let (epoch, is_own) = (cache.provider.order.epoch(&context.endpoint), AtomicBool::new(false));
            if !cache.rules.entries.find(&context.endpoint).is_known() {
                let ask = || cache.ask_unless_known(&context, &key, &is_own);
                let flight = (context.endpoint.clone(), epoch);
                let (answer, origin) = cache.endpoints_in_flight.run(flight, ask).await;
                // The answer to another client says that the endpoint is there, but not which verifier this role has.
                if origin == RunOrigin::Own || answer.is_err() {
                    return Ok((answer, is_own.into_inner()));
                }
            }
            let ask = || cache.ask_unless_known(&context, &key, &is_own);
            let (answer, _) = cache.roles_in_flight.run((key.clone(), epoch), ask).await;
            Ok((answer, is_own.into_inner()))
        });
        answer.await.unwrap_or_else(|error| (Err(error), true))
    }

    async fn ask_unless_known(
        self: &Arc<Self>,
        context: &LookupContext,
        key: &Key,
        is_own: &AtomicBool,
    ) -> AccessResult {
        // A caller that came late finds what another one asked for.
        if let Some(known) = self.find(key) {
            return known;
        }
        is_own.store(true, Ordering::Relaxed);
        let start = self.provider.order.begin();
        let answer = self.ask(context, key, start).await;

        if let Err(error) = &answer
            && !error.is_about_the_endpoint()
            && let Some(ttl) = error.kept_for(self.rules.negative_ttl)
        {
            let failed = NoVerifier::Failed(error.clone());
            let project = self.rules.project(&key.0);
            self.entries.insert_negative(key.clone(), failed, ttl, project, start);
        }
        answer
    }

    async fn ask_again(
        self: &Arc<Self>,
        context: &LookupContext,
        key: &Key,
        doubted: LookupStart,
    ) -> Option<AccessResult> {
        // A caller that came late finds what another one asked for.
        if let Some(Ok(newer)) = self.find(key)
            && newer.answer.is_some_and(|(start, _)| start > doubted)
        {
            return Some(Ok(newer));
        }
        self.refetches.try_acquire(key).ok()?;
        Some(self.ask(context, key, self.provider.order.begin()).await)
    }

    async fn ask(self: &Arc<Self>, context: &LookupContext, key: &Key, start: LookupStart) -> AccessResult {
        match self.ask_provider(context, &key.1).await {
            Ok(access) => {
                self.insert(key, &access, start);
                Ok(KnownAccess { access, answer: Some((start, Instant::now())) })
            }
            Err(error) => {
                self.rules.insert_error(&context.endpoint, &error, start);
                Err(error)
            }
        }
    }

    /// Wakes the compute, where only a running compute can answer and the provider allows it. Such a wake is like any
    /// other: it is shared and counted, and the compute is not suspended while it lasts.
    async fn ask_provider(
        self: &Arc<Self>,
        context: &LookupContext,
        role: &Text,
    ) -> Result<Access, ControlPlaneError> {
        // An address known before the answer is of a compute that sleeps; one that comes after it may not be.
        let asleep = self.addresses.entries.find(&context.endpoint).generation();
        self.provider.count_request("access");
        let access = self.provider.plane.access(context, role).await?;
        if !access.may_wake {
            return Ok(access);
        }

        tracing::info!(endpoint = %context.endpoint, "waking compute for an unauthenticated client (wake_unauthenticated)");
        match self.addresses.wake_unless_newer(context, asleep).await {
            Ok(_) => {
                self.provider.count_request("access");
                self.provider.plane.access(context, role).await
            }
            // To an unauthenticated client that is the same answer as to a wrong password.
            Err(ControlPlaneError::TooManyWakes { .. }) => Ok(access),
            Err(error) => Err(error),
        }
    }
}

/// Copies the role: a slice of a startup packet would keep the whole buffer that the packet was read into.
fn key(context: &LookupContext, role: &Text) -> Key {
    (context.endpoint.clone(), Text::new(Bytes::copy_from_slice(role.as_bytes())))
}

#[cfg(test)]
mod tests;
