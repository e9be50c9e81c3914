//! `wal-read`: what it costs a safekeeper to serve WAL from memory; `catch_up`: how fast one catches up that was down.

mod catch_up;
mod common;

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::Signal;
use test_runner::ports;
use test_runner::postgres::Postgres;
use test_runner::process::ProcessId;
use wal_types::Lsn;

use self::common::{MIB, OURS, RATE, SEGMENT_BYTES, write_wal};
use crate::accounting::Usage;
use crate::bench::{Bench, Plot, Running};
use crate::goals::Goal;
use crate::quantity::Quantity;
use crate::rounds;
use crate::run::Run;
use crate::wal::link::BenchTimeline;
use crate::wal::nodes::{self, Node};
use crate::wal::pusher::Pusher;
use crate::wal::reader::{Reader, receive_all};
use crate::wal::socket::Socket;
use crate::wal::source::WalSource;

const CPU: Quantity = Quantity::lower("CPU of the server a MB", "ms");

const READERS: [usize; 3] = [1, 4, 16];
const POSTGRES: &str = "PostgreSQL";

/// WAL of one append when the log is filled.
const BULK_BYTES: usize = 128 * 1024;
/// Password of PostgreSQL's roles, inside a directory that the bench removes.
const PASSWORD: &str = "bench";
/// Time limit for the end of PostgreSQL.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// The bench.
pub(crate) const BENCH: Bench = Bench {
    name: "wal-read",
    about: "committed WAL from memory to 1, 4 and 16 readers, beside PostgreSQL's own walsender; catch-up after a stop",
    goals,
    plots: &[
        Plot {
            file: "cpu",
            title: "CPU of the server a MB, ms",
            quantity: CPU.name,
            situations: "reader",
            relative_to: None,
        },
        Plot {
            file: "throughput",
            title: "WAL to readers, MB/s",
            quantity: RATE.name,
            situations: "reader",
            relative_to: None,
        },
    ],
    run,
};

fn goals() -> Vec<Goal> {
    let goal = |readers| Goal {
        what: situation(readers),
        quantity: CPU,
        ours: OURS,
        peer: None,
        bound: 0.4,
        requires: None,
    };
    READERS.into_iter().map(goal).collect()
}

fn situation(readers: usize) -> String {
    format!("{readers} reader{}", if readers == 1 { "" } else { "s" })
}

fn run(run: &mut Run) -> Running<'_> {
    Box::pin(measure(run))
}

async fn measure(run: &mut Run) -> Result<()> {
    let wal_bytes = run.options.pick(128, 512) * MIB;
    run.progress("writing WAL to a safekeeper and to PostgreSQL");
    let (node, ours) = safekeeper(run, wal_bytes).await?;
    let (postmaster, postgres) = postgres(run, wal_bytes).await?;
    let servers = [ours, postgres];

    for readers in run.options.chosen_clients(&READERS.map(|readers| readers as u32)) {
        let what = situation(readers as usize);
        run.set_reference(&what, RATE, POSTGRES);
        for round in 0..run.options.rounds {
            run.progress(&format!("{what}: round {} of {}", round + 1, run.options.rounds));
            for server in rounds::order(&servers, round) {
                server.read(run, &what, readers as usize)?;
            }
        }
    }
    node.end(Signal::SIGKILL).await?;
    postmaster.end(Signal::SIGINT, END_TIMEOUT).await?;

    catch_up::measure(run).await
}

/// A server that has WAL, and how to ask it.
#[derive(Clone, Debug)]
struct Server {
    name: &'static str,
    process: ProcessId,
    port: u16,
    /// The startup packet.
    parameters: Vec<(&'static str, String)>,
    /// The WAL that is read.
    from: Lsn,
    upto: Lsn,
}

impl Server {
    fn read(&self, run: &mut Run, what: &str, readers: usize) -> Result<()> {
        let parameters: Vec<_> =
            self.parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let open = |_| Socket::open(self.port, &parameters, PASSWORD);
        let sockets = (0..readers).map(open).collect::<Result<Vec<_>>>()?;

        run.begin_slice()?;
        let earlier = Usage::of(&[self.process])?;
        let began = Instant::now();
        let start = |socket| Reader::start(socket, self.from);
        let mut started = sockets.into_iter().map(start).collect::<Result<Vec<_>>>()?;
        receive_all(&mut started, self.upto)?;
        let took = began.elapsed();
        // PostgreSQL's processes end with their connections, so they are still open here.
        let used = Usage::of(&[self.process])? - earlier;
        run.end_slice()?;

        let megabytes = readers as f64 * self.upto.bytes_since(self.from) as f64 / 1e6;
        run.push(what, CPU, self.name, used.cpu_us / 1e3 / megabytes);
        run.push(what, RATE, self.name, megabytes / took.as_secs_f64());
        Ok(())
    }
}

/// A safekeeper whose log holds `wal_bytes` of committed WAL.
async fn safekeeper(run: &Run, wal_bytes: u64) -> Result<(Node, Server)> {
    let node = Node::start(run, 1).await?;
    let timeline = nodes::timeline(1, SEGMENT_BYTES)?;
    node.create(&[timeline]).await?;
    let upto = fill(&node, &timeline, wal_bytes)?;
    let options = format!("-c tenant_id={} -c timeline_id={}", timeline.id.tenant, timeline.id.timeline);
    let server = Server {
        name: OURS,
        process: node.process,
        port: node.safekeeper.pg_port,
        parameters: vec![("user", "bench".into()), ("replication", "true".into()), ("options", options)],
        from: timeline.start,
        upto,
    };
    Ok((node, server))
}

fn fill(node: &Node, timeline: &BenchTimeline, wal_bytes: u64) -> Result<Lsn> {
    let mut source = WalSource::new(timeline.segment_size, timeline.start);
    let mut pusher = Pusher::elect(&[node.safekeeper.pg_port], timeline)?;
    pusher.push(&source.records(wal_bytes, BULK_BYTES), BULK_BYTES)?;
    pusher.settle()?;
    Ok(source.position())
}

/// A PostgreSQL that has written at least as much WAL.
async fn postgres(run: &Run, wal_bytes: u64) -> Result<(ProcessId, Server)> {
    let postgres = Postgres {
        tools: run.tools.clone(),
        name: "postgres".into(),
        data_dir: run.directory.join("postgres"),
        log: run.directory.join("postgres.log"),
        port: ports::pick()?,
        superuser_password: PASSWORD.into(),
        dies_with_parent: true,
    };
    postgres.initdb(&[]).await?;
    let process = postgres.start(&[("max_wal_senders", "32")]).await?;
    let client = postgres.connect("postgres").await?;
    client.batch_execute(&format!("CREATE ROLE wp LOGIN REPLICATION PASSWORD '{PASSWORD}'")).await?;
    // A whole segment first: readers begin at the start of one.
    let from: Lsn = postgres.ask("postgres", "SELECT pg_switch_wal() + 1").await?.parse()?;
    let from = from.align_up(SEGMENT_BYTES.into());
    write_wal(&postgres, wal_bytes + u64::from(SEGMENT_BYTES)).await?;
    let server = Server {
        name: POSTGRES,
        process,
        port: postgres.port,
        parameters: vec![("user", "wp".into()), ("replication", "true".into())],
        from,
        upto: from.advance(wal_bytes),
    };
    Ok((process, server))
}
