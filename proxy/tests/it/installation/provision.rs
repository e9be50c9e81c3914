//! Provision of an installation: its database, `endpoints.toml`, the start command, and the process of the proxy.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use scram::Verifier;
use test_runner::certs::Certificates;
use test_runner::postgres::Postgres;
use test_runner::process::{KillOnDrop, ProcessId, Program};
use test_runner::wait;

use super::{DEADLINE, Setup};

/// More than the crowd of the wake test, with reserved and replication connections.
const MAX_CONNECTIONS: u32 = 1050;

/// Makes a data directory with TLS, and role and database `app`. PostgreSQL is stopped afterwards.
pub(super) async fn make_database(
    postgres: &Postgres,
    certificates: &Certificates,
    verifier: &Verifier,
    hba: &str,
) {
    postgres.initdb(&[]).await.unwrap();
    for (from, name) in [(&certificates.certificate, "server.crt"), (&certificates.key, "server.key")] {
        let copy = postgres.data_dir.join(name);
        fs::copy(from, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
        postgres.tools.give_to_postgres(&copy).unwrap();
    }

    let settings =
        format!("port = {}\nmax_connections = {MAX_CONNECTIONS}\nfsync = off\nssl = on\n", postgres.port);
    postgres.append("postgresql.conf", &settings).unwrap();
    postgres.append("pg_hba.conf", &format!("{hba}\nhost all app 127.0.0.1/32 scram-sha-256\n")).unwrap();
    let process = postgres.start(&[]).await.unwrap();
    let client = postgres.connect("postgres").await.unwrap();
    for statement in
        [&format!("CREATE ROLE app LOGIN PASSWORD '{verifier}'"), "CREATE DATABASE app OWNER app"]
    {
        client.batch_execute(statement).await.unwrap();
    }

    process.end(Signal::SIGINT, DEADLINE).await.unwrap();
}

/// Writes `endpoints.toml` and the start command.
pub(super) fn write_endpoints(directory: &Path, postgres: &Postgres, verifier: &Verifier, setup: &Setup<'_>) {
    let script = write_start_script(directory, postgres);
    let usual = format!(
        "[endpoints.main]\naddress = \"127.0.0.1:{}\"\nstart = [\"{}\"]\nroles = {{ app = \"{verifier}\" }}\n{}",
        postgres.port,
        script.display(),
        setup.endpoint
    );
    let other = setup.endpoints.replace("PORT", &postgres.port.to_string());
    let other = other.replace("START", script.to_str().unwrap());
    let endpoints = if other.is_empty() { usual } else { other };
    let endpoints = endpoints.replace("DIR", directory.to_str().unwrap());
    fs::write(directory.join("endpoints.toml"), endpoints).unwrap();
}

/// Starts the proxy. Returns its process and its addresses for clients, admin HTTP and browser logins.
pub(super) async fn start_proxy(
    directory: &Path,
    certificates: &Certificates,
    setup: &Setup<'_>,
) -> (ProcessId, Vec<SocketAddr>, String, Option<SocketAddr>) {
    let address_file = directory.join("proxy.address");
    let control_plane =
        if setup.control_plane.is_empty() { "file:DIR/endpoints.toml" } else { setup.control_plane };
    let words = |words: [&str; 2]| words.map(str::to_owned).to_vec();
    let in_directory = |flag: &&str| flag.replace("DIR", directory.to_str().unwrap());
    let (certificate, key) = (certificates.certificate.to_str().unwrap(), certificates.key.to_str().unwrap());
    let tls = if setup.no_certificate {
        [""; 0].to_vec()
    } else {
        vec!["--tls-cert", certificate, "--tls-key", key]
    };
    let program = Program {
        name: "proxy".into(),
        executable: PathBuf::from(env!("CARGO_BIN_EXE_proxy")),
        arguments: [
            words(["--control-plane", &in_directory(&control_plane)]),
            words(["--address-file", address_file.to_str().unwrap()]),
            words(["--log-level", "info,proxy=debug"]),
            tls.into_iter().map(str::to_owned).collect(),
            setup.flags.iter().map(in_directory).collect(),
        ]
        .concat(),
        environment: Vec::new(),
        account: None,
        log: directory.join("proxy.log"),
        dies_with_parent: true,
    };

    let process = program.spawn().unwrap();
    let starting = KillOnDrop::new(process);
    let text = wait::until("the proxy's address file", DEADLINE, async || {
        if !process.is_alive() {
            return Err(program.early_end());
        }
        Ok(fs::read_to_string(&address_file).ok())
    });
    let text = text.await.unwrap();
    starting.keep();
    let written: serde_json::Value = serde_json::from_str(&text).unwrap();
    let addresses: Vec<SocketAddr> = written["pg_all"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(written["pg"], addresses[0].to_string());
    let mgmt = written["mgmt"].as_str().map(|address| address.parse().unwrap());
    (process, addresses, written["http"].as_str().unwrap().to_owned(), mgmt)
}

/// Writes the start command: it counts its runs in the file `starts` and starts PostgreSQL under its account.
fn write_start_script(directory: &Path, postgres: &Postgres) -> PathBuf {
    let account =
        postgres.tools.account.as_ref().map(|account| {
            format!("setpriv --reuid={} --regid={} --clear-groups ", account.uid, account.gid)
        });
    let script = format!(
        "#!/bin/sh\necho start >>'{0}/starts'\ncd /\nexec {1}'{2}' start -w -D '{3}' -l '{3}/server.log'\n",
        directory.display(),
        account.unwrap_or_default(),
        postgres.tools.postgres("pg_ctl").display(),
        postgres.data_dir.display()
    );
    let path = directory.join("start.sh");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
