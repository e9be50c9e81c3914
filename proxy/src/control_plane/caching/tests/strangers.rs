//! Tests of wakes for unauthenticated clients, where only a running compute knows the verifiers. They are limited,
//! shared and counted like any other wake.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pq_proto::Text;
use scram::Verifier;
use tokio::sync::Semaphore;
use utils::Shutdown;

use super::super::*;
use crate::config::Caches;
use crate::control_plane::Compute;
use crate::control_plane::{Access, Reply};
use crate::observe::metrics::ByResult;

/// Time without a session after which the compute is suspended.
const IDLE: Duration = Duration::from_secs(5);

/// Provider with one compute, which knows the roles itself. Each wake waits for a permit.
#[derive(Debug)]
struct Sleeper {
    is_awake: AtomicBool,
    wakes: AtomicUsize,
    stops: AtomicUsize,
    go: Semaphore,
}

impl ControlPlane for Arc<Sleeper> {
    fn access<'a>(&'a self, _: &'a LookupContext, _: &'a Text) -> Reply<'a, Access> {
        let is_awake = self.is_awake.load(Ordering::Relaxed);
        let verifier = is_awake.then(|| Verifier::from_password("pencil", b"salt", NonZeroU32::MIN));
        Box::pin(std::future::ready(Ok(Access { verifier, may_wake: !is_awake, ..Access::default() })))
    }

    fn locate<'a>(&'a self, _: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        let compute = Compute { address: "h:1".parse().unwrap(), tls: None, database: None };
        Box::pin(std::future::ready(Ok(Arc::new(compute))))
    }

    fn wake<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        Box::pin(async move {
            self.wakes.fetch_add(1, Ordering::Relaxed);
            self.go.acquire().await.unwrap().forget();
            self.is_awake.store(true, Ordering::Relaxed);
            self.locate(context).await
        })
    }

    fn is_in_memory(&self) -> bool {
        false
    }

    fn idle_limits(&self) -> HashMap<EndpointName, Duration> {
        [("main".parse().unwrap(), IDLE)].into()
    }

    fn stop<'a>(&'a self, _: &'a EndpointName) -> Reply<'a, ()> {
        self.stops.fetch_add(1, Ordering::Relaxed);
        self.is_awake.store(false, Ordering::Relaxed);
        Box::pin(std::future::ready(Ok(())))
    }
}

struct Scene {
    plane: Arc<Sleeper>,
    cached: Arc<CachingControlPlane>,
    main: LookupContext,
}

impl Scene {
    fn new(permits: usize, wakes: &str) -> Self {
        let plane = Arc::new(Sleeper {
            is_awake: AtomicBool::new(false),
            wakes: AtomicUsize::new(0),
            stops: AtomicUsize::new(0),
            go: Semaphore::new(permits),
        });
        let metrics = Metrics::new(&mut Default::default());
        // Nothing is kept of verifiers: each login asks.
        let role_secrets = "size=0".parse().unwrap();
        let caches = Caches { wakes: wakes.parse().unwrap(), role_secrets, ..Caches::default() };
        let cached = Arc::new(CachingControlPlane::new(Box::new(Arc::clone(&plane)), &caches, metrics));
        Self { plane, cached, main: LookupContext::for_test("main") }
    }

    /// Whether an unauthenticated client gets a verifier.
    async fn stranger(&self) -> bool {
        self.cached.access(&self.main, &"app".into()).await.unwrap().access.verifier.is_some()
    }

    fn counts(&self) -> [usize; 2] {
        [&self.plane.wakes, &self.plane.stops].map(|count| count.load(Ordering::Relaxed))
    }
}

#[tokio::test(start_paused = true)]
async fn unauthenticated_wakes_share_the_wake_limit() {
    let scene = Scene::new(100, "rate=0.01,burst=2");
    for (is_told, wakes) in [(true, 1), (true, 2), (false, 2), (false, 2)] {
        scene.plane.is_awake.store(false, Ordering::Relaxed);
        assert_eq!((scene.stranger().await, scene.counts()[0]), (is_told, wakes));
    }
    let metrics = &scene.cached.metrics;
    assert_eq!(metrics.wakes.get_or_create(&ByResult { result: "woken" }).get(), 2);
    // They use up the limit of authenticated clients too.
    let located = scene.cached.locate(&scene.main).await.unwrap();
    let refused = scene.cached.wake(&scene.main, &located).await.unwrap_err();
    assert!(matches!(refused, ControlPlaneError::TooManyWakes { .. }));
    tokio::time::advance(Duration::from_secs(100)).await;
    assert_eq!((scene.stranger().await, scene.counts()[0]), (true, 3));
}

#[tokio::test(start_paused = true)]
async fn unauthenticated_wake_is_shared_with_clients() {
    let scene = Scene::new(0, "rate=0.01,burst=1");
    let stale = scene.cached.locate(&scene.main).await.unwrap();
    let client = scene.cached.wake(&scene.main, &stale);
    let go = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        scene.plane.go.add_permits(10);
    };
    let (is_told, woken, ()) = tokio::join!(scene.stranger(), client, go);
    assert_eq!((is_told, woken.is_ok(), scene.counts()[0]), (true, true, 1));
}

#[tokio::test(start_paused = true)]
async fn unauthenticated_wake_is_suspended_only_afterwards() {
    let scene = Scene::new(0, "off");
    tokio::spawn(Arc::clone(&scene.cached).suspend_idle(Shutdown::new()));
    drop(scene.cached.in_use(&scene.main.endpoint).await);
    // The wake begins before the compute is idle for long enough, and lasts.
    let waking = {
        let (cached, main) = (Arc::clone(&scene.cached), scene.main.clone());
        tokio::spawn(async move { cached.access(&main, &"app".into()).await.unwrap() })
    };
    tokio::time::sleep(IDLE * 10).await;
    assert_eq!(scene.counts(), [1, 0]);
    scene.plane.go.add_permits(1);
    assert!(waking.await.unwrap().access.verifier.is_some());
    tokio::time::sleep(IDLE * 2).await;
    assert_eq!(scene.counts(), [1, 1]);
}
