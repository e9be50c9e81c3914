//! Tests of [`AccessCache`]: how often it asks the provider, and what it counts.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::join_all;
use scram::Verifier;

use super::*;
use crate::config::Caches;
use crate::control_plane::CachingControlPlane;
use crate::control_plane::{Compute, ControlPlane, Reply};
use crate::observe::metrics::Metrics;

/// Defaults of the flags.
const ACCESS_TTL: Duration = Duration::from_secs(60);
const NEGATIVE_TTL: Duration = Duration::from_secs(5);

/// Knows endpoint `main` with roles `app` and `other`, whose verifiers differ each time, and counts the lookups. A
/// verifier has as many rounds as its role's name has letters.
#[derive(Debug, Default)]
struct Counting {
    questions: AtomicUsize,
    is_down: AtomicBool,
}

impl ControlPlane for Arc<Counting> {
    fn access<'a>(&'a self, context: &'a LookupContext, role: &'a Text) -> Reply<'a, Access> {
        Box::pin(async move {
            let count = self.questions.fetch_add(1, Ordering::Relaxed) + 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
            if self.is_down.load(Ordering::Relaxed) {
                return Err(ControlPlaneError::Unavailable(context.endpoint.clone()));
            }
            if context.endpoint.as_str() != "main" {
                return Err(ControlPlaneError::UnknownEndpoint(context.endpoint.clone()));
            }
            let rounds = u32::try_from(role.to_str_lossy().len()).ok().and_then(NonZeroU32::new).unwrap();
            let verifier = Verifier::from_password("pencil", &count.to_be_bytes(), rounds);
            let is_known = *role == "app" || *role == "other";
            Ok(Access { verifier: is_known.then_some(verifier), ..Access::default() })
        })
    }

    fn locate<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Err(ControlPlaneError::UnknownEndpoint(context.endpoint.clone())) })
    }

    fn wake<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        self.locate(context)
    }

    fn is_in_memory(&self) -> bool {
        false
    }
}

struct Scene {
    provider: Arc<Counting>,
    cached: Arc<CachingControlPlane>,
}

impl Scene {
    fn new() -> Self {
        Self::with(&Caches::default())
    }

    fn with(caches: &Caches) -> Self {
        let provider = Arc::<Counting>::default();
        let metrics = Metrics::new(&mut Default::default());
        Self {
            cached: Arc::new(CachingControlPlane::new(Box::new(Arc::clone(&provider)), caches, metrics)),
            provider,
        }
    }

    fn questions(&self) -> usize {
        self.provider.questions.load(Ordering::Relaxed)
    }

    /// Lookups in this cache by result.
    fn lookups(&self, cache: &'static str) -> [u64; 5] {
        let results = ["hit", "miss", "negative", "expired", "shared"];
        results.map(|result| self.cached.metrics.caches.lookups(cache, result))
    }

    async fn access(&self, endpoint: &str, role: &str) -> Result<KnownAccess, ControlPlaneError> {
        self.cached.access(&LookupContext::for_test(endpoint), &role.into()).await
    }
}

#[tokio::test(start_paused = true)]
async fn access_cache_asks_once_for_unknown_endpoint() {
    let scene = Scene::new();
    let roles: Vec<String> = (0..50).map(|number| format!("role{number}")).collect();
    for round in 1..=3 {
        let answers = join_all(roles.iter().map(|role| scene.access("none", role))).await;
        assert!(answers.iter().all(|answer| matches!(answer, Err(ControlPlaneError::UnknownEndpoint(_)))));
        scene.cached.locate(&LookupContext::for_test("none")).await.unwrap_err();
        scene.access("none", "another").await.unwrap_err();
        assert_eq!(scene.questions(), round);
        tokio::time::advance(NEGATIVE_TTL).await;
    }
}

#[tokio::test(start_paused = true)]
async fn access_cache_shares_lookups_until_expiry() {
    let scene = Scene::new();
    for round in 1..=2 {
        let answers = join_all((0..50).map(|_| scene.access("main", "app"))).await;
        assert!(answers.into_iter().all(|answer| answer.unwrap().access.verifier.is_some()));
        scene.access("main", "app").await.unwrap();
        assert_eq!(scene.questions(), round);
        tokio::time::advance(ACCESS_TTL).await;
    }
}

#[tokio::test(start_paused = true)]
async fn access_cache_treats_unknown_roles_alike() {
    let mut counts = Vec::new();
    for role in ["app", "absent"] {
        let scene = Scene::new();
        for _ in 0..3 {
            let accessed = scene.access("main", role).await.unwrap();
            scene.cached.access_again(&LookupContext::for_test("main"), &role.into(), &accessed).await;
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        counts.push(scene.questions());
    }
    assert_eq!(counts, [3, 3]);
}

#[tokio::test(start_paused = true)]
async fn refetch_skips_fresh_verifiers() {
    let scene = Scene::new();
    let (main, app) = (LookupContext::for_test("main"), Text::from("app"));
    let first = scene.access("main", "app").await.unwrap();
    assert!(scene.cached.access_again(&main, &app, &first).await.is_none());
    tokio::time::advance(REFETCH_AGE_MIN).await;
    let old = scene.access("main", "app").await.unwrap();
    // Twenty clients with the old password at once: one lookup, and the old verifier is gone for all of them.
    let again = join_all((0..20).map(|_| scene.cached.access_again(&main, &app, &old))).await;
    assert_eq!(scene.questions(), 2);
    assert_eq!(scene.cached.metrics.caches.spurious_hits("role_secret"), 20);
    let text = |accessed: &KnownAccess| accessed.access.verifier.as_ref().unwrap().to_string();
    for answer in again {
        assert_ne!(text(&answer.unwrap().unwrap()), text(&old));
    }
    assert_ne!(text(&scene.access("main", "app").await.unwrap()), text(&old));
}

#[tokio::test(start_paused = true)]
async fn access_cache_lookup_outlives_its_client() {
    let scene = Scene::new();
    for _ in 0..5 {
        let impatient = scene.access("none", "app");
        assert!(tokio::time::timeout(Duration::from_millis(1), impatient).await.is_err());
    }
    scene.access("none", "app").await.unwrap_err();
    assert_eq!(scene.questions(), 1);
}

#[tokio::test(start_paused = true)]
async fn lookups_are_counted_by_what_came_of_them() {
    let scene = Scene::new();
    join_all((0..3).map(|_| scene.access("main", "app"))).await;
    scene.access("main", "app").await.unwrap();
    scene.access("main", "absent").await.unwrap();
    scene.access("main", "absent").await.unwrap();
    scene.access("none", "app").await.unwrap_err();
    scene.access("none", "app").await.unwrap_err();
    tokio::time::advance(ACCESS_TTL).await;
    scene.access("main", "app").await.unwrap();
    // hit, miss, negative, expired, shared
    assert_eq!(scene.lookups("access_rules"), [3, 2, 1, 1, 2]);
    assert_eq!(scene.lookups("role_secret"), [1, 3, 1, 1, 2]);
}

/// Guesses while the provider is down lock no client out, and cost one lookup a second.
#[tokio::test(start_paused = true)]
async fn refetch_keeps_verifier_while_provider_is_down() {
    let scene = Scene::new();
    let (main, app) = (LookupContext::for_test("main"), Text::from("app"));
    let right = scene.access("main", "app").await.unwrap();
    scene.provider.is_down.store(true, Ordering::Relaxed);
    for second in 1..=5 {
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..20 {
            let known = scene.access("main", "app").await.unwrap();
            assert_eq!(
                known.access.verifier.as_ref().unwrap().to_string(),
                right.access.verifier.as_ref().unwrap().to_string()
            );
            let again = scene.cached.access_again(&main, &app, &known).await;
            assert!(again.is_none_or(|answer| answer.is_err()));
        }
        assert_eq!(scene.questions(), 1 + second);
    }
}

#[tokio::test(start_paused = true)]
async fn access_cache_limits_lookups_while_down() {
    let scene = Scene::new();
    scene.provider.is_down.store(true, Ordering::Relaxed);
    for round in 1..=3 {
        for answer in join_all((0..20).map(|_| scene.access("main", "app"))).await {
            assert_eq!(answer.unwrap_err(), ControlPlaneError::Unavailable("main".parse().unwrap()));
        }
        scene.access("main", "app").await.unwrap_err();
        assert_eq!(scene.questions(), round);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    scene.provider.is_down.store(false, Ordering::Relaxed);
    scene.access("main", "app").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn access_cache_keeps_real_roles() {
    let scene = Scene::new();
    scene.access("main", "app").await.unwrap();
    let most = Caches::default().role_secrets.size;
    join_all((0..=most).map(|number| {
        let role = format!("role{number}");
        let scene = &scene;
        async move { scene.access("main", &role).await.unwrap() }
    }))
    .await;
    let questions = scene.questions();
    scene.access("main", "app").await.unwrap();
    assert_eq!(scene.questions(), questions);
}

/// Iterations of the verifier, which tell its role; 0 without a verifier.
fn rounds(accessed: &KnownAccess) -> usize {
    let verifier = accessed.access.verifier.as_ref().map(Verifier::to_string).unwrap_or_default();
    let rounds = verifier.split(['$', ':']).nth(1).unwrap_or("0");
    rounds.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn access_cache_keeps_concurrent_roles_apart() {
    for is_endpoint_known in [false, true] {
        let scene = Scene::new();
        if is_endpoint_known {
            scene.access("main", "stranger").await.unwrap();
        }
        let before = scene.questions();
        let roles = [("app", 3), ("other", 5), ("absent", 0)];
        let crowd = join_all((0..30).map(|number| {
            let (role, expected) = roles[number % roles.len()];
            let scene = &scene;
            async move { (rounds(&scene.access("main", role).await.unwrap()), expected) }
        }));
        for (found, expected) in crowd.await {
            assert_eq!(found, expected, "{is_endpoint_known}");
        }
        assert_eq!(scene.questions() - before, roles.len(), "{is_endpoint_known}");
    }
}

#[tokio::test(start_paused = true)]
async fn doubts_about_one_role_take_nothing_from_another() {
    let (scene, main) = (Scene::new(), LookupContext::for_test("main"));
    let mut known = Vec::new();
    for role in ["app", "other"] {
        known.push((Text::from(role), scene.access("main", role).await.unwrap()));
    }
    tokio::time::advance(REFETCH_AGE_MIN).await;
    let before = scene.questions();
    let again = join_all(known.iter().map(|(role, old)| scene.cached.access_again(&main, role, old)));
    let again: Vec<_> = again.await.into_iter().map(|answer| rounds(&answer.unwrap().unwrap())).collect();
    assert_eq!((again, scene.questions() - before), (vec![3, 5], 2));
}

#[tokio::test(start_paused = true)]
async fn access_cache_negative_ttl_follows_options() {
    for (option, endpoint, role) in [("role_secrets", "main", "absent"), ("access_rules", "none", "app")] {
        for seconds in [2, 20] {
            let options = format!("size=9,ttl=1m,negative_ttl={seconds}s").parse().unwrap();
            let mut caches = Caches::default();
            let cache =
                if option == "role_secrets" { &mut caches.role_secrets } else { &mut caches.access_rules };
            *cache = options;
            let scene = Scene::with(&caches);
            let _ = scene.access(endpoint, role).await;
            // The TTL may be shorter by up to a tenth.
            let surely_kept = Duration::from_secs(seconds).mul_f64(0.9) - Duration::from_millis(1);
            tokio::time::advance(surely_kept).await;
            let _ = scene.access(endpoint, role).await;
            assert_eq!(scene.questions(), 1, "{option} {seconds}");
            tokio::time::advance(Duration::from_secs(seconds) - surely_kept).await;
            let _ = scene.access(endpoint, role).await;
            assert_eq!(scene.questions(), 2, "{option} {seconds}");
        }
    }
}

/// The role name of a startup packet is a slice of the buffer that the packet was read into.
#[tokio::test]
async fn access_cache_keys_share_no_read_buffer() {
    let scene = Scene::new();
    let buffer = Bytes::from(vec![b'a'; 8192]);
    let role = Text::new(buffer.slice(..3));
    scene.cached.access(&LookupContext::for_test("main"), &role).await.unwrap();
    drop(role);
    assert!(buffer.is_unique(), "an entry of the cache keeps the whole buffer");
}
