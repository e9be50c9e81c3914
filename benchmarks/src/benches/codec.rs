//! `codec`: what it costs to encode and to decode a message, in a program of its own (`src/bin/codec_loop`).

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use test_runner::clients;
use tokio::process::Command;

use crate::bench::{Bench, Plot, Running};
use crate::quantity::Quantity;
use crate::run::Run;

const TIME: Quantity = Quantity::lower("time", "ns");
const ALLOCATIONS: Quantity = Quantity::lower("allocations", "");
const INSTRUCTIONS: Quantity = Quantity::lower("instructions", "");

/// Passes under callgrind, which counts the same for each.
const COUNTED_PASSES: u32 = 100;

/// The bench.
pub(crate) const BENCH: Bench = Bench {
    name: "codec",
    about: "messages of the proposer protocol and of replication: time, allocations and instructions to encode and decode",
    goals: Vec::new,
    plots: &[Plot {
        file: "instructions",
        title: "Instructions a message of 120 B",
        quantity: INSTRUCTIONS.name,
        situations: "120 B",
        relative_to: None,
    }],
    run,
};

fn run(run: &mut Run) -> Running<'_> {
    Box::pin(measure(run))
}

/// A case of the program: its number, and where its results belong.
struct Case {
    number: String,
    what: String,
    variant: String,
}

async fn measure(run: &mut Run) -> Result<()> {
    let program = run.tools.programs.join("codec_loop");
    let cases = list(&program).await?;
    for round in 0..run.options.rounds {
        run.progress(&format!("round {} of {}", round + 1, run.options.rounds));
        for case in &cases {
            // About as long for each: a message of 128 KiB is copied in 10 µs.
            let passes =
                if case.what.contains("128 KiB, encode") || case.what.contains("128 KiB of WAL, encode") {
                    run.options.pick(2_000, 10_000)
                } else {
                    run.options.pick(50_000, 500_000)
                };
            run.begin_slice()?;
            let figures = clients::run(&program, &[&case.number, &passes.to_string()], &[]).await?;
            run.end_slice()?;
            let figures = figures.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
            for (quantity, value) in [TIME, ALLOCATIONS].into_iter().zip(figures) {
                run.push(&case.what, quantity, &case.variant, value);
            }
        }
    }

    if Command::new("valgrind").arg("--version").output().await.is_err() {
        run.note("Instructions were not counted: valgrind is not installed.");
        return Ok(());
    }
    run.progress("counting instructions");
    let file = run.directory.join("callgrind");
    for case in &cases {
        let instructions = count_instructions(&program, &case.number, &file).await?;
        run.push(&case.what, INSTRUCTIONS, &case.variant, instructions);
    }
    Ok(())
}

async fn list(program: &Path) -> Result<Vec<Case>> {
    let lines = clients::run(program, &["list"], &[]).await?;
    let case = |(number, line): (usize, &str)| {
        let (what, variant) = line.split_once('\t').context("codec_loop printed a line without a tab")?;
        Ok(Case { number: number.to_string(), what: what.into(), variant: variant.into() })
    };
    lines.lines().enumerate().map(case).collect()
}

/// Instructions of one pass, allocator and copies included.
async fn count_instructions(program: &Path, number: &str, file: &Path) -> Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*measured_passes*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args([number, &COUNTED_PASSES.to_string()])
        .output()
        .await
        .context("cannot run valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind failed: {text}");
    let collected =
        text.lines().find_map(|line| line.split_once("Collected :")).context("callgrind counted nothing")?;
    Ok(collected.1.trim().parse::<f64>()? / f64::from(COUNTED_PASSES))
}
