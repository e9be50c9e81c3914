//! The provider for whoever runs a few databases without a service that manages them: one TOML file.
//!
//! ```toml
//! [endpoints.main]
//! address = "127.0.0.1:5432"                  # where the database is when it runs
//! dbname = "app"                              # for clients that name none (optional)
//! start = ["/usr/bin/pg_ctl", "start", "-w"]  # returns when it takes connections; without it nothing is woken
//! stop = ["/usr/bin/pg_ctl", "stop"]          # optional; nothing calls it yet
//! tls = { ca = "ca.pem", server_name = "db.internal" }   # optional; the name defaults to the host of the address
//!
//! [endpoints.main.roles]                      # SELECT rolname, rolpassword FROM pg_authid
//! app = "SCRAM-SHA-256$4096:…"
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postgres_backend::client::ClientTls;
use pq_proto::Text;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

use super::command::StartCommand;
use super::{Access, Compute, ControlPlane, ControlPlaneError, Reply, Wanted};
use crate::allowlist::Allowlist;
use crate::route::EndpointName;
use crate::scram::Verifier;

/// Longest file in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The file cannot be used. Secrets in it are not repeated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is not TOML, or has other fields than it should.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// A value cannot be used.
    #[error("endpoint \"{endpoint}\": {problem}")]
    Value {
        /// Under which endpoint.
        endpoint: String,
        /// What is wrong.
        problem: String,
    },
}

/// Endpoints, read once.
#[derive(Debug)]
pub(crate) struct FileControlPlane {
    endpoints: HashMap<EndpointName, Endpoint>,
}

#[derive(Debug)]
struct Endpoint {
    compute: Arc<Compute>,
    roles: HashMap<Text, Verifier>,
    start: Option<StartCommand>,
    allowlist: Arc<Allowlist>,
}

impl FileControlPlane {
    pub(crate) fn load(path: &Path) -> Result<Self, FileError> {
        let unreadable = |error| FileError::Io { path: path.to_owned(), error };
        let mut text = String::new();
        let file = fs::File::open(path).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
        let raw: RawFile = toml::from_str(&text)
            .map_err(|error| FileError::Syntax { path: path.to_owned(), message: describe(&error, &text) })?;
        let beside = path.parent().unwrap_or(Path::new("."));
        let endpoints = raw.endpoints.into_iter().map(|(name, raw)| {
            let parsed = name.parse().map_err(|_| "its name is not 1 to 63 of a-z, 0-9 and -".to_owned());
            let parsed = parsed.and_then(|name| Ok((name, raw.check(beside)?)));
            parsed.map_err(|problem| FileError::Value { endpoint: name, problem })
        });
        Ok(Self { endpoints: endpoints.collect::<Result<_, _>>()? })
    }

    fn endpoint(&self, name: &EndpointName) -> Result<&Endpoint, ControlPlaneError> {
        self.endpoints.get(name).ok_or_else(|| ControlPlaneError::UnknownEndpoint(name.clone()))
    }
}

impl ControlPlane for FileControlPlane {
    fn access<'a>(&'a self, wanted: &'a Wanted, role: &'a Text) -> Reply<'a, Access> {
        let access = self.endpoint(&wanted.endpoint).map(|endpoint| Access {
            verifier: endpoint.roles.get(role).cloned(),
            allowlist: Arc::clone(&endpoint.allowlist),
        });
        Box::pin(std::future::ready(access))
    }

    fn locate<'a>(&'a self, wanted: &'a Wanted) -> Reply<'a, Arc<Compute>> {
        let compute = self.endpoint(&wanted.endpoint).map(|endpoint| Arc::clone(&endpoint.compute));
        Box::pin(std::future::ready(compute))
    }

    fn wake<'a>(&'a self, wanted: &'a Wanted) -> Reply<'a, Arc<Compute>> {
        let name = &wanted.endpoint;
        Box::pin(async move {
            let endpoint = self.endpoint(name)?;
            let start = endpoint.start.as_ref();
            let start = start.ok_or_else(|| ControlPlaneError::NotStartable(name.clone()))?;
            let started = start.run(name.as_str()).await;
            started.map_err(|reason| ControlPlaneError::StartFailed { endpoint: name.clone(), reason })?;
            Ok(Arc::clone(&endpoint.compute))
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    endpoints: BTreeMap<String, RawEndpoint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEndpoint {
    address: String,
    dbname: Option<String>,
    #[serde(default)]
    allowed_ips: Vec<String>,
    #[serde(default)]
    roles: BTreeMap<String, String>,
    start: Option<Vec<String>>,
    stop: Option<Vec<String>>,
    tls: Option<RawTls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    ca: PathBuf,
    server_name: Option<String>,
}

impl RawEndpoint {
    /// Relative paths are looked for in `beside`.
    fn check(self, beside: &Path) -> Result<Endpoint, String> {
        let address =
            self.address.parse().map_err(|error| format!("address \"{}\": {error}", self.address))?;
        let command = |what: &str, words: Option<Vec<String>>| {
            let command =
                words.map(|words| StartCommand::new(words).ok_or(format!("{what}: no program is named")));
            command.transpose()
        };
        let start = command("start", self.start)?;
        // A mistake in it shall not wait for the day on which it is needed.
        command("stop", self.stop)?;
        let role = |(name, verifier): (String, String)| match verifier.parse() {
            Ok(verifier) => Ok((Text::from(name), verifier)),
            Err(error) => Err(format!("the verifier of role \"{name}\" cannot be used: {error}")),
        };
        let roles = self.roles.into_iter().map(role).collect::<Result<_, _>>()?;
        let tls = self.tls.map(|tls| tls.check(beside)).transpose()?;
        let database = self.dbname.filter(|name| !name.is_empty()).map(Text::from);
        let allowlist = Allowlist::parse(self.allowed_ips.iter().map(String::as_str))
            .map_err(|(entry, error)| format!("allowed_ips \"{entry}\": {error}"))?;
        Ok(Endpoint {
            compute: Arc::new(Compute { address, tls, database }),
            roles,
            start,
            allowlist: Arc::new(allowlist),
        })
    }
}

impl RawTls {
    fn check(self, beside: &Path) -> Result<ClientTls, String> {
        let path = beside.join(&self.ca);
        let problem = |error: &dyn std::fmt::Display| format!("tls.ca {}: {error}", path.display());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&path).map_err(|error| problem(&error))? {
            let certificate = certificate.map_err(|error| problem(&error))?;
            roots.add(certificate).map_err(|error| problem(&error))?;
        }
        if roots.is_empty() {
            return Err(problem(&"no certificate is in it"));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| problem(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(ClientTls { config: Arc::new(config), server_name: self.server_name })
    }
}

/// Line and reason. The library's own text shows the line itself, in which there may be a secret.
fn describe(error: &toml::de::Error, text: &str) -> String {
    let line = |start| text.get(..start).unwrap_or_default().matches('\n').count() + 1;
    match error.span() {
        Some(span) => format!("line {}: {}", line(span.start), error.message()),
        None => error.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<FileControlPlane, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("endpoints.toml");
        fs::write(&path, text).unwrap();
        let error = |error: FileError| error.to_string().replace(&path.display().to_string(), "FILE");
        FileControlPlane::load(&path).map_err(error)
    }

    #[tokio::test]
    async fn endpoints_roles_and_addresses_are_found() {
        let verifier = Verifier::from_password("secret", b"salt", 1).to_string();
        let plane = load(&format!(
            "[endpoints.main]\naddress = \"[::1]:5432\"\ndbname = \"app\"\nstop = [\"true\"]\n\
             roles = {{ app = \"{verifier}\" }}\n[endpoints.bare]\naddress = \"h:1\"\n"
        ));
        let plane = plane.unwrap();
        let [main, bare, none] = ["main", "bare", "none"].map(Wanted::for_test);
        let verifier_of =
            async |wanted, role: &str| plane.access(wanted, &role.into()).await.unwrap().verifier;
        assert_eq!(verifier_of(&main, "app").await.unwrap().to_string(), verifier);
        assert!(verifier_of(&main, "other").await.is_none());
        assert!(verifier_of(&bare, "app").await.is_none());
        let compute = plane.locate(&main).await.unwrap();
        assert_eq!(
            (compute.address.to_string().as_str(), compute.database.clone()),
            ("[::1]:5432", Some("app".into()))
        );
        assert_eq!(
            plane.locate(&none).await.unwrap_err(),
            ControlPlaneError::UnknownEndpoint(none.endpoint.clone())
        );
        assert_eq!(
            plane.wake(&bare).await.unwrap_err(),
            ControlPlaneError::NotStartable(bare.endpoint.clone())
        );
    }

    #[test]
    fn a_mistake_is_named_and_no_secret_is_shown() {
        for (text, expected) in [
            ("[endpoints.main", "FILE: line 1: "),
            ("[endpoints.main]\nadress = \"h:1\"\n", "FILE: line 2: unknown field `adress`"),
            ("[endpoints.main]\n", "missing field `address`"),
            ("[endpoints.Main]\naddress = \"h:1\"", "endpoint \"Main\": its name is not 1 to 63 of"),
            ("[endpoints.main]\naddress = \"h\"", "endpoint \"main\": address \"h\": it is not host:port"),
            ("[endpoints.main]\naddress = \"h:1\"\nstart = []", "start: no program is named"),
            ("[endpoints.main]\naddress = \"h:1\"\nstop = [\"\"]", "stop: no program is named"),
            ("[endpoints.main]\naddress = \"h:1\"\ntls = { ca = \"none.pem\" }", "none.pem: "),
            (
                "[endpoints.main]\naddress = \"h:1\"\nroles = { app = \"hunter2\" }",
                "role \"app\" cannot be used: it does not",
            ),
            ("[endpoints.main]\naddress = \"h:1\"\nroles = { app = \"hunter2\n", "FILE: line 3: "),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{text}\n{error}");
        }
        assert!(matches!(FileControlPlane::load(Path::new("/nonexistent/file")), Err(FileError::Io { .. })));
    }
}
