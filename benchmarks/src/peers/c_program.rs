//! Programs in C of `benchmarks/floor`: compiles them at the start of a bench and starts them as processes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use test_runner::clients;
use test_runner::env::checkout;
use test_runner::process::{ProcessId, Program, start_with_address_file};

use crate::run::Run;

/// Time limit for a program to listen; a receiver fills its segments before.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The compiled programs.
#[derive(Clone, Debug)]
pub(crate) struct CPrograms {
    directory: PathBuf,
}

impl CPrograms {
    /// Compiles `relay`, `receiver` and `delay` into the directory of the bench.
    pub(crate) async fn compile(run: &Run) -> Result<Self> {
        let text = |path: PathBuf| path.to_str().map(ToOwned::to_owned).context("a path is not UTF-8");
        for name in ["relay", "receiver", "delay"] {
            let source = text(checkout().join("benchmarks/floor").join(name).with_extension("c"))?;
            let output = text(run.directory.join(name))?;
            clients::run("cc".as_ref(), &["-O2", "-o", &output, &source], &[]).await?;
        }
        Ok(Self { directory: run.directory.clone() })
    }

    /// The file that a program of this name creates when it is ready.
    pub(crate) fn address_file(&self, name: &str) -> String {
        self.directory.join(name).with_extension("address").display().to_string()
    }

    /// Makes a directory for a program of this name.
    pub(crate) fn make_directory(&self, name: &str) -> Result<String> {
        let directory = self.directory.join(name);
        std::fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(directory.display().to_string())
    }

    /// Starts `program` under the name `name` and waits until it is ready.
    pub(crate) async fn start(
        &self,
        program: &str,
        name: &str,
        arguments: Vec<String>,
        environment: Vec<(String, String)>,
    ) -> Result<ProcessId> {
        let described = Program {
            name: name.into(),
            executable: self.directory.join(program),
            arguments,
            environment,
            account: None,
            log: self.directory.join(name).with_extension("log"),
            dies_with_parent: true,
        };
        start_with_address_file(&described, self.address_file(name).as_ref(), START_TIMEOUT).await
    }
}
