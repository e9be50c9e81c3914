//! Real signals sent to the test process itself. The test has a file of its own because a signal reaches every listener.

use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use tokio::time::timeout;
use utils::Shutdown;
use utils::shutdown::Stage;

const SIGNAL_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn process_signals_reload_drain_and_end() {
    let shutdown = Shutdown::on_process_signals().unwrap();

    let mut reloads = shutdown.reloads();
    raise(Signal::SIGHUP).unwrap();
    timeout(SIGNAL_TIMEOUT, reloads.next()).await.expect("SIGHUP is a reload");
    assert_eq!(shutdown.stage(), Stage::Running);

    raise(Signal::SIGTERM).unwrap();
    timeout(SIGNAL_TIMEOUT, shutdown.draining()).await.expect("SIGTERM drains");
    assert_eq!(shutdown.stage(), Stage::Draining);

    raise(Signal::SIGTERM).unwrap();
    timeout(SIGNAL_TIMEOUT, shutdown.immediate()).await.expect("a second SIGTERM is immediate");

    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let fresh = Shutdown::on_process_signals().unwrap();
        raise(signal).unwrap();
        timeout(SIGNAL_TIMEOUT, fresh.immediate()).await.expect("SIGINT and SIGQUIT are immediate");
    }
}
