//! `many-timelines`: what a timeline costs a safekeeper that has very many of them.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use test_runner::{http, wait};

use crate::accounting::{Memory, Usage, descriptors};
use crate::bench::{Bench, Plot, Running};
use crate::quantity::Quantity;
use crate::run::Run;
use crate::stats::quantile;
use crate::tracer;
use crate::wal::link::BenchTimeline;
use crate::wal::nodes::{self, Node};
use crate::wal::pusher::Pusher;
use crate::wal::source::WalSource;

const CREATE: Quantity = Quantity::lower("creation over HTTP, each", "ms");
const MEMORY: Quantity = Quantity::lower("resident memory", "MiB");
const DESCRIPTORS: Quantity = Quantity::lower("descriptors", "");
const IDLE: Quantity = Quantity::lower("CPU without any load", "% of a core");
const METRICS: Quantity = Quantity::lower("page of metrics, time", "ms");
const METRICS_SIZE: Quantity = Quantity::lower("page of metrics, size", "kB");
const P50: Quantity = Quantity::lower("append, median", "µs");
const P99: Quantity = Quantity::lower("append, 99 %", "µs");
const CPU: Quantity = Quantity::lower("CPU an append", "µs");
const APPENDS: Quantity = Quantity::higher("appends a second", "1/s");
const SYNCS: Quantity = Quantity::lower("syncs of files and directories a second", "1/s");
const OPEN: Quantity = Quantity::lower("election and first append, each", "ms");
const START: Quantity = Quantity::lower("start after SIGTERM, until ready", "s");
const RECOVERY: Quantity = Quantity::lower("start after SIGKILL, until ready", "s");

const OURS: &str = "ours";
const SEGMENT_BYTES: u32 = 1024 * 1024;
/// Size of an append.
const SMALL_BYTES: usize = 120;
/// Timelines that are written while the others rest.
const ACTIVE: usize = 8;
/// Rounds of one append to each active timeline.
const ACTIVE_ROUNDS: usize = 200;
/// Time in which all timelines that trickle get their appends, one after the other.
const TRICKLE_TIME: Duration = Duration::from_secs(5);
/// Appends in that time, at least.
const TRICKLE_APPENDS_MIN: usize = 200;
/// Threads that open writers.
const OPENERS: usize = 8;
/// Descriptors of a safekeeper that are no timeline's.
const DESCRIPTORS_SPARE: usize = 200;
/// Time for which an idle safekeeper is watched.
const IDLE_TIME: Duration = Duration::from_secs(2);
/// Time limit for a safekeeper to open all timelines.
const READY_TIMEOUT: Duration = Duration::from_secs(300);

/// The bench.
pub(crate) const BENCH: Bench = Bench {
    name: "many-timelines",
    about: "1, 100, 2,000 and 10,000 timelines on one safekeeper (10,000 not with --quick): few active, then all trickling",
    goals: Vec::new,
    plots: &[
        Plot {
            file: "append",
            title: "Append to one of 8 active timelines, median, µs",
            quantity: P50.name,
            situations: "active",
            relative_to: None,
        },
        Plot {
            file: "memory",
            title: "Resident memory, MiB",
            quantity: MEMORY.name,
            situations: "",
            relative_to: None,
        },
    ],
    run,
};

fn run(run: &mut Run) -> Running<'_> {
    Box::pin(measure(run))
}

/// A timeline that is written.
struct Writer {
    pusher: Pusher,
    source: WalSource,
}

async fn measure(run: &mut Run) -> Result<()> {
    let limit = raise_descriptor_limit()?;
    let counts: &[u32] = run.options.pick(&[1, 100, 2_000], &[1, 100, 2_000, 10_000]);
    for count in run.options.chosen_clients(counts) {
        measure_with(run, count as usize, limit).await?;
    }
    Ok(())
}

/// Measures a new safekeeper with this number of timelines.
async fn measure_with(run: &mut Run, count: usize, limit: usize) -> Result<()> {
    let name = if count == 1 { "1 timeline".to_owned() } else { format!("{count} timelines") };
    let (rest, few, all) =
        (format!("{name}, all at rest"), format!("{name}, few active"), format!("{name}, all trickling"));

    run.progress(&rest);
    let node = Node::start(run, 1).await?;
    let timelines = (1..=count as u64).map(|number| nodes::timeline(number, SEGMENT_BYTES));
    let timelines = timelines.collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    node.create(&timelines).await?;
    run.push(&rest, CREATE, OURS, milliseconds_each(began, count));
    at_rest(run, &node, &rest).await?;

    run.progress(&few);
    let (active, resting) = timelines.split_at(ACTIVE.min(count));
    let mut writers = open(&node, active)?;
    few_active(run, &node, &few, &mut writers)?;

    run.progress(&all);
    // Each writer needs a connection and a segment.
    let room = limit.saturating_sub(descriptors(node.process) + DESCRIPTORS_SPARE) / 2;
    let more = resting.get(..room).unwrap_or(resting);
    if more.len() < resting.len() {
        let written = more.len() + active.len();
        run.note(format!("{all}: only {written}, because a process may have {limit} descriptors here."));
    }
    let began = Instant::now();
    writers.extend(open(&node, more)?);
    if !more.is_empty() {
        run.push(&all, OPEN, OURS, milliseconds_each(began, more.len()));
    }
    let writers = all_trickling(run, &node, &all, writers).await?;
    drop(writers);

    run.progress(&format!("{name}, starting again"));
    let node = restart(run, node, &rest).await?;
    node.end(Signal::SIGKILL).await?;
    Ok(std::fs::remove_dir_all(&node.safekeeper.data_dir)?)
}

fn milliseconds_each(began: Instant, count: usize) -> f64 {
    began.elapsed().as_secs_f64() * 1e3 / count as f64
}

/// Lets this process, and the programs that it starts, open as many files as the operator allows.
fn raise_descriptor_limit() -> Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(usize::try_from(hard)?)
}

/// Wins timelines on a safekeeper and sends a first append to each, which makes its first segment.
fn open(node: &Node, timelines: &[BenchTimeline]) -> Result<Vec<Writer>> {
    let port = node.safekeeper.pg_port;
    let open_one = |timeline: &BenchTimeline| -> Result<Writer> {
        let pusher = Pusher::elect(&[port], timeline)?;
        let mut writer = Writer { pusher, source: WalSource::new(timeline.segment_size, timeline.start) };
        writer.append()?;
        Ok(writer)
    };
    let share = timelines.len().div_ceil(OPENERS).max(1);
    std::thread::scope(|scope| {
        let shares = timelines.chunks(share);
        let openers: Vec<_> = shares
            .map(|share| scope.spawn(move || share.iter().map(open_one).collect::<Result<Vec<_>>>()))
            .collect();
        let mut writers = Vec::with_capacity(timelines.len());
        for opener in openers {
            writers.extend(opener.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??);
        }
        Ok(writers)
    })
}

impl Writer {
    fn append(&mut self) -> Result<Duration> {
        let piece = self.source.record(SMALL_BYTES);
        self.pusher.append(&piece)
    }
}

async fn at_rest(run: &mut Run, node: &Node, what: &str) -> Result<()> {
    push_size(run, node, what)?;
    run.begin_slice()?;
    let earlier = Usage::of(&[node.process])?;
    tokio::time::sleep(IDLE_TIME).await;
    let used = Usage::of(&[node.process])? - earlier;
    run.end_slice()?;
    run.push(what, IDLE, OURS, used.cpu_us / IDLE_TIME.as_micros() as f64 * 100.0);

    let began = Instant::now();
    let page =
        http::client()?.get(format!("{}/metrics", node.safekeeper.http())).send().await?.text().await?;
    run.push(what, METRICS, OURS, began.elapsed().as_secs_f64() * 1e3);
    run.push(what, METRICS_SIZE, OURS, page.len() as f64 / 1e3);
    Ok(())
}

fn push_size(run: &mut Run, node: &Node, what: &str) -> Result<()> {
    run.push(what, MEMORY, OURS, Memory::of(node.process)?.resident_kib / 1024.0);
    run.push(what, DESCRIPTORS, OURS, descriptors(node.process) as f64);
    Ok(())
}

/// Appends to the writers in turn, one append at a time.
fn few_active(run: &mut Run, node: &Node, what: &str, writers: &mut [Writer]) -> Result<()> {
    run.begin_slice()?;
    let earlier = Usage::of(&[node.process])?;
    let mut times = Vec::new();
    for _ in 0..ACTIVE_ROUNDS * ACTIVE / writers.len() {
        for writer in &mut *writers {
            times.push(writer.append()?);
        }
    }
    let used = Usage::of(&[node.process])? - earlier;
    run.end_slice()?;
    push_appends(run, what, &times, used);
    Ok(())
}

fn push_appends(run: &mut Run, what: &str, times: &[Duration], used: Usage) {
    run.push(what, CPU, OURS, used.cpu_us / times.len() as f64);
    let times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
    for (quantity, share) in [(P50, 0.5), (P99, 0.99)] {
        run.push(what, quantity, OURS, quantile(&times, share).unwrap_or(f64::NAN));
    }
}

/// Appends to all writers, at an even pace.
async fn all_trickling(run: &mut Run, node: &Node, what: &str, writers: Vec<Writer>) -> Result<Vec<Writer>> {
    push_size(run, node, what)?;
    run.begin_slice()?;
    let earlier = Usage::of(&[node.process])?;
    let load = tokio::task::spawn_blocking(move || trickle(writers));
    let syncs = match tracer::is_available().await {
        true => {
            Some(tracer::count(&[node.process], &[tracer::FDATASYNC, tracer::FSYNC], TRICKLE_TIME).await?)
        }
        false => None,
    };
    let (writers, times) = load.await??;
    let used = Usage::of(&[node.process])? - earlier;
    run.end_slice()?;

    push_appends(run, what, &times, used);
    if let Some(syncs) = syncs {
        let syncs: f64 = syncs.iter().sum();
        run.push(what, SYNCS, OURS, syncs / TRICKLE_TIME.as_secs_f64());
        run.push(what, APPENDS, OURS, times.len() as f64 / TRICKLE_TIME.as_secs_f64());
    }
    Ok(writers)
}

fn trickle(mut writers: Vec<Writer>) -> Result<(Vec<Writer>, Vec<Duration>)> {
    let count = writers.len().max(TRICKLE_APPENDS_MIN);
    let began = Instant::now();
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let due = began + TRICKLE_TIME.mul_f64(number as f64 / count as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let index = number % writers.len();
        times.push(writers[index].append()?);
    }
    Ok((writers, times))
}

/// Stops the safekeeper and starts it again, in two ways.
async fn restart(run: &mut Run, node: Node, what: &str) -> Result<Node> {
    let mut node = node;
    for (signal, quantity) in [(Signal::SIGTERM, START), (Signal::SIGKILL, RECOVERY)] {
        node.end(signal).await?;
        run.begin_slice()?;
        let began = Instant::now();
        node.process = node.safekeeper.start().await?;
        let client = http::client()?;
        wait::until("the safekeeper to be ready", READY_TIMEOUT, async || {
            let answer = client.get(format!("{}/readyz", node.safekeeper.http())).send().await;
            Ok(answer.is_ok_and(|answer| answer.status().is_success()).then_some(()))
        })
        .await?;
        run.push(what, quantity, OURS, began.elapsed().as_secs_f64());
        run.end_slice()?;
    }
    Ok(node)
}
