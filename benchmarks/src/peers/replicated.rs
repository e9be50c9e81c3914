//! [`Replicated`]: a primary whose commits wait for one kind of replica: none, a standby, three receivers, the floor, or
//! three safekeepers. All primaries are copies of one template.

use std::time::Duration;

use anyhow::{Context, Result};
use test_runner::cluster::{Cluster, ClusterOptions, PartName};
use test_runner::http;
use test_runner::ports;
use test_runner::postgres::Postgres;
use test_runner::process::{ProcessId, Program};
use test_runner::wait;

use super::c_program::CPrograms;
use super::link::Network;
use super::primary::Template;
use crate::run::Run;

/// Time limit for the replicas to stream.
const STREAMING_TIMEOUT: Duration = Duration::from_secs(30);
/// Number of log nodes of all variants but the standby.
const NODES: usize = 3;
/// The role of the relay; `pg_hba.conf` asks it for its password in clear text.
const RELAY_ROLE: &str = "wp";
const RELAY_PASSWORD: &str = "bench";
/// Counter of a safekeeper's syncs of WAL.
const SYNCS: &str = "holdfast_safekeeper_wal_syncs_total ";

/// A primary and what its commits wait for.
#[derive(Debug)]
pub(crate) struct Replicated {
    /// Name of the variant.
    pub(crate) name: &'static str,
    /// The primary.
    pub(crate) postgres: Postgres,
    /// The primary's postmaster.
    pub(crate) primary: ProcessId,
    /// The relay or the walproposer; none where the primary itself sends to its replicas.
    pub(crate) hop: Vec<ProcessId>,
    /// The standby, receivers or safekeepers.
    pub(crate) nodes: Vec<ProcessId>,
    /// Processes of the links.
    pub(crate) links: Vec<ProcessId>,
    /// Base URLs of safekeepers, which count their syncs.
    metrics: Vec<String>,
}

impl Replicated {
    /// Starts the variant of this name with its own primary.
    pub(crate) async fn start(
        name: &'static str,
        run: &Run,
        template: &Template,
        programs: &CPrograms,
        network: Network,
        suffix: &str,
    ) -> Result<Self> {
        let maker = Maker { run, template, programs, network, label: format!("{name}{suffix}") };
        let started = match name {
            "local" => maker.local().await,
            "standby" => maker.standby().await,
            "any2" => maker.receivers().await,
            "floor" => maker.floor().await,
            _ => maker.safekeepers().await,
        };
        Ok(Self { name, ..started.with_context(|| format!("cannot start the variant {name}"))? })
    }

    /// Connection string of the database.
    pub(crate) fn uri(&self) -> String {
        self.postgres.superuser_uri("postgres")
    }

    /// Syncs of WAL of all safekeepers since they began; `None` for other variants.
    pub(crate) async fn syncs(&self) -> Result<Option<f64>> {
        let mut total = None;
        for url in &self.metrics {
            let text = http::client()?.get(format!("{url}/metrics")).send().await?.text().await?;
            let value = text.lines().find_map(|line| line.strip_prefix(SYNCS));
            let value: f64 = value.with_context(|| format!("{url} has no metric {SYNCS}"))?.trim().parse()?;
            *total.get_or_insert(0.0) += value;
        }
        Ok(total)
    }

    /// Waits until this many synchronous standbys stream.
    async fn wait_streaming(&self, standbys: usize) -> Result<()> {
        let query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')";
        let what = format!("{standbys} replicas of {} to stream", self.postgres.name);
        wait::until(&what, STREAMING_TIMEOUT, async || {
            let streaming = self.postgres.ask("postgres", query).await?;
            Ok((streaming == standbys.to_string()).then_some(()))
        })
        .await
    }
}

/// What is needed to start one variant.
struct Maker<'a> {
    run: &'a Run,
    template: &'a Template,
    programs: &'a CPrograms,
    network: Network,
    /// Name of the variant's directories and logs.
    label: String,
}

impl Maker<'_> {
    async fn primary(&self, synchronous: &str) -> Result<Replicated> {
        let settings = [("synchronous_standby_names", synchronous)];
        let server = self.template.start_copy(&format!("{}-primary", self.label), &settings).await?;
        Ok(Replicated {
            name: "",
            postgres: server.postgres,
            primary: server.process,
            hop: Vec::new(),
            nodes: Vec::new(),
            links: Vec::new(),
            metrics: Vec::new(),
        })
    }

    async fn local(self) -> Result<Replicated> {
        self.primary("").await
    }

    async fn standby(mut self) -> Result<Replicated> {
        let mut started = self.primary("FIRST 1 (standby)").await?;
        let port = self.network.reach(&self.label, started.postgres.port).await?;
        let password = &started.postgres.superuser_password;
        let standby = self.template.copy(&self.label).await?;
        standby.make_standby_of(&format!(
            "host=127.0.0.1 port={port} user=postgres password={password} application_name=standby"
        ))?;
        started.nodes = vec![standby.start(&[]).await?];
        started.links = self.network.processes;
        started.wait_streaming(1).await?;
        Ok(started)
    }

    async fn receivers(mut self) -> Result<Replicated> {
        let mut started = self.primary("ANY 2 (r1, r2, r3)").await?;
        for number in 1..=NODES {
            let name = format!("{}-r{number}", self.label);
            let port = self.network.reach(&name, started.postgres.port).await?;
            let directory = self.programs.make_directory(&name)?;
            let uri = format!("postgresql://postgres@127.0.0.1:{port}/?application_name=r{number}");
            let arguments = ["--synchronous", "--no-loop", "-D", &directory, "-d", &uri];
            let program = Program {
                name: name.clone(),
                executable: self.run.tools.postgres("pg_receivewal"),
                arguments: arguments.map(Into::into).into(),
                environment: vec![("PGPASSWORD".into(), started.postgres.superuser_password.clone())],
                account: None,
                log: self.run.directory.join(format!("{name}.log")),
                dies_with_parent: true,
            };
            started.nodes.push(program.spawn()?);
        }
        started.links = self.network.processes;
        started.wait_streaming(NODES).await?;
        Ok(started)
    }

    async fn floor(mut self) -> Result<Replicated> {
        let mut started = self.primary("FIRST 1 (relay)").await?;
        let role = format!(
            "SET synchronous_commit = local; CREATE ROLE {RELAY_ROLE} REPLICATION LOGIN PASSWORD '{RELAY_PASSWORD}'"
        );
        started.postgres.connect("postgres").await?.batch_execute(&role).await?;

        let name = format!("{}-relay", self.label);
        let (primary, ready) = (started.postgres.port.to_string(), self.programs.address_file(&name));
        let mut arguments: Vec<String> = vec![primary, RELAY_ROLE.into(), "relay".into(), ready];
        for number in 1..=NODES {
            let name = format!("{}-node{number}", self.label);
            let port = ports::pick()?;
            let directory = self.programs.make_directory(&name)?;
            let own = vec![port.to_string(), directory, self.programs.address_file(&name)];
            started.nodes.push(self.programs.start("receiver", &name, own, Vec::new()).await?);
            arguments.push(self.network.reach(&name, port).await?.to_string());
        }

        let environment = vec![("PGPASSWORD".into(), RELAY_PASSWORD.into())];
        started.hop = vec![self.programs.start("relay", &name, arguments, environment).await?];
        started.links = self.network.processes;
        started.wait_streaming(1).await?;
        Ok(started)
    }

    async fn safekeepers(mut self) -> Result<Replicated> {
        let template = &self.template.postgres;
        let options = ClusterOptions {
            template: Some((template.data_dir.clone(), template.superuser_password.clone())),
            dies_with_parent: true,
            without_proxy: true,
            ..ClusterOptions::default()
        };
        let directory = self.run.directory.join(&self.label);
        let mut cluster = Cluster::open(&directory, self.run.tools.clone(), options)?;
        for safekeeper in cluster.state.safekeepers.clone() {
            let name = format!("{}-sk{}", self.label, safekeeper.id);
            let port = self.network.reach(&name, safekeeper.part.port).await?;
            cluster.options.relayed.push((safekeeper.id, port));
        }
        cluster.start(&|_| ()).await?;

        let process =
            |part: PartName| cluster.part(part)?.process.with_context(|| format!("{part} does not run"));
        let safekeepers = cluster.safekeepers()?;
        let nodes = safekeepers.iter().map(|safekeeper| process(PartName::Safekeeper(safekeeper.id)));
        Ok(Replicated {
            name: "",
            postgres: cluster.postgres(),
            primary: process(PartName::Postgres)?,
            hop: vec![process(PartName::Walproposer)?],
            nodes: nodes.collect::<Result<_>>()?,
            links: self.network.processes,
            metrics: safekeepers.iter().map(|safekeeper| safekeeper.http()).collect(),
        })
    }
}
