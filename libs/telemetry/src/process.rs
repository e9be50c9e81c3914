//! [`run`]: runs a process from its first log line to its last span, however it ends.
//!
//! | event | effect |
//! |---|---|
//! | the work returns a value or an error | tasks have [`TASKS_END_TIMEOUT`] to end, then spans have [`FLUSH_TIMEOUT`] to be sent; [`run`] returns |
//! | the work panics | the panic is logged; then the same, and the panic goes on: the process exits with 101 |
//! | another task panics | the panic is logged; the process goes on, and the owner of the task restarts it |
//!
//! So the process ends within two seconds after its work, whether or not a collector answers. Signals are not handled
//! here: they make the work return. Called by `main` of every server.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use nix::sys::prctl::set_timerslack;
use tokio::runtime::Builder;
use tracing::field::display;

use crate::logging::LogLevel;
use crate::options::Options;
use crate::setup::{FLUSH_TIMEOUT, InitError, init};

/// Longest time for tasks to be cancelled, which ends their spans and writes their log lines. A call into the operating
/// system that does not return is not waited for any longer.
pub const TASKS_END_TIMEOUT: Duration = Duration::from_millis(300);

/// Longest time from the end of the work to the end of the process.
pub const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Timers of the process may be this late. A timer that is due before the kernel's next tick (4 ms at most on the usual
/// kernels, 10 ms on some) makes each sleep program the clock device twice, and in a virtual machine the hypervisor does
/// that: it cost the walproposer more than all its own instructions.
const TIMER_SLACK: Duration = Duration::from_millis(10);

const _: () = assert!(TASKS_END_TIMEOUT.as_millis() + FLUSH_TIMEOUT.as_millis() < END_TIMEOUT.as_millis());

/// Installs log and traces, runs `work` on a new tokio runtime with a thread for each core, and ends as the table of this
/// [module](self) says. Called once per process, by `main`.
pub fn run<T, E>(options: &Options, work: impl AsyncFnOnce(LogLevel) -> Result<T, E>) -> Result<T, E>
where
    E: From<InitError> + From<io::Error>,
{
    run_on(Builder::new_multi_thread, options, work)
}

/// As [`run`], on a runtime that has only the thread of the caller: for a program in which handing work between threads
/// would cost more than the work. A blocking call still has a thread of its own.
pub fn run_on_one_thread<T, E>(
    options: &Options,
    work: impl AsyncFnOnce(LogLevel) -> Result<T, E>,
) -> Result<T, E>
where
    E: From<InitError> + From<io::Error>,
{
    run_on(Builder::new_current_thread, options, work)
}

fn run_on<T, E>(
    runtime: fn() -> Builder,
    options: &Options,
    work: impl AsyncFnOnce(LogLevel) -> Result<T, E>,
) -> Result<T, E>
where
    E: From<InitError> + From<io::Error>,
{
    // From here on a drop flushes it.
    let telemetry = init(options)?;
    log_panics();
    // Inherited by the threads that are started from here on. Without it the process only costs more.
    let _ = set_timerslack(TIMER_SLACK.as_nanos() as u64);
    let runtime = runtime().enable_all().build()?;
    let level = telemetry.log_level().clone();

    // State that the panic may have left half changed is not used again.
    let ended = panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(work(level))));

    // A drop would wait for blocking calls without limit. Tasks that still run are cancelled here.
    runtime.shutdown_timeout(TASKS_END_TIMEOUT);
    telemetry.flush();
    ended.unwrap_or_else(|panicked| panic::resume_unwind(panicked))
}

/// Writes the error of `program` to stderr, whatever the log level is, and returns the exit code for a failure.
pub fn report_failure(program: &str, error: &impl Display) -> ExitCode {
    // The parent process may have closed the other end.
    let _ = writeln!(io::stderr(), "{program}: {error:#}");
    ExitCode::FAILURE
}

/// Makes panics log lines, in the format of the log and with the span in which they happened.
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
    // Captured only when RUST_BACKTRACE asks for it.
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
