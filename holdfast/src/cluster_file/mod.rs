//! [`Cluster`]: the programs that there are, with their URLs and credentials, from the cluster file.
//!
//! `locate` finds the file, `format` reads it; this file reads the certificates and tokens that it names. Called by every
//! command.

mod format;
mod locate;
mod token;

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postgres_backend::TlsError;
use postgres_backend::client::ClientTls;
use thiserror::Error;

pub(crate) use self::format::HttpUrl;
use self::format::{ClusterFile, Entry};
pub(crate) use self::locate::{FoundBy, LocateError};
pub(crate) use self::token::Token;
use self::token::TokenError;

/// Longest cluster file in bytes: room for thousands of programs.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// All programs of a cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The file that names them.
    pub(crate) file: PathBuf,
    pub(crate) found_by: FoundBy,
    /// By their numbers.
    pub(crate) safekeepers: Vec<(u64, Target)>,
    pub(crate) walproposers: Vec<Target>,
    pub(crate) proxies: Vec<Target>,
}

/// One program, and how to ask it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// `safekeeper 1`, `walproposer main`.
    pub(crate) title: String,
    /// Its name in the file, or its number.
    pub(crate) name: String,
    pub(crate) http: HttpUrl,
    pub(crate) token: Option<Token>,
    /// Authorities for an `https` URL.
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

/// A cluster file that cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ClusterFileError {
    #[error(transparent)]
    Locate(#[from] LocateError),
    #[error("cannot read {}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{}: longer than {FILE_BYTES_MAX} bytes", path.display())]
    TooLong { path: PathBuf },
    /// The content is wrong. The line is unknown when no single line is.
    #[error("{}{}: {problem} (holdfast --help shows the format)", path.display(), on_line(*line))]
    Content { path: PathBuf, line: Option<usize>, problem: String },
}

fn on_line(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(" line {line}"))
}

impl Cluster {
    /// Finds and reads the cluster file. `flag`: the value of `--cluster`.
    pub(crate) fn find(flag: Option<&Path>) -> Result<Self, ClusterFileError> {
        let (file, found_by) = locate::locate(flag)?;
        Self::read(&file, found_by)
    }

    fn read(file: &Path, found_by: FoundBy) -> Result<Self, ClusterFileError> {
        let unreadable = |error| ClusterFileError::Read { path: file.to_owned(), error };
        let mut text = String::new();
        let opened = fs::File::open(file).map_err(unreadable)?;
        opened.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(ClusterFileError::TooLong { path: file.to_owned() });
        }

        let is_json = file.extension().is_some_and(|extension| extension == "json");
        let content = ClusterFile::parse(&text, is_json)
            .map_err(|(line, problem)| ClusterFileError::Content { path: file.to_owned(), line, problem })?;
        let mut reader = TargetReader { file, text: &text, content: &content, tls: HashMap::new() };
        let mut cluster = Self {
            file: file.to_owned(),
            found_by,
            safekeepers: Vec::new(),
            walproposers: Vec::new(),
            proxies: Vec::new(),
        };
        for one in &content.safekeepers {
            let target = reader.target("safekeeper", one.id.to_string(), &one.entry())?;
            cluster.safekeepers.push((one.id, target));
        }
        for one in &content.walproposers {
            cluster.walproposers.push(reader.target("walproposer", one.name.clone(), &one.entry())?);
        }
        for one in &content.proxies {
            cluster.proxies.push(reader.target("proxy", one.name.clone(), &one.entry())?);
        }
        Ok(cluster)
    }
}

/// Makes targets of entries, and reads the files that these name. Each certificate file is read once.
struct TargetReader<'c> {
    file: &'c Path,
    text: &'c str,
    content: &'c ClusterFile,
    tls: HashMap<PathBuf, Arc<rustls::ClientConfig>>,
}

#[derive(Debug, Error)]
enum SecretsError {
    #[error("https needs ca = \"FILE\": the authorities (PEM) that sign the server's certificate")]
    NoAuthorities,
    #[error("ca: {0}")]
    Tls(#[from] TlsError),
    #[error("token_file {}: {error}", path.display())]
    Token { path: PathBuf, error: TokenError },
}

type Secrets = (Option<Token>, Option<Arc<rustls::ClientConfig>>);

impl TargetReader<'_> {
    fn target(&mut self, kind: &str, name: String, entry: &Entry<'_>) -> Result<Target, ClusterFileError> {
        let title = format!("{kind} {name}");
        match self.secrets(entry) {
            Ok((token, tls)) => Ok(Target { title, name, http: entry.http.clone(), token, tls }),
            Err(error) => Err(ClusterFileError::Content {
                path: self.file.to_owned(),
                line: format::line_of(self.text, &entry.http.text),
                problem: format!("{title}: {error}"),
            }),
        }
    }

    fn secrets(&mut self, entry: &Entry<'_>) -> Result<Secrets, SecretsError> {
        let directory = self.file.parent().unwrap_or(self.file);
        let token_file = entry.token_file.or(self.content.token_file.as_deref());
        let token = token_file.map(|path| {
            let path = directory.join(path);
            Token::read(&path).map_err(|error| SecretsError::Token { path, error })
        });
        let token = token.transpose()?;
        if !entry.http.is_https {
            return Ok((token, None));
        }

        let ca = entry.ca.or(self.content.ca.as_deref()).ok_or(SecretsError::NoAuthorities)?;
        let ca = directory.join(ca);
        if let Some(tls) = self.tls.get(&ca) {
            return Ok((token, Some(Arc::clone(tls))));
        }
        let tls = ClientTls::verify_full(&ca, None)?.config;
        self.tls.insert(ca, Arc::clone(&tls));
        Ok((token, Some(tls)))
    }
}

#[cfg(test)]
mod tests;
