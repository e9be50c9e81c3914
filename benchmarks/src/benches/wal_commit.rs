//! `wal-commit`: what a commit costs when it waits for a synchronous replica.

use anyhow::Result;

use crate::bench::{Bench, Plot, Running};
use crate::goals::Goal;
use crate::peers::pgbench::Pgbench;
use crate::peers::primary::{Server, Template};
use crate::quantity::Quantity;
use crate::rounds;
use crate::run::Run;

const TPS: Quantity = Quantity::higher("commits a second", "1/s");
const CLIENTS: [u32; 3] = [1, 8, 32];

/// The bench.
pub(crate) const BENCH: Bench = Bench {
    name: "wal-commit",
    about: "commits of a PostgreSQL that waits for three safekeepers, beside streaming standby, three receivers and the floor",
    goals: Vec::<Goal>::new,
    plots: &[Plot {
        file: "insert",
        title: "Commits a second, one-row INSERT",
        quantity: TPS.name,
        situations: "INSERT",
        relative_to: None,
    }],
    run,
};

fn run(run: &mut Run) -> Running<'_> {
    Box::pin(measure(run))
}

async fn measure(run: &mut Run) -> Result<()> {
    run.progress("making PostgreSQL clusters");
    let template = Template::make(run).await?;
    let local = template.start_copy("local", &[]).await?;
    let variants = [("local", local)];
    for clients in run.options.chosen_clients(&CLIENTS) {
        let what = format!("INSERT, {clients} clients");
        run.set_reference(&what, TPS, "local");
        for round in 0..run.options.rounds {
            run.progress(&format!("{what}: round {} of {}", round + 1, run.options.rounds));
            for (name, server) in rounds::order(&variants, round) {
                slice(run, &template, &what, name, &server, clients).await?;
            }
        }
    }
    Ok(())
}

async fn slice(
    run: &mut Run,
    template: &Template,
    what: &str,
    name: &str,
    server: &Server,
    clients: u32,
) -> Result<()> {
    run.begin_slice()?;
    let load = Pgbench {
        tools: &run.tools,
        uri: &server.postgres.superuser_uri("postgres"),
        script: template.insert(),
        protocol: "prepared",
        clients,
        seconds: run.options.pick(1, 3),
        rate: None,
        log_directory: None,
    }
    .run()
    .await?;
    run.end_slice()?;
    run.push(what, TPS, name, load.tps);
    Ok(())
}
