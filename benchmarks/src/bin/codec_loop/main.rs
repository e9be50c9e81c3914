//! Loop around one codec: what the bench `codec` measures, alone in a process so that only this program counts allocations,
//! and callgrind sees nothing else.
//!
//! `codec_loop list` prints a line for each case: its situation, a tab, its variant. `codec_loop CASE COUNT` runs the case
//! with this number and prints nanoseconds and allocations of one pass.

mod cases;
mod counting_allocator;

use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::cases::Step;
use crate::counting_allocator::allocations;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut cases = cases::all();
    if let [list] = arguments.as_slice()
        && list == "list"
    {
        for case in &cases {
            print(&format!("{}\t{}", case.what, case.variant));
        }
        return Ok(());
    }

    let [case, count] = arguments.as_slice() else { anyhow::bail!("usage: codec_loop list | CASE COUNT") };
    let case = cases.get_mut(case.parse::<usize>()?).context("there is no such case")?;
    let count: u32 = count.parse()?;
    // The first pass allocates what is kept.
    (case.step)();
    let before = allocations();
    let started = Instant::now();
    measured_passes(&mut case.step, count);
    let nanoseconds = started.elapsed().as_secs_f64() * 1e9;
    let allocated = (allocations() - before) as f64;
    print(&format!("{} {}", nanoseconds / f64::from(count), allocated / f64::from(count)));
    Ok(())
}

/// Runs the passes. A function of its own by name: callgrind counts what happens inside.
#[inline(never)]
fn measured_passes(step: &mut Step, count: u32) {
    for _ in 0..count {
        step();
    }
}

#[expect(clippy::print_stdout, reason = "the bench reads it")]
fn print(line: &str) {
    println!("{line}");
}
