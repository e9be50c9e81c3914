//! [`run`]: a process from its first line of log to its last span, however it ends.
//!
//! | what happens | what comes of it |
//! |---|---|
//! | the work returns, well or with an error | tasks have [`TASKS_END_TIMEOUT`] to end, then spans [`FLUSH_TIMEOUT`] to leave; [`run`] returns |
//! | the work panics | a line of log; then the same, and the panic goes on: the process ends with 101 |
//! | a task beside it panics | a line of log; the process goes on, and whoever owns the task begins it anew |
//!
//! So the process ends within two seconds after its work, whether or not there is a collector that answers. Signals are
//! not handled here: they make the work return. Called by `main` of every server.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use tracing::field::display;

use crate::logging::LogLevel;
use crate::options::Options;
use crate::setup::{FLUSH_TIMEOUT, InitError, init};

/// For tasks to notice that they are over, which ends their spans and writes their lines. A call into the operating
/// system that does not return is not waited for any longer.
pub const TASKS_END_TIMEOUT: Duration = Duration::from_millis(300);

/// What the end of a process may take once its work has ended.
pub const END_TIMEOUT: Duration = Duration::from_secs(2);

const _: () = assert!(TASKS_END_TIMEOUT.as_millis() + FLUSH_TIMEOUT.as_millis() < END_TIMEOUT.as_millis());

/// Sets up log and traces, runs `work` on a runtime of its own, and ends as the table above says. Once per process, by
/// `main`.
pub fn run<T, E>(options: &Options, work: impl AsyncFnOnce(LogLevel) -> Result<T, E>) -> Result<T, E>
where
    E: From<InitError> + From<io::Error>,
{
    // From here on it is flushed when it is dropped.
    let telemetry = init(options)?;
    log_panics();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let level = telemetry.log_level().clone();
    // Nothing of what the panic may have left half done is used again.
    let ended = panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(work(level))));
    // Not dropped, which would wait for blocking calls without limit. Tasks that are left are cut off here.
    runtime.shutdown_timeout(TASKS_END_TIMEOUT);
    telemetry.flush();
    ended.unwrap_or_else(|panicked| panic::resume_unwind(panicked))
}

/// Says why `program` failed, for whoever started it, log or no log; the exit code for that.
pub fn report_failure(program: &str, error: &impl Display) -> ExitCode {
    // Whoever started it may have closed the other end.
    let _ = writeln!(io::stderr(), "{program}: {error:#}");
    ExitCode::FAILURE
}

/// A panic is a line like any other, in the format of the log and with the span in which it happened.
fn log_panics() {
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |panicked| {
        if tracing::enabled!(tracing::Level::ERROR) {
            log_panic(panicked);
        } else {
            default(panicked);
        }
    }));
}

fn log_panic(panicked: &PanicHookInfo<'_>) {
    // Only when RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| display(&backtrace));
    tracing::error!(
        thread = thread::current().name(),
        location = panicked.location().map(display),
        backtrace,
        "panicked: {}",
        panicked.payload_as_str().unwrap_or("without a text")
    );
}
