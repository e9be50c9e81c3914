//! Tests of [`IdleSuspender`]: which computes it stops, and when.

use std::sync::atomic::{AtomicUsize, Ordering};

use pq_proto::Text;
use tokio::sync::Semaphore;
use utils::shutdown::Signal;

use super::*;
use crate::config::Caches;
use crate::control_plane::{
    Access, CachingControlPlane, Compute, ControlPlane, LookupContext, NoControlPlane, Reply,
};
use crate::observe::metrics::Metrics;

const LIMIT: Duration = Duration::from_secs(60);

/// Has one endpoint that may be stopped; each stop waits for a permit.
#[derive(Debug)]
struct Stoppable {
    stops: AtomicUsize,
    go: Semaphore,
    /// Each wake waits for a permit of these.
    awake: Semaphore,
}

impl ControlPlane for Arc<Stoppable> {
    fn access<'a>(&'a self, context: &'a LookupContext, role: &'a Text) -> Reply<'a, Access> {
        NoControlPlane.access(context, role)
    }

    fn locate<'a>(&'a self, _: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        let compute = Compute { address: "h:1".parse().unwrap(), tls: None, database: None };
        Box::pin(std::future::ready(Ok(Arc::new(compute))))
    }

    fn wake<'a>(&'a self, _: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        Box::pin(async {
            self.awake.acquire().await.unwrap().forget();
            Ok(Arc::new(Compute { address: "h:1".parse().unwrap(), tls: None, database: None }))
        })
    }

    fn idle_limits(&self) -> HashMap<EndpointName, Duration> {
        [("main".parse().unwrap(), LIMIT)].into()
    }

    fn stop<'a>(&'a self, _: &'a EndpointName) -> Reply<'a, ()> {
        Box::pin(async {
            self.stops.fetch_add(1, Ordering::Relaxed);
            self.go.acquire().await.unwrap().forget();
            Ok(())
        })
    }
}

struct Scene {
    provider: Arc<Stoppable>,
    cached: Arc<CachingControlPlane>,
    shutdown: Shutdown,
    main: EndpointName,
}

impl Scene {
    fn new(permits: usize) -> Self {
        let provider = Arc::new(Stoppable {
            stops: AtomicUsize::new(0),
            go: Semaphore::new(permits),
            awake: Semaphore::new(0),
        });
        let metrics = Metrics::new(&mut Default::default());
        let cached =
            Arc::new(CachingControlPlane::new(Box::new(Arc::clone(&provider)), &Caches::default(), metrics));
        let shutdown = Shutdown::new();
        tokio::spawn(Arc::clone(&cached).suspend_idle(shutdown.clone()));
        Self { provider, cached, shutdown, main: "main".parse().unwrap() }
    }

    /// Lets time pass, and returns the number of stops since the beginning.
    async fn stops_after(&self, time: Duration) -> usize {
        tokio::time::sleep(time).await;
        self.provider.stops.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn suspender_stops_idle_once_and_used_never() {
    let scene = Scene::new(10);
    assert_eq!(scene.stops_after(LIMIT * 2).await, 0);
    let first = scene.cached.in_use(&scene.main).await;
    let second = scene.cached.in_use(&scene.main).await;
    drop(first);
    assert_eq!(scene.stops_after(LIMIT * 2).await, 0);
    drop(second);
    assert_eq!(scene.stops_after(LIMIT / 2).await, 0);
    assert_eq!(scene.stops_after(LIMIT).await, 1);
    assert_eq!(scene.stops_after(LIMIT * 5).await, 1);
    drop(scene.cached.in_use(&scene.main).await);
    assert_eq!(scene.stops_after(LIMIT * 2).await, 2);
}

#[tokio::test(start_paused = true)]
async fn enter_waits_for_the_end_of_a_stop() {
    let scene = Scene::new(0);
    drop(scene.cached.in_use(&scene.main).await);
    assert_eq!(scene.stops_after(LIMIT * 2).await, 1);
    let mut coming = Box::pin(scene.cached.in_use(&scene.main));
    assert!(tokio::time::timeout(LIMIT, &mut coming).await.is_err());
    scene.provider.go.add_permits(1);
    let in_use = coming.await;
    assert_eq!(scene.stops_after(LIMIT * 2).await, 1);
    drop(in_use);
}

#[tokio::test(start_paused = true)]
async fn suspender_spares_wakes_of_clients_that_left() {
    let scene = Scene::new(10);
    let main = LookupContext::for_test("main");
    // Another endpoint that takes long to wake does not keep this one awake, nor the other way round.
    let other = LookupContext::for_test("other");
    for context in [&main, &other] {
        let _in_use = scene.cached.in_use(&context.endpoint).await;
        let stale = scene.cached.locate(context).await.unwrap();
        let waking = scene.cached.wake(context, &stale);
        assert!(tokio::time::timeout(Duration::from_secs(1), waking).await.is_err());
    }
    assert_eq!(scene.stops_after(LIMIT * 5).await, 0);
    // The first one that was asked for is awake.
    scene.provider.awake.add_permits(1);
    assert_eq!(scene.stops_after(LIMIT / 2).await, 0);
    assert_eq!(scene.stops_after(LIMIT).await, 1);
}

#[tokio::test(start_paused = true)]
async fn suspender_respects_uses_of_peers() {
    let (old, new) = (Scene::new(10), Scene::new(10));
    // Only one of two processes stops computes.
    old.shutdown.signal(Signal::Terminate);
    let session = old.cached.in_use(&old.main).await;
    let hear = || new.cached.idle.uses.merge(old.cached.uses());
    let stops_after = async |time: Duration| {
        let end = Instant::now() + time;
        while Instant::now() < end {
            hear();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        new.stops_after(Duration::ZERO).await
    };
    // Here it was used once, and has been idle since.
    drop(new.cached.in_use(&new.main).await);
    assert_eq!(stops_after(LIMIT * 3).await, 0);
    drop(session);
    assert_eq!(stops_after(LIMIT - Duration::from_secs(3)).await, 0);
    assert_eq!(stops_after(Duration::from_secs(5)).await, 1);
    // That the other one does not know it does not wake it.
    assert_eq!(stops_after(LIMIT * 3).await, 1);
    // Another session there, which has woken it.
    drop(old.cached.in_use(&old.main).await);
    let session = old.cached.in_use(&old.main).await;
    assert_eq!(stops_after(LIMIT * 3).await, 1);
    drop(session);
    assert_eq!(stops_after(LIMIT * 2).await, 2);
}

#[tokio::test(start_paused = true)]
async fn suspender_inherits_uses_and_idle_times() {
    let (old, new) = (Scene::new(0), Scene::new(10));
    drop(old.cached.in_use(&old.main).await);
    tokio::time::sleep(LIMIT / 2).await;
    let told = old.cached.uses();
    new.cached.idle.uses.merge(told.clone());
    assert!(!told[0].in_use && told[0].idle_ms >= 30_000, "{told:?}");
    assert_eq!(new.stops_after(LIMIT / 2 - Duration::from_secs(3)).await, 0);
    assert_eq!(new.stops_after(Duration::from_secs(6)).await, 1);
    // A compute that the old process is stopping is not stopped again.
    let told = old.cached.uses();
    assert!(told[0].in_use, "{told:?}");
    old.provider.go.add_permits(1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(old.cached.uses(), []);
}

#[tokio::test(start_paused = true)]
async fn suspender_ends_at_drain_and_forgets_unlimited() {
    let scene = Scene::new(10);
    drop(scene.cached.in_use(&"other".parse().unwrap()).await);
    let other = scene.cached.in_use(&"another".parse().unwrap()).await;
    drop(scene.cached.in_use(&scene.main).await);
    tokio::time::sleep(LIMIT / 2).await;
    assert_eq!(scene.cached.idle.uses.endpoints.lock().len(), 2);
    drop(other);
    scene.shutdown.signal(Signal::Terminate);
    assert_eq!(scene.stops_after(LIMIT * 2).await, 0);
}
