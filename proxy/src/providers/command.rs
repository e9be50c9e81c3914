//! Start and stop commands of computes: runs one and waits for its end. A start command returns when the compute
//! accepts connections, a stop command when it has stopped. Run by the providers that have an endpoints file.

use std::io;
use std::os::fd::AsFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, timeout};
use utils::Backoff;

/// Longest run of a command. A longer one is killed.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);
/// Time after the first run in which a failed start is tried again. Just after a crash the remains of the old server
/// are in the way of the new one; in a container it can take seconds until they are cleared away.
const START_RETRY_WINDOW: Duration = Duration::from_secs(15);
/// Pauses between the runs of a start command.
const START_RETRY_DELAY_MIN: Duration = Duration::from_millis(300);
const START_RETRY_DELAY_MAX: Duration = Duration::from_secs(2);

/// Program and arguments, run without a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ComputeCommand {
    program: String,
    arguments: Vec<String>,
}

impl ComputeCommand {
    /// Returns `None` without a program.
    pub(super) fn new(words: Vec<String>) -> Option<Self> {
        let mut words = words.into_iter();
        let program = words.next().filter(|program| !program.is_empty())?;
        Some(Self { program, arguments: words.collect() })
    }

    /// Starts a compute, with retries. The error does not contain the command, because clients read it.
    pub(super) async fn run(&self, endpoint: &str) -> Result<(), String> {
        self.run_within(endpoint, START_RETRY_WINDOW).await
    }

    async fn run_within(&self, endpoint: &str, window: Duration) -> Result<(), String> {
        let retry_until = Instant::now() + window;
        let mut backoff = Backoff::new(START_RETRY_DELAY_MIN, START_RETRY_DELAY_MAX);
        loop {
            let status = self.run_once().await;
            let failure = match &status {
                Ok(status) if status.success() => return Ok(()),
                Ok(status) => format!("its start command failed ({status})"),
                Err(error) => format!("its start command did not run ({error})"),
            };
            tracing::warn!(endpoint, command = self.program, failure, "start command failed");
            if status.is_err() || Instant::now() >= retry_until {
                return Err(failure);
            }
            backoff.wait().await;
        }
    }

    /// Stops a compute, without retries.
    pub(super) async fn run_to_stop(&self) -> Result<(), String> {
        match self.run_once().await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("its stop command failed ({status})")),
            Err(error) => Err(format!("its stop command did not run ({error})")),
        }
    }

    async fn run_once(&self) -> io::Result<ExitStatus> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null());
        // Output goes to the proxy's log, without a pipe: the server that the command starts inherits the other end,
        // which would never reach its end and must not be closed.
        command.stdout(io::stderr().as_fd().try_clone_to_owned()?);
        // Ctrl-C at the proxy's terminal must not stop a database.
        command.process_group(0);

        let mut child = command.spawn()?;
        match timeout(COMMAND_TIMEOUT, child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                child.kill().await?;
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> ComputeCommand {
        ComputeCommand::new(["/bin/sh", "-c", script].map(str::to_owned).to_vec()).unwrap()
    }

    #[tokio::test]
    async fn run_retries_until_success() {
        let directory = tempfile::tempdir().unwrap();
        let count = directory.path().join("count");
        let script = format!("echo x >>{0}; test $(wc -l <{0}) -ge 3", count.display());
        assert_eq!(shell(&script).run("main").await, Ok(()));
        assert_eq!(std::fs::read_to_string(count).unwrap(), "x\nx\nx\n");
    }

    #[tokio::test]
    async fn run_hides_command_in_errors() {
        let failure = shell("exit 7").run_within("main", Duration::ZERO).await.unwrap_err();
        assert_eq!(failure, "its start command failed (exit status: 7)");
        let missing = ComputeCommand::new(vec!["/nonexistent/start".into()]).unwrap();
        assert!(missing.run("main").await.unwrap_err().starts_with("its start command did not run"));
    }

    /// The server that a start command leaves behind keeps the command's standard output open.
    #[tokio::test]
    async fn run_does_not_wait_for_started_server() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let started = Instant::now();
        assert_eq!(shell(&format!("sleep 60 & echo $! >{}", file.display())).run("main").await, Ok(()));
        assert!(started.elapsed() < Duration::from_secs(30));
        let pid = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    #[test]
    fn new_requires_a_program() {
        assert_eq!(ComputeCommand::new(Vec::new()), None);
        assert_eq!(ComputeCommand::new(vec![String::new()]), None);
    }
}
