//! `wal-append`: what an append costs a safekeeper, beside what the disk itself asks for it.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::accounting::Usage;
use crate::bench::{Bench, Plot, Running};
use crate::goals::Goal;
use crate::quantity::Quantity;
use crate::rounds;
use crate::run::Run;
use crate::stats::quantile;
use crate::wal::nodes::{self, Node};
use crate::wal::probe::{SyncProbe, write_files};
use crate::wal::pusher::Pusher;
use crate::wal::receivers::Receivers;
use crate::wal::source::WalSource;

const P50: Quantity = Quantity::lower("latency, median", "µs");
const P99: Quantity = Quantity::lower("latency, 99 %", "µs");
const P999: Quantity = Quantity::lower("latency, 99.9 %", "µs");
const MOST: Quantity = Quantity::lower("latency, longest", "µs");
const CPU: Quantity = Quantity::lower("CPU of the safekeepers an append", "µs");
const RATE: Quantity = Quantity::higher("throughput", "MB/s");

const SEGMENT_BYTES: u32 = 16 * 1024 * 1024;
/// Size of a small append: a commit of one row.
const SMALL_BYTES: usize = 120;
/// Size of a bulk append: the most that the protocol allows.
const BULK_BYTES: usize = 128 * 1024;
/// Timed appends around the middle of a segment, where the next one is prepared, and around its end.
const TIMED_APPENDS: usize = 1000;

const ONE: &str = "1 safekeeper";
const THREE: &str = "3 safekeepers";
const SYNC: &str = "fdatasync";
/// Threads that receive, write, sync and answer: the bound with loopback.
const BARE: [&str; 2] = ["1 bare receiver", "3 bare receivers"];
const FILES: &str = "write and fsync";

const LATENCY: &str = "120 B, one at a time";
/// Situation, bytes of an append, MiB to push in a quick and in a full round.
const THROUGHPUT: [(&str, usize, u64, u64); 3] = [
    ("120 B, as fast as possible", SMALL_BYTES, 8, 32),
    ("8 KiB, as fast as possible", 8 * 1024, 64, 256),
    (BULK, BULK_BYTES, 128, 512),
];
const BULK: &str = "128 KiB, as fast as possible";

/// The bench.
pub(crate) const BENCH: Bench = Bench {
    name: "wal-append",
    about: "appends to one and to three safekeepers by a lean proposer, beside fdatasync and a sequential write",
    goals,
    plots: &[
        Plot {
            file: "latency",
            title: "Append of 120 B, median, µs",
            quantity: P50.name,
            situations: "",
            relative_to: None,
        },
        Plot {
            file: "throughput",
            title: "Appends, MB/s",
            quantity: RATE.name,
            situations: "",
            relative_to: None,
        },
    ],
    run,
};

fn goals() -> Vec<Goal> {
    let goal = |what: &str, quantity, ours, peer, bound| Goal {
        what: what.into(),
        quantity,
        ours,
        peer: Some(peer),
        bound,
        requires: None,
    };
    vec![
        goal(LATENCY, P50, ONE, SYNC, 1.5),
        goal(LATENCY, P50, THREE, SYNC, 2.0),
        goal(BULK, RATE, ONE, FILES, 0.6),
        goal(BULK, RATE, THREE, FILES, 0.28),
    ]
}

fn run(run: &mut Run) -> Running<'_> {
    Box::pin(measure(run))
}

/// What is measured in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// The disk alone.
    Raw,
    /// The bare receivers with this index.
    Bare(usize),
    /// The log on this many safekeepers, by the index of its generator.
    Log(usize),
}

/// A log and its generator.
struct Log {
    name: &'static str,
    pusher: Pusher,
    source: WalSource,
    processes: Vec<test_runner::process::ProcessId>,
}

async fn measure(run: &mut Run) -> Result<()> {
    run.progress("starting three safekeepers");
    let nodes = [Node::start(run, 1).await?, Node::start(run, 2).await?, Node::start(run, 3).await?];
    let mut logs = vec![Log::new(ONE, &nodes[..1], 1).await?, Log::new(THREE, &nodes, 3).await?];
    let mut probe = SyncProbe::create(&run.directory.join("probe"), SEGMENT_BYTES.into())?;
    let bare = |count| Receivers::start(&run.directory, count, SMALL_BYTES, SEGMENT_BYTES.into());
    let mut bare = [bare(1)?, bare(3)?];
    for log in &mut logs {
        log.push(2 * u64::from(SEGMENT_BYTES), BULK_BYTES)?;
    }

    run.set_reference(LATENCY, P50, SYNC);
    let variants = [Variant::Raw, Variant::Bare(0), Variant::Log(0), Variant::Bare(1), Variant::Log(1)];
    for round in 0..run.options.rounds {
        run.progress(&format!("round {} of {}", round + 1, run.options.rounds));
        for variant in rounds::order(&variants, round) {
            run.begin_slice()?;
            match variant {
                Variant::Raw => time_small(run, SYNC, || probe.write_and_sync(&[0x5a; SMALL_BYTES]))?,
                Variant::Bare(index) => time_small(run, BARE[index], || bare[index].append())?,
                Variant::Log(index) => logs[index].time_appends(run)?,
            }
            run.end_slice()?;
        }
        for (what, append_bytes, quick_mib, full_mib) in THROUGHPUT {
            let bytes = run.options.pick(quick_mib, full_mib) * 1024 * 1024;
            for variant in rounds::order(&variants, round) {
                run.begin_slice()?;
                match variant {
                    Variant::Raw if what == BULK => write_bulk(run, bytes)?,
                    Variant::Raw | Variant::Bare(_) => {}
                    Variant::Log(index) => logs[index].time_push(run, what, bytes, append_bytes)?,
                }
                run.end_slice()?;
            }
        }
    }

    for node in &nodes {
        node.end(Signal::SIGKILL).await?;
    }
    Ok(())
}

/// Times as many small writes as a log's appends are timed.
fn time_small(run: &mut Run, name: &str, mut write: impl FnMut() -> Result<Duration>) -> Result<()> {
    let count = 2 * TIMED_APPENDS * segments(run);
    let times = (0..count).map(|_| write()).collect::<Result<Vec<_>>>()?;
    push_latencies(run, name, &times);
    Ok(())
}

/// Writes whole new files of the size of a segment.
fn write_bulk(run: &mut Run, bytes: u64) -> Result<()> {
    let files = (bytes / u64::from(SEGMENT_BYTES)) as usize;
    let took = write_files(&run.directory, files, SEGMENT_BYTES as usize, BULK_BYTES)?;
    run.push(BULK, RATE, FILES, megabytes_per_second(files * SEGMENT_BYTES as usize, took));
    Ok(())
}

impl Log {
    async fn new(name: &'static str, nodes: &[Node], number: u64) -> Result<Self> {
        let timeline = nodes::timeline(number, SEGMENT_BYTES)?;
        for node in nodes {
            node.create(&[timeline]).await?;
        }
        let ports: Vec<u16> = nodes.iter().map(|node| node.safekeeper.pg_port).collect();
        Ok(Self {
            name,
            pusher: Pusher::elect(&ports, &timeline)?,
            source: WalSource::new(timeline.segment_size, timeline.start),
            processes: nodes.iter().map(|node| node.process).collect(),
        })
    }

    fn push(&mut self, bytes: u64, append_bytes: usize) -> Result<(usize, Duration)> {
        let wal = self.source.records(bytes, append_bytes);
        let took = self.pusher.push(&wal, append_bytes)?;
        Ok((wal.bytes.len(), took))
    }

    /// Times small appends around the middle and the end of some segments. What lies between is pushed untimed: a small
    /// append between them is like the one before.
    fn time_appends(&mut self, run: &mut Run) -> Result<()> {
        let mut times = Vec::new();
        let mut cpu_us = 0.0;
        // Half of the timed appends lie before the middle, and half of them before the end.
        let before = (TIMED_APPENDS / 2 * SMALL_BYTES) as u64;
        let half = u64::from(SEGMENT_BYTES) / 2;
        for _ in 0..2 * segments(run) {
            let left = self.source.left_in_segment();
            let to_edge = if left > half + before { left - half } else { left };
            self.push(to_edge.saturating_sub(before).max(SMALL_BYTES as u64), BULK_BYTES)?;
            self.pusher.settle()?;

            let pieces: Vec<_> = (0..TIMED_APPENDS).map(|_| self.source.record(SMALL_BYTES)).collect();
            let earlier = Usage::of(&self.processes)?;
            for piece in &pieces {
                times.push(self.pusher.append(piece)?);
            }
            self.pusher.settle()?;
            cpu_us += (Usage::of(&self.processes)? - earlier).cpu_us;
        }
        push_latencies(run, self.name, &times);
        run.push(LATENCY, CPU, self.name, cpu_us / times.len() as f64);
        Ok(())
    }

    fn time_push(&mut self, run: &mut Run, what: &str, bytes: u64, append_bytes: usize) -> Result<()> {
        let earlier = Usage::of(&self.processes)?;
        let (pushed, took) = self.push(bytes, append_bytes)?;
        let used = Usage::of(&self.processes)? - earlier;
        run.push(what, RATE, self.name, megabytes_per_second(pushed, took));
        run.push(what, CPU, self.name, used.cpu_us / (pushed / append_bytes) as f64);
        Ok(())
    }
}

/// Segments whose middle and end are crossed in one round.
fn segments(run: &Run) -> usize {
    run.options.pick(2, 10)
}

fn push_latencies(run: &mut Run, name: &str, times: &[Duration]) {
    let times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
    for (quantity, share) in [(P50, 0.5), (P99, 0.99), (P999, 0.999), (MOST, 1.0)] {
        run.push(LATENCY, quantity, name, quantile(&times, share).unwrap_or(f64::NAN));
    }
}

fn megabytes_per_second(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64()
}
