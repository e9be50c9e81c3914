//! Entry point of `holdfast`: arguments, one command, exit code.

use std::process::ExitCode;

use clap::Parser;
use holdfast::Flags;

#[expect(clippy::print_stderr, reason = "an error of the command line tool")]
fn main() -> ExitCode {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(holdfast::run(flags)));
    match ended {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            eprintln!("holdfast: {error:#}");
            holdfast::Outcome::CouldNotAsk.into()
        }
    }
}
