//! Conversations, byte for byte, on streams in memory. Each file in `transcripts/` is one or more connections; `---`
//! begins the next one. A line is a step, `#` begins a comment:
//!
//! ```text
//! config WORD             plain | tls | full | link; the first line if at all
//! client  BYTES           the client sends
//! proxy   BYTES           the client gets exactly this
//! proxy   wrote COUNT     so many times to clients since the line before like this
//! compute accepts         the proxy connects, and the connection is accepted
//! compute refuses         the proxy connects, and the connection is refused
//! compute < BYTES         the compute gets exactly this
//! compute > BYTES         the compute sends
//! client|compute closes   its connection
//! client  leaves          it does not even read any more
//! proxy|compute ends      the client's, or the compute's, stream is at its end
//! second  BYTES           another client connects and sends
//! second  gets BYTES      it gets exactly this
//! second  ends            its stream is at its end
//! console JSON            the service behind logins with a browser reports
//! drain                   SIGTERM
//! include NAME            the steps of another file
//! ```
//!
//! `\0`, `\n`, `\\` and `\xNN` stand for bytes, and a line that begins with white space continues the one before.

mod fakes;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use scram::{ITERATIONS_DEFAULT, Verifier};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::Span;
use utils::Shutdown;
use utils::shutdown::Signal;

use self::fakes::{Counting, CountsWrites, Dialed, ScriptedDial};
use super::*;
use crate::auth::{Authenticator, MockSecret};
use crate::cancel::Cancels;
use crate::config::{ClientAuth, TlsSources};
use crate::control_plane::CachingControlPlane;
use crate::lifecycle::drain::{Drain, Times};
use crate::link::mgmt;
use crate::link::tests::load as load_links;
use crate::observe::activity::{Activity, SessionId};
use crate::observe::metrics::Metrics;
use crate::providers::FileControlPlane;
use crate::tls::TlsStore;
use crate::tls::certificates::tests::write as write_certificate;

/// Time limit of one step.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
const LOGIN_TIMEOUT: Duration = Duration::from_secs(1);
const PIPE_BYTES: usize = 64 * 1024;

macro_rules! transcripts {
    ($($name:ident)* ; parts $($part:ident)*) => {
        $(#[tokio::test]
        async fn $name() {
            play(stringify!($name)).await;
        })*

        fn text_of(name: &str) -> &'static str {
            match name {
                $(stringify!($name) => include_str!(concat!("transcripts/", stringify!($name), ".txt")),)*
                $(stringify!($part) => include_str!(concat!("transcripts/", stringify!($part), ".txt")),)*
                other => panic!("no transcript {other}"),
            }
        }
    };
}

transcripts! {
    a_cancel_request
    a_client_that_does_not_wait
    a_client_that_ends_at_once
    a_client_that_leaves_before_its_compute_is_ready
    a_client_that_never_proves_anything
    a_client_that_says_nothing
    a_client_that_stops_inside_its_startup_packet
    a_client_that_vanishes
    a_compute_that_cannot_be_started
    a_compute_that_cannot_cancel
    a_compute_that_dies_between_two_messages
    a_compute_that_dies_inside_a_message
    a_compute_that_is_full
    a_compute_that_is_something_else
    a_compute_that_is_starting
    a_compute_that_refuses
    a_compute_that_says_goodbye
    a_compute_that_trusts_us
    a_compute_that_wants_a_password
    a_compute_whose_connections_break
    a_copy_that_the_client_gives_up
    a_drain
    a_drain_in_a_transaction
    a_half_closed_client
    a_login_with_a_browser
    a_login_with_a_browser_that_fails
    a_long_cancel_key
    a_malformed_answer_to_the_password_request
    a_malformed_cancel_request
    a_malformed_startup
    a_newer_protocol
    a_notification_for_an_idle_session
    a_pipeline
    a_replication_session
    a_session_from_the_first_byte_to_the_last
    a_session_too_many
    a_sleeping_compute_wakes_up
    a_start_that_fails
    a_version_between
    a_wrong_password
    an_impostor_of_a_compute
    an_unknown_endpoint
    an_unknown_role
    bytes_in_clear_after_a_request_for_tls
    direct_tls_where_there_is_none
    gssapi_is_refused_once
    no_route
    parameters_and_notices_pass
    physical_replication
    plaintext_is_refused
    requests_for_encryption
    ; parts client_proves compute_lets_in login
}

async fn play(name: &str) {
    let steps = steps(name);
    for connection in steps.split(|step| step == "---") {
        let (config, steps) = match connection.first().and_then(|step| step.strip_prefix("config ")) {
            Some(config) => (config, &connection[1..]),
            None => ("plain", connection),
        };
        let mut scene = Scene::new(config);
        for step in steps {
            match timeout(STEP_TIMEOUT, scene.step(step)).await {
                Ok(Ok(())) => {}
                Ok(Err(problem)) => panic!("{name}: {step}\n  {problem}"),
                Err(_) => panic!("{name}: {step}\n  nothing happened"),
            }
        }
        scene.finish().await;
    }
}

/// Lines with continuations joined and inclusions expanded.
fn steps(name: &str) -> Vec<String> {
    let mut steps: Vec<String> = Vec::new();
    for line in text_of(name).lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(more) = line.strip_prefix(char::is_whitespace) {
            steps.last_mut().expect("a line before").push_str(more.trim_start());
        } else if let Some(included) = line.strip_prefix("include ") {
            steps.extend(self::steps(included));
        } else {
            steps.push(line.to_owned());
        }
    }
    steps
}

/// A connection whose client and compute are played by the test.
struct Scene {
    client: DuplexStream,
    /// Another client of the same proxy.
    second: Option<DuplexStream>,
    compute: Option<DuplexStream>,
    dials: mpsc::UnboundedReceiver<Dialed>,
    services: Arc<Services<ScriptedDial>>,
    sessions: Vec<JoinHandle<()>>,
    /// How often the proxy wrote to clients.
    writes: Arc<AtomicUsize>,
    /// Every session but the first one is too many.
    is_full: bool,
    _files: tempfile::TempDir,
}

impl Scene {
    fn new(config: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let (dial, dials) = mpsc::unbounded_channel();
        let services = Arc::new(services(config, files.path(), ScriptedDial(dial)));
        let mut scene = Self {
            client: duplex(1).0,
            second: None,
            compute: None,
            dials,
            services,
            sessions: Vec::new(),
            writes: Arc::default(),
            is_full: config == "full",
            _files: files,
        };
        scene.client = scene.connect();
        scene
    }

    fn connect(&mut self) -> DuplexStream {
        let (client, ours) = duplex(PIPE_BYTES);
        let ours = CountsWrites { stream: ours, writes: Arc::clone(&self.writes) };
        let services = Arc::clone(&self.services);
        let too_many = (self.is_full && !self.sessions.is_empty()).then_some(TooMany::Total);
        self.sessions.push(tokio::spawn(async move {
            let (activity, span) = (Activity::new(SessionId(1), None), Span::none());
            let random = &mut Counting(0);
            let session = Session { services: &*services, activity: &activity, span: &span, random };
            let _ = Box::pin(session.run(ours, too_many)).await;
        }));
        client
    }

    async fn step(&mut self, step: &str) -> Result<(), String> {
        let (who, what) = step.split_once(' ').unwrap_or((step, ""));
        match (who, what) {
            ("client", "leaves") => {
                self.client = duplex(1).0;
                Ok(())
            }
            ("client", "closes") => self.client.shutdown().await.map_err(|error| error.to_string()),
            ("client", bytes) => send(&mut self.client, bytes).await,
            ("proxy", what) if let Some(count) = what.strip_prefix("wrote ") => {
                let wrote = self.writes.swap(0, Ordering::Relaxed);
                if wrote.to_string() == count { Ok(()) } else { Err(format!("it wrote {wrote} times")) }
            }
            ("proxy", "ends") => expect_end(&mut self.client).await,
            ("proxy", bytes) => expect(&mut self.client, bytes).await,
            ("second", "ends") => expect_end(self.second.as_mut().ok_or("no such connection")?).await,
            ("second", what) if let Some(bytes) = what.strip_prefix("gets ") => {
                expect(self.second.as_mut().ok_or("no such connection")?, bytes).await
            }
            ("second", bytes) => {
                let mut second = self.connect();
                send(&mut second, bytes).await?;
                self.second = Some(second);
                Ok(())
            }
            ("compute", "accepts") => {
                let (compute, theirs) = duplex(PIPE_BYTES);
                self.compute = Some(compute);
                self.answer_dial(Ok(theirs)).await
            }
            ("compute", "refuses") => {
                self.answer_dial(Err(std::io::ErrorKind::ConnectionRefused.into())).await
            }
            ("compute", what) => {
                let compute = self.compute.as_mut().ok_or("no such connection")?;
                match what.split_once(' ') {
                    Some(("<", bytes)) => expect(compute, bytes).await,
                    Some((">", bytes)) => send(compute, bytes).await,
                    _ if what == "ends" => expect_end(compute).await,
                    _ if what == "closes" => {
                        self.compute = None;
                        Ok(())
                    }
                    _ => Err("no such step".into()),
                }
            }
            ("console", report) => {
                let links = self.services.links.as_ref().ok_or("no logins with a browser in this config")?;
                mgmt::deliver(links, report).await.map_err(|error| error.to_string())
            }
            ("drain", "") => {
                self.services.drain.shutdown.signal(Signal::Terminate);
                Ok(())
            }
            _ => Err("no such step".into()),
        }
    }

    async fn answer_dial(&mut self, answer: std::io::Result<DuplexStream>) -> Result<(), String> {
        let dialed = self.dials.recv().await.ok_or("the session is over")?;
        dialed.send(answer).map_err(|_| "the proxy does not wait for it".to_owned())
    }

    /// All steps were used, and no task panicked.
    async fn finish(mut self) {
        drop((self.client, self.second, self.compute));
        self.dials.close();
        for session in self.sessions {
            timeout(STEP_TIMEOUT, session).await.expect("the session ends").expect("no panic");
        }
        assert!(self.dials.try_recv().is_err(), "a connection that the transcript does not know of");
    }
}

fn services(config: &str, directory: &Path, dial: ScriptedDial) -> Services<ScriptedDial> {
    let verifier = Verifier::from_password("pencil", b"0123456789abcdef", ITERATIONS_DEFAULT);
    let endpoints = format!(
        "[endpoints.main]\naddress = \"h:1\"\nstart = [\"true\"]\nroles = {{ app = \"{verifier}\" }}\n\
         [endpoints.bare]\naddress = \"h:1\"\ndbname = \"standard\"\nroles = {{ app = \"{verifier}\" }}\n\
         [endpoints.broken]\naddress = \"h:1\"\nstart = [\"/nonexistent\"]\nroles = {{ app = \"{verifier}\" }}\n"
    );
    let path = directory.join("endpoints.toml");
    std::fs::write(&path, endpoints).unwrap();
    let provider = FileControlPlane::load(&path).unwrap();
    let metrics = Metrics::new(&mut Default::default());
    let pairs = match config {
        "plain" | "full" | "link" => Vec::new(),
        "tls" => {
            vec![write_certificate(directory, &["localhost"], &rcgen::PKCS_ECDSA_P256_SHA256)]
        }
        other => panic!("no config {other}"),
    };
    let control_plane = Arc::new(CachingControlPlane::new(
        Box::new(provider),
        &crate::config::Caches::default(),
        metrics.clone(),
    ));
    Services {
        tls: Arc::new(TlsStore::load(TlsSources { pairs, ..TlsSources::default() }).unwrap()),
        login_timeout: LOGIN_TIMEOUT,
        auth: Authenticator::new(
            Arc::clone(&control_plane),
            MockSecret([0; 32]),
            ClientAuth::default(),
            metrics.clone(),
        ),
        control_plane,
        links: (config == "link")
            .then(|| Arc::new(load_links("uri = \"https://console.test/login/\"").unwrap())),
        dial,
        cancels: Arc::new(Cancels::new(metrics.clone())),
        connect_timeout: STEP_TIMEOUT,
        drain: Arc::new(Drain::new(Shutdown::new(), Times::default())),
        metrics,
    }
}

async fn send(stream: &mut DuplexStream, bytes: &str) -> Result<(), String> {
    stream.write_all(&parse(bytes)).await.map_err(|error| error.to_string())
}

async fn expect(stream: &mut DuplexStream, bytes: &str) -> Result<(), String> {
    let (expected, mut got) = (parse(bytes), Vec::new());
    while got.len() < expected.len() && expected.starts_with(&got) {
        let mut next = vec![0; expected.len() - got.len()];
        match stream.read(&mut next).await {
            Ok(0) => return Err(format!("it ended after {}", show(&got))),
            Ok(count) => got.extend_from_slice(&next[..count]),
            Err(error) => return Err(format!("{error} after {}", show(&got))),
        }
    }
    if got == expected { Ok(()) } else { Err(format!("it came  {}", show(&got))) }
}

async fn expect_end(stream: &mut DuplexStream) -> Result<(), String> {
    let mut more = [0; 1024];
    match stream.read(&mut more).await {
        Ok(0) => Ok(()),
        Ok(count) => Err(format!("it came  {}", show(&more[..count]))),
        Err(error) => Err(error.to_string()),
    }
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\x00", "\\0")
}

fn parse(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        (bytes, rest) = match (first, more) {
            (b'\\', [b'0', more @ ..]) => ([bytes, vec![0]].concat(), more),
            (b'\\', [b'n', more @ ..]) => ([bytes, vec![b'\n']].concat(), more),
            (b'\\', [b't', more @ ..]) => ([bytes, vec![b'\t']].concat(), more),
            (b'\\', [b'r', more @ ..]) => ([bytes, vec![b'\r']].concat(), more),
            (b'\\', [b'x', high, low, more @ ..]) => {
                let hex = [*high, *low];
                let byte = u8::from_str_radix(str::from_utf8(&hex).unwrap(), 16).unwrap();
                ([bytes, vec![byte]].concat(), more)
            }
            (b'\\', [literal, more @ ..]) => ([bytes, vec![*literal]].concat(), more),
            (literal, more) => ([bytes, vec![*literal]].concat(), more),
        };
    }
    bytes
}
