//! Replication through the proxy: PostgreSQL's own tools for it, which are ordinary clients with one more parameter.

use std::fs;

use test_runner::clients;

use crate::support::{Installation, Setup};

#[tokio::test]
async fn a_base_backup_and_its_wal_come_through() {
    let hba = "host replication app 127.0.0.1/32 scram-sha-256";
    let installation = Installation::with("replication", &Setup { hba, ..Setup::default() }).await;
    let (uri, tools) = (installation.uri(), installation.postgres.tools.clone());
    installation.ask(&uri, &["CREATE TABLE t AS SELECT g FROM generate_series(1, 10000) g"]).await;
    let superuser = installation.postgres.connect("postgres").await.unwrap();
    superuser.batch_execute("ALTER ROLE app REPLICATION").await.unwrap();

    let backup = installation.directory().join("backup");
    let arguments = ["-d", &uri, "-D", backup.to_str().unwrap(), "-X", "stream", "-c", "fast"];
    clients::run(&tools.postgres("pg_basebackup"), &arguments, &[]).await.unwrap();
    let verified = clients::run(&tools.postgres("pg_verifybackup"), &[backup.to_str().unwrap()], &[]).await;
    assert!(verified.unwrap().contains("backup successfully verified"));

    // The slot says where to begin; without it there would be nothing to receive until the server writes more.
    let slot = "SELECT pg_create_physical_replication_slot('receiver', true)";
    superuser.batch_execute(slot).await.unwrap();
    let wal = installation.directory().join("wal");
    fs::create_dir(&wal).unwrap();
    installation.ask(&uri, &["INSERT INTO t SELECT 0"]).await;
    let end = superuser.query_one("SELECT pg_switch_wal()::text", &[]).await.unwrap();
    let directory = wal.to_str().unwrap();
    let arguments = [
        "-d",
        &uri,
        "-D",
        directory,
        "--slot",
        "receiver",
        "--endpos",
        end.get(0),
        "--no-loop",
        "--synchronous",
    ];
    clients::run(&tools.postgres("pg_receivewal"), &arguments, &[]).await.unwrap();
    assert!(fs::read_dir(&wal).unwrap().count() > 0);

    // Logical replication names a database.
    let logical = format!("{uri}&replication=database");
    let said = installation.ask(&logical, &["IDENTIFY_SYSTEM"]).await;
    assert!(said.ends_with("|app"), "{said}");
    installation.passed();
}
