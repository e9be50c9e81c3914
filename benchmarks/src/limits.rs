//! Raw limits of the machine, measured in the same minutes as a bench: what a sync, a long write and a round trip over
//! loopback cost without any program of ours.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::quantity::Quantity;
use crate::results::Samples;
use crate::stats::median;

/// Time for each of the short probes.
const PROBE_TIME: Duration = Duration::from_millis(250);
/// Bytes of one durable write: a page of WAL.
const PAGE_BYTES: usize = 8 * 1024;
/// Size of the file that durable writes go to: a segment.
const SEGMENT_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of the sequential write, in pieces of 1 MiB.
const SEQUENTIAL_BYTES: usize = 128 * 1024 * 1024;
const PIECE_BYTES: usize = 1024 * 1024;

const SYNC: Quantity = Quantity::lower("write of 8 KiB and fdatasync, median", "µs");
const SEQUENTIAL: Quantity = Quantity::higher("sequential write and fsync", "MB/s");
const ROUND_TRIP: Quantity = Quantity::lower("loopback round trip, median", "µs");
const RELAYED: Quantity = Quantity::lower("loopback round trip through one relay, median", "µs");
/// The situation under which limits stand in tables.
pub(crate) const WHAT: &str = "raw limits";
/// The variant under which limits stand in tables.
const VARIANT: &str = "machine";

/// Measures all limits once; files lie in `directory`.
pub(crate) fn measure(samples: &mut Samples, directory: &Path) -> Result<()> {
    let mut push = |quantity, value| samples.push(WHAT, quantity, VARIANT, value);
    push(SYNC, sync_us(directory)?);
    push(SEQUENTIAL, sequential_megabytes_per_second(directory)?);
    push(ROUND_TRIP, round_trip_us(false)?);
    push(RELAYED, round_trip_us(true)?);
    Ok(())
}

fn probe_file(directory: &Path) -> Result<(File, std::path::PathBuf)> {
    let path = directory.join("limits.probe");
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path);
    Ok((file.with_context(|| format!("cannot write {}", path.display()))?, path))
}

fn sync_us(directory: &Path) -> Result<f64> {
    let (file, path) = probe_file(directory)?;
    file.write_all_at(&vec![0; SEGMENT_BYTES], 0)?;
    file.sync_all()?;

    let page = [7; PAGE_BYTES];
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < PROBE_TIME {
        let offset = times.len() * PAGE_BYTES % SEGMENT_BYTES;
        let start = Instant::now();
        file.write_all_at(&page, offset as u64)?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }

    fs::remove_file(path)?;
    median(&times).context("no sync in time")
}

fn sequential_megabytes_per_second(directory: &Path) -> Result<f64> {
    let (mut file, path) = probe_file(directory)?;
    let piece = vec![7; PIECE_BYTES];
    let start = Instant::now();
    for _ in 0..SEQUENTIAL_BYTES / PIECE_BYTES {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    let seconds = start.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(SEQUENTIAL_BYTES as f64 / 1e6 / seconds)
}

fn round_trip_us(relayed: bool) -> Result<f64> {
    let mut address = serve(|mut client| echo(&mut client))?;
    if relayed {
        let target = address;
        address = serve(move |client| relay(client, target))?;
    }

    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut byte = [7];
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < PROBE_TIME {
        let start = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    median(&times).context("no round trip in time")
}

/// Serves one connection on a thread, which ends with it.
fn serve(body: impl FnOnce(TcpStream) + Send + 'static) -> Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        if let Ok((client, _)) = listener.accept() {
            let _ = client.set_nodelay(true);
            body(client);
        }
    });
    Ok(address)
}

fn echo(client: &mut TcpStream) {
    let mut byte = [0];
    while client.read_exact(&mut byte).is_ok() && client.write_all(&byte).is_ok() {}
}

fn relay(mut client: TcpStream, target: std::net::SocketAddr) {
    let Ok(mut server) = TcpStream::connect(target) else { return };
    let _ = server.set_nodelay(true);
    let mut byte = [0];
    while client.read_exact(&mut byte).is_ok()
        && server.write_all(&byte).is_ok()
        && server.read_exact(&mut byte).is_ok()
        && client.write_all(&byte).is_ok()
    {}
}
