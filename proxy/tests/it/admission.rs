//! Admission: PROXY header, connection limits, exhausted descriptors, and leaks of connections that come and go.

use std::process::Command;

use futures::future::join_all;
use test_runner::wait;
use tokio::net::TcpStream;
use tokio_postgres::error::SqlState;

use crate::installation::{DEADLINE, Installation, Setup};
use crate::raw_client::{answer_to, direct_tls, header, session};

/// ALPN protocol of PostgreSQL.
const ALPN: &[&[u8]] = &[b"postgresql"];

#[tokio::test]
async fn proxy_header_names_the_client_that_limits_count() {
    let flags = &[
        "--proxy-protocol-v2",
        "optional",
        "--max-connections-per-ip",
        "2",
        "--listen",
        "127.0.0.1:0",
        "--listen",
        "127.0.0.1:0",
    ];

    let installation = Installation::with("door", &Setup { flags, ..Setup::default() }).await;
    let authority = installation.certificates.authority.clone();
    // One client through each port.
    assert_eq!(installation.addresses.len(), 2);
    let mut clients = Vec::new();
    for address in &installation.addresses {
        let stream = direct_tls(*address, &authority, &header([203, 0, 113, 9]), ALPN).await.unwrap();
        clients.push(session(&installation, stream).await.unwrap());
    }

    let sessions = installation.http("/v1/sessions").await;
    assert_eq!(sessions.matches("\"peer\":\"203.0.113.9:12345\"").count(), 2, "{sessions}");
    let stream = direct_tls(installation.address, &authority, &header([203, 0, 113, 9]), ALPN).await.unwrap();
    let refused = session(&installation, stream).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::TOO_MANY_CONNECTIONS), "{refused:?}");
    // A client with another address, and a client that does not come through the balancer.
    let stream =
        direct_tls(installation.address, &authority, &header([203, 0, 113, 10]), ALPN).await.unwrap();
    session(&installation, stream).await.unwrap();
    assert_eq!(installation.ask(&installation.uri(), &["SELECT 1"]).await, "1");
    // The end of a session makes room for another one.
    clients.pop();
    wait::until("room", DEADLINE, async || {
        let stream = direct_tls(installation.address, &authority, &header([203, 0, 113, 9]), ALPN).await;
        Ok(match stream {
            Ok(stream) => session(&installation, stream).await.ok(),
            Err(_) => None,
        })
    })
    .await
    .unwrap();
    installation.passed();
}

#[tokio::test]
async fn required_proxy_header_must_be_valid() {
    let flags = &["--proxy-protocol-v2", "required"];
    let installation = Installation::with("header", &Setup { flags, ..Setup::default() }).await;
    let missing = answer_to(installation.address, b"\0\0\0\x08\x04\xd2\x16\x2f").await;
    assert!(
        missing.contains("SFATAL VFATAL C08P01 Mconnection does not begin with a PROXY protocol header"),
        "{missing}"
    );
    let torn = answer_to(installation.address, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02no").await;
    assert_eq!(torn, "");
    // The wait for the rest of a header has a limit.
    let late = answer_to(installation.address, b"\r\n\r\n\0\r\nQUIT").await;
    assert_eq!(late, "");
    let authority = &installation.certificates.authority;
    let stream = direct_tls(installation.address, authority, &header([203, 0, 113, 9]), ALPN).await;
    session(&installation, stream.unwrap()).await.unwrap();
    let metrics = installation.http("/metrics").await;
    assert!(
        metrics.contains("holdfast_proxy_connections_refused_total{reason=\"bad_proxy_header\"} 3"),
        "{metrics}"
    );
    installation.passed();
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let flags = &["--max-connections", "1"];
    let installation = Installation::with("limit", &Setup { flags, ..Setup::default() }).await;
    let (client, _connection) = installation.connect(&installation.config()).await.unwrap();
    let refused = installation.psql(&installation.uri(), &["SELECT 1"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("sorry, too many clients already"), "{said}");
    // A query can be cancelled all the same.
    let token = client.cancel_token();
    let sleeping =
        tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(1000)").await.unwrap_err() });
    let cancelled = wait::until("the query to be cancelled", DEADLINE, async || {
        token.cancel_query(installation.tls()).await?;
        Ok(sleeping.is_finished().then_some(()))
    });
    cancelled.await.unwrap();
    assert_eq!(sleeping.await.unwrap().code(), Some(&SqlState::QUERY_CANCELED));
    installation.passed();
}

#[tokio::test]
async fn network_limit_refuses_a_burst_with_a_sentence() {
    let flags = &["--network-limit", "rate=0.01,burst=2"];
    let installation = Installation::with("network", &Setup { flags, ..Setup::default() }).await;
    for _ in 0..2 {
        installation.connect(&installation.config()).await.unwrap();
    }
    let refused = installation.connect(&installation.config()).await.err().unwrap();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code(), &SqlState::TOO_MANY_CONNECTIONS);
    assert!(refused.message().contains("from this network in a short time"), "{refused:?}");
    installation.passed();
}

#[tokio::test]
async fn without_descriptors_the_proxy_waits_and_goes_on() {
    let installation = Installation::new("descriptors").await;
    let (client, _connection) = installation.connect(&installation.config()).await.unwrap();
    let proxy = installation.proxy.pid.to_string();
    let open = std::fs::read_dir(format!("/proc/{proxy}/fd")).unwrap().count();
    let limit = |limit: usize| {
        let status = Command::new("prlimit").args(["--pid", &proxy, &format!("--nofile={limit}:")]).status();
        assert!(status.unwrap().success());
    };
    limit(open + 2);
    let mut crowd = Vec::new();
    for _ in 0..10 {
        crowd.push(TcpStream::connect(installation.address).await.unwrap());
    }

    wait::until("an accept to fail", DEADLINE, async || {
        Ok(installation.log().contains("cannot accept a connection").then_some(()))
    })
    .await
    .unwrap();

    assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    drop(crowd);
    limit(10_000);
    assert_eq!(installation.ask(&installation.uri(), &["SELECT 1"]).await, "1");
    assert!(installation.proxy.is_alive());
    installation.passed();
}

/// Connections of the leak test.
const CYCLES: usize = 5_000;
/// Concurrent connections.
const AT_ONCE: usize = 8;
/// Limit of the growth of memory between the first tenth and the end.
const MEMORY_KIB_MAX: usize = 4 * 1024;

/// After many connections the proxy holds as many descriptors as before, hardly more memory, and counts no session.
#[tokio::test]
async fn closed_connections_leak_nothing() {
    let installation = Installation::new("leaks").await;
    let proxy = installation.proxy.pid;
    let descriptors = || std::fs::read_dir(format!("/proc/{proxy}/fd")).unwrap().count();
    let memory_kib = || {
        let status = std::fs::read_to_string(format!("/proc/{proxy}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    come_and_go(&installation, CYCLES / 10).await;
    installation.wait_no_sessions().await;
    let (descriptors_before, memory_before) = (descriptors(), memory_kib());
    come_and_go(&installation, CYCLES - CYCLES / 10).await;
    installation.wait_no_sessions().await;
    wait::until("descriptors as before", DEADLINE, async || {
        Ok((descriptors() == descriptors_before).then_some(()))
    })
    .await
    .unwrap();

    let memory_after = memory_kib();
    assert!(memory_after <= memory_before + MEMORY_KIB_MAX, "{memory_before} KiB, then {memory_after} KiB");
    let metrics = installation.http("/metrics").await;
    for line in ["holdfast_proxy_sessions 0", "holdfast_proxy_open_connections 0"] {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
    installation.passed();
}

/// Runs connections of five kinds: silent, cancel request, unknown protocol, bytes in clear text before TLS, and a
/// login.
async fn come_and_go(installation: &Installation, cycles: usize) {
    let cycle = async |number: usize| match number % 5 {
        0 => drop(TcpStream::connect(installation.address).await.unwrap()),
        1 => {
            let cancel = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02";
            assert_eq!(answer_to(installation.address, cancel).await, "");
        }
        2 => {
            let refused = answer_to(installation.address, b"\0\0\0\x08\0\x02\0\0").await;
            assert!(refused.contains("C0A000"), "{refused}");
        }
        3 => {
            // Bytes in clear text behind the request for TLS. (The proxy would delay the refusal of a wrong password.)
            let refused = answer_to(installation.address, b"\0\0\0\x08\x04\xd2\x16\x2f\x16\x03").await;
            assert!(refused.contains("C08P01"), "{refused}");
        }
        _ => {
            let (client, _) = installation.connect(&installation.config()).await.unwrap();
            client.query_one("SELECT 1", &[]).await.unwrap();
        }
    };

    let lane = async |lane: usize| {
        for number in (lane..cycles).step_by(AT_ONCE) {
            cycle(number).await;
        }
    };
    join_all((0..AT_ONCE).map(lane)).await;
}
