//! TLS: the certificates that the proxy shows, their reload, and the certificates of clients and computes that it
//! accepts.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use rcgen::{CertificateParams, KeyPair};
use test_runner::{certs, wait};

use crate::installation::{DEADLINE, Installation, Setup};
use crate::raw_client::{direct_tls, session};

#[tokio::test]
async fn psql_gets_what_its_sslmode_asks_for() {
    let installation = Installation::new("sslmode").await;
    let shown = async |mode: &str| {
        let uri = installation.uri().replace("verify-full", mode);
        let output = installation.psql(&uri, &["\\conninfo"]).await;
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    for mode in ["allow", "prefer", "require", "verify-ca", "verify-full"] {
        let said = shown(mode).await;
        assert!(said.contains("SSL connection (protocol: TLSv1.3"), "{mode}: {said}");
    }
    assert!(shown("disable").await.contains("connection is insecure"), "{}", shown("disable").await);
    installation.passed();
}

#[tokio::test]
async fn proxy_without_certificate_offers_no_tls() {
    let setup = Setup { no_certificate: true, ..Setup::default() };
    let installation = Installation::with("plain", &setup).await;
    let uri = installation.uri().replace("app:", "app%40main:");
    for mode in ["disable", "allow", "prefer"] {
        let uri = uri.replace("verify-full", mode);
        assert_eq!(installation.ask(&uri, &["SELECT current_user"]).await, "app", "{mode}");
    }
    let refused = installation.psql(&uri, &["SELECT 1"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("server does not support SSL"), "{said}");
    installation.passed();
}

#[tokio::test]
async fn direct_tls_needs_the_alpn_protocol() {
    let installation = Installation::new("direct").await;
    let direct = async |alpn: &[&[u8]]| {
        direct_tls(installation.address, &installation.certificates.authority, b"", alpn).await
    };
    let client = session(&installation, direct(&[b"postgresql"]).await.unwrap()).await.unwrap();
    assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    assert!(direct(&[b"http/1.1"]).await.is_err());
    let refused = session(&installation, direct(&[]).await.unwrap()).await.unwrap_err();
    assert!(
        refused.to_string().contains("ALPN")
            || refused.as_db_error().is_some_and(|error| error.message().contains("ALPN")),
        "{refused:?}"
    );
    installation.passed();
}

/// Waits until the proxy shows a certificate of this authority.
async fn wait_shown(installation: &Installation, authority: &Path) {
    wait::until("the other certificate", DEADLINE, async || {
        Ok(direct_tls(installation.address, authority, b"", &[b"postgresql"]).await.ok().map(drop))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn certificate_reload_keeps_sessions_and_refuses_wrong_files() {
    let installation = Installation::new("reload").await;
    let (client, _connection) = installation.connect(&installation.config()).await.unwrap();
    let next = |name: &str| {
        let directory = installation.directory().join(name);
        fs::create_dir(&directory).unwrap();
        certs::create(&directory, &["*.db.test"]).unwrap()
    };
    let old = &installation.certificates;

    // A changed file is read as soon as certificate and key fit together.
    let second = next("second");
    fs::copy(&second.certificate, &old.certificate).unwrap();
    wait::until("a complaint", DEADLINE, async || {
        let log = installation.log();
        let line = log.lines().find(|line| line.contains("keeping the previous configuration"));
        Ok(line.map(|line| assert!(line.contains(old.key.to_str().unwrap()), "{line}")))
    })
    .await
    .unwrap();
    wait_shown(&installation, &old.authority).await;
    fs::copy(&second.key, &old.key).unwrap();
    wait_shown(&installation, &second.authority).await;

    // SIGHUP reads the files too.
    let third = next("third");
    fs::copy(&third.certificate, &old.certificate).unwrap();
    fs::copy(&third.key, &old.key).unwrap();
    installation.proxy.signal(Signal::SIGHUP).unwrap();
    wait_shown(&installation, &third.authority).await;

    assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    let sessions = installation.uri().replace("ca.pem", "third/ca.pem") + "&channel_binding=require";
    assert_eq!(installation.ask(&sessions, &["SELECT 1"]).await, "1");
    installation.passed();
}

/// RSA certificates are served too.
#[tokio::test]
async fn certificate_directory_is_served_and_may_grow() {
    let setup =
        Setup { no_certificate: true, flags: &["--tls-certs-dir", "DIR/certificates"], ..Setup::default() };
    let installation = {
        // The directory of the installation is known only to `with_files`, which writes a first certificate before the
        // start.
        let name = "certificates";
        Installation::with_files(name, &setup, |directory| {
            let certificates = directory.join("certificates");
            fs::create_dir_all(certificates.join("default")).unwrap();
            openssl_certificate(
                &certificates.join("default/tls.crt"),
                &certificates.join("default/tls.key"),
                "*.other.test",
            );
        })
        .await
    };

    let certificates = installation.directory().join("certificates");
    let trusting = |authority: PathBuf, host: &str| {
        let uri = installation.uri().replace("main.db.test", host);
        uri.replace(installation.certificates.authority.to_str().unwrap(), authority.to_str().unwrap())
    };
    let rsa = trusting(certificates.join("default/tls.crt"), "main.other.test");
    assert_eq!(installation.ask(&rsa, &["SELECT 1"]).await, "1");
    fs::copy(&installation.certificates.certificate, certificates.join("main.crt")).unwrap();
    fs::copy(&installation.certificates.key, certificates.join("main.key")).unwrap();
    wait_shown(&installation, &installation.certificates.authority).await;
    assert_eq!(installation.ask(&installation.uri(), &["SELECT 1"]).await, "1");
    assert_eq!(installation.ask(&rsa, &["SELECT 1"]).await, "1");
    installation.passed();
}

/// Writes a self-signed certificate with an RSA key.
fn openssl_certificate(certificate: &Path, key: &Path, name: &str) {
    let output = std::process::Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=rsa"])
        .args(["-addext", &format!("subjectAltName=DNS:{name}"), "-out"])
        .arg(certificate)
        .arg("-keyout")
        .arg(key)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn client_certificate_is_required_besides_the_password() {
    let setup = Setup { flags: &["--tls-client-ca", "DIR/client.crt"], ..Setup::default() };
    let installation = Installation::with_files("clients", &setup, |directory| {
        for name in ["client", "stranger"] {
            let key = KeyPair::generate().unwrap();
            let certificate =
                CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
            fs::write(directory.join(name).with_extension("crt"), certificate.pem()).unwrap();
            test_runner::cluster::state::write_private(
                &directory.join(name).with_extension("key"),
                &key.serialize_pem(),
            )
            .unwrap();
        }
    })
    .await;

    let with = |name: &str| {
        let file = |end: &str| installation.directory().join(name).with_extension(end).display().to_string();
        format!("{}&sslcert={}&sslkey={}", installation.uri(), file("crt"), file("key"))
    };
    assert_eq!(installation.ask(&with("client"), &["SELECT 1"]).await, "1");
    for uri in [installation.uri(), with("stranger")] {
        assert!(!installation.psql(&uri, &["SELECT 1"]).await.status.success(), "{uri}");
    }
    installation.passed();
}

#[tokio::test]
async fn compute_tls_flags_are_the_endpoints_default() {
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    for (name, flags, expected) in [
        ("compute-require", &["--compute-tls", "require"][..], "t"),
        ("compute-verify", &["--compute-tls", "verify-full", "--compute-tls-ca", "DIR/ca.pem"], "t"),
        ("compute-plain", &[], "f"),
    ] {
        let installation = Installation::with(name, &Setup { flags, ..Setup::default() }).await;
        assert_eq!(installation.ask(&installation.uri(), &[encrypted]).await, expected, "{flags:?}");
        installation.passed();
    }
}
