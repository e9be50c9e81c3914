//! Thousands of idle timelines: what a start and an idle hour cost.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use consensus::{
    AppendRequest, Configuration, ConnectionId, Dialect, Lineage, Member, ProposerElected, ProposerGreeting,
    ProposerMessage, ProtocolVersion, TermHistory, TermStart, VoteRequest,
};
use nix::sys::signal::Signal;
use safekeeper::DataDir;
use wal_store::{Disk, DiskFile, Input, RealDisk, Replica};
use wal_types::{
    CopyId, Generation, NodeId, ProposerId, ReplicaId, SegmentSize, TenantTimelineId, Term, TimelineId, Tli,
};

use crate::process::Program;
use crate::support::{
    NODE, PG_VERSION, Proposer, SEGMENT_BYTES, START, SYSTEM, Wal, eventually, timeline, within,
};

const TIMELINES: u32 = 2000;
/// Threads that write the directories.
const WRITERS: u32 = 4;
/// Time for which an idle safekeeper is watched.
const WATCHED: Duration = Duration::from_secs(3);
/// Memory that an idle timeline may take, in bytes.
const IDLE_BYTES_MAX: u64 = 20_000;
/// Descriptors that an idle safekeeper may have: ports, runtimes, log, lock.
const DESCRIPTORS_MAX: usize = 100;

fn numbered(number: u32) -> TenantTimelineId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    TenantTimelineId { timeline: TimelineId(id), ..timeline(0) }
}

/// A directory that is not synced: the test makes thousands.
#[derive(Clone)]
struct Unsynced(RealDisk);

struct UnsyncedFile(<RealDisk as Disk>::File);

impl Disk for Unsynced {
    type File = UnsyncedFile;
    fn create(&self, name: &str) -> io::Result<UnsyncedFile> {
        self.0.create(name).map(UnsyncedFile)
    }
    fn open(&self, name: &str) -> io::Result<UnsyncedFile> {
        self.0.open(name).map(UnsyncedFile)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn unlink(&self, name: &str) -> io::Result<()> {
        self.0.unlink(name)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }
    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for UnsyncedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

/// Writes a timeline with some WAL of term 1 into the data directory.
fn write_timeline(data: &Path, disk_id: [u8; 16], id: TenantTimelineId, wal: &[u8]) {
    let lineage = Lineage {
        id,
        dialect: Dialect::Holdfast,
        system_id: SYSTEM,
        pg_version: PG_VERSION,
        segment_size: SegmentSize::new(SEGMENT_BYTES).unwrap(),
        start_lsn: START,
        start_tli: Tli::FIRST,
        birth: None,
        start_history: None,
    };
    let directory = data.join(id.tenant.to_string()).join(id.timeline.to_string());
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.with_extension("promised"), b"").unwrap();
    let disk = Unsynced(RealDisk::open(&directory).unwrap());
    let replica = ReplicaId([1; 16]);
    let only = Member { id: NodeId(NODE), host: "127.0.0.1".into(), port: 5454, replica };
    let configuration = Configuration { members: vec![only], ..Configuration::default() };
    let copy = CopyId { node: NodeId(NODE), replica };
    Replica::create(&disk, copy, disk_id, lineage, configuration.clone()).unwrap();

    let (generation, term) = (Generation(0), Term(1));
    let messages = [
        ProposerMessage::Greeting(ProposerGreeting {
            version: ProtocolVersion::Holdfast2,
            id,
            pg_version: PG_VERSION,
            system_id: SYSTEM,
            segment_bytes: SEGMENT_BYTES,
            tli: Tli::FIRST,
            proposer_id: ProposerId([1; 16]),
            configuration: configuration.clone(),
        }),
        ProposerMessage::Vote(VoteRequest { generation, term, proposer_id: ProposerId([1; 16]), replica }),
        ProposerMessage::Elected(ProposerElected {
            generation,
            term,
            start_streaming_at: START,
            history: TermHistory::new(vec![TermStart { term, start: START, tli: Tli::FIRST }]).unwrap(),
            timeline_start_lsn: START,
            tli_switches: vec![],
            configuration,
            replica,
            rebase: None,
        }),
        ProposerMessage::Append(AppendRequest {
            generation,
            term,
            epoch_start_lsn: START,
            begin_lsn: START,
            commit_lsn: START,
            truncate_lsn: START,
            proposer_id: ProposerId([1; 16]),
            wal: Bytes::copy_from_slice(wal),
        }),
    ];
    let mut log = Replica::open(disk, NodeId(NODE)).unwrap();
    let batch = messages.map(|message| (ConnectionId(1), Input::Message(message)));
    let output = log.run(batch.into());
    assert!(output.refused.is_empty() && output.undecided.is_empty(), "{output:?}");
    let _ = log.checkpoint_for_shutdown();
    assert_eq!(log.snapshot().flush_lsn, START.advance(wal.len() as u64));
}

fn write_timelines(data: &Path, wal: &[u8]) {
    let disk_id = DataDir::open(data, NodeId(NODE)).unwrap().identity().disk;
    let next = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= TIMELINES {
                        return;
                    }
                    write_timeline(data, disk_id, numbered(number), wal);
                }
            });
        }
    });
}

/// A field of a file in `/proc` of the program.
fn proc_field(program: &Program, file: &str, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/{file}", program.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").parse().unwrap()
}

fn resident_bytes(program: &Program) -> u64 {
    proc_field(program, "status", "VmRSS") * 1024
}

async fn all_open(program: &Program) {
    eventually("all timelines to open", async || {
        let url = program.at.url("/metrics");
        let text = reqwest::get(url).await.ok()?.text().await.ok()?;
        let healthy = format!("holdfast_safekeeper_timelines{{health=\"healthy\"}} {TIMELINES}\n");
        text.contains(&healthy).then_some(())
    })
    .await;
}

/// The first vote does not wait for the other timelines. Idle ones take no descriptor, no IO and little memory.
#[tokio::test(flavor = "multi_thread")]
async fn idle_timelines_cost_next_to_nothing() {
    let (empty, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let program = Program::start(empty.path()).await;
    let base = resident_bytes(&program);
    program.end(Signal::SIGKILL).await;

    let mut wal = Wal::new();
    let bytes = wal.grow(3000);
    write_timelines(&directory.path().join("data"), &bytes);

    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let begin = Instant::now();
        let program = Program::start(directory.path()).await;
        let last = numbered(TIMELINES - 1);
        let mut proposer = Proposer::greeted(program.at, last, ProtocolVersion::Holdfast2).await;
        let term = if signal == Signal::SIGTERM { 2 } else { 3 };
        let vote = within("the first vote", proposer.vote(term)).await;
        assert!(vote.vote_given && vote.flush_lsn == wal.end(), "{vote:?}");
        let first_vote = begin.elapsed();
        drop(proposer);
        all_open(&program).await;
        println!("first vote after {first_vote:?}, all {TIMELINES} open after {:?}", begin.elapsed());

        let descriptors = fs::read_dir(format!("/proc/{}/fd", program.pid())).unwrap().count();
        assert!(descriptors < DESCRIPTORS_MAX, "{descriptors} descriptors");
        let each = resident_bytes(&program).saturating_sub(base) / u64::from(TIMELINES);
        println!("{each} bytes for each timeline");
        assert!(each < IDLE_BYTES_MAX, "{each} bytes for each timeline");

        // Not what is written to eventfds: the shards wake up each second.
        let io = || ["read_bytes", "write_bytes", "rchar"].map(|field| proc_field(&program, "io", field));
        let before = io();
        tokio::time::sleep(WATCHED).await;
        assert_eq!(io(), before, "an idle safekeeper reads and writes nothing");
        program.end(signal).await;
    }
}
