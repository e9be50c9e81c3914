//! [`ClusterUnderTest`]: a cluster in the directory of a test, which ends with the test.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::clients;
use crate::cluster::{Cluster, ClusterOptions, PartName};
use crate::env::{TestEnvironment, shared_directory};
use crate::postgres::{Postgres, SETTINGS};
use crate::process::ProcessId;

/// Time limit for the immediate stop of PostgreSQL at the end of a test.
const LAST_STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Password of the superuser in the template data directory, which every cluster of a run copies.
const TEMPLATE_PASSWORD: &str = "template";

/// A cluster that is killed at the end of its test.
#[derive(Debug)]
pub struct ClusterUnderTest {
    /// The cluster.
    pub cluster: Cluster,
    /// Further servers that end with the test, such as standbys.
    pub others: Vec<ProcessId>,
    environment: Option<TestEnvironment>,
}

impl ClusterUnderTest {
    /// Starts a cluster.
    pub async fn start(name: &str) -> Result<Self> {
        Self::start_with(name, ClusterOptions::default()).await
    }

    /// Starts a cluster with these options.
    pub async fn start_with(name: &str, options: ClusterOptions) -> Result<Self> {
        let mut this = Self::prepare(name, options).await?;
        this.cluster.start(&|_| {}).await?;
        Ok(this)
    }

    /// Makes a cluster without starting it.
    pub async fn prepare(name: &str, options: ClusterOptions) -> Result<Self> {
        let environment = TestEnvironment::new(name)?;
        let template = Some((template(&environment).await?, TEMPLATE_PASSWORD.to_owned()));
        let options = ClusterOptions { template, dies_with_parent: true, ..options };
        let cluster = Cluster::open(&environment.directory, environment.tools.clone(), options)?;
        Ok(Self { cluster, others: Vec::new(), environment: Some(environment) })
    }

    /// Marks the test as passed: its files are removed and no logs are printed. To be called at the end of the test.
    pub fn passed(mut self) {
        self.end();
        if let Some(environment) = self.environment.take() {
            environment.passed();
        }
    }

    fn end(&mut self) {
        let postgres = self.cluster.state.postgres.process;
        let servers: Vec<ProcessId> = self.others.drain(..).chain(postgres).collect();
        for server in &servers {
            let _ = server.signal(Signal::SIGQUIT);
        }

        for name in self.cluster.parts() {
            if let (false, Ok(Some(process))) =
                (name == PartName::Postgres, self.cluster.part(name).map(|part| part.process))
            {
                let _ = process.signal(Signal::SIGKILL);
            }
        }

        let deadline = Instant::now() + LAST_STOP_TIMEOUT;
        while servers.iter().any(|server| server.is_alive()) && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

impl Drop for ClusterUnderTest {
    fn drop(&mut self) {
        self.end();
    }
}

/// The data directory that initdb makes once per run of the tests.
async fn template(environment: &TestEnvironment) -> Result<std::path::PathBuf> {
    let tools = environment.tools.clone();
    // Another version of PostgreSQL, or other settings, need another data directory.
    let mut made_of = DefaultHasher::new();
    clients::run(&tools.postgres("postgres"), &["--version"], &[]).await?.hash(&mut made_of);
    SETTINGS.hash(&mut made_of);
    let shared = shared_directory(&format!("template-{:016x}", made_of.finish()), async move |directory| {
        let postgres = Postgres {
            tools,
            name: "template".into(),
            data_dir: directory.join("data"),
            log: directory.join("template.log"),
            port: 0,
            superuser_password: TEMPLATE_PASSWORD.into(),
            dies_with_parent: true,
        };
        postgres.initdb(&[]).await
    })
    .await?;
    Ok(shared.join("data"))
}
