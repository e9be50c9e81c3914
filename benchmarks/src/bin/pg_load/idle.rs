//! Idle sessions: opens them in stages, and holds them until standard input says to go on.

use std::io::stdin;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use tokio::net::TcpStream;

use crate::log_in::{Session, Target, TargetFlags};

/// Connections that are opened at the same time. A server that is not yet listening anew loses none.
const OPENING_MAX: usize = 16;

/// What is opened.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    target: TargetFlags,

    /// Numbers of open sessions, ascending; after each one a line on standard input, or its end, is waited for
    #[arg(long, value_name = "COUNT,...", value_delimiter = ',', default_value = "200,1000")]
    sessions: Vec<usize>,

    /// Opens TCP connections only, on which nothing is said
    #[arg(long)]
    silent: bool,
}

/// A held connection.
#[expect(dead_code, reason = "it is held open, not used")]
enum Held {
    Session(Box<Session>),
    Silent(TcpStream),
}

/// Opens the sessions and prints a line for each stage.
#[expect(clippy::print_stdout, reason = "the benchmark reads the result there")]
pub(crate) async fn run(flags: Flags) -> Result<()> {
    let target = Target::new(flags.target)?;
    let open = || async {
        Ok::<_, anyhow::Error>(match flags.silent {
            true => Held::Silent(target.connect().await?),
            false => Held::Session(Box::new(target.log_in().await?)),
        })
    };

    let mut held = Vec::new();
    let mut lines = stdin().lines();
    for count in flags.sessions {
        let begin = Instant::now();
        let missing = count.saturating_sub(held.len());
        let opening = stream::iter((0..missing).map(|_| open())).buffer_unordered(OPENING_MAX);
        held.extend(opening.try_collect::<Vec<_>>().await?);
        println!("{}", json!({"open": held.len(), "seconds": begin.elapsed().as_secs_f64()}));
        // Blocks this thread; the held sessions have nothing to do.
        if lines.next().transpose()?.is_none() {
            break;
        }
    }
    Ok(())
}
