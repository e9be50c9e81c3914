//! Tests of the provider `auth_query`, with databases that store what the test says.

use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::providers::{QueryReply, QueryUser};

const EXAMPLE: &str = include_str!("../../../examples/auth_query.toml");

/// Database with the one role `app`. Suspended when `app` is `None`.
#[derive(Debug, Default)]
struct Database {
    app: Mutex<Option<String>>,
    asked: AtomicUsize,
}

impl QueryDatabase for Arc<Database> {
    fn rolpassword<'a>(&'a self, _: &'a Compute, user: &'a QueryUser, role: &'a str) -> QueryReply<'a> {
        assert_eq!((&user.name, &user.password[..]), (&"proxy_auth".into(), &b"s3cret"[..]));
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = match self.app.lock().clone() {
            None => Err(QueryError::Suspended(io::ErrorKind::ConnectionRefused.into())),
            Some(stored) => Ok((role == "app").then_some(stored)),
        };
        Box::pin(std::future::ready(answer))
    }
}

struct Scene {
    database: Arc<Database>,
    plane: AuthQueryControlPlane,
    directory: tempfile::TempDir,
}

impl Scene {
    fn new(settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("proxy_auth.password"), "s3cret\n").unwrap();
        fs::write(directory.path().join("endpoints.toml"), settings).unwrap();
        let database = Arc::<Database>::default();
        let plane = load(&directory, &database).unwrap();
        Self { database, plane, directory }
    }

    /// Loads the provider again, as a restart of the proxy does.
    fn restart(&mut self) {
        self.plane = load(&self.directory, &self.database).unwrap();
    }

    fn stores(&self, password: Option<&str>) {
        *self.database.app.lock() = password.map(stored);
    }

    async fn access(&self, role: &str) -> Result<Option<String>, ControlPlaneError> {
        let access = self.plane.access(&LookupContext::for_test("main"), &role.into()).await?;
        Ok(access.verifier.map(|verifier| verifier.to_string()))
    }
}

fn load(directory: &tempfile::TempDir, database: &Arc<Database>) -> Result<AuthQueryControlPlane, FileError> {
    AuthQueryControlPlane::load(&directory.path().join("endpoints.toml"), Box::new(Arc::clone(database)))
}

fn stored(password: &str) -> String {
    Verifier::from_password(password, b"salt", NonZeroU32::MIN).to_string()
}

#[tokio::test]
async fn auth_query_keeps_verifiers_of_suspended_database() {
    let mut scene = Scene::new(EXAMPLE);
    assert_eq!(scene.access("app").await, Ok(None));
    scene.stores(Some("first"));
    assert_eq!(scene.access("app").await, Ok(Some(stored("first"))));
    assert_eq!(scene.access("ghost").await, Ok(None));
    scene.stores(None);
    scene.restart();
    assert_eq!(scene.access("app").await, Ok(Some(stored("first"))));
    assert_eq!(scene.access("ghost").await, Ok(None));
    let state = scene.directory.path().join("verifiers.json");
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o600);
    // The password changes, a login reads it, and the database is suspended again.
    scene.stores(Some("second"));
    scene.access("app").await.unwrap();
    scene.stores(None);
    scene.restart();
    assert_eq!(scene.access("app").await, Ok(Some(stored("second"))));
}

/// No login has read the new password when the stop begins.
#[tokio::test]
async fn auth_query_refreshes_verifiers_before_stop() {
    let more = "start = [\"true\"]\nstop = [\"true\"]\nsuspend_after_seconds = 1\n";
    let mut scene = Scene::new(
        &EXAMPLE
            .replace("start = [", "#")
            .replace("[endpoints.main]\n", &format!("[endpoints.main]\n{more}")),
    );
    scene.stores(Some("first"));
    scene.access("app").await.unwrap();
    scene.stores(Some("second"));
    scene.plane.stop(&"main".parse().unwrap()).await.unwrap();
    scene.stores(None);
    scene.restart();
    assert_eq!(scene.access("app").await, Ok(Some(stored("second"))));
}

/// A reload checks the file as a start does.
#[tokio::test]
async fn auth_query_reload_refuses_other_providers_file() {
    let scene = Scene::new(EXAMPLE);
    let path = scene.directory.path().join("endpoints.toml");
    scene.stores(Some("first"));
    for wrong in [format!("{EXAMPLE}\n[endpoints.bare]\naddress = \"h:1\"\n"), "".into()] {
        fs::write(&path, &wrong).unwrap();
        assert!(scene.plane.read().is_err());
        assert_eq!(scene.access("app").await, Ok(Some(stored("first"))), "{wrong}");
    }
    fs::write(&path, EXAMPLE).unwrap();
    scene.plane.read().unwrap()();
}

#[tokio::test]
async fn auth_query_forgets_dropped_role() {
    let scene = Scene::new(EXAMPLE);
    scene.stores(Some("first"));
    scene.access("app").await.unwrap();
    scene.plane.known.record(&"main".parse().unwrap(), "ghost", Some(&stored("old").parse().unwrap()));
    assert_eq!(scene.access("ghost").await, Ok(None));
    scene.stores(None);
    assert_eq!(scene.access("ghost").await, Ok(None));
}

#[tokio::test]
async fn auth_query_hides_malformed_verifier() {
    let scene = Scene::new(EXAMPLE);
    *scene.database.app.lock() = Some("md5hunter2".into());
    let error = scene.access("app").await.unwrap_err();
    assert_eq!(error, ControlPlaneError::Unavailable("main".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn may_wake_once_per_interval_and_endpoint() {
    let scene = Scene::new(EXAMPLE);
    let (main, other) = ("main".parse().unwrap(), "other".parse().unwrap());
    assert!(scene.plane.may_wake(&main) && !scene.plane.may_wake(&main) && scene.plane.may_wake(&other));
    tokio::time::advance(WAKE_UNAUTHENTICATED_INTERVAL - Duration::from_secs(1)).await;
    assert!(!scene.plane.may_wake(&main));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(scene.plane.may_wake(&main) && !scene.plane.may_wake(&main));
}

/// A role without a known verifier may wake the database where that is allowed, and so may one whose verifier is
/// doubted.
#[tokio::test]
async fn may_wake_needs_permission_and_no_good_verifier() {
    let may = async |scene: &Scene| {
        let access = scene.plane.access(&LookupContext::for_test("main"), &"app".into()).await.unwrap();
        (access.verifier.map(|verifier| verifier.to_string()), access.may_wake)
    };
    let allowing = EXAMPLE.replace("wake_unauthenticated = false", "wake_unauthenticated = true");
    assert_ne!(allowing, EXAMPLE);
    assert_eq!(may(&Scene::new(EXAMPLE)).await, (None, false));
    let scene = Scene::new(&allowing);
    assert_eq!(may(&scene).await, (None, true));
    assert_eq!(may(&scene).await, (None, false));
    scene.plane.woken.lock().clear();
    // A known verifier is good until a password does not fit: it may have been changed just before the stop.
    scene.plane.known.record(&"main".parse().unwrap(), "app", Some(&stored("old").parse().unwrap()));
    assert_eq!(may(&scene).await, (Some(stored("old")), false));
    scene.plane.report_doubt(&LookupContext::for_test("main"), &"app".into());
    assert_eq!(may(&scene).await, (Some(stored("old")), true));
    assert_eq!(may(&scene).await, (Some(stored("old")), false));
}

#[test]
fn load_names_mistakes_and_hides_secrets() {
    let query = "user = \"proxy_auth\"\npassword_file = \"proxy_auth.password\"\n";
    for (settings, expected) in [
        ("[endpoints.main]\naddress = \"h:1\"\n".to_owned(), "endpoint \"main\": auth_query is missing"),
        (
            format!("[endpoints.main]\naddress = \"h:1\"\n[endpoints.main.auth_query]\n{query}"),
            "missing field `state_file`",
        ),
        (
            format!(
                "[endpoints.main]\naddress = \"h:1\"\nroles = {{ a = \"{}\" }}\n[endpoints.main.auth_query]\n{query}",
                stored("x")
            ),
            "both roles and auth_query",
        ),
        (
            "[endpoints.main]\naddress = \"h:1\"\n[endpoints.main.auth_query]\nuser = \"a\"\npassword_file = \"none\"\n"
                .to_owned(),
            "auth_query.password_file",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("proxy_auth.password"), "s3cret\n").unwrap();
        fs::write(directory.path().join("endpoints.toml"), &settings).unwrap();
        let error = load(&directory, &Arc::default()).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("s3cret"), "{settings}\n{error}");
    }
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("verifiers.json"), "{\"main\": {\"app\": hunter2}}").unwrap();
    let error = KnownVerifiers::load(directory.path().join("verifiers.json")).unwrap_err().to_string();
    assert!(error.contains("state file is malformed") && !error.contains("hunter2"), "{error}");
}
