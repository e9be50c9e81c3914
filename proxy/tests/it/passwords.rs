//! Passwords: prepared as PostgreSQL prepares them, with an endpoint before them, or in clear text inside TLS.

use scram::Verifier;

use crate::installation::{Installation, Setup};

/// Passwords that SASLprep treats in different ways (RFC 4013).
const PASSWORDS: [&str; 16] = [
    "plain",
    "with space and ~",
    "I\u{ad}X",
    "\u{2168}",
    "\u{aa}",
    "o\u{308}",
    "a\u{a0}b",
    "a\u{1680}b",
    "a\u{340}",
    "\u{ad}",
    "a\u{200b}b",
    "\u{7}bell",
    "\u{627}\u{31}",
    "\u{627}\u{31}\u{628}",
    "\u{1f600}\u{aa}",
    "\u{fb01}\u{e000}",
];

#[tokio::test]
async fn a_password_is_prepared_as_postgresql_prepares_it() {
    let installation = Installation::new("saslprep").await;
    installation.start_postgres().await;
    for password in PASSWORDS {
        let client = installation.postgres.connect("postgres").await.unwrap();
        client.batch_execute(&format!("ALTER ROLE app PASSWORD '{password}'")).await.unwrap();
        let query = "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'";
        let stored = installation.postgres.ask("postgres", query).await.unwrap();
        let mut parts = stored.split(['$', ':']);
        let (iterations, salt) = (parts.nth(1).unwrap().parse().unwrap(), parts.next().unwrap());
        let salt = {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(salt).unwrap()
        };
        assert_eq!(Verifier::from_password(password, &salt, iterations).to_string(), stored, "{password:?}");
    }
    installation.passed();
}

#[tokio::test]
async fn an_endpoint_may_stand_before_the_password() {
    let installation = Installation::new("prefix").await;
    let localhost = installation.uri().replace("main.db.test", "localhost");
    for prefix in ["endpoint%3Dmain%3B", "project%3Dmain$"] {
        let uri = localhost.replace("app:", &format!("app:{prefix}"));
        assert_eq!(installation.ask(&uri, &["SELECT current_user"]).await, "app", "{uri}");
    }

    for (prefix, password, words) in [
        ("endpoint%3Dmain%3B", "p%C3%A4sswort", "password authentication failed for user \"app\""),
        ("endpoint%3Dnone%3B", "p%C3%A4ssword", "endpoint \"none\" is not known"),
        ("", "p%C3%A4ssword", "no endpoint is named"),
    ] {
        let uri = localhost.replace("app:p%C3%A4ssword", &format!("app:{prefix}{password}"));
        let output = installation.psql(&uri, &["SELECT 1"]).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(words), "{uri}\n{said}");
    }
    installation.passed();
}

#[tokio::test]
async fn cleartext_password_wakes_only_when_right() {
    let setup = Setup { flags: &["--client-auth", "password"], ..Setup::default() };
    let installation = Installation::with("cleartext", &setup).await;
    let wrong = installation.uri().replace("app:p%C3%A4ssword", "app:wrong");
    let output = installation.psql(&wrong, &["SELECT 1"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("password authentication failed for user \"app\""), "{said}");
    assert_eq!(installation.starts(), 0);
    assert_eq!(installation.ask(&installation.uri(), &["SELECT current_user"]).await, "app");
    assert_eq!(installation.starts(), 1);
    installation.passed();
}

#[tokio::test]
async fn allowlist_admits_only_its_addresses() {
    let installation =
        Installation::with_endpoint("allowlist", "allowed_ips = [\"10.0.0.0/8\", \"::1\"]\n").await;
    let output = installation.psql(&installation.uri(), &["SELECT 1"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("address 127.0.0.1 is not allowed to connect to this endpoint"), "{said}");
    assert_eq!(installation.starts(), 0);
    installation.passed();
}
