//! The program behind `./dev lint`: prints each violation as `path:line: rule: sentence` and fails when there is one.

use std::path::PathBuf;
use std::process::ExitCode;

#[expect(clippy::print_stderr, reason = "a lint talks to a person at a terminal")]
fn main() -> ExitCode {
    let root = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    match code_rules::check(&root) {
        Ok(violations) => {
            for violation in &violations {
                eprintln!("{violation}");
            }
            if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("code_rules: {error}");
            ExitCode::FAILURE
        }
    }
}
