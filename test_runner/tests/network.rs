//! Network faults: a stalled link, which neither passes bytes nor closes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use test_runner::cluster::{ClusterOptions, PartName};
use test_runner::cluster_under_test::ClusterUnderTest;
use test_runner::faulty_network::{Fault, Relay};
use test_runner::workload::Workload;

/// Time limit for commits to go through.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn stalled_link_to_one_safekeeper_delays_no_commit() -> Result<()> {
    let mut test = ClusterUnderTest::prepare("network", ClusterOptions::default()).await?;
    let cluster = &mut test.cluster;
    let target = SocketAddr::from(([127, 0, 0, 1], cluster.safekeeper(1)?.pg_port));
    let relay = Relay::start(target).await?;
    cluster.options.relayed = vec![(1, relay.address.port())];
    cluster.start(&|_| {}).await?;
    let workload = Workload::start(&cluster.application_uri(), 4, 100).await?;
    for fault in [Fault::Stall, Fault::None, Fault::Cut, Fault::None, Fault::DropAnswers, Fault::None] {
        relay.set(fault);
        workload.wait_for_more(200, PROGRESS_TIMEOUT).await?;
    }

    // With another safekeeper stopped, commits need the one behind the relay: it must have reconnected.
    cluster.stop_part(PartName::Safekeeper(2), &|_| {}).await?;
    workload.wait_for_more(200, PROGRESS_TIMEOUT).await?;
    workload.stop().await?;
    test.passed();
    Ok(())
}
