//! Tests of invalidation: by request, by reload and by expiry.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};

use scram::Verifier;
use tokio::sync::Semaphore;

use super::*;
use crate::config::Caches;
use crate::control_plane::{Access, Compute, ControlPlane, KnownAccess, LookupContext, Reply};
use crate::observe::metrics::Metrics;

/// Endpoints `a1`, `a2` of project `a`, `b1` of project `b`, and `c` without a known project. Verifiers are
/// those of the moment of the lookup.
#[derive(Debug)]
struct Plane {
    password: AtomicUsize,
    questions: AtomicUsize,
    go: Semaphore,
    files: Vec<PathBuf>,
}

impl ControlPlane for Arc<Plane> {
    fn access<'a>(&'a self, context: &'a LookupContext, _: &'a Text) -> Reply<'a, Access> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        let password = self.password.load(Ordering::Relaxed).to_string();
        Box::pin(async move {
            self.go.acquire().await.unwrap().forget();
            let project = context.endpoint.as_str().get(..1).filter(|project| *project != "c");
            let verifier = Some(Verifier::from_password(&password, b"salt", NonZeroU32::MIN));
            Ok(Access { verifier, project: project.map(Project::from), ..Access::default() })
        })
    }

    fn locate<'a>(&'a self, _: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        let compute = Compute { address: "h:1".parse().unwrap(), tls: None, database: None };
        Box::pin(std::future::ready(Ok(Arc::new(compute))))
    }

    fn wake<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        self.locate(context)
    }

    fn is_in_memory(&self) -> bool {
        false
    }

    fn files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }
}

struct Scene {
    plane: Arc<Plane>,
    cached: Arc<CachingControlPlane>,
}

impl Scene {
    fn new() -> Self {
        Self::with_files(Vec::new())
    }

    /// A provider whose answers come from these files.
    fn with_files(files: Vec<PathBuf>) -> Self {
        let plane = Arc::new(Plane {
            password: AtomicUsize::new(0),
            questions: AtomicUsize::new(0),
            go: Semaphore::new(1000),
            files,
        });
        let metrics = Metrics::new(&mut Default::default());
        let cached = CachingControlPlane::new(Box::new(Arc::clone(&plane)), &Caches::default(), metrics);
        Self { plane, cached: Arc::new(cached) }
    }

    async fn access(&self, endpoint: &str, role: &str) -> KnownAccess {
        self.cached.access(&LookupContext::for_test(endpoint), &role.into()).await.unwrap()
    }

    /// Looks up two roles of each endpoint, and its address.
    async fn fill(&self) {
        for endpoint in ["a1", "a2", "b1", "c"] {
            self.access(endpoint, "app").await;
            self.access(endpoint, "other").await;
            self.cached.locate(&LookupContext::for_test(endpoint)).await.unwrap();
        }
    }

    fn invalidate(&self, text: &str) -> Result<Dropped, InvalidationError> {
        self.cached.invalidate(&serde_json::from_str(text).unwrap())
    }

    fn entries(&self) -> [i64; 3] {
        ["compute", "role_secret", "access_rules"].map(|cache| self.cached.metrics.caches.entries(cache))
    }
}

#[tokio::test]
async fn invalidate_drops_matching_entries_only() {
    for (which, compute, role_secret, access_rules) in [
        (r#"{"endpoint": "a1"}"#, 1, 2, 1),
        // Entries that may belong to the project are dropped too.
        (r#"{"project": "a"}"#, 3, 6, 3),
        (r#"{"project": "b"}"#, 2, 4, 2),
        (r#"{"project": "none"}"#, 1, 2, 1),
        (r#"{"endpoint": "a1", "project": "b"}"#, 0, 0, 0),
        (r#"{"endpoint": "a1", "role": "app"}"#, 0, 1, 0),
        (r#"{"project": "a", "role": "app"}"#, 0, 3, 0),
        (r#"{"role": "app"}"#, 0, 4, 0),
        (r#"{"endpoint": "made-up"}"#, 0, 0, 0),
    ] {
        let scene = Scene::new();
        scene.fill().await;
        let dropped = Dropped { compute, role_secret, access_rules };
        assert_eq!(scene.entries(), [4, 8, 4]);
        assert_eq!(scene.invalidate(which), Ok(dropped), "{which}");
        let left = [4 - compute, 8 - role_secret, 4 - access_rules];
        assert_eq!(scene.entries(), left.map(|left| i64::try_from(left).unwrap()), "{which}");
    }
}

#[tokio::test]
async fn invalidate_requires_a_field() {
    let scene = Scene::new();
    assert_eq!(scene.invalidate("{}"), Err(InvalidationError::Nothing));
    assert_eq!(scene.invalidate(r#"{"endpoint": "No Name"}"#), Err(InvalidationError::Endpoint));
    assert!(serde_json::from_str::<Invalidation>(r#"{"endpoints": ["main"]}"#).is_err());
}

#[tokio::test]
async fn invalidate_discards_lookups_under_way() {
    let scene = Scene::new();
    let old = Verifier::from_password("0", b"salt", NonZeroU32::MIN).to_string();
    let new = Verifier::from_password("1", b"salt", NonZeroU32::MIN).to_string();
    let text = |accessed: KnownAccess| accessed.access.verifier.unwrap().to_string();
    // The lookup begins, and its answer takes long.
    scene.plane.go.forget_permits(1000);
    let (context, app) = (LookupContext::for_test("a1"), Text::from("app"));
    let before = {
        let (cached, context, app) = (Arc::clone(&scene.cached), context.clone(), app.clone());
        tokio::spawn(async move { cached.access(&context, &app).await.unwrap() })
    };
    while scene.plane.questions.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    scene.plane.password.store(1, Ordering::Relaxed);
    scene.invalidate(r#"{"endpoint": "a1", "role": "app"}"#).unwrap();
    let after = {
        let (cached, context, app) = (Arc::clone(&scene.cached), context.clone(), app.clone());
        tokio::spawn(async move { cached.access(&context, &app).await.unwrap() })
    };
    while scene.plane.questions.load(Ordering::Relaxed) == 1 {
        tokio::task::yield_now().await;
    }
    // Either lookup may be answered first.
    scene.plane.go.add_permits(1000);
    assert_eq!((text(before.await.unwrap()), text(after.await.unwrap())), (old, new.clone()));
    assert_eq!(text(scene.access("a1", "app").await), new);
}

#[tokio::test(start_paused = true)]
async fn keep_swept_removes_expired_entries() {
    let scene = Scene::new();
    scene.fill().await;
    let upkeep = tokio::spawn(Arc::clone(&scene.cached).keep_swept());
    tokio::time::sleep(Duration::from_secs(75)).await;
    assert_eq!(scene.entries(), [4, 0, 0]);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(scene.entries(), [0, 0, 0]);
    assert_eq!(scene.cached.metrics.caches.evictions("role_secret", "expired"), 8);
    upkeep.abort();
}

/// Answers that came from files are outdated once the files are read again.
#[tokio::test]
async fn reload_of_files_drops_all_entries() {
    let scene = Scene::with_files(vec!["endpoints.toml".into()]);
    scene.fill().await;
    let apply = scene.cached.read().unwrap();
    assert_eq!(scene.entries(), [4, 8, 4]);
    apply();
    assert_eq!(scene.entries(), [0, 0, 0]);
}

/// A reload reads nothing of a provider without files, such as an HTTP service: dropping its answers would only send a
/// crowd of lookups to the service.
#[tokio::test]
async fn reload_without_files_keeps_all_entries() {
    let scene = Scene::new();
    scene.fill().await;
    scene.cached.read().unwrap()();
    assert_eq!(scene.entries(), [4, 8, 4]);
}
