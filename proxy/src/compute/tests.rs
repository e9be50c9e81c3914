//! Tests of connecting: what is retried how often, and which error the client gets.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Mutex;

use bytes::BytesMut;
use pq_proto::{Encode, ErrorResponse, SqlState, Text};
use rand::SeedableRng;
use rand::rngs::StdRng;
use scram::{Credentials, ScramKeys};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;

use super::*;
use crate::client_facing::{ClientFacing, Response};
use crate::config::Caches;
use crate::control_plane::{Access, Address, ControlPlane, Reply};
use crate::observe::metrics::Metrics;

/// Locates every compute; a wake never ends.
#[derive(Debug)]
struct Sleepy;

impl ControlPlane for Sleepy {
    fn access<'a>(&'a self, _: &'a LookupContext, _: &'a Text) -> Reply<'a, Access> {
        Box::pin(std::future::ready(Ok(Access::default())))
    }

    fn locate<'a>(&'a self, _: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        let compute = Compute { address: "h:1".parse().unwrap(), tls: None, database: None };
        Box::pin(std::future::ready(Ok(Arc::new(compute))))
    }

    fn wake<'a>(&'a self, _: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        Box::pin(std::future::pending())
    }
}

/// Hands out the other end of each connection. Refuses when the receiver is closed.
struct Pipes(mpsc::UnboundedSender<DuplexStream>);

impl Dial for Pipes {
    type Stream = DuplexStream;

    async fn dial(&self, _: &Address) -> io::Result<DuplexStream> {
        let (ours, theirs) = duplex(1024);
        let refused = |_| io::ErrorKind::ConnectionRefused.into();
        self.0.send(theirs).map(|()| ours).map_err(refused)
    }
}

/// Connects with ten seconds of patience; `answer` is what the compute says to every startup packet.
async fn failure(answer: Option<ErrorResponse>) -> (ConnectError, usize) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<DuplexStream>();
    let mut message = BytesMut::new();
    match &answer {
        Some(answer) => Response::Proxy(answer.clone()).encode(&mut message).unwrap(),
        None => receiver.close(),
    }
    let compute = tokio::spawn(async move {
        let mut connections = 0;
        while let Some(mut stream) = receiver.recv().await {
            connections += 1;
            stream.read_buf(&mut BytesMut::new()).await.unwrap();
            stream.write_all(&message).await.unwrap();
        }
        connections
    });
    let cached = Arc::new(CachingControlPlane::new(
        Box::new(Sleepy),
        &Caches::default(),
        Metrics::new(&mut Default::default()),
    ));
    let keys = ScramKeys::derive(b"x", b"salt", NonZeroU32::MIN);
    let login =
        Login { params: [("user", "app")].into_iter().collect(), credentials: Credentials::Keys(keys) };
    let (main, within) = (LookupContext::for_test("main"), Duration::from_secs(10));
    let mut random = StdRng::seed_from_u64(1);
    let connected = connect(&Pipes(sender), &cached, &main, &login, within, &mut random).await;
    (connected.map(|_| ()).unwrap_err(), compute.await.unwrap())
}

fn sqlstate(error: &ConnectError) -> SqlState {
    error.response().unwrap().error().sqlstate
}

#[tokio::test(start_paused = true)]
async fn connect_reports_a_wake_beyond_the_deadline() {
    let begin = Instant::now();
    let (error, connections) = failure(None).await;
    assert!(matches!(error, ConnectError::StillWaking), "{error}");
    assert_eq!((sqlstate(&error), connections), (SqlState::CANNOT_CONNECT_NOW, 0));
    assert_eq!(begin.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn connect_reports_the_error_of_a_starting_compute() {
    let starting = ErrorResponse::fatal(SqlState::CANNOT_CONNECT_NOW, "the database system is starting up");
    let (error, connections) = failure(Some(starting)).await;
    assert_eq!((sqlstate(&error), error.label()), (SqlState::CANNOT_CONNECT_NOW, "compute_refused"));
    assert!(connections > LOST_LOGINS_MAX as usize, "{connections}");
}

#[tokio::test(start_paused = true)]
async fn connect_does_not_retry_a_final_refusal() {
    let full = ErrorResponse::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already");
    let (error, connections) = failure(Some(full)).await;
    assert_eq!((sqlstate(&error), connections), (SqlState::TOO_MANY_CONNECTIONS, 1));
}

/// A provider whose answers may be cached, with the calls it got. Its compute moves from `h:1` to `h:2` after the first call.
#[derive(Debug, Default)]
struct Moving(Mutex<Vec<&'static str>>);

impl Moving {
    fn answer<'a>(&self, question: &'static str) -> Reply<'a, Arc<Compute>> {
        let mut asked = self.0.lock().unwrap();
        let address = if asked.is_empty() { "h:1" } else { "h:2" }.parse().unwrap();
        asked.push(question);
        Box::pin(std::future::ready(Ok(Arc::new(Compute { address, tls: None, database: None }))))
    }
}

impl ControlPlane for Arc<Moving> {
    fn access<'a>(&'a self, _: &'a LookupContext, _: &'a Text) -> Reply<'a, Access> {
        Box::pin(std::future::ready(Ok(Access::default())))
    }

    fn locate<'a>(&'a self, _: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        self.answer("locate")
    }

    fn wake<'a>(&'a self, _: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        self.answer("wake")
    }

    fn is_in_memory(&self) -> bool {
        false
    }
}

/// The answer to each connection in turn; `None` refuses it. Records the dialled addresses.
struct Script(Mutex<(VecDeque<Option<&'static [u8]>>, Vec<String>)>);

impl Dial for Script {
    type Stream = DuplexStream;

    async fn dial(&self, address: &Address) -> io::Result<DuplexStream> {
        let answer = {
            let mut script = self.0.lock().unwrap();
            script.1.push(address.to_string());
            script.0.pop_front().expect("one connection too many")
        };
        let (ours, mut theirs) = duplex(1024);
        theirs.write_all(answer.ok_or(io::ErrorKind::ConnectionRefused)?).await?;
        tokio::spawn(async move {
            while theirs.read_buf(&mut BytesMut::new()).await.is_ok_and(|count| count > 0) {}
        });
        Ok(ours)
    }
}

const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
const WRONG_PASSWORD: &[u8] = b"E\0\0\0\x17SFATAL\0C28P01\0Mno\0\0";
const NO_DATABASE: &[u8] = b"E\0\0\0\x17SFATAL\0C3D000\0Mno\0\0";

#[tokio::test(start_paused = true)]
async fn connect_follows_a_moved_compute() {
    for (answers, questions, is_let_in) in [
        // The old address refuses connections.
        (&[None, Some(WELCOME)][..], &["locate", "wake"][..], true),
        // Another server answers there: a database without the role, or something else.
        (&[Some(WRONG_PASSWORD), Some(WELCOME)], &["locate", "locate"], true),
        (&[Some(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Some(WELCOME)], &["locate", "locate"], true),
        // The new address answers the same, so the answer counts.
        (&[Some(WRONG_PASSWORD), Some(WRONG_PASSWORD)], &["locate", "locate"], false),
        // A missing database is the compute's own answer.
        (&[Some(NO_DATABASE)], &["locate"], false),
    ] {
        let provider = Arc::new(Moving::default());
        let cached = Arc::new(CachingControlPlane::new(
            Box::new(Arc::clone(&provider)),
            &Caches::default(),
            Metrics::new(&mut Default::default()),
        ));
        let script = Script(Mutex::new((answers.iter().copied().collect(), Vec::new())));
        let login = Login {
            params: [("user", "app")].into_iter().collect(),
            credentials: Credentials::Keys(ScramKeys::derive(b"x", b"salt", NonZeroU32::MIN)),
        };
        let (main, within) = (LookupContext::for_test("main"), Duration::from_secs(10));
        let mut random = StdRng::seed_from_u64(1);
        let connected = connect(&script, &cached, &main, &login, within, &mut random).await;
        assert_eq!(connected.is_ok(), is_let_in, "{answers:?}: {:?}", connected.err());
        assert_eq!(*provider.0.lock().unwrap(), questions, "{answers:?}");
        let called = script.0.into_inner().unwrap().1;
        assert_eq!(called, ["h:1", "h:2"][..answers.len()], "{answers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_connects_are_counted_by_address_source() {
    let provider = Arc::new(Moving::default());
    let metrics = Metrics::new(&mut Default::default());
    let caches = &Caches::default();
    let cached = Arc::new(CachingControlPlane::new(Box::new(Arc::clone(&provider)), caches, metrics.clone()));
    let login = Login {
        params: [("user", "app")].into_iter().collect(),
        credentials: Credentials::Keys(ScramKeys::derive(b"x", b"salt", NonZeroU32::MIN)),
    };
    let (main, within) = (LookupContext::for_test("main"), Duration::from_secs(10));
    let mut random = StdRng::seed_from_u64(1);
    let counts = || ["cached", "uncached", "unwoken"].map(|kind| metrics.caches.connection_failures(kind));
    for (answers, expected, spurious) in [
        (&[Some(WELCOME)][..], [0, 0, 0], 0),
        // The compute has moved since.
        (&[None, Some(WELCOME)], [1, 0, 0], 1),
        // Another server seems to answer, but the control plane confirms the address: the cache was right.
        (&[Some(WRONG_PASSWORD)], [2, 0, 0], 1),
        // The address refuses connections, and again right after the wake.
        (&[None, None, Some(WELCOME)], [3, 1, 0], 2),
        // The compute's own error is no failed connect.
        (&[Some(NO_DATABASE)], [3, 1, 0], 2),
    ] {
        let script = Script(Mutex::new((answers.iter().copied().collect(), Vec::new())));
        let _ = connect(&script, &cached, &main, &login, within, &mut random).await;
        assert_eq!((counts(), metrics.caches.spurious_hits("compute")), (expected, spurious), "{answers:?}");
    }
    let questions = ["locate", "wake", "locate", "wake", "wake"];
    assert_eq!(*provider.0.lock().unwrap(), questions);
}

#[tokio::test(start_paused = true)]
async fn clients_of_one_address_share_nothing_else() {
    let cached = CachingControlPlane::new(
        Box::new(Arc::new(Moving::default())),
        &Caches::default(),
        Metrics::new(&mut Default::default()),
    );
    let cached = Arc::new(cached);
    let mut connected = Vec::new();
    for (user, database) in [("one", "first"), ("two", "second")] {
        let (sender, mut receiver) = mpsc::unbounded_channel::<DuplexStream>();
        let credentials = Credentials::Keys(ScramKeys::derive(user.as_bytes(), b"salt", NonZeroU32::MIN));
        let params =
            [("user", user), ("database", database), ("application_name", user)].into_iter().collect();
        let context = LookupContext { application: Some(user.into()), ..LookupContext::for_test("main") };
        let login = Login { params, credentials };
        let (dial, mut random) = (Pipes(sender), StdRng::seed_from_u64(1));
        let connecting = connect(&dial, &cached, &context, &login, Duration::from_secs(10), &mut random);
        let compute = async {
            let (mut stream, mut startup) = (receiver.recv().await.unwrap(), BytesMut::new());
            stream.read_buf(&mut startup).await.unwrap();
            stream.write_all(WELCOME).await.unwrap();
            // The stream stays open until the client is connected.
            (startup, stream)
        };
        let (result, (startup, _stream)) = tokio::join!(connecting, compute);
        let expected = format!("user\0{user}\0database\0{database}\0application_name\0{user}\0\0");
        assert!(startup.ends_with(expected.as_bytes()), "{startup:?}");
        connected.push(result.unwrap().1);
    }
    // Both used the same cache entry.
    assert!(Arc::ptr_eq(&connected[0], &connected[1]));
}
