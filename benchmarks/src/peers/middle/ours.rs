//! Programs of this repository as middles: the proxy, and the bare relay that shows what it could cost at best.

use std::fs;

use anyhow::{Context, Result};
use serde_json::json;
use test_runner::process::{ProcessId, start_with_address_file};

use super::{Middle, START_TIMEOUT, Setting};
use crate::peers::database::ROLE;

/// Limits of the proxy that no bench reaches. They are counted all the same.
const LIMITS: [&str; 6] = [
    "--network-limit",
    "rate=1000000,burst=1000000",
    "--endpoint-limit",
    "rate=1000000,burst=1000000",
    "--wake-limit",
    "rate=1000000,burst=1000000",
];

impl Setting {
    /// The bare relay. `more` are further arguments.
    pub(crate) async fn bare_relay(&self, name: &'static str, more: &[&str]) -> Result<Middle> {
        let target = format!("127.0.0.1:{}", self.database_port);
        let mut arguments = vec!["--target".into(), target];
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        if self.tls {
            arguments.extend(self.certificate_arguments());
        }
        let (process, address) = self.start_ours(name, "bare_relay", arguments).await?;
        Ok(self.middle(name, vec![process], port_of(&address)?))
    }

    /// Holdfast's proxy, with an endpoints file, or with another control plane and further arguments in `more`.
    pub(crate) async fn proxy(
        &self,
        name: &'static str,
        control_plane: Option<String>,
        more: &[&str],
    ) -> Result<Middle> {
        let control_plane = match control_plane {
            Some(control_plane) => control_plane,
            None => self.write_endpoints()?,
        };
        let mut arguments = vec!["--control-plane".into(), control_plane];
        arguments.extend(LIMITS.iter().chain(more).map(|argument| (*argument).to_owned()));
        if self.tls {
            arguments.extend(self.certificate_arguments());
        }

        let (process, addresses) = self.start_ours(name, "proxy", arguments).await?;
        let addresses: serde_json::Value = serde_json::from_str(&addresses)?;
        let port = port_of(addresses["pg"].as_str().context("the proxy wrote no address")?)?;
        let options = (!self.tls).then_some("endpoint=main");
        Ok(Middle { options, ..self.middle(name, vec![process], port) })
    }

    fn certificate_arguments(&self) -> [String; 4] {
        let (certificate, key) = (&self.certificates.certificate, &self.certificates.key);
        [
            "--tls-cert".into(),
            certificate.display().to_string(),
            "--tls-key".into(),
            key.display().to_string(),
        ]
    }

    /// Writes the endpoints file. A JSON string is a valid TOML string.
    fn write_endpoints(&self) -> Result<String> {
        let file = self.directory.join("endpoints.toml");
        let address = json!(format!("127.0.0.1:{}", self.database_port));
        let (role, verifier) = (json!(ROLE), json!(self.verifier));
        let text =
            format!("[endpoints.main]\naddress = {address}\n[endpoints.main.roles]\n{role} = {verifier}\n");
        fs::write(&file, text)?;
        Ok(format!("file:{}", file.display()))
    }

    /// Starts a program of this repository, and returns what it wrote to its address file.
    async fn start_ours(
        &self,
        name: &str,
        program: &str,
        mut arguments: Vec<String>,
    ) -> Result<(ProcessId, String)> {
        let file = self.directory.join(format!("{name}.address"));
        arguments.extend(["--address-file".into(), file.display().to_string()]);
        let program = self.program(name, self.tools.programs.join(program), arguments, None);
        let process = start_with_address_file(&program, &file, START_TIMEOUT).await?;
        Ok((process, fs::read_to_string(&file)?))
    }
}

fn port_of(address: &str) -> Result<u16> {
    Ok(address.rsplit_once(':').context("an address without a port")?.1.parse()?)
}
