//! The provider, with databases that say what the test wants.

use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::providers::{Asked, Asker};

const EXAMPLE: &str = include_str!("../../../examples/auth_query.toml");

/// A database with one role; asleep when there is none.
#[derive(Debug, Default)]
struct Database {
    app: Mutex<Option<String>>,
    asked: AtomicUsize,
}

impl AskDatabase for Arc<Database> {
    fn rolpassword<'a>(&'a self, _: &'a Compute, asker: &'a Asker, role: &'a str) -> Asked<'a> {
        assert_eq!((&asker.user, &asker.password[..]), (&"proxy_auth".into(), &b"s3cret"[..]));
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = match self.app.lock().unwrap().clone() {
            None => Err(AskError::Asleep(io::ErrorKind::ConnectionRefused.into())),
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

    /// As after a restart of the proxy.
    fn restart(&mut self) {
        self.plane = load(&self.directory, &self.database).unwrap();
    }

    fn stores(&self, password: Option<&str>) {
        *self.database.app.lock().unwrap() = password.map(stored);
    }

    async fn access(&self, role: &str) -> Result<Option<String>, ControlPlaneError> {
        let access = self.plane.access(&Wanted::for_test("main"), &role.into()).await?;
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
async fn a_sleeping_database_is_answered_for_by_what_was_seen_even_after_a_restart() {
    let mut scene = Scene::new(EXAMPLE);
    assert_eq!(scene.access("app").await, Ok(None));
    scene.stores(Some("first"));
    assert_eq!(scene.access("app").await, Ok(Some(stored("first"))));
    assert_eq!(scene.access("nobody").await, Ok(None));
    scene.stores(None);
    scene.restart();
    assert_eq!(scene.access("app").await, Ok(Some(stored("first"))));
    assert_eq!(scene.access("nobody").await, Ok(None));
    let state = scene.directory.path().join("verifiers.json");
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o600);
    // Changed, and seen, and asleep again.
    scene.stores(Some("second"));
    scene.access("app").await.unwrap();
    scene.stores(None);
    scene.restart();
    assert_eq!(scene.access("app").await, Ok(Some(stored("second"))));
}

#[tokio::test]
async fn a_password_that_was_changed_unseen_is_read_before_the_database_is_stopped() {
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

#[tokio::test]
async fn a_file_that_is_for_another_provider_is_refused_at_a_reload_as_at_the_start() {
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
async fn a_role_that_was_dropped_is_forgotten() {
    let scene = Scene::new(EXAMPLE);
    scene.stores(Some("first"));
    scene.access("app").await.unwrap();
    scene.plane.seen.put(&"main".parse().unwrap(), "nobody", Some(&stored("old").parse().unwrap()));
    assert_eq!(scene.access("nobody").await, Ok(None));
    scene.stores(None);
    assert_eq!(scene.access("nobody").await, Ok(None));
}

#[tokio::test]
async fn what_is_stored_and_no_verifier_is_an_error_that_does_not_repeat_it() {
    let scene = Scene::new(EXAMPLE);
    *scene.database.app.lock().unwrap() = Some("md5hunter2".into());
    let error = scene.access("app").await.unwrap_err();
    assert_eq!(error, ControlPlaneError::Unavailable("main".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn strangers_wake_each_database_once_in_a_while() {
    let scene = Scene::new(EXAMPLE);
    let (main, other) = ("main".parse().unwrap(), "other".parse().unwrap());
    assert!(scene.plane.may_wake(&main) && !scene.plane.may_wake(&main) && scene.plane.may_wake(&other));
    tokio::time::advance(WAKE_UNAUTHENTICATED_INTERVAL - Duration::from_secs(1)).await;
    assert!(!scene.plane.may_wake(&main));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(scene.plane.may_wake(&main) && !scene.plane.may_wake(&main));
}

#[tokio::test]
async fn a_stranger_wakes_a_database_only_where_that_is_allowed_and_doubt_wakes_too() {
    let may = async |scene: &Scene| {
        let access = scene.plane.access(&Wanted::for_test("main"), &"app".into()).await.unwrap();
        (access.verifier.map(|verifier| verifier.to_string()), access.may_wake)
    };
    let allowing = EXAMPLE.replace("wake_unauthenticated = false", "wake_unauthenticated = true");
    assert_ne!(allowing, EXAMPLE);
    assert_eq!(may(&Scene::new(EXAMPLE)).await, (None, false));
    let scene = Scene::new(&allowing);
    assert_eq!(may(&scene).await, (None, true));
    assert_eq!(may(&scene).await, (None, false));
    scene.plane.woken.lock().unwrap().clear();
    // What was seen is good until somebody's password does not fit: it may have been changed just before the stop.
    scene.plane.seen.put(&"main".parse().unwrap(), "app", Some(&stored("old").parse().unwrap()));
    assert_eq!(may(&scene).await, (Some(stored("old")), false));
    scene.plane.doubted(&Wanted::for_test("main"), &"app".into());
    assert_eq!(may(&scene).await, (Some(stored("old")), true));
    assert_eq!(may(&scene).await, (Some(stored("old")), false));
}

#[test]
fn a_mistake_is_named_and_no_secret_is_shown() {
    let query = "user = \"proxy_auth\"\npassword_file = \"proxy_auth.password\"\n";
    for (settings, expected) in [
        ("[endpoints.main]\naddress = \"h:1\"\n".to_owned(), "endpoint \"main\": it has no auth_query"),
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
    let error = Seen::load(directory.path().join("verifiers.json")).unwrap_err().to_string();
    assert!(error.contains("it is not what was written") && !error.contains("hunter2"), "{error}");
}
