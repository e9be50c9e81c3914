//! Format of the cluster file, in TOML and in JSON: which keys there are, and which values each may have. The files that a
//! cluster file names are read elsewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hyper::Uri;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// What is wrong in a cluster file, and in which line; the first line is 1.
pub(super) type Problem = (Option<usize>, String);

/// The content of a cluster file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterFile {
    /// Authorities (PEM) for all `https` URLs without a `ca` of their own.
    pub(super) ca: Option<PathBuf>,
    /// Token for all programs without a `token_file` of their own.
    pub(super) token_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) safekeepers: Vec<SafekeeperEntry>,
    #[serde(default)]
    pub(super) walproposers: Vec<NamedEntry>,
    #[serde(default)]
    pub(super) proxies: Vec<NamedEntry>,
    /// Facts for other programs: `./dev up` writes process ids, ports and a psql line here.
    #[serde(rename = "local")]
    _local: Option<IgnoredAny>,
}

/// A safekeeper.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SafekeeperEntry {
    pub(super) id: u64,
    http: HttpUrl,
    ca: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

/// A walproposer or a proxy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedEntry {
    pub(super) name: String,
    http: HttpUrl,
    ca: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

/// What all entries have.
#[derive(Debug)]
pub(super) struct Entry<'e> {
    pub(super) http: &'e HttpUrl,
    pub(super) ca: Option<&'e Path>,
    pub(super) token_file: Option<&'e Path>,
}

/// Base URL of an HTTP port, `http://HOST:PORT` or `https://HOST:PORT`, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct HttpUrl {
    /// As written in the file, without the slash.
    pub(crate) text: String,
    pub(crate) is_https: bool,
}

impl TryFrom<String> for HttpUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let expected = || format!("{text:?} is no URL such as \"http://10.0.0.1:7676\"");
        let url: Uri = text.parse().map_err(|_| expected())?;
        let is_https = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(expected()),
        };
        let has_user = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if url.host().is_none_or(str::is_empty) || has_user || url.query().is_some() {
            return Err(expected());
        }
        Ok(Self { text: text.trim_end_matches('/').to_owned(), is_https })
    }
}

impl SafekeeperEntry {
    pub(super) fn entry(&self) -> Entry<'_> {
        let Self { id: _, http, ca, token_file } = self;
        Entry { http, ca: ca.as_deref(), token_file: token_file.as_deref() }
    }
}

impl NamedEntry {
    pub(super) fn entry(&self) -> Entry<'_> {
        let Self { name: _, http, ca, token_file } = self;
        Entry { http, ca: ca.as_deref(), token_file: token_file.as_deref() }
    }
}

impl ClusterFile {
    /// Reads the text and checks that its entries fit together.
    pub(super) fn parse(text: &str, is_json: bool) -> Result<Self, Problem> {
        let content = if is_json { from_json(text)? } else { from_toml(text)? };
        content.check(text)?;
        Ok(content)
    }

    fn check(&self, text: &str) -> Result<(), Problem> {
        let safekeepers = self.safekeepers.iter().map(|one| ("safekeeper", one.id.to_string(), &one.http));
        let named = |kind: &'static str, all: &'_ [NamedEntry]| {
            all.iter().map(|one| (kind, one.name.clone(), one.http.clone())).collect::<Vec<_>>()
        };
        let all = safekeepers
            .map(|(kind, name, http)| (kind, name, http.clone()))
            .chain(named("walproposer", &self.walproposers))
            .chain(named("proxy", &self.proxies));

        let mut seen = BTreeSet::new();
        for (kind, name, http) in all {
            let problem = |problem: String| Err((line_of(text, &http.text), problem));
            if name.is_empty() || name == "0" && kind == "safekeeper" {
                return problem(format!("a {kind} needs a name; safekeepers are numbered from 1"));
            }
            if !seen.insert((kind, name.clone())) {
                return problem(format!("{kind} {name} is listed twice: remove one entry, or correct it"));
            }
        }
        if seen.is_empty() {
            return Err((None, "names no program: add [[safekeepers]] with id and http".to_owned()));
        }
        Ok(())
    }
}

fn from_toml(text: &str) -> Result<ClusterFile, Problem> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        (before.map(|before| before.matches('\n').count() + 1), error.message().replace('\n', ", "))
    })
}

fn from_json(text: &str) -> Result<ClusterFile, Problem> {
    serde_json::from_str(text).map_err(|error| {
        let (line, message) = (error.line(), error.to_string());
        // The position is told by the line.
        let problem = message.split(" at line ").next().unwrap_or(&message).to_owned();
        (Some(line).filter(|&line| line > 0), problem)
    })
}

/// The last line with this text, from 1.
pub(super) fn line_of(text: &str, part: &str) -> Option<usize> {
    let found = text.lines().enumerate().filter(|(_, line)| line.contains(part)).last();
    found.map(|(index, _)| index + 1)
}
