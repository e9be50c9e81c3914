//! The admin HTTP port: creation of timelines, status, metrics, the token.

use consensus::Dialect;
use postgres_backend::client::ClientError;
use pq_proto::SqlState;
use serde_json::{Value, json};

use crate::support::{START, SYSTEM, Server, timeline, timeline_body};

#[tokio::test(flavor = "multi_thread")]
async fn create_timeline_is_idempotent() {
    let server = Server::start().await;
    let body = timeline_body(timeline(1), Dialect::Holdfast);
    assert_eq!(server.at.post(&body).await.0, 201);
    assert_eq!(server.at.post(&body).await.0, 200);
    for (field, value) in [
        ("start_lsn", json!("0/30000")),
        ("system_id", json!("1")),
        ("pg_version", json!(160_004)),
        ("wal_segment_size", json!(0x2_0000)),
        ("dialect", json!("neon")),
    ] {
        let mut different = body.clone();
        different[field] = value;
        let (status, text) = server.at.post(&different).await;
        assert_eq!(status, 409, "{field}: {text}");
    }
    let status = server.at.status(timeline(1)).await;
    for (field, value) in [
        ("dialect", json!("holdfast")),
        ("health", json!("healthy")),
        ("term", json!(0)),
        ("flush_lsn", json!(START.to_string())),
        ("commit_lsn", json!(START.to_string())),
        ("start_lsn", json!(START.to_string())),
        ("system_id", json!(SYSTEM.to_string())),
        ("history", json!([])),
        ("truncations", json!(0)),
        ("wal_receivers", json!(0)),
        ("wal_senders", json!(0)),
    ] {
        assert_eq!(status[field], value, "{field}");
    }
    assert_eq!(server.at.get("/v1/status").await["timelines"], 1);
    assert_eq!(server.at.get("/v1/timelines").await.as_array().unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn create_timeline_error_names_the_field() {
    let server = Server::start().await;
    let body = timeline_body(timeline(1), Dialect::Holdfast);
    let table: &[(&str, Value)] = &[
        ("tenant_id", json!("cf04")),
        ("timeline_id", json!("../../../../etc/passwd")),
        ("start_lsn", json!("0/20001")),
        ("start_lsn", json!("0/0")),
        ("start_lsn", json!("twenty")),
        ("system_id", json!("0x17")),
        ("wal_segment_size", json!(100_000)),
        ("dialect", json!("klingon")),
        ("members", json!([])),
        ("birth", json!("e1")),
        ("start_history", json!("1\t0/3000000\tpromoted\n")),
        ("surprise", json!(1)),
    ];
    for (field, value) in table {
        let mut bad = body.clone();
        bad[*field] = value.clone();
        let (status, text) = server.at.post(&bad).await;
        assert!(status == 400 && text.contains(field), "{field} {value}: {status} {text}");
    }
    let response = reqwest::get(server.at.url(&format!("/v1/timelines/{}", timeline(1)))).await.unwrap();
    assert_eq!(response.status(), 404);
    server.stop().await;
}

/// The first members are told to a copy once; a repetition changes nothing, and others are refused.
#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_is_idempotent_and_final() {
    let server = Server::start().await;
    let (_, text) = server.at.post(&timeline_body(timeline(1), Dialect::Holdfast)).await;
    let created: Value = serde_json::from_str(&text).unwrap();
    let replica = created["replica_id"].as_str().unwrap().to_owned();
    let member = |id: u64, replica: &str| json!({"id": id, "host": "h", "port": 1, "replica_id": replica});
    let other = "0000000000000000000000000000000f";
    for (members, code, part) in [
        (json!([]), 400, "do not list this copy"),
        (json!([member(2, &replica)]), 400, "do not list this copy"),
        (json!([member(1, other)]), 400, "do not list this copy"),
        (json!([member(1, &replica), member(2, "00000000000000000000000000000000")]), 400, "replica_id"),
        (json!([member(1, &replica), member(2, &replica)]), 400, "two numbers"),
        (json!([member(1, &replica), member(2, other)]), 200, "birth"),
        (json!([member(1, &replica), member(2, other)]), 200, "birth"),
        (json!([member(1, &replica)]), 409, "has members already"),
    ] {
        let (status, text) = server.at.put_bootstrap(timeline(1), &json!({"members": members})).await;
        assert!(status == code && text.contains(part), "{members}: {status} {text}");
    }
    assert_eq!(server.at.put_bootstrap(timeline(2), &json!({"members": []})).await.0, 404);
    assert_eq!(server.at.status(timeline(1)).await["members"][1]["replica_id"], other);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_show_each_timeline() {
    let server = Server::start().await;
    server.at.create(timeline(1), Dialect::Holdfast).await;
    let text = reqwest::get(server.at.url("/metrics")).await.unwrap().text().await.unwrap();
    let labels = format!("tenant_id=\"{}\",timeline_id=\"{}\"", timeline(1).tenant, timeline(1).timeline);
    let line = format!("holdfast_safekeeper_timeline_flush_lsn{{{labels}}} {}\n", START.0);
    assert!(text.contains(&line), "{text}");
    for name in [
        "holdfast_safekeeper_batch_seconds_bucket",
        "holdfast_safekeeper_wal_received_bytes_total 0\n",
        "holdfast_process_open_fds",
    ] {
        assert!(text.contains(name), "{name}: {text}");
    }
    for path in ["/healthz", "/readyz", "/v1/log-level"] {
        assert_eq!(reqwest::get(server.at.url(path)).await.unwrap().status(), 200, "{path}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_required_on_both_ports() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_with_token(directory.path(), "s3cret").await;
    let http = reqwest::Client::new();
    let list = || http.get(server.at.url("/v1/timelines"));
    assert_eq!(list().send().await.unwrap().status(), 401);
    assert_eq!(list().bearer_auth("wrong").send().await.unwrap().status(), 401);
    assert_eq!(list().bearer_auth("s3cret").send().await.unwrap().status(), 200);
    assert_eq!(http.get(server.at.url("/metrics")).send().await.unwrap().status(), 200);
    let create = http.post(server.at.url("/v1/timelines")).json(&timeline_body(timeline(1), Dialect::Neon));
    assert_eq!(create.try_clone().unwrap().send().await.unwrap().status(), 401);
    assert_eq!(create.bearer_auth("s3cret").send().await.unwrap().status(), 201);

    match server.at.try_connect(&[], Some("wrong")).await {
        Err(ClientError::Server(error)) => assert_eq!(error.sqlstate, SqlState::INVALID_PASSWORD),
        other => panic!("{other:?}"),
    }
    assert!(matches!(server.at.try_connect(&[], None).await, Err(ClientError::NoPassword)));
    let mut client = server.at.try_connect(&[], Some("s3cret")).await.unwrap();
    assert_eq!(client.simple_query("TIMELINE_STATUS").await.unwrap().len(), 1);
    server.stop().await;
}
