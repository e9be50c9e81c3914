//! Whole logins, with both ends in our hands.

use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use futures::future::join_all;
use postgres_backend::Stream;
use pq_proto::authentication::{SaslInitialResponse, encode_password};
use pq_proto::{Authentication, BackendMessage, FrontendMessage, SqlState, StartupParams};
use rand::SeedableRng;
use rand::rngs::StdRng;
use scram::{SCRAM_SHA_256, client};
use tokio::io::duplex;

use super::*;
use crate::client_facing::ClientFacing;
use crate::config::Caches;
use crate::control_plane::{Compute, ControlPlane, ControlPlaneError, Reply};
use crate::limits::allowlist::Allowlist;

const ITERATIONS: NonZeroU32 = NonZeroU32::new(2).unwrap();

/// Knows endpoint `main` with role `app`, and counts the questions.
#[derive(Debug)]
struct Plane {
    password: Mutex<String>,
    allowed: &'static [&'static str],
    questions: AtomicUsize,
}

impl ControlPlane for Arc<Plane> {
    fn access<'a>(&'a self, context: &'a LookupContext, role: &'a Text) -> Reply<'a, Access> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        let known = context.endpoint.as_str() == "main";
        let password = self.password.lock().unwrap().clone();
        let verifier = (*role == "app").then(|| Verifier::from_password(&password, b"salt", ITERATIONS));
        let allowlist = Arc::new(Allowlist::parse(self.allowed.iter().copied()).unwrap());
        let unknown = || ControlPlaneError::UnknownEndpoint(context.endpoint.clone());
        let access = known.then_some(Access { verifier, allowlist, ..Access::default() }).ok_or_else(unknown);
        Box::pin(std::future::ready(access))
    }

    fn locate<'a>(&'a self, _: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        panic!("nothing is woken by a login")
    }

    fn wake<'a>(&'a self, _: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        panic!("nothing is woken by a login")
    }

    fn is_in_memory(&self) -> bool {
        false
    }
}

struct Scene {
    plane: Arc<Plane>,
    auth: Authenticator,
}

/// A client.
#[derive(Clone, Copy)]
struct As<'a> {
    user: &'a str,
    password: &'a str,
    address: Option<&'a str>,
    encrypted: bool,
}

const APP: As<'_> = As { user: "app@main", password: "pencil", address: None, encrypted: true };

impl Scene {
    fn new(method: ClientAuth) -> Self {
        Self::allowing(method, &[])
    }

    fn allowing(method: ClientAuth, allowed: &'static [&'static str]) -> Self {
        let plane = Arc::new(Plane {
            password: Mutex::new("pencil".into()),
            allowed,
            questions: AtomicUsize::new(0),
        });
        let metrics = Metrics::new(&mut Default::default());
        let cached = Arc::new(CachingControlPlane::new(
            Box::new(Arc::clone(&plane)),
            &Caches::default(),
            metrics.clone(),
        ));
        Self { plane, auth: Authenticator::new(cached, MockSecret([0; 32]), method, metrics) }
    }

    /// The result, and what the client was sent.
    async fn log_in(&self, who: As<'_>) -> (Result<Authenticated, AuthError>, Vec<BackendMessage>) {
        let (ours, theirs) = duplex(16 * 1024);
        let mut ours = Connection::new(Stream::Plain(ours), BytesMut::new());
        let params: StartupParams = [("user", who.user)].into_iter().collect();
        let way = Route::find(None, &[], params).unwrap();
        let peer = ClientInfo {
            session: SessionId(1),
            address: who.address.map(|address| address.parse().unwrap()),
            encrypted: who.encrypted,
            end_point_hash: None,
        };
        let mut random = StdRng::seed_from_u64(1);
        let server = async {
            let result = self.auth.authenticate(&mut ours, way, &peer, &mut random).await;
            drop(ours);
            result
        };
        tokio::join!(server, answer(Connection::new(Stream::Plain(theirs), BytesMut::new()), who.password))
    }

    async fn result(&self, who: As<'_>) -> Result<Authenticated, AuthError> {
        self.log_in(who).await.0
    }

    fn questions(&self) -> usize {
        self.plane.questions.load(Ordering::Relaxed)
    }
}

/// As a client that does what it is asked for.
async fn answer<S: Io>(mut connection: Connection<S>, password: &str) -> Vec<BackendMessage> {
    let (mut heard, mut exchange) = (Vec::new(), Some(client::Exchange::new(b"client nonce")));
    while let Ok(Some(frame)) = connection.reader.read_frame(16 * 1024).await {
        let message = BackendMessage::decode(frame).unwrap();
        heard.push(message.clone());
        let BackendMessage::Authentication(request) = message else { panic!("{message:?}") };
        let reply = match request {
            Authentication::CleartextPassword => encode_password(&password.into()),
            Authentication::Sasl { .. } => {
                let first = exchange.as_ref().unwrap().client_first().as_bytes();
                let data = Some(Bytes::copy_from_slice(first));
                SaslInitialResponse { mechanism: SCRAM_SHA_256.into(), data }.encode().unwrap()
            }
            Authentication::SaslContinue(challenge) => {
                let challenge = str::from_utf8(&challenge).unwrap();
                let keys = client::derive_keys(challenge, password.as_bytes()).unwrap();
                let proof = exchange.take().unwrap().prove(challenge, keys).unwrap();
                Bytes::copy_from_slice(proof.client_final().as_bytes())
            }
            other => panic!("{other:?}"),
        };
        connection.writer.send(&FrontendMessage::PasswordMessage(reply)).await.unwrap();
    }
    heard
}

fn sqlstate(result: Result<Authenticated, AuthError>) -> String {
    result.unwrap_err().response().unwrap().error().sqlstate.to_string()
}

#[tokio::test]
async fn endpoint_before_the_password_authenticates() {
    let scene = Scene::new(ClientAuth::Scram);
    let in_password = As { user: "app", ..APP };
    for password in ["endpoint=main;pencil", "project=main;pencil", "endpoint=main$pencil"] {
        let (result, heard) = scene.log_in(As { password, ..in_password }).await;
        let authenticated = result.unwrap();
        assert_eq!(authenticated.route.endpoint.as_str(), "main");
        // The keys are those that SCRAM would have found, and nothing is left to tell.
        assert!(authenticated.proven.server_final.is_none());
        assert_eq!(heard, [BackendMessage::Authentication(Authentication::CleartextPassword)]);
    }
    for (password, expected) in [
        ("endpoint=main;pencils", "28P01"),
        ("endpoint=none;pencil", "28000"),
        ("endpoint=Main;pencil", "28000"),
        ("pencil", "28000"),
    ] {
        assert_eq!(sqlstate(scene.result(As { password, ..in_password }).await), expected, "{password}");
    }
}

#[tokio::test]
async fn cleartext_password_is_never_asked_without_tls() {
    let open = As { encrypted: false, ..APP };
    let (result, heard) = Scene::new(ClientAuth::Scram).log_in(As { user: "app", ..open }).await;
    assert!(matches!(result, Err(AuthError::Route(RouteError::None))) && heard.is_empty());
    let (result, heard) = Scene::new(ClientAuth::Password).log_in(open).await;
    assert!(result.is_ok());
    assert!(matches!(heard[0], BackendMessage::Authentication(Authentication::Sasl { .. })), "{heard:?}");
    let (result, heard) = Scene::new(ClientAuth::Password).log_in(APP).await;
    assert!(result.is_ok());
    assert_eq!(heard, [BackendMessage::Authentication(Authentication::CleartextPassword)]);
}

#[tokio::test(start_paused = true)]
async fn unknown_role_looks_like_a_wrong_password() {
    for method in [ClientAuth::Scram, ClientAuth::Password] {
        let mut seen = Vec::new();
        for user in ["app@main", "nobody@main"] {
            let scene = Scene::new(method);
            let mut questions = Vec::new();
            let mut shapes = Vec::new();
            for _ in 0..3 {
                let (result, heard) = scene.log_in(As { user, password: "wrong", ..APP }).await;
                let response = result.unwrap_err().response().unwrap().error();
                let message = response.message.replace(user.trim_end_matches("@main"), "USER");
                let lengths: Vec<_> = heard.iter().map(std::mem::discriminant).collect();
                shapes.push((message, response.sqlstate, response.hint, lengths));
                questions.push(scene.questions());
                tokio::time::advance(Duration::from_secs(2)).await;
            }
            // The salt of a role that does not exist is the same at each attempt, and over restarts.
            let challenge = |heard: Vec<BackendMessage>| {
                heard.into_iter().find_map(|message| match message {
                    BackendMessage::Authentication(Authentication::SaslContinue(text)) => Some(text),
                    _ => None,
                })
            };
            let again = Scene::new(method);
            let salts = [&scene, &again].map(|scene| scene.log_in(As { user, password: "wrong", ..APP }));
            let salts = join_all(salts).await.into_iter().map(|(_, heard)| challenge(heard));
            let salts: Vec<_> = salts.collect();
            assert_eq!(salts[0], salts[1]);
            seen.push((questions, shapes));
        }
        assert_eq!(seen[0], seen[1], "{method:?}");
    }
}

#[tokio::test]
async fn unknown_role_shows_the_usual_iterations() {
    let mut scene = Scene::new(ClientAuth::Scram);
    scene.auth = scene.auth.with_iterations(ITERATIONS);
    for user in ["app@main", "nobody@main"] {
        let (_, heard) = scene.log_in(As { user, password: "wrong", ..APP }).await;
        let BackendMessage::Authentication(Authentication::SaslContinue(challenge)) = &heard[1] else {
            panic!("{heard:?}")
        };
        assert!(challenge.ends_with(format!(",i={ITERATIONS}").as_bytes()), "{user} {challenge:?}");
    }
}

#[tokio::test]
async fn address_off_the_allowlist_is_refused_first() {
    let scene = Scene::allowing(ClientAuth::Scram, &["10.0.0.0/8"]);
    for address in ["10.1.1.1", "::ffff:10.1.1.1"] {
        assert!(scene.result(As { address: Some(address), ..APP }).await.is_ok(), "{address}");
    }
    for address in [Some("11.1.1.1"), Some("::1"), None] {
        let (result, heard) = scene.log_in(As { address, ..APP }).await;
        assert!(heard.is_empty());
        assert_eq!(sqlstate(result), "28000", "{address:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_logins_from_one_address_are_slowed_down() {
    let scene = Scene::new(ClientAuth::Scram);
    let time = async |who| {
        let begin = Instant::now();
        let _ = scene.log_in(who).await;
        begin.elapsed()
    };
    let guessing = As { password: "guess", address: Some("10.0.0.1"), ..APP };
    for _ in 0..11 {
        assert_eq!(time(guessing).await, Duration::ZERO);
    }
    assert_eq!(time(guessing).await, Duration::from_millis(100));
    assert_eq!(time(guessing).await, Duration::from_millis(200));
    // A right guess takes as long as a wrong one.
    assert_eq!(time(As { password: "pencil", ..guessing }).await, Duration::from_millis(400));
    assert_eq!(time(As { address: Some("10.0.0.2"), ..guessing }).await, Duration::ZERO);
    assert_eq!(scene.auth.metrics.slowed_logins.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn changed_password_costs_one_attempt_at_most() {
    for method in [ClientAuth::Scram, ClientAuth::Password] {
        let scene = Scene::new(method);
        assert!(scene.result(APP).await.is_ok());
        *scene.plane.password.lock().unwrap() = "brush".into();
        tokio::time::advance(Duration::from_secs(5)).await;
        // The cache still has the old password.
        assert!(scene.result(APP).await.is_ok());
        let brush = As { password: "brush", ..APP };
        // Each tries until it is let in, and none waits for the others.
        let failures = join_all((0..20).map(|_| async {
            let mut failures = 0;
            while let Err(error) = scene.result(brush).await {
                assert!(matches!(error, AuthError::WrongPassword(_)), "{error}");
                failures += 1;
                // From the first lookup on the old password fails.
                assert_eq!(scene.questions(), 2, "{method:?}");
                assert_eq!(sqlstate(scene.result(APP).await), "28P01");
            }
            failures
        }));
        let failures = failures.await;
        assert!(failures.iter().all(|failures| *failures <= 1), "{failures:?}");
        // A password in clear is checked again in place.
        assert_eq!(failures.iter().sum::<u32>() == 0, method == ClientAuth::Password, "{failures:?}");
        assert_eq!(sqlstate(scene.result(APP).await), "28P01");
        assert_eq!(scene.questions(), 2, "{method:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn login_limit_is_checked_before_the_control_plane() {
    let mut scene = Scene::new(ClientAuth::Scram);
    scene.auth = scene.auth.with_limit("rate=1,burst=3".parse().unwrap());
    let made_up = As { user: "app@none", ..APP };
    for _ in 0..3 {
        assert!(scene.result(APP).await.is_ok());
        assert_eq!(sqlstate(scene.result(made_up).await), "28000");
    }
    let questions = scene.questions();
    for who in [APP, made_up] {
        let (result, heard) = scene.log_in(who).await;
        assert!(heard.is_empty());
        let response = result.unwrap_err().response().unwrap().error();
        assert_eq!(response.sqlstate, SqlState::TOO_MANY_CONNECTIONS);
        assert_eq!(response.hint.as_deref(), Some("Try again in 2 s."));
    }
    assert_eq!(scene.questions(), questions);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(scene.result(APP).await.is_ok());
    assert_eq!(sqlstate(scene.result(APP).await), "53300");
}
