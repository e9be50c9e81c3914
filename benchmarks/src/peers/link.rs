//! [`Links`]: connections with a delay, each a process of its own, because a kernel may lack netem. All variants use the
//! same program, and its CPU time is counted apart.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use test_runner::ports;
use test_runner::process::ProcessId;

use super::c_program::CPrograms;

/// The links of all variants; they share one delay.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    programs: CPrograms,
    delay_file: PathBuf,
}

/// The links of one variant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    links: Option<Links>,
    /// The processes of the links.
    pub(crate) processes: Vec<ProcessId>,
}

impl Links {
    /// Links without a delay yet.
    pub(crate) fn new(programs: &CPrograms, directory: &std::path::Path) -> Result<Self> {
        let links = Self { programs: programs.clone(), delay_file: directory.join("delay.bin") };
        fs::write(&links.delay_file, 0u64.to_ne_bytes())?;
        Ok(links)
    }

    /// Sets the time of a round trip; each direction takes half of it.
    pub(crate) fn set_round_trip(&self, time: Duration) -> Result<()> {
        let nanoseconds = u64::try_from(time.as_nanos() / 2)?;
        // The file is mapped by running programs: it must not shrink.
        let file = fs::OpenOptions::new().write(true).open(&self.delay_file);
        let file = file.with_context(|| format!("cannot write {}", self.delay_file.display()))?;
        Ok(file.write_all_at(&nanoseconds.to_ne_bytes(), 0)?)
    }

    /// A network with these links and no connection yet.
    pub(crate) fn network(&self) -> Network {
        Network { links: Some(self.clone()), processes: Vec::new() }
    }
}

impl Network {
    /// The port to connect to in order to reach `port`: of a new link, or the same one without links.
    pub(crate) async fn reach(&mut self, name: &str, port: u16) -> Result<u16> {
        let Some(links) = &self.links else { return Ok(port) };
        let own = ports::pick()?;
        let name = format!("link-{name}");
        let arguments = vec![
            own.to_string(),
            port.to_string(),
            links.delay_file.display().to_string(),
            links.programs.address_file(&name),
        ];
        self.processes.push(links.programs.start("delay", &name, arguments, Vec::new()).await?);
        Ok(own)
    }
}
