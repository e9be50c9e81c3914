//! Output of the commands: tables and lines on standard output, errors on standard error.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Result;
use test_runner::cluster::Cluster;
use test_runner::cluster::status::ClusterStatus;
use test_runner::proxy::ProxyStatus;
use test_runner::walproposer::WalproposerStatus;

/// Sessions of the proxy in the table; `--json` prints all.
const SESSIONS_SHOWN_MAX: usize = 20;

/// Prints one line. A reader that closes the pipe, as `head` does, does not stop the command.
pub(crate) fn print_line(text: &str) {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            print_error(&format!("cannot print: {error}"))
        }
        _ => {}
    }
}

/// Prints an error on standard error.
pub(crate) fn print_error(text: &str) {
    let _ = writeln!(io::stderr(), "dev: {text}");
}

/// Prints address and log of each program, and a psql line.
pub(crate) async fn addresses(cluster: &Cluster) -> Result<()> {
    let status = cluster.status().await?;
    let rows = status.parts.iter().map(|part| [part.name.clone(), part.address.clone(), part.log.clone()]);
    table(["program", "address", "log"], rows.collect());
    print_line("");
    print_line(&cluster.psql_line());
    Ok(())
}

/// Prints the status of a cluster.
pub(crate) fn status(status: &ClusterStatus) {
    let parts = status.parts.iter().map(|part| {
        let pid = part.pid.map(|pid| pid.to_string()).unwrap_or_default();
        [part.name.clone(), part.state.into(), pid, part.address.clone()]
    });
    table(["program", "state", "pid", "address"], parts.collect());
    print_line("");
    let unknown = || "-".to_owned();
    let safekeepers = status.safekeepers.iter().map(|safekeeper| {
        [
            format!("sk{}", safekeeper.id),
            safekeeper.health.clone().unwrap_or_else(unknown),
            safekeeper.term.map_or_else(unknown, |term| term.to_string()),
            safekeeper.flush_lsn.clone().unwrap_or_else(unknown),
            safekeeper.commit_lsn.clone().unwrap_or_else(unknown),
            safekeeper.lag_bytes.map_or_else(unknown, bytes),
        ]
    });

    table(["safekeeper", "health", "term", "flush LSN", "commit LSN", "lag"], safekeepers.collect());
    status.remarks.iter().for_each(|remark| print_line(remark));
    print_line("");
    if let Some(proxy) = &status.proxy {
        sessions(proxy);
        print_line("");
    }

    print_line(&commits(status));
}

/// Prints the sessions of the proxy, and a summary of its cache.
fn sessions(proxy: &ProxyStatus) {
    print_line(&summary(proxy));
    let shown = proxy.sessions.iter().take(SESSIONS_SHOWN_MAX).map(|session| {
        let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".to_owned());
        [
            word(&session.endpoint),
            word(&session.role),
            word(&session.peer),
            word(&session.state),
            word(&session.transaction),
            format!("{} s", Duration::from_millis(session.age_ms).as_secs()),
            bytes(session.bytes_from_client),
            bytes(session.bytes_to_client),
        ]
    });

    if !proxy.sessions.is_empty() {
        let header = ["endpoint", "role", "client", "session", "transaction", "age", "sent", "received"];
        table(header, shown.collect());
    }

    if let Some(more) = proxy.sessions.len().checked_sub(SESSIONS_SHOWN_MAX + 1) {
        print_line(&format!("and {} more", more + 1));
    }
}

fn summary(proxy: &ProxyStatus) -> String {
    let addresses = proxy.cache.addresses.iter();
    let known: Vec<String> =
        addresses.map(|known| format!("{} at {}", known.endpoint, known.address)).collect();
    format!(
        "proxy: sessions: {}; cache: {}; being woken: {}",
        proxy.sessions.len(),
        if known.is_empty() { "empty".to_owned() } else { known.join(", ") },
        proxy.cache.waking
    )
}

/// One sentence: whether commits go through.
pub(crate) fn commits(status: &ClusterStatus) -> String {
    let unsafe_settings = status.walproposer.as_ref().and_then(WalproposerStatus::unsafe_settings);
    match &status.blocked {
        None => "commits go through".into(),
        Some(why) if unsafe_settings == Some(why) => format!("commits are at risk: {why}"),
        Some(why) => format!("commits wait: {why}"),
    }
}

/// The status in one line.
pub(crate) fn status_line(status: &ClusterStatus) -> String {
    let safekeepers: Vec<String> = status
        .safekeepers
        .iter()
        .map(|safekeeper| match (&safekeeper.flush_lsn, safekeeper.lag_bytes) {
            (Some(flush_lsn), Some(0)) => format!("sk{} {flush_lsn}", safekeeper.id),
            (Some(flush_lsn), Some(lag)) => format!("sk{} {flush_lsn} (-{})", safekeeper.id, bytes(lag)),
            _ => format!("sk{} down", safekeeper.id),
        })
        .collect();
    format!("{} | {}", safekeepers.join("  "), commits(status))
}

/// A number of bytes in B, KiB or MiB.
fn bytes(count: u64) -> String {
    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;
    match count {
        0..KIB => format!("{count} B"),
        KIB..MIB => format!("{} KiB", count / KIB),
        _ => format!("{} MiB", count / MIB),
    }
}

fn table<const COLUMNS: usize>(header: [&str; COLUMNS], rows: Vec<[String; COLUMNS]>) {
    let mut all = vec![header.map(ToOwned::to_owned)];
    all.extend(rows);
    let widths: Vec<usize> =
        (0..COLUMNS).map(|column| all.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    for row in all {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        print_line(cells.join("  ").trim_end());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_printed_in_the_largest_fitting_unit() {
        for (count, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1 << 20, "1 MiB"), (5 << 30, "5120 MiB")]
        {
            assert_eq!(super::bytes(count), text);
        }
    }
}
