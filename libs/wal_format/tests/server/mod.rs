//! [`Server`]: a temporary PostgreSQL server, and its programs.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::os::unix::fs::{FileExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use wal_format::{PAGE_BYTES, SegmentName};
use wal_types::{Lsn, SegmentSize, SystemId, Tli};

/// One record as `pg_waldump` reports it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoggedRecord {
    pub(crate) start: Lsn,
    /// Length of the record, header included, without alignment and page headers.
    pub(crate) total_bytes: u64,
    /// Start of the partial record that this record overwrites, if it does.
    pub(crate) overwrites: Option<Lsn>,
}

/// WAL of a server's directory; of each segment the file of the highest timeline.
pub(crate) struct Wal {
    pub(crate) start: Lsn,
    pub(crate) bytes: Vec<u8>,
    names: Vec<SegmentName>,
}

impl Wal {
    /// Start of the first segment of a timeline.
    pub(crate) fn start_of(&self, tli: Tli) -> Option<Lsn> {
        self.names.iter().find(|name| name.tli == tli).map(|name| name.size.start_of(name.segment))
    }
}

/// Directory of PostgreSQL's programs.
#[derive(Clone)]
pub(crate) struct Programs(PathBuf);

/// Finds the programs, or says on standard error that there are none.
#[expect(clippy::print_stderr, reason = "a test that was skipped must say so")]
pub(crate) fn find_programs() -> Option<Programs> {
    if let Some(directory) = std::env::var_os("HOLDFAST_PG_BIN") {
        return Some(Programs(directory.into()));
    }
    let pg_config = Command::new("pg_config").arg("--bindir").output().ok();
    let pg_config = pg_config.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = pg_config.into_iter().chain(debian.map(|entry| entry.path().join("bin"))).find(|directory| {
        ["initdb", "pg_ctl", "psql", "pg_waldump"].iter().all(|name| directory.join(name).exists())
    });
    if found.is_none() {
        eprintln!("skipped: there is no PostgreSQL server here");
    }
    found.map(Programs)
}

impl Programs {
    pub(crate) fn major(&self) -> u32 {
        self.version().split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    }

    pub(crate) fn version(&self) -> String {
        let output = run(Command::new(self.0.join("postgres")).arg("--version"));
        output.split_whitespace().nth(2).expect("postgres (PostgreSQL) VERSION").to_owned()
    }

    pub(crate) fn have(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }

    /// All records of a timeline from a segment's start on, to where `pg_waldump` finds no more (which it calls an error).
    pub(crate) fn waldump(&self, directory: &Path, tli: Tli, start: Lsn) -> Vec<LoggedRecord> {
        let mut command = Command::new(self.0.join("pg_waldump"));
        command.arg("-p").arg(directory).args(["-t", &tli.to_string(), "-s", &start.to_string()]);
        let output = command.output().unwrap();
        let records: Vec<_> =
            String::from_utf8_lossy(&output.stdout).lines().filter_map(parse_waldump_line).collect();
        assert!(!records.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        records
    }
}

/// `rmgr: X len (rec/tot): 3/ 114, tx: …, lsn: 0/1000028, prev 0/0, desc: …`.
fn parse_waldump_line(line: &str) -> Option<LoggedRecord> {
    let (lengths, rest) = line.split_once(" lsn: ")?;
    let total_bytes = lengths.split('/').nth(2)?.split(',').next()?.trim().parse().unwrap();
    let start = rest.split(',').next()?.parse().unwrap();
    let overwrites = rest.split_once("OVERWRITE_CONTRECORD lsn ").map(|(_, rest)| {
        let end = rest.find([';', ',', ' ']).unwrap_or(rest.len());
        rest[..end].parse().unwrap()
    });
    Some(LoggedRecord { start, total_bytes, overwrites })
}

/// A cluster in a temporary directory. Runs as user postgres if the tests run as root, which the server refuses.
pub(crate) struct Server {
    pub(crate) programs: Programs,
    directory: tempfile::TempDir,
    as_root: bool,
    running: bool,
}

impl Server {
    pub(crate) fn init(segment_bytes: u32) -> Option<Self> {
        let programs = find_programs()?;
        let directory = tempfile::tempdir().unwrap();
        let as_root = std::fs::metadata(directory.path()).unwrap().uid() == 0;
        if as_root {
            let id = |kind| run(Command::new("id").args([kind, "postgres"])).trim().parse().unwrap();
            chown(directory.path(), Some(id("-u")), Some(id("-g"))).unwrap();
        }
        let server = Self { programs, directory, as_root, running: false };
        let megabytes = (segment_bytes >> 20).to_string();
        let mut command = server.program("initdb");
        command.args(["--no-sync", "--auth=trust", "--username=postgres", "--wal-segsize", &megabytes, "-D"]);
        run(command.arg(server.data()));
        server.configure("wal_keep_size = '1GB'\nmax_wal_size = '1GB'\nlisten_addresses = ''\nfsync = off\n");
        server.configure(&format!("unix_socket_directories = '{}'\n", server.directory.path().display()));
        Some(server)
    }

    pub(crate) fn start(&mut self) {
        let log = self.directory.path().join("log");
        run(self.program("pg_ctl").args(["start", "-w", "-D"]).arg(self.data()).arg("-l").arg(log));
        self.running = true;
    }

    /// As an administrator promotes a copy: recovery from an archive that has nothing more.
    pub(crate) fn start_on_next_timeline(&mut self) {
        self.configure("restore_command = 'false'\n");
        std::fs::write(self.data().join("recovery.signal"), "").unwrap();
        self.start();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while self.sql(&["SELECT pg_is_in_recovery()"]) != "f" {
            assert!(std::time::Instant::now() < deadline, "the server stays in recovery");
        }
    }

    pub(crate) fn stop(&mut self, mode: &str) {
        self.running = false;
        run(self.program("pg_ctl").args(["stop", "-w", "-m", mode, "-D"]).arg(self.data()));
    }

    /// Runs statements, each in its own transaction; returns the output of the last one.
    pub(crate) fn sql(&self, statements: &[&str]) -> String {
        let mut command = self.program("psql");
        command.arg("-h").arg(self.directory.path()).args(["-U", "postgres", "-d", "postgres"]);
        command.args(["-XqAt", "-v", "ON_ERROR_STOP=1"]);
        statements.iter().for_each(|statement| _ = command.args(["-c", statement]));
        run(&mut command).trim().lines().last().unwrap_or_default().to_owned()
    }

    pub(crate) fn waldump(&self, tli: Tli, start: Lsn) -> Vec<LoggedRecord> {
        self.programs.waldump(&self.wal_directory(), tli, start)
    }

    pub(crate) fn system_id(&self) -> SystemId {
        SystemId(self.control_data("Database system identifier").parse().unwrap())
    }

    pub(crate) fn last_checkpoint(&self) -> Lsn {
        self.control_data("Latest checkpoint location").parse().unwrap()
    }

    fn control_data(&self, name: &str) -> String {
        let all = run(self.program("pg_controldata").arg("-D").arg(self.data()).env("LC_ALL", "C"));
        let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.expect("a line of that name").trim().to_owned()
    }

    pub(crate) fn wal(&self) -> Wal {
        let size = self.segment_size();
        let mut names: Vec<SegmentName> = std::fs::read_dir(self.wal_directory())
            .unwrap()
            .filter_map(|entry| SegmentName::parse(entry.unwrap().file_name().to_str()?, size).ok())
            .collect();
        names.sort_by_key(|name| (name.segment, std::cmp::Reverse(name.tli)));
        names.dedup_by_key(|name| name.segment);
        let start = size.start_of(names[0].segment);
        let mut bytes = Vec::new();
        for (name, segment) in names.iter().zip(names[0].segment..) {
            assert_eq!(name.segment, segment, "a segment is missing");
            bytes.extend(std::fs::read(self.wal_directory().join(name.to_string())).unwrap());
        }
        Wal { start, bytes, names }
    }

    /// Zeroes the page at `lsn` of timeline 1, as if it was never written.
    pub(crate) fn zero_page(&self, lsn: Lsn) {
        let size = self.segment_size();
        let name = SegmentName { tli: Tli(1), segment: size.segment_of(lsn), size };
        let path = self.wal_directory().join(name.to_string());
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[0; PAGE_BYTES], size.offset_of(lsn).into()).unwrap();
    }

    fn segment_size(&self) -> SegmentSize {
        SegmentSize::new(self.control_data("Bytes per WAL segment").parse().unwrap()).unwrap()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn wal_directory(&self) -> PathBuf {
        self.data().join("pg_wal")
    }

    pub(crate) fn configure(&self, lines: &str) {
        use std::io::Write;
        let path = self.data().join("postgresql.conf");
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }

    /// A command of the server's user: one of the server's programs, or a program given by its path.
    pub(crate) fn program(&self, name: &str) -> Command {
        let path = self.programs.0.join(name);
        let mut command = match self.as_root {
            false => Command::new(path),
            true => {
                let mut command = Command::new("runuser");
                command.args(["-u", "postgres", "--"]).arg(path);
                command
            }
        };
        // The user postgres may not enter where the tests run.
        command.current_dir(self.directory.path());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.running {
            let _ = self.program("pg_ctl").args(["stop", "-m", "immediate", "-D"]).arg(self.data()).output();
        }
    }
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{err}");
    out.into_owned()
}
