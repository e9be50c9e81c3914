//! Provider `file`: looks endpoints up in an [endpoints file](super::endpoints_file). For operators of a few databases
//! without a service that manages them. A changed file is reloaded; a malformed one leaves the previous content in
//! place.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pq_proto::Text;

use super::endpoints_file::{EndpointsFile, FileError};
use crate::control_plane::{Access, Compute, ControlPlane, LookupContext, Reply};
use crate::lifecycle::reload::Apply;
use crate::route::EndpointName;

/// Control plane with its endpoints and roles in a file.
#[derive(Debug)]
pub(crate) struct FileControlPlane {
    file: ReloadableFile,
}

/// Check that a provider makes of a well-formed file, at the start and at every reload.
pub(super) type Check = fn(&Path, &EndpointsFile) -> Result<(), FileError>;

/// Endpoints file with its last good content.
#[derive(Debug)]
pub(super) struct ReloadableFile {
    path: PathBuf,
    check: Check,
    content: ArcSwap<EndpointsFile>,
}

impl ReloadableFile {
    pub(super) fn load(path: &Path, check: Check) -> Result<Self, FileError> {
        let content = ArcSwap::from_pointee(Self::read(path, check)?);
        Ok(Self { path: path.to_owned(), check, content })
    }

    fn read(path: &Path, check: Check) -> Result<EndpointsFile, FileError> {
        let content = EndpointsFile::load(path)?;
        check(path, &content)?;
        Ok(content)
    }

    pub(super) fn content(&self) -> Arc<EndpointsFile> {
        self.content.load_full()
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    /// Reads and checks the file again, as a [`Source`](crate::lifecycle::reload::Source).
    pub(super) fn read_again(&self) -> Result<Apply<'_>, String> {
        let content = Arc::new(Self::read(&self.path, self.check).map_err(|error| error.to_string())?);
        Ok(Box::new(|| self.content.store(content)))
    }
}

impl FileControlPlane {
    /// Reads the endpoints file.
    pub(crate) fn load(path: &Path) -> Result<Self, FileError> {
        Ok(Self { file: ReloadableFile::load(path, Self::check)? })
    }

    fn check(path: &Path, content: &EndpointsFile) -> Result<(), FileError> {
        let Some((name, _)) = content.iter().find(|(_, endpoint)| endpoint.auth_query.is_some()) else {
            return Ok(());
        };
        let problem = "auth_query is for --control-plane auth_query:PATH".into();
        Err(FileError::Value { path: path.to_owned(), endpoint: name.to_string(), problem })
    }
}

impl ControlPlane for FileControlPlane {
    fn access<'a>(&'a self, context: &'a LookupContext, role: &'a Text) -> Reply<'a, Access> {
        let access = self.file.content().endpoint(&context.endpoint).map(|endpoint| Access {
            verifier: endpoint.roles.get(role).cloned(),
            allowlist: Arc::clone(&endpoint.allowlist),
            ..Access::default()
        });
        Box::pin(std::future::ready(access))
    }

    fn locate<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        let content = self.file.content();
        let compute = content.endpoint(&context.endpoint).map(|endpoint| Arc::clone(&endpoint.compute));
        Box::pin(std::future::ready(compute))
    }

    fn wake<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        let content = self.file.content();
        Box::pin(async move { content.endpoint(&context.endpoint)?.wake(&context.endpoint).await })
    }

    fn idle_limits(&self) -> HashMap<EndpointName, Duration> {
        self.file.content().idle_limits()
    }

    fn stop<'a>(&'a self, endpoint: &'a EndpointName) -> Reply<'a, ()> {
        let content = self.file.content();
        Box::pin(async move { content.endpoint(endpoint)?.stop(endpoint).await })
    }

    fn files(&self) -> Vec<PathBuf> {
        self.file.files()
    }

    fn read(&self) -> Result<Apply<'_>, String> {
        self.file.read_again()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::num::NonZeroU32;

    use scram::Verifier;

    use super::*;
    use crate::control_plane::ControlPlaneError;

    const EXAMPLE: &str = include_str!("../../examples/file.toml");

    fn load(text: &str) -> (tempfile::TempDir, FileControlPlane) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("endpoints.toml");
        fs::write(&path, text).unwrap();
        let authority = rcgen::generate_simple_self_signed(["authority".to_owned()]).unwrap();
        fs::write(directory.path().join("ca.pem"), authority.cert.pem()).unwrap();
        let plane = FileControlPlane::load(&path).unwrap();
        (directory, plane)
    }

    #[tokio::test]
    async fn file_finds_endpoints_roles_and_addresses() {
        let verifier = Verifier::from_password("secret", b"salt", NonZeroU32::MIN).to_string();
        let (_directory, plane) = load(&format!(
            "[endpoints.main]\naddress = \"[::1]:5432\"\ndbname = \"app\"\nstop = [\"true\"]\n\
             roles = {{ app = \"{verifier}\" }}\n[endpoints.bare]\naddress = \"h:1\"\n"
        ));
        let [main, bare, none] = ["main", "bare", "none"].map(LookupContext::for_test);
        let verifier_of =
            async |context, role: &str| plane.access(context, &role.into()).await.unwrap().verifier;
        assert_eq!(verifier_of(&main, "app").await.unwrap().to_string(), verifier);
        assert!(verifier_of(&main, "other").await.is_none());
        assert!(verifier_of(&bare, "app").await.is_none());
        let compute = plane.locate(&main).await.unwrap();
        assert_eq!(
            (compute.address.to_string().as_str(), compute.database.clone()),
            ("[::1]:5432", Some("app".into()))
        );
        let unknown = ControlPlaneError::UnknownEndpoint(none.endpoint.clone());
        assert_eq!(plane.locate(&none).await.unwrap_err(), unknown);
        let not_startable = ControlPlaneError::NotStartable(bare.endpoint.clone());
        assert_eq!(plane.wake(&bare).await.unwrap_err(), not_startable);
    }

    #[tokio::test]
    async fn file_loads_the_documented_example() {
        let (_directory, plane) = load(EXAMPLE);
        let main = LookupContext::for_test("main");
        let access = plane.access(&main, &"app".into()).await.unwrap();
        assert!(access.verifier.unwrap().check_password(b"secret").is_some());
        assert!(access.allowlist.allows(Some("10.1.2.3".parse().unwrap())));
        assert!(!access.allowlist.allows(Some("192.0.2.1".parse().unwrap())));
        assert!(plane.locate(&LookupContext::for_test("reports")).await.unwrap().tls.is_some());
    }

    #[tokio::test]
    async fn file_reload_keeps_content_after_mistake() {
        let (directory, plane) = load("[endpoints.main]\naddress = \"h:1\"\n");
        let path = directory.path().join("endpoints.toml");
        let main = LookupContext::for_test("main");
        let address = async || plane.locate(&main).await.unwrap().address.to_string();
        let reload = || plane.read().map(|apply| apply());
        fs::write(&path, "[endpoints.main]\naddress = \"h:22\"\n").unwrap();
        reload().unwrap();
        assert_eq!(address().await, "h:22");
        fs::write(&path, "[endpoints.main]\naddress = \"h:3").unwrap();
        assert!(reload().unwrap_err().contains("line 2"));
        assert_eq!(address().await, "h:22");
        // Well-formed, but for the other provider, which has roles that this one has not.
        fs::write(directory.path().join("password"), "x").unwrap();
        let other = "auth_query = { user = \"u\", password_file = \"password\" }";
        fs::write(&path, format!("[endpoints.main]\naddress = \"h:4\"\n{other}\n")).unwrap();
        let error = reload().unwrap_err();
        assert!(error.contains("auth_query is for --control-plane"), "{error}");
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        fs::remove_file(&path).unwrap();
        reload().unwrap_err();
        assert_eq!(address().await, "h:22");
    }
}
