//! The program `holdfast`: what it shows of a healthy cluster and of one with a dead safekeeper, and how it finds the cluster
//! file.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Uid;
use serde_json::Value;
use test_runner::clients;
use test_runner::cluster::{ClusterOptions, PartName};
use test_runner::cluster_under_test::ClusterUnderTest;
use test_runner::env::TestEnvironment;
use test_runner::holdfast::Holdfast;
use test_runner::wait::until;
use tokio::process::Command;

/// Time limit for every wait of a test.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The texts in an array.
fn texts(array: &Value) -> Vec<&str> {
    array.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[tokio::test]
async fn holdfast_shows_a_healthy_cluster() -> Result<()> {
    let test = ClusterUnderTest::start("holdfast-healthy").await?;
    let cluster = &test.cluster;
    let holdfast = Holdfast::of(cluster)?;
    until("every member to follow", TIMEOUT, async || {
        Ok((holdfast.run(&["status"]).await?.code == 0).then_some(()))
    })
    .await?;

    let status = holdfast.json(0, &["status"]).await?;
    ensure!(status["result"] == "healthy" && texts(&status["attention"]).is_empty(), "{status}");
    ensure!(status["cluster"]["found_by"] == "flag", "{status}");
    for (index, id) in [1, 2, 3].into_iter().enumerate() {
        let row = &status["safekeepers"][index];
        ensure!(row["id"] == id && row["state"] == "ready" && row["timelines"] == 1, "{row}");
    }
    let walproposer = &status["walproposers"][0];
    ensure!(walproposer["timeline_id"] == cluster.state.timeline_id, "{walproposer}");
    ensure!(walproposer["leadership"] == "streaming" && walproposer["blocked"].is_null(), "{walproposer}");
    ensure!(status["proxies"][0]["state"] == "ready" && status["proxies"][0]["sessions"] == 0, "{status}");

    let timelines = holdfast.json(0, &["timelines", "--timeline-id", &cluster.state.timeline_id]).await?;
    let copies = timelines["timelines"][0]["copies"].as_array().context("no copies")?;
    ensure!(copies.len() == 3 && copies.iter().all(|copy| copy["health"] == "healthy"), "{timelines}");
    ensure!(holdfast.json(0, &["timelines", "--unhealthy"]).await?["timelines"] == serde_json::json!([]));
    let members = holdfast.json(0, &["members"]).await?;
    let rows = members["walproposers"][0]["safekeepers"].as_array().context("no members")?;
    ensure!(rows.len() == 3 && rows.iter().all(|row| row["role"] == "member"), "{members}");

    let printed = holdfast.run(&["status"]).await?;
    ensure!(printed.out.contains("cluster.json (named by --cluster)"), "{printed:?}");
    ensure!(printed.out.ends_with("healthy: all 5 programs answer, and commits go through\n"), "{printed:?}");
    test.passed();
    Ok(())
}

#[tokio::test]
async fn holdfast_shows_a_dead_safekeeper() -> Result<()> {
    let mut test = ClusterUnderTest::start("holdfast-dead").await?;
    let holdfast = Holdfast::of(&test.cluster)?;
    test.cluster.kill_part(PartName::Safekeeper(2)).await?;
    until("the walproposer to notice", TIMEOUT, async || {
        let status = holdfast.json(1, &["status"]).await?;
        Ok(texts(&status["attention"])
            .iter()
            .any(|sentence| sentence.contains("one more is lost"))
            .then_some(()))
    })
    .await?;

    let printed = holdfast.run(&["status"]).await?;
    let row = printed.out.lines().find(|line| line.starts_with("2 ")).context("no row")?;
    ensure!(row.contains("no answer") && row.ends_with("Connection refused"), "{row}");
    ensure!(printed.out.lines().any(|line| line.starts_with("3 ") && line.contains("ready")), "{printed:?}");
    ensure!(printed.out.contains("safekeeper 2 at http://127.0.0.1:"), "{printed:?}");

    for command in ["timelines", "members"] {
        let shown = holdfast.json(1, &[command]).await?;
        ensure!(
            texts(&shown["attention"]).iter().any(|sentence| sentence.contains("safekeeper 2")),
            "{shown}"
        );
    }

    // Two are dead: commits wait, and the first sentence says so.
    test.cluster.kill_part(PartName::Safekeeper(3)).await?;
    until("the lack of a majority to be told", TIMEOUT, async || {
        let status = holdfast.json(1, &["status"]).await?;
        let first = texts(&status["attention"]).first().map(ToString::to_string).unwrap_or_default();
        Ok(first
            .starts_with("walproposer main: commits wait: 2 of 3 safekeepers are unreachable")
            .then_some(()))
    })
    .await?;

    for part in test.cluster.parts() {
        test.cluster.kill_part(part).await?;
    }
    let nothing = holdfast.json(2, &["status"]).await?;
    ensure!(
        nothing["result"] == "could_not_ask" && nothing["safekeepers"][0]["state"] == "no_answer",
        "{nothing}"
    );
    test.passed();
    Ok(())
}

#[tokio::test]
async fn holdfast_shows_replication_slots() -> Result<()> {
    let options = ClusterOptions { without_proxy: true, ..ClusterOptions::default() };
    let test = ClusterUnderTest::start_with("holdfast-slots", options).await?;
    let cluster = &test.cluster;
    let conninfo = cluster.reader_conninfo(cluster.safekeeper(1)?.pg_port);
    let arguments = ["-d", &conninfo, "--create-slot", "--slot", "archive"];
    clients::run(&cluster.tools.postgres("pg_receivewal"), &arguments, &[]).await?;

    let shown = Holdfast::of(cluster)?.json(0, &["slots"]).await?;
    let of_first = |slot: &&Value| slot["safekeeper"] == 1 && slot["name"] == "archive";
    let slot = shown["slots"].as_array().into_iter().flatten().find(of_first).context("no slot")?;
    ensure!(slot["timeline_id"] == cluster.state.timeline_id && slot["owner"] == "reader", "{slot}");
    ensure!(slot["wal_status"].is_string() && slot["active_by"].is_null(), "{slot}");
    test.passed();
    Ok(())
}

/// A directory with a cluster file that names one program, which does not run.
struct Place {
    environment: TestEnvironment,
}

const NAMES_ONE: &str = "[[proxies]]\nname = \"none\"\nhttp = \"http://127.0.0.1:1\"\n";

impl Place {
    fn new(name: &str) -> Result<Self> {
        Ok(Self { environment: TestEnvironment::new(name)? })
    }

    fn directory(&self) -> &Path {
        &self.environment.directory
    }

    /// Runs `holdfast status` below the directory. Returns its exit code and all that it printed.
    async fn status(
        &self,
        below: &str,
        prefix: &[&str],
        variable: Option<&Path>,
    ) -> Result<(Option<i32>, String)> {
        let program = Holdfast::new(&self.environment.tools.programs, Path::new("")).program().to_owned();
        let words = [prefix, &[program.to_str().context("not UTF-8")?, "status", "--json"]].concat();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .current_dir(self.directory().join(below))
            .stdin(Stdio::null())
            .env_remove("HOLDFAST_CLUSTER");
        if let Some(variable) = variable {
            command.env("HOLDFAST_CLUSTER", variable);
        }
        let output = command.output().await?;
        let all = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        Ok((output.status.code(), all.into_owned()))
    }
}

/// The file and the way in which it was found.
fn found(printed: &str) -> Result<(String, String)> {
    let json: Value = serde_json::from_str(printed).with_context(|| printed.to_owned())?;
    let text = |field: &str| json["cluster"][field].as_str().map(ToOwned::to_owned).context("no such field");
    Ok((text("file")?, text("found_by")?))
}

#[tokio::test]
async fn cluster_file_is_found_by_variable() -> Result<()> {
    let place = Place::new("holdfast-variable")?;
    let file = place.directory().join("mine.toml");
    fs::write(&file, NAMES_ONE)?;
    let (code, printed) = place.status("", &[], Some(&file)).await?;
    ensure!(code == Some(2), "{printed}");
    ensure!(found(&printed)? == (file.display().to_string(), "environment".to_owned()), "{printed}");
    place.environment.passed();
    Ok(())
}

#[tokio::test]
async fn cluster_file_is_found_in_parent_directory() -> Result<()> {
    let place = Place::new("holdfast-parent")?;
    let file = place.directory().join(".holdfast/cluster.json");
    fs::create_dir_all(place.directory().join("a/b"))?;
    fs::create_dir(place.directory().join(".holdfast"))?;
    fs::write(
        &file,
        r#"{"proxies": [{"name": "none", "http": "http://127.0.0.1:1"}], "local": {"psql": "…"}}"#,
    )?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let (code, printed) = place.status("a/b", &[], None).await?;
    ensure!(code == Some(2), "{printed}");
    let expected = file.canonicalize()?.display().to_string();
    ensure!(found(&printed)? == (expected, "directory".to_owned()), "{printed}");

    fs::write(&file, "{\n\"proxy\": 1}")?;
    let (code, printed) = place.status("a/b", &[], None).await?;
    ensure!(code == Some(2) && printed.contains("cluster.json line 2: unknown field `proxy`"), "{printed}");
    place.environment.passed();
    Ok(())
}

/// In a mount namespace of its own, in which /etc holds nothing but the file.
#[tokio::test]
async fn cluster_file_of_the_machine_is_last() -> Result<()> {
    let place = Place::new("holdfast-machine")?;
    let elsewhere = tempfile::tempdir()?;
    let inner = "mount -t tmpfs tmpfs /etc && mkdir /etc/holdfast && printf %s \"$1\" >/etc/holdfast/cluster.toml && \
                 cd \"$2\" && exec \"$3\" status --json";
    let program = Holdfast::new(&place.environment.tools.programs, Path::new("")).program().to_owned();
    let mut command = Command::new("unshare");
    if !Uid::effective().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "sh", "-c", inner, "sh", NAMES_ONE]).args([elsewhere.path(), &program]);
    let output = command.env_remove("HOLDFAST_CLUSTER").stdin(Stdio::null()).output().await?;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if out.is_empty() {
        bail!("a mount namespace is needed for this test (root, or user namespaces): {error}");
    }
    ensure!(found(&out)? == ("/etc/holdfast/cluster.toml".to_owned(), "machine".to_owned()), "{out}");
    place.environment.passed();
    Ok(())
}

/// The flag is used by the tests above; without any file the error names every place.
#[tokio::test]
async fn missing_cluster_file_says_where_it_may_be() -> Result<()> {
    let place = Place::new("holdfast-none")?;
    let missing = place.directory().join("missing.toml");
    let (code, printed) = place.status("", &[], Some(&missing)).await?;
    ensure!(code == Some(2) && printed.contains("missing.toml: No such file"), "{printed}");
    place.environment.passed();
    Ok(())
}
