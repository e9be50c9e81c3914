//! Finds the cluster file: `--cluster`, `HOLDFAST_CLUSTER`, `.holdfast/cluster.json` in a parent directory,
//! `/etc/holdfast/cluster.toml`. Reads none of them.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use serde::Serialize;
use thiserror::Error;

/// The variable that names the file.
const VARIABLE: &str = "HOLDFAST_CLUSTER";
/// The file in a project, relative to the working directory and its parents.
const IN_PROJECT: &str = ".holdfast/cluster.json";
/// The file of the machine.
const OF_MACHINE: &str = "/etc/holdfast/cluster.toml";

/// How the file was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FoundBy {
    /// `--cluster`.
    Flag,
    /// `HOLDFAST_CLUSTER`.
    Environment,
    /// `.holdfast/cluster.json` in the working directory or a parent of it.
    Directory,
    /// `/etc/holdfast/cluster.toml`.
    Machine,
}

impl FoundBy {
    /// For a person.
    pub(crate) const fn phrase(self) -> &'static str {
        match self {
            Self::Flag => "named by --cluster",
            Self::Environment => "named by HOLDFAST_CLUSTER",
            Self::Directory => "found from the working directory upwards",
            Self::Machine => "the one of this machine",
        }
    }
}

/// No file, or one that is not to be trusted.
#[derive(Debug, Error)]
pub(crate) enum LocateError {
    #[error(
        "no cluster file: --cluster and {VARIABLE} are not set, there is no {IN_PROJECT} in {} or a parent of it, and no \
         {OF_MACHINE}. Write one (holdfast --help shows the format), or start a cluster with ./dev up",
        directory.display()
    )]
    None { directory: PathBuf },
    /// It could send the token of a person who only entered a directory to a server of the file's owner.
    #[error("{} belongs to another user: name it with --cluster if you trust it", path.display())]
    NotOwn { path: PathBuf },
    #[error("{VARIABLE} is set and empty: unset it, or set it to a file")]
    EmptyVariable,
    #[error("cannot look for {}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// The file to be used, with an absolute path when the flag or the variable do not say otherwise.
pub(crate) fn locate(flag: Option<&Path>) -> Result<(PathBuf, FoundBy), LocateError> {
    let directory = || env::current_dir().map_err(|error| LocateError::Io { path: ".".into(), error });
    locate_in(flag, env::var_os(VARIABLE), directory, Path::new(OF_MACHINE), Uid::effective().as_raw())
}

fn locate_in(
    flag: Option<&Path>,
    variable: Option<OsString>,
    directory: impl FnOnce() -> Result<PathBuf, LocateError>,
    of_machine: &Path,
    uid: u32,
) -> Result<(PathBuf, FoundBy), LocateError> {
    if let Some(file) = flag {
        return Ok((file.to_owned(), FoundBy::Flag));
    }
    match variable {
        Some(file) if file.is_empty() => return Err(LocateError::EmptyVariable),
        Some(file) => return Ok((file.into(), FoundBy::Environment)),
        None => {}
    }

    let directory = directory()?;
    for ancestor in directory.ancestors() {
        let path = ancestor.join(IN_PROJECT);
        let Some(owner) = owner(&path)? else { continue };
        if owner != uid && owner != 0 {
            return Err(LocateError::NotOwn { path });
        }
        return Ok((path, FoundBy::Directory));
    }
    match owner(of_machine)? {
        Some(_) => Ok((of_machine.to_owned(), FoundBy::Machine)),
        None => Err(LocateError::None { directory }),
    }
}

/// The user that owns the file; `None` when there is no such file.
fn owner(path: &Path) -> Result<Option<u32>, LocateError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.uid())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(LocateError::Io { path: path.to_owned(), error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        root: tempfile::TempDir,
        below: PathBuf,
        machine: PathBuf,
    }

    impl Place {
        /// A directory `a/b`, and files for the project and the machine in their places.
        fn new(project: bool, machine: bool) -> Self {
            let root = tempfile::tempdir().unwrap();
            let below = root.path().join("a/b");
            let at_machine = root.path().join("cluster.toml");
            fs::create_dir_all(&below).unwrap();
            if project {
                fs::create_dir(root.path().join("a/.holdfast")).unwrap();
                fs::write(root.path().join("a").join(IN_PROJECT), "{}").unwrap();
            }
            if machine {
                fs::write(&at_machine, "").unwrap();
            }
            Self { root, below, machine: at_machine }
        }

        fn locate(
            &self,
            flag: Option<&str>,
            variable: Option<&str>,
            uid: u32,
        ) -> Result<(PathBuf, FoundBy), LocateError> {
            let directory = || Ok(self.below.clone());
            locate_in(flag.map(Path::new), variable.map(Into::into), directory, &self.machine, uid)
        }
    }

    #[test]
    fn locate_prefers_flag_then_variable_then_directory() {
        let own = Uid::effective().as_raw();
        let place = Place::new(true, true);
        assert_eq!(place.locate(Some("f"), Some("v"), own).unwrap(), ("f".into(), FoundBy::Flag));
        assert_eq!(place.locate(None, Some("v"), own).unwrap(), ("v".into(), FoundBy::Environment));
        let in_project = place.root.path().join("a").join(IN_PROJECT);
        assert_eq!(place.locate(None, None, own).unwrap(), (in_project, FoundBy::Directory));
        let place = Place::new(false, true);
        assert_eq!(place.locate(None, None, own).unwrap(), (place.machine.clone(), FoundBy::Machine));
    }

    #[test]
    fn locate_without_file_names_all_places() {
        let place = Place::new(false, false);
        let error = place.locate(None, None, 0).unwrap_err().to_string();
        for part in ["--cluster", VARIABLE, IN_PROJECT, OF_MACHINE, "a/b", "./dev up"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(matches!(place.locate(None, Some(""), 0), Err(LocateError::EmptyVariable)));
    }

    /// A file in a directory that others can write to must not get the token of the person who is there.
    #[test]
    fn locate_refuses_file_of_another_user() {
        let place = Place::new(true, true);
        let owner = fs::metadata(place.root.path()).unwrap().uid();
        if owner == 0 {
            std::os::unix::fs::chown(place.root.path().join("a").join(IN_PROJECT), Some(12345), None)
                .unwrap();
        }
        assert!(matches!(place.locate(None, None, 54321), Err(LocateError::NotOwn { .. })));
    }
}
