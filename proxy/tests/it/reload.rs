//! Reload at SIGHUP: certificates, endpoints, token and limits change together or not at all.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use nix::sys::signal::Signal;
use test_runner::{certs, wait};
use tokio_postgres::error::SqlState;

use crate::http_control_plane::Service;
use crate::installation::{DEADLINE, Installation, Setup};
use crate::raw_client::direct_tls;

/// True when the proxy shows a certificate of this authority.
async fn shows(installation: &Installation, authority: &Path) -> bool {
    direct_tls(installation.address, authority, b"", &[b"postgresql"]).await.is_ok()
}

/// Sends SIGHUP and returns the new log line that contains `words`.
async fn reload(installation: &Installation, words: &str) -> String {
    let lines = || installation.log().lines().filter(|line| line.contains(words)).count();
    let before = lines();
    installation.proxy.signal(Signal::SIGHUP).unwrap();
    wait::until(words, DEADLINE, async || Ok((lines() > before).then_some(()))).await.unwrap();
    installation.log().lines().filter(|line| line.contains(words)).nth(before).unwrap().to_owned()
}

async fn metric(installation: &Installation, name: &str) -> f64 {
    let metrics = installation.http("/metrics").await;
    let value = metrics.lines().find_map(|line| line.strip_prefix(&format!("holdfast_proxy_{name} ")));
    value.unwrap_or("0").parse().unwrap()
}

/// SQLSTATE for a second client while a first one is connected; `None` when it is admitted.
async fn second_client(installation: &Installation) -> Option<SqlState> {
    installation.wait_no_sessions().await;
    let (first, connection) = installation.connect(&installation.config()).await.unwrap();
    let second = installation.connect(&installation.config()).await;
    drop(first);
    let _ = connection.await.unwrap();
    second.err().map(|error| error.code().expect("an answer").clone())
}

/// Words of the log line of a failed reload.
const STAYS: &str = "reload failed, keeping the previous configuration";

/// Certificates, endpoints, token and limits stay unchanged until every file is valid.
#[tokio::test]
async fn reload_with_one_wrong_file_changes_nothing() {
    let service = Arc::<Service>::default();
    let url = service.listen().await;
    let flags = &[
        "--limits-file",
        "DIR/limits.toml",
        "--wake-compute-cache",
        "size=0",
        "--role-secret-cache",
        "size=0",
        "--access-rules-cache",
        "size=0",
    ];
    let setup = Setup { control_plane: "http:DIR/http.toml", flags, ..Setup::default() };
    let write = |directory: &Path| {
        fs::write(directory.join("http.toml"), format!("{url}token_file = \"token\"\n")).unwrap();
        fs::write(directory.join("token"), "first\n").unwrap();
        fs::write(directory.join("limits.toml"), "max_connections = 1\n").unwrap();
    };
    let installation = Installation::with_files("whole", &setup, write).await;
    let directory = installation.directory();
    service.database.set((installation.postgres.port, directory.join("start.sh"))).unwrap();
    fs::create_dir(directory.join("next")).unwrap();
    let next = certs::create(&directory.join("next"), &["*.db.test"]).unwrap();
    // The authority of the first certificate, for clients that still trust it.
    let old_authority = directory.join("old-ca.pem");
    fs::copy(&installation.certificates.authority, &old_authority).unwrap();
    let token = || service.authorization.lock().unwrap().clone();
    assert_eq!(second_client(&installation).await, Some(SqlState::TOO_MANY_CONNECTIONS));
    assert_eq!(token(), "Bearer first");

    let key = fs::read(&next.key).unwrap();
    let files: [(&Path, &[u8], &[u8]); 3] = [
        (&directory.join("limits.toml"), b"max_connections = 2\n", b"max_connections = 2\nwake_limit = 1\n"),
        (&directory.join("token"), b"second\n", b"sec\x01ond\n"),
        (&installation.certificates.key, &key, b"no key\n"),
    ];
    let read_at = metric(&installation, "last_reload_success_timestamp_seconds").await;
    for (number, (wrong, _, content)) in (1..).zip(files) {
        // The wrong file is written before the others: the proxy also notices changes without a signal.
        fs::write(wrong, content).unwrap();
        for (right, content, _) in files.iter().filter(|(right, ..)| *right != wrong) {
            fs::write(right, content).unwrap();
        }
        fs::copy(&next.certificate, &installation.certificates.certificate).unwrap();
        let line = reload(&installation, STAYS).await;
        assert!(line.contains(&wrong.display().to_string()), "{line}");
        assert!(shows(&installation, &old_authority).await, "{line}");
        assert_eq!(second_client(&installation).await, Some(SqlState::TOO_MANY_CONNECTIONS), "{line}");
        assert_eq!(token(), "Bearer first", "{line}");
        assert!(metric(&installation, "reloads_total{result=\"failed\"}").await >= f64::from(number));
    }
    assert_eq!(metric(&installation, "reloads_total{result=\"reloaded\"}").await, 0.0);
    assert_eq!(metric(&installation, "last_reload_success_timestamp_seconds").await, read_at);

    for (right, content, _) in files {
        fs::write(right, content).unwrap();
    }
    reload(&installation, "configuration reloaded").await;
    assert!(shows(&installation, &next.authority).await);
    fs::copy(&next.authority, &installation.certificates.authority).unwrap();
    assert_eq!(second_client(&installation).await, None);
    assert_eq!(token(), "Bearer second");
    assert!(metric(&installation, "reloads_total{result=\"reloaded\"}").await >= 1.0);
    assert!(metric(&installation, "last_reload_success_timestamp_seconds").await > read_at);
    installation.passed();
}

#[tokio::test]
async fn every_limit_counts_from_the_next_connection_on() {
    let setup = Setup { flags: &["--limits-file", "DIR/limits.toml"], ..Setup::default() };
    let write = |directory: &Path| fs::write(directory.join("limits.toml"), "").unwrap();
    let installation = Installation::with_files("rates", &setup, write).await;
    let limits = installation.directory().join("limits.toml");
    let refused = async |count: usize| {
        let mut open = Vec::new();
        for _ in 0..count {
            open.push(installation.connect(&installation.config()).await.expect("served"));
        }
        let error = installation.connect(&installation.config()).await.expect_err("one too many");
        let error = error.as_db_error().expect("an answer").clone();
        drop(open);
        installation.wait_no_sessions().await;
        (error.code().code().to_owned(), error.message().to_owned())
    };

    for (content, count, sqlstate, message) in [
        ("max_connections = 3", 3, "53300", "too many clients already"),
        ("max_connections = 2", 2, "53300", "too many clients already"),
        ("max_connections_per_ip = 2", 2, "53300", "from this address"),
        ("network_limit = \"rate=0.001,burst=3\"", 3, "53300", "from this network"),
        ("network_limit = \"rate=0.002,burst=2\"", 2, "53300", "from this network"),
        ("endpoint_limit = \"rate=0.001,burst=2\"", 2, "53300", "to this endpoint"),
        ("endpoint_limit = \"rate=0.001,burst=4\"", 4, "53300", "to this endpoint"),
    ] {
        fs::write(&limits, content).unwrap();
        reload(&installation, "configuration reloaded").await;
        let (code, said) = refused(count).await;
        assert!(code == sqlstate && said.contains(message), "{content}: {code} {said}");
    }

    for (burst, served) in [(1, 1), (2, 2)] {
        fs::write(&limits, format!("wake_limit = \"rate=0.001,burst={burst}\"\n")).unwrap();
        reload(&installation, "configuration reloaded").await;
        for _ in 0..served {
            installation.put_to_sleep().await;
            drop(installation.connect(&installation.config()).await.expect("woken"));
            installation.wait_no_sessions().await;
        }
        installation.put_to_sleep().await;
        let (code, said) = refused(0).await;
        assert!(code == "53400" && said.contains("too often"), "{code} {said}");
        // The next round stops it again.
        installation.start_postgres().await;
    }
    installation.passed();
}
