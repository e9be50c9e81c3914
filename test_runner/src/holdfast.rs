//! [`Holdfast`]: runs the program `holdfast` as a person does, and reads what it printed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::clients;
use crate::cluster::Cluster;

/// What a command printed, and its exit code.
#[derive(Clone, Debug)]
pub struct Printed {
    /// 0 healthy, 1 something needs attention, 2 could not ask.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub error: String,
}

/// The program, and the cluster file that it is given.
#[derive(Clone, Debug)]
pub struct Holdfast {
    program: PathBuf,
    cluster_file: PathBuf,
}

impl Holdfast {
    /// `holdfast` for a cluster, whose `cluster.json` is written anew.
    pub fn of(cluster: &Cluster) -> Result<Self> {
        cluster.write_cluster_json()?;
        Ok(Self::new(&cluster.tools.programs, &cluster.directory.join("cluster.json")))
    }

    /// `holdfast` in this directory of programs, with this cluster file.
    pub fn new(programs: &Path, cluster_file: &Path) -> Self {
        Self { program: programs.join("holdfast"), cluster_file: cluster_file.to_owned() }
    }

    /// Path of the program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs a command.
    pub async fn run(&self, arguments: &[&str]) -> Result<Printed> {
        let file = self.cluster_file.to_str().context("a path is not UTF-8")?;
        let all: Vec<&str> = arguments.iter().copied().chain(["--cluster", file]).collect();
        let output = clients::output(&self.program, &all, &[]).await?;
        Ok(Printed {
            code: output.status.code().context("holdfast was killed")?,
            out: String::from_utf8(output.stdout)?,
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a command that must end with this code. Returns the JSON that it printed.
    pub async fn json(&self, code: i32, arguments: &[&str]) -> Result<Value> {
        let all: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let printed = self.run(&all).await?;
        ensure!(printed.code == code, "{arguments:?} ended with {}, not {code}: {printed:?}", printed.code);
        serde_json::from_str(&printed.out).with_context(|| format!("{arguments:?} printed {printed:?}"))
    }
}
