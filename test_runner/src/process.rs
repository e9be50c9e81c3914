//! Processes: starts a program in its own session, with its output in a log file, and ends it.
//!
//! A session of its own keeps Ctrl-C at a terminal away from the program. Processes are known by number, not by handle,
//! because `./dev stop` ends a program that an earlier `./dev up` started.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::{logs, wait};

/// Time limit for the end of a process after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Lines at the end of a log in which the reason of a failure is searched.
const LOG_TAIL_LINES: usize = 40;

/// One program and how it is started.
#[derive(Clone, Debug)]
pub struct Program {
    /// Name in messages (`sk1`).
    pub name: String,
    /// The executable file.
    pub executable: PathBuf,
    /// Arguments of the command line.
    pub arguments: Vec<String>,
    /// Variables added to its environment.
    pub environment: Vec<(String, String)>,
    /// The account that it runs as; `None`: the account of the harness.
    pub account: Option<Account>,
    /// The file that its output is appended to.
    pub log: PathBuf,
    /// Whether the kernel kills it when the thread that started it ends. Tests set it, so that no process outlives a
    /// test.
    pub dies_with_parent: bool,
}

/// A started process. Its start time tells it from a later process with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id.
    pub pid: i32,
    /// Clock ticks from boot to its start (field 22 of `/proc/PID/stat`, proc(5)).
    pub started: u64,
}

impl Program {
    /// Starts the program in its own session, without waiting until it is ready.
    pub fn spawn(&self) -> Result<ProcessId> {
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write the log {}", self.log.display()))?;
        let arguments: Vec<String> =
            self.arguments.iter().map(|argument| without_password(argument)).collect();
        writeln!(log, "--- {} {}", self.executable.display(), arguments.join(" "))?;
        let mut command = Command::new(&self.executable);
        command.args(&self.arguments).envs(self.environment.iter().cloned()).current_dir("/");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(account) = &self.account {
            account.run_as(&mut command);
        }

        leave_session(&mut command, self.dies_with_parent);
        let child = command.spawn().with_context(|| {
            format!("cannot start {} ({}): is it built?", self.name, self.executable.display())
        })?;
        let pid = i32::try_from(child.id())?;
        let started = stat(pid).with_context(|| format!("{} ended at once", self.name))?.started;
        Ok(ProcessId { pid, started })
    }

    /// The error for a program that ended by itself: the last line of its log that names a reason, or its last line.
    pub fn early_end(&self) -> anyhow::Error {
        let tail = logs::tail(&self.log, LOG_TAIL_LINES);
        let this_time = tail.rsplit_once("\n--- ").map_or(tail.as_str(), |(_, after)| after);
        let said: Vec<&str> = this_time.lines().skip(1).filter(|line| !line.trim().is_empty()).collect();
        let is_reason = |line: &&&str| ["FATAL", "PANIC", "rror"].iter().any(|word| line.contains(word));
        let last =
            said.iter().rfind(is_reason).or(said.last()).map_or("ended without output", |line| line.trim());
        anyhow::anyhow!("{}: {last} (log: {})", self.name, self.log.display())
    }
}

#[expect(unsafe_code, reason = "a new session begins between fork and exec; both calls are allowed there")]
fn leave_session(command: &mut Command, dies_with_parent: bool) {
    // SAFETY: setsid and prctl are async-signal-safe system calls, and nothing is allocated here.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            if dies_with_parent {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            }
            Ok(())
        });
    }
}

impl ProcessId {
    /// The process with this number; `None` when it does not exist.
    pub fn find(pid: i32) -> Option<Self> {
        stat(pid).map(|stat| Self { pid, started: stat.started })
    }

    /// True while the process runs. A process that ended and was not yet waited for counts as gone.
    pub fn is_alive(self) -> bool {
        // Reaps the process if it is a child of this one; an error means that it is not.
        let _ = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        match stat(self.pid) {
            Some(stat) if stat.started == self.started => stat.state != 'Z' || has_threads(self.pid),
            _ => false,
        }
    }

    /// The running child processes.
    pub fn children(self) -> Vec<Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let processes = pids.filter_map(|pid| Some((pid, stat(pid)?)));
        let children = processes.filter(|(_, stat)| stat.parent == self.pid);
        children.map(|(pid, stat)| Self { pid, started: stat.started }).collect()
    }

    /// Sends a signal. A process that is gone is no error.
    pub fn signal(self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match signal::kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(error) => bail!("cannot send {signal} to process {}: {error}", self.pid),
        }
    }

    /// Waits until the process is gone.
    pub async fn wait_gone(self, within: Duration) -> Result<()> {
        let what = format!("the end of process {}", self.pid);
        wait::until(&what, within, async || Ok((!self.is_alive()).then_some(()))).await
    }

    /// Sends a signal and waits for the end of the process.
    pub async fn end(self, signal: Signal, within: Duration) -> Result<()> {
        self.signal(signal)?;
        self.wait_gone(within).await
    }

    /// Sends SIGKILL and waits until the kernel has ended the process.
    pub async fn kill(self) -> Result<()> {
        self.end(Signal::SIGKILL, KILL_TIMEOUT).await
    }
}

/// Guard of a process that is not ready yet: kills it when dropped before [`KillOnDrop::keep`], so that a failed or
/// abandoned start leaves no process behind.
#[derive(Debug)]
pub struct KillOnDrop(Option<ProcessId>);

impl KillOnDrop {
    /// Guards a process that was just started.
    pub fn new(process: ProcessId) -> Self {
        Self(Some(process))
    }

    /// Lets the process run on: it is ready.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(process) = self.0 {
            let _ = process.signal(Signal::SIGKILL);
        }
    }
}

/// Starts a program and waits until it has written its address file. If it ends instead, the error quotes its log.
pub async fn start_with_address_file(program: &Program, file: &Path, within: Duration) -> Result<ProcessId> {
    if file.exists() {
        fs::remove_file(file)?;
    }
    let process = program.spawn()?;
    let starting = KillOnDrop::new(process);
    wait::until(&format!("{} to listen", program.name), within, async || {
        if !process.is_alive() {
            return Err(program.early_end());
        }
        Ok(file.exists().then_some(()))
    })
    .await?;
    starting.keep();
    Ok(process)
}

/// Fields of `/proc/PID/stat` (proc(5)).
struct Stat {
    state: char,
    parent: i32,
    started: u64,
}

/// A connection URI with its password masked: more people read the log than may know the password.
fn without_password(argument: &str) -> String {
    let masked = || {
        let (scheme, rest) = argument.split_once("://")?;
        let (credentials, address) = rest.rsplit_once('@')?;
        let (user, _) = credentials.split_once(':')?;
        Some(format!("{scheme}://{user}:***@{address}"))
    };
    masked().unwrap_or_else(|| argument.to_owned())
}

/// True when a process has more than one thread. A killed process shows as a zombie while its other threads still hold
/// its sockets and files.
fn has_threads(pid: i32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { state, parent, started: fields.nth(17)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(directory: &Path) -> Program {
        Program {
            name: "sleeper".into(),
            executable: "/bin/sleep".into(),
            arguments: vec!["1000".into()],
            environment: Vec::new(),
            account: None,
            log: directory.join("sleeper.log"),
            dies_with_parent: true,
        }
    }

    #[tokio::test]
    async fn process_leads_its_session_and_dies_by_kill() {
        let directory = tempfile::tempdir().unwrap();
        let process = sleeper(directory.path()).spawn().unwrap();
        let session = nix::unistd::getsid(Some(Pid::from_raw(process.pid))).unwrap();
        assert_eq!(session.as_raw(), process.pid);
        assert!(process.is_alive());
        process.kill().await.unwrap();
        assert!(!process.is_alive());
    }

    #[tokio::test]
    async fn process_id_is_told_from_a_reused_one() {
        let directory = tempfile::tempdir().unwrap();
        let process = sleeper(directory.path()).spawn().unwrap();
        let earlier = ProcessId { started: process.started - 1, ..process };
        assert!(!earlier.is_alive());
        earlier.signal(Signal::SIGKILL).unwrap();
        assert!(process.is_alive());
        process.kill().await.unwrap();
    }

    #[test]
    fn no_password_gets_into_a_log() {
        assert_eq!(without_password("postgresql://wp:secret@host:1/db"), "postgresql://wp:***@host:1/db");
        for plain in ["postgresql://wp@host:1/db", "--slot", "1@127.0.0.1:5454"] {
            assert_eq!(without_password(plain), plain);
        }
    }

    #[test]
    fn a_missing_program_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Program { executable: "/nonexistent/program".into(), ..sleeper(directory.path()) };
        assert!(format!("{:#}", missing.spawn().unwrap_err()).contains("/nonexistent/program"));
    }
}
