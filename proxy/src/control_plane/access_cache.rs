//! Who may come in, kept: verifiers of roles, allowlists of endpoints, and for a short time that there is no such
//! endpoint. One question answers for both caches. A made-up endpoint costs one question in its time, whatever roles it is
//! asked for. Part of [`Cached`].
//!
//! A verifier that a password does not fit may be that of yesterday. [`Cached::access_again`] asks once more, one for
//! everybody and at most once a second for each role, and keeps what it had until there is an answer: whoever guesses
//! passwords while the provider is down does not lock others out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pq_proto::Text;
use scram::Verifier;
use tokio::time::Instant;
use utils::SingleFlight;
use utils::leaky_bucket::Rate;
use utils::single_flight::RunOrigin;

use super::caching::Cached;
use super::error::ControlPlaneError;
use super::lookup_cache::{Cache, Found, Hit, Question, Questions};
use super::provider::{Access, Project, Wanted};
use crate::config::{Caches, RateOptions};
use crate::limits::allowlist::Allowlist;
use crate::limits::rate_limit::Limit;
use crate::observe::metrics::Metrics;
use crate::route::EndpointName;

/// A verifier that does not fit is asked for again unless it is as new as that.
const REFETCH_AGE_MIN: Duration = Duration::from_secs(1);
/// And not more often than once in this time, when there was no answer.
const REFETCH_RATE: RateOptions = RateOptions { rate: Some(Rate::new(REFETCH_AGE_MIN, 1)) };
/// Roles at most for which that is counted.
const REFETCH_LIMITS_MAX: usize = 10_000;

/// A role of an endpoint.
type Key = (EndpointName, Text);
type Answer = Result<Accessed, ControlPlaneError>;

/// Who may come in, and which answer of the provider says so.
#[derive(Debug, Clone)]
pub(crate) struct Accessed {
    pub(crate) access: Access,
    /// `None` when it is the provider's own memory.
    answer: Option<(Question, Instant)>,
}

/// Why there is no verifier.
#[derive(Debug, Clone)]
pub(super) enum NoVerifier {
    /// The endpoint has no such role, or the role has no password.
    NoRole,
    /// Nobody could say it, a moment ago.
    Trouble(ControlPlaneError),
}

/// The caches.
#[derive(Debug)]
pub(super) struct AccessCache {
    pub(super) secrets: Cache<Key, Verifier, NoVerifier>,
    pub(super) rules: Cache<EndpointName, Arc<Allowlist>, ControlPlaneError>,
    no_role_ttl: Duration,
    no_endpoint_ttl: Duration,
    /// One at a time finds out whether there is an endpoint. By the last invalidation, too: who comes after it does not
    /// wait for an answer from before.
    finding: SingleFlight<(EndpointName, u64), Answer>,
    asking: SingleFlight<(Key, u64), Answer>,
    asking_again: SingleFlight<(Key, u64), Option<Answer>>,
    refetches: Limit<Key>,
}

impl AccessCache {
    pub(super) fn new(caches: &Caches, questions: &Arc<Questions>, metrics: &Metrics) -> Self {
        let (secrets, rules) = (&caches.role_secrets, &caches.access_rules);
        Self {
            secrets: Cache::new("role_secret", secrets, Arc::clone(questions), metrics.caches.clone()),
            rules: Cache::new("access_rules", rules, Arc::clone(questions), metrics.caches.clone()),
            no_role_ttl: secrets.negative_ttl_as_positive(),
            no_endpoint_ttl: rules.negative_ttl(),
            finding: SingleFlight::new(),
            asking: SingleFlight::new(),
            asking_again: SingleFlight::new(),
            refetches: Limit::new(REFETCH_RATE, REFETCH_LIMITS_MAX),
        }
    }

    /// Why nobody comes to this endpoint, when that was said a moment ago.
    pub(super) fn closed(&self, endpoint: &EndpointName) -> Option<ControlPlaneError> {
        match self.rules.find(endpoint) {
            Found::Negative(hit) => Some(hit.value),
            _ => None,
        }
    }

    /// Keeps an error for a while if it is about the endpoint.
    pub(super) fn remember_closed(
        &self,
        endpoint: &EndpointName,
        error: &ControlPlaneError,
        question: Question,
    ) {
        if error.is_about_the_endpoint() {
            let project = self.project(endpoint);
            self.rules.keep_negative(
                endpoint.clone(),
                error.clone(),
                self.no_endpoint_ttl,
                project,
                question,
            );
        }
    }

    /// As far as it was told.
    pub(super) fn project(&self, endpoint: &EndpointName) -> Option<Project> {
        self.rules.project(endpoint)
    }

    pub(super) fn sweep(&self) {
        self.secrets.sweep();
        self.rules.sweep();
        self.refetches.sweep();
    }

    fn remember(&self, key: &Key, access: &Access, question: Question) {
        let project = || access.project.clone();
        self.rules.keep(key.0.clone(), Arc::clone(&access.allowlist), project(), question);
        match access.verifier.clone() {
            Some(verifier) => {
                self.secrets.keep(key.clone(), verifier, project(), question);
            }
            None => {
                let ttl = self.no_role_ttl;
                self.secrets.keep_negative(key.clone(), NoVerifier::NoRole, ttl, project(), question);
            }
        }
    }

    /// What both caches say together; `None` when one of them says nothing.
    fn known(&self, key: &Key) -> Option<Answer> {
        let secret = self.secrets.find(key);
        if let Found::Negative(Hit { value: NoVerifier::Trouble(error), .. }) = secret {
            return Some(Err(error));
        }
        let allowlist = match self.rules.find(&key.0) {
            Found::Hit(hit) => hit.value,
            Found::Negative(hit) => return Some(Err(hit.value)),
            Found::Expired | Found::Miss => return None,
        };
        let (verifier, question, age) = match secret {
            Found::Hit(hit) => (Some(hit.value), hit.question, hit.age),
            Found::Negative(hit) => (None, hit.question, hit.age),
            Found::Expired | Found::Miss => return None,
        };
        let access = Access { verifier, allowlist, ..Access::default() };
        // The clock did not begin with this process, but an entry is never older than that.
        let asked_at = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        Some(Ok(Accessed { access, answer: Some((question, asked_at)) }))
    }

    /// Counts a lookup in both. Where there is no endpoint nobody looks for roles.
    fn looked_up(&self, rules: &'static str, secrets: &'static str) {
        self.rules.looked_up(rules);
        if rules != "negative" {
            self.secrets.looked_up(secrets);
        }
    }
}

impl Cached {
    /// Who may come in as `role`.
    pub(crate) async fn access(self: &Arc<Self>, wanted: &Wanted, role: &Text) -> Answer {
        if self.provider.is_in_memory() {
            return Ok(Accessed { access: self.provider.access(wanted, role).await?, answer: None });
        }
        let key = (wanted.endpoint.clone(), role.clone());
        let rules = self.access.rules.find(&wanted.endpoint).word();
        let secrets = self.access.secrets.find(&key).word();
        if let Some(known) = self.access.known(&key) {
            self.access.looked_up(rules, secrets);
            return known;
        }
        let (answer, has_asked) = self.ask_who(wanted, key).await;
        let word = |own: &'static str| if has_asked || own == "hit" { own } else { "shared" };
        self.access.looked_up(word(rules), word(secrets));
        answer
    }

    /// And whether it was this caller's question that was answered.
    async fn ask_who(self: &Arc<Self>, wanted: &Wanted, key: Key) -> (Answer, bool) {
        let (cached, wanted) = (Arc::clone(self), wanted.clone());
        let asked = self.undisturbed(wanted.endpoint.clone(), async move {
            let (epoch, has_asked) = (cached.questions.epoch(&wanted.endpoint), AtomicBool::new(false));
            if !cached.access.rules.find(&wanted.endpoint).is_there() {
                let find = || cached.ask_who_unless_done(&wanted, &key, &has_asked);
                let found = cached.access.finding.run((wanted.endpoint.clone(), epoch), find).await;
                // Another one's answer says that the endpoint is there, but not who this role is.
                if found.1 == RunOrigin::Own || found.0.is_err() {
                    return Ok((found.0, has_asked.into_inner()));
                }
            }
            let ask = || cached.ask_who_unless_done(&wanted, &key, &has_asked);
            let (answer, _) = cached.access.asking.run((key.clone(), epoch), ask).await;
            Ok((answer, has_asked.into_inner()))
        });
        asked.await.unwrap_or_else(|error| (Err(error), true))
    }

    async fn ask_who_unless_done(
        self: &Arc<Self>,
        wanted: &Wanted,
        key: &Key,
        has_asked: &AtomicBool,
    ) -> Answer {
        // Whoever came late finds what somebody else asked for.
        if let Some(known) = self.access.known(key) {
            return known;
        }
        has_asked.store(true, Ordering::Relaxed);
        let question = self.questions.ask();
        let answer = self.ask_who_now(wanted, key, question).await;
        if let Err(error) = &answer
            && !error.is_about_the_endpoint()
            && let Some(ttl) = error.kept_for(self.access.no_endpoint_ttl)
        {
            let trouble = NoVerifier::Trouble(error.clone());
            let project = self.access.project(&key.0);
            self.access.secrets.keep_negative(key.clone(), trouble, ttl, project, question);
        }
        answer
    }

    async fn ask_who_now(self: &Arc<Self>, wanted: &Wanted, key: &Key, question: Question) -> Answer {
        match self.access_of_provider(wanted, &key.1).await {
            Ok(access) => {
                self.access.remember(key, &access, question);
                Ok(Accessed { access, answer: Some((question, Instant::now())) })
            }
            Err(error) => {
                self.access.remember_closed(&wanted.endpoint, &error, question);
                Err(error)
            }
        }
    }

    /// Wakes the compute, where only that makes a good answer and the provider allows it. That is a wake as any other: it
    /// is shared and counted, and while it lasts nobody stops the compute.
    async fn access_of_provider(
        self: &Arc<Self>,
        wanted: &Wanted,
        role: &Text,
    ) -> Result<Access, ControlPlaneError> {
        // What is known of the address before the answer is of a compute that sleeps, what comes after it may not be.
        let slept_at = self.addresses.find(&wanted.endpoint).generation();
        self.count_request("access");
        let access = self.provider.access(wanted, role).await?;
        if !access.may_wake {
            return Ok(access);
        }
        tracing::info!(endpoint = %wanted.endpoint, "waking for a client that has proven nothing");
        match self.wake_slept(wanted, slept_at).await {
            Ok(_) => {
                self.count_request("access");
                self.provider.access(wanted, role).await
            }
            // To a stranger that is no other answer than to a wrong password.
            Err(ControlPlaneError::TooManyWakes { .. }) => Ok(access),
            Err(error) => Err(error),
        }
    }

    /// Who may come in now, after what was said before did not fit. `None` when that is as good as new: each role costs
    /// one such question a second, whoever guesses passwords.
    pub(crate) async fn access_again(
        self: &Arc<Self>,
        wanted: &Wanted,
        role: &Text,
        doubted: &Accessed,
    ) -> Option<Answer> {
        self.provider.doubted(wanted, role);
        let (question, asked_at) = doubted.answer?;
        if asked_at.elapsed() < REFETCH_AGE_MIN {
            return None;
        }
        let key = (wanted.endpoint.clone(), role.clone());
        let (cached, wanted) = (Arc::clone(self), wanted.clone());
        let asked = self.undisturbed(wanted.endpoint.clone(), async move {
            let flight = (key.clone(), cached.questions.epoch(&wanted.endpoint));
            let again = || cached.ask_again(&wanted, &key, question);
            Ok(cached.access.asking_again.run(flight, again).await.0)
        });
        let answer = asked.await.unwrap_or_else(|error| Some(Err(error)))?;
        let verifier = |accessed: &Accessed| accessed.access.verifier.as_ref().map(Verifier::to_string);
        if answer.as_ref().is_ok_and(|newer| verifier(newer) != verifier(doubted)) {
            self.access.secrets.was_spurious();
        }
        Some(answer)
    }

    async fn ask_again(self: &Arc<Self>, wanted: &Wanted, key: &Key, doubted: Question) -> Option<Answer> {
        // Whoever came late finds what somebody else asked for.
        if let Some(Ok(newer)) = self.access.known(key)
            && newer.answer.is_some_and(|(question, _)| question > doubted)
        {
            return Some(Ok(newer));
        }
        self.access.refetches.take(key).ok()?;
        Some(self.ask_who_now(wanted, key, self.questions.ask()).await)
    }
}

#[cfg(test)]
mod tests;
