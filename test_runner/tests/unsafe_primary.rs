//! A primary that acknowledges commits without the quorum, or may lose WAL itself: nothing calls that ready.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use test_runner::cluster::{Cluster, PartName};
use test_runner::cluster_under_test::ClusterUnderTest;
use test_runner::env::checkout;
use test_runner::wait::until;
use test_runner::{clients, http};

/// Time limit for the walproposer to see a change of a setting.
const SEEN_WITHIN: Duration = Duration::from_secs(30);
/// Time limit for a commit that waits for nothing.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Section of `docs/operations.md` whose commands mend everything that these tests break.
const SECTION: &str = "## The primary acknowledges commits without the quorum";

/// Code and text of `GET /readyz` of the walproposer.
async fn readyz(cluster: &Cluster) -> Result<(u16, String)> {
    let answer = http::client()?.get(format!("{}/readyz", cluster.walproposer().http())).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

/// Waits until `/readyz` is 503 for a reason that contains `words`, and `/v1/status` says the same.
async fn until_unready(cluster: &Cluster, words: &str) -> Result<()> {
    let mut last = (0, String::new());
    let waited = until("an answer of 503 to /readyz", SEEN_WITHIN, async || {
        last = readyz(cluster).await?;
        Ok((last.0 == 503 && last.1.contains(words)).then_some(()))
    });
    waited.await.with_context(|| format!("expected 503 and {words:?}, the last answer was {last:?}"))?;
    let blocked = cluster.walproposer().status().await?.blocked.unwrap_or_default();
    ensure!(blocked.contains(words), "the status says {blocked:?}");
    Ok(())
}

async fn until_ready(cluster: &Cluster) -> Result<()> {
    let mut last = (0, String::new());
    let waited = until("an answer of 200 to /readyz", SEEN_WITHIN, async || {
        last = readyz(cluster).await?;
        Ok((last.0 == 200).then_some(()))
    });
    waited.await.with_context(|| format!("the last answer was {last:?}"))
}

/// Starts the primary again with no setting on its command line, so that ALTER SYSTEM can change all of them.
async fn restart_without_settings(cluster: &mut Cluster) -> Result<()> {
    cluster.stop_part(PartName::Postgres, &|_| {}).await?;
    let process = cluster.postgres().start(&[]).await?;
    cluster.state.postgres.process = Some(process);
    Ok(())
}

/// Runs each statement as the superuser, in a transaction of its own, and reloads the configuration.
async fn run(cluster: &Cluster, statements: &[&str]) -> Result<()> {
    let client = cluster.postgres().connect("postgres").await?;
    for statement in statements.iter().chain(&["SELECT pg_reload_conf()"]) {
        client.batch_execute(statement).await.with_context(|| format!("refused: {statement}"))?;
    }
    Ok(())
}

/// The commands of the page, one a line.
fn documented_commands() -> Result<Vec<String>> {
    let page = fs::read_to_string(checkout().join("docs/operations.md"))?;
    let (_, section) = page.split_once(SECTION).context("the page has no such section")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next());
    Ok(blocks.flat_map(str::lines).map(ToOwned::to_owned).collect())
}

/// With the setting empty, an INSERT is acknowledged although two of three safekeepers are down.
#[tokio::test]
async fn readyz_fails_while_commits_skip_quorum() -> Result<()> {
    let mut test = ClusterUnderTest::start("skipped-quorum").await?;
    let cluster = &mut test.cluster;
    let client = clients::connect(&cluster.application_uri()).await?;
    client.batch_execute("CREATE TABLE t (x int)").await?;
    ensure!(readyz(cluster).await?.0 == 200);

    restart_without_settings(cluster).await?;
    until_unready(cluster, "acknowledges commits without the safekeepers").await?;
    until_unready(cluster, "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (wp)'").await?;
    ensure!(cluster.status().await?.blocked.is_some(), "./dev status says that commits go through");

    for id in [2, 3] {
        cluster.stop_part(PartName::Safekeeper(id), &|_| {}).await?;
    }
    let client = clients::connect(&cluster.application_uri()).await?;
    tokio::time::timeout(COMMIT_TIMEOUT, client.batch_execute("INSERT INTO t VALUES (1)")).await??;
    until_unready(cluster, "acknowledges commits without the safekeepers").await?;
    for id in [2, 3] {
        cluster.start_part(PartName::Safekeeper(id)).await?;
    }

    // A standby of another name could release commits in place of the safekeepers.
    for names in ["ANY 1 (wp, other)", "FIRST 1 (wp, other)", "other", "*"] {
        run(cluster, &[&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'")]).await?;
        until_unready(cluster, &format!("synchronous_standby_names is '{names}'")).await?;
    }
    run(cluster, &["ALTER SYSTEM SET synchronous_standby_names = 'any 1 (\"WP\")'"]).await?;
    until_ready(cluster).await?;
    test.passed();
    Ok(())
}

/// Each setting is noticed while WAL is streamed, and the commands of `docs/operations.md` mend them all.
#[tokio::test]
async fn readyz_fails_with_unsafe_settings_until_mended() -> Result<()> {
    let mut test = ClusterUnderTest::start("unsafe-settings").await?;
    let cluster = &mut test.cluster;
    restart_without_settings(cluster).await?;
    until_unready(cluster, "synchronous_standby_names").await?;
    let on = "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (wp)'";
    run(cluster, &[on]).await?;
    until_ready(cluster).await?;

    for (wrong, right, words) in [
        (
            "ALTER ROLE app SET synchronous_commit = off",
            "ALTER ROLE app RESET synchronous_commit",
            "synchronous_commit is off for role app",
        ),
        (
            "ALTER DATABASE app SET synchronous_commit = local",
            "ALTER DATABASE app RESET synchronous_commit",
            "synchronous_commit is local in database app",
        ),
        (
            "ALTER ROLE app IN DATABASE app SET synchronous_commit = 'false'",
            "ALTER ROLE app IN DATABASE app RESET synchronous_commit",
            "synchronous_commit is off for role app in database app",
        ),
        (
            "ALTER ROLE ALL SET synchronous_commit = off",
            "ALTER ROLE ALL RESET synchronous_commit",
            "synchronous_commit is off for all roles",
        ),
        (
            "ALTER SYSTEM SET synchronous_commit = off",
            "ALTER SYSTEM RESET synchronous_commit",
            "synchronous_commit is off on the primary",
        ),
        ("ALTER SYSTEM SET fsync = off", "ALTER SYSTEM RESET fsync", "fsync is off on the primary"),
        (
            "ALTER SYSTEM SET full_page_writes = off",
            "ALTER SYSTEM RESET full_page_writes",
            "full_page_writes is off on the primary",
        ),
    ] {
        run(cluster, &[wrong]).await?;
        until_unready(cluster, words).await?;
        run(cluster, &[right]).await?;
        until_ready(cluster).await?;
    }

    let wrong =
        ["ALTER ROLE app SET synchronous_commit = off", "ALTER DATABASE app SET synchronous_commit = off"];
    run(cluster, &wrong).await?;
    let settings = ["synchronous_standby_names = ''", "synchronous_commit = off", "fsync = off"];
    for setting in settings.iter().chain(&["full_page_writes = off"]) {
        run(cluster, &[&format!("ALTER SYSTEM SET {setting}")]).await?;
    }
    for words in ["synchronous_standby_names is empty", "fsync is off", "full_page_writes is off", "role app"]
    {
        until_unready(cluster, words).await?;
    }
    let commands = documented_commands()?;
    run(cluster, &commands.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    until_ready(cluster).await?;
    test.passed();
    Ok(())
}
