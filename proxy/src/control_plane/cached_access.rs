//! Who may come in, kept: verifiers and allowlists, and for a short time that there is no such endpoint. A made-up
//! endpoint costs one question in that time, whatever roles it is asked for. Part of [`Cached`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pq_proto::Text;
use tokio::time::Instant;
use utils::single_flight::Role as Part;
use utils::timed_lru::{Generation, Lookup, Ttl};
use utils::{SingleFlight, TimedLru};

use super::{Access, Cached, Caching, ControlPlaneError, Wanted};
use crate::route::EndpointName;

/// Roles whose verifiers are kept at most.
const ACCESS_ENTRIES_MAX: usize = 10_000;
/// Endpoints at most that are known to be there, and to be closed or not there.
const ENDPOINTS_MAX: usize = 10_000;
/// A verifier that does not fit is asked for again unless it is as new as that.
const REFETCH_AGE_MIN: Duration = Duration::from_secs(1);

/// Who may come in, and which answer of the provider says so.
#[derive(Debug, Clone)]
pub(crate) struct Accessed {
    pub(crate) access: Access,
    /// `None` when it is the provider's own memory.
    entry: Option<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    generation: Generation,
    age: Duration,
}

/// The caches.
#[derive(Debug)]
pub(super) struct AccessCache {
    caching: Option<Caching>,
    kept: Mutex<Kept>,
    /// One at a time finds out whether there is an endpoint.
    finding: SingleFlight<EndpointName, Result<Accessed, ControlPlaneError>>,
    asking: SingleFlight<(EndpointName, Text), Result<Accessed, ControlPlaneError>>,
}

#[derive(Debug)]
struct Kept {
    access: TimedLru<(EndpointName, Text), Access>,
    open: TimedLru<EndpointName, ()>,
    closed: TimedLru<EndpointName, ControlPlaneError>,
}

impl AccessCache {
    pub(super) fn new(caching: Option<Caching>) -> Self {
        let kept = Kept {
            access: TimedLru::new(ACCESS_ENTRIES_MAX),
            open: TimedLru::new(ENDPOINTS_MAX),
            closed: TimedLru::new(ENDPOINTS_MAX),
        };
        Self { caching, kept: Mutex::new(kept), finding: SingleFlight::new(), asking: SingleFlight::new() }
    }

    /// Why nobody comes to this endpoint, when that was said a moment ago.
    pub(super) fn closed(&self, endpoint: &EndpointName) -> Option<ControlPlaneError> {
        self.lock().closed.get(endpoint, Instant::now().into_std()).value().cloned()
    }

    /// Keeps an error for a while if it is about the endpoint.
    pub(super) fn remember_closed(&self, endpoint: &EndpointName, error: &ControlPlaneError) {
        let Some(caching) = self.caching.filter(|_| error.is_about_the_endpoint()) else { return };
        let (ttl, now) = (Ttl::absolute(caching.negative), Instant::now().into_std());
        let mut kept = self.lock();
        kept.open.remove(endpoint);
        kept.closed.insert(endpoint.clone(), error.clone(), ttl, now);
    }

    fn known(&self, key: &(EndpointName, Text)) -> Option<Accessed> {
        match self.lock().access.get(key, Instant::now().into_std()) {
            Lookup::Hit { value, generation, age } => {
                Some(Accessed { access: value.clone(), entry: Some(Entry { generation, age }) })
            }
            Lookup::Expired | Lookup::Miss => None,
        }
    }

    fn is_open(&self, endpoint: &EndpointName) -> bool {
        self.lock().open.get(endpoint, Instant::now().into_std()).value().is_some()
    }

    fn remember(&self, caching: Caching, key: (EndpointName, Text), access: Access) -> Accessed {
        let (ttl, now) = (Ttl::absolute(caching.access), Instant::now().into_std());
        let mut kept = self.lock();
        kept.open.insert(key.0.clone(), (), ttl, now);
        let inserted = kept.access.insert(key, access.clone(), ttl, now);
        let entry = Entry { generation: inserted.generation, age: Duration::ZERO };
        Accessed { access, entry: Some(entry) }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics under this lock.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cached {
    /// Who may come in as `role`.
    pub(crate) async fn access(
        self: &Arc<Self>,
        wanted: &Wanted,
        role: &Text,
    ) -> Result<Accessed, ControlPlaneError> {
        let Some(caching) = self.access.caching else {
            return Ok(Accessed { access: self.provider.access(wanted, role).await?, entry: None });
        };
        let key = (wanted.endpoint.clone(), role.clone());
        if let Some(known) = self.access.known(&key) {
            return Ok(known);
        }
        let (cached, wanted) = (Arc::clone(self), wanted.clone());
        self.undisturbed(wanted.endpoint.clone(), async move {
            if !cached.access.is_open(&wanted.endpoint) {
                let find = || cached.ask_unless_closed(caching, &wanted, &key);
                let found = cached.access.finding.run(wanted.endpoint.clone(), find).await;
                // Another one's answer says that the endpoint is there, but not who this role is.
                if found.1 == Part::Led || found.0.is_err() {
                    return found.0;
                }
            }
            cached.access.asking.run(key.clone(), || cached.ask_unless_closed(caching, &wanted, &key)).await.0
        })
        .await
    }

    /// Who may come in now, after what was said before did not fit. `None` when that is as good as new: each role costs
    /// one such question a second, whoever guesses passwords.
    pub(crate) async fn access_again(
        self: &Arc<Self>,
        wanted: &Wanted,
        role: &Text,
        doubted: &Accessed,
    ) -> Option<Result<Accessed, ControlPlaneError>> {
        self.provider.doubted(wanted, role);
        let entry = doubted.entry.filter(|entry| entry.age >= REFETCH_AGE_MIN)?;
        self.access.lock().access.invalidate(&(wanted.endpoint.clone(), role.clone()), entry.generation);
        Some(self.access(wanted, role).await)
    }

    async fn ask_unless_closed(
        &self,
        caching: Caching,
        wanted: &Wanted,
        key: &(EndpointName, Text),
    ) -> Result<Accessed, ControlPlaneError> {
        // Whoever came late finds what somebody else asked for.
        if let Some(known) = self.access.known(key) {
            return Ok(known);
        }
        if let Some(error) = self.access.closed(&wanted.endpoint) {
            return Err(error);
        }
        self.count_request("access");
        let access = self.provider.access(wanted, &key.1).await;
        if let Err(error) = &access {
            self.access.remember_closed(&wanted.endpoint, error);
        }
        Ok(self.access.remember(caching, key.clone(), access?))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;
    use crate::control_plane::{Compute, ControlPlane, Reply};
    use crate::metrics::Metrics;
    use crate::scram::Verifier;

    const CACHING: Caching = Caching { access: Duration::from_secs(60), negative: Duration::from_secs(5) };

    /// Knows endpoint `main` with role `app`, whose verifier is another one each time, and counts the questions.
    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    impl ControlPlane for Arc<Counting> {
        fn access<'a>(&'a self, wanted: &'a Wanted, role: &'a Text) -> Reply<'a, Access> {
            Box::pin(async move {
                let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
                if wanted.endpoint.as_str() != "main" {
                    return Err(ControlPlaneError::UnknownEndpoint(wanted.endpoint.clone()));
                }
                let verifier = Verifier::from_password("pencil", &count.to_be_bytes(), 1);
                Ok(Access { verifier: (*role == "app").then_some(verifier), ..Access::default() })
            })
        }

        fn locate<'a>(&'a self, wanted: &'a Wanted) -> Reply<'a, Arc<Compute>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Err(ControlPlaneError::UnknownEndpoint(wanted.endpoint.clone())) })
        }

        fn wake<'a>(&'a self, wanted: &'a Wanted) -> Reply<'a, Arc<Compute>> {
            self.locate(wanted)
        }

        fn caching(&self) -> Option<Caching> {
            Some(CACHING)
        }
    }

    struct Scene {
        provider: Arc<Counting>,
        cached: Arc<Cached>,
    }

    impl Scene {
        fn new() -> Self {
            let provider = Arc::<Counting>::default();
            let metrics = Metrics::new(&mut Default::default());
            Self { cached: Arc::new(Cached::new(Box::new(Arc::clone(&provider)), metrics)), provider }
        }

        fn questions(&self) -> usize {
            self.provider.0.load(Ordering::Relaxed)
        }

        async fn access(&self, endpoint: &str, role: &str) -> Result<Accessed, ControlPlaneError> {
            self.cached.access(&Wanted::for_test(endpoint), &role.into()).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_made_up_endpoint_costs_one_question_in_its_time_whatever_the_roles() {
        let scene = Scene::new();
        let roles: Vec<String> = (0..50).map(|number| format!("role{number}")).collect();
        for round in 1..=3 {
            let answers = join_all(roles.iter().map(|role| scene.access("none", role))).await;
            assert!(
                answers.iter().all(|answer| matches!(answer, Err(ControlPlaneError::UnknownEndpoint(_))))
            );
            scene.cached.locate(&Wanted::for_test("none")).await.unwrap_err();
            scene.access("none", "another").await.unwrap_err();
            assert_eq!(scene.questions(), round);
            tokio::time::advance(CACHING.negative).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_is_asked_for_once_by_a_crowd_and_again_when_its_time_is_over() {
        let scene = Scene::new();
        for round in 1..=2 {
            let answers = join_all((0..50).map(|_| scene.access("main", "app"))).await;
            assert!(answers.into_iter().all(|answer| answer.unwrap().access.verifier.is_some()));
            scene.access("main", "app").await.unwrap();
            assert_eq!(scene.questions(), round);
            tokio::time::advance(CACHING.access).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_role_costs_what_a_known_one_costs() {
        let mut counts = Vec::new();
        for role in ["app", "nobody"] {
            let scene = Scene::new();
            for _ in 0..3 {
                let accessed = scene.access("main", role).await.unwrap();
                scene.cached.access_again(&Wanted::for_test("main"), &role.into(), &accessed).await;
                tokio::time::advance(Duration::from_secs(2)).await;
            }
            counts.push(scene.questions());
        }
        assert_eq!(counts, [3, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_verifier_that_does_not_fit_is_asked_for_again_but_not_when_it_is_new() {
        let scene = Scene::new();
        let (main, app) = (Wanted::for_test("main"), Text::from("app"));
        let first = scene.access("main", "app").await.unwrap();
        assert!(scene.cached.access_again(&main, &app, &first).await.is_none());
        tokio::time::advance(REFETCH_AGE_MIN).await;
        let old = scene.access("main", "app").await.unwrap();
        // Twenty clients with the old password at once: one question, and the old verifier is gone for all of them.
        let again = join_all((0..20).map(|_| scene.cached.access_again(&main, &app, &old))).await;
        assert_eq!(scene.questions(), 2);
        let text = |accessed: &Accessed| accessed.access.verifier.as_ref().unwrap().to_string();
        for answer in again {
            assert_ne!(text(&answer.unwrap().unwrap()), text(&old));
        }
        assert_ne!(text(&scene.access("main", "app").await.unwrap()), text(&old));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_does_not_cost_another_question() {
        let scene = Scene::new();
        for _ in 0..5 {
            let impatient = scene.access("none", "app");
            assert!(tokio::time::timeout(Duration::from_millis(1), impatient).await.is_err());
        }
        scene.access("none", "app").await.unwrap_err();
        assert_eq!(scene.questions(), 1);
    }
}
