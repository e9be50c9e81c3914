//! Reload of certificates, endpoints, tokens and limits, all or nothing: at SIGHUP all files, and every second those
//! that have changed. Everything is read and checked before any of it applies. When one file is invalid everything
//! stays as it was, and the log names the file.
//!
//! Each [`Source`] knows its files and how to read them. Called by `server`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use utils::Shutdown;

use crate::observe::metrics::{ByResult, Metrics};

/// How often the files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Applies what was read, for later connections. Does not fail, and does not block.
pub(crate) type Apply<'a> = Box<dyn FnOnce() + Send + 'a>;

/// A part of the configuration that is made of files.
pub(crate) trait Source: fmt::Debug + Send + Sync {
    /// The files that are checked for changes. Reads the disk.
    fn files(&self) -> Vec<PathBuf>;

    /// Reads and checks the files, without an effect yet. An error names the file. Reads the disk.
    fn read(&self) -> Result<Apply<'_>, String>;
}

/// State of a source's files, without their content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fingerprint(Vec<(Option<Stamp>, PathBuf)>);

/// State of a file; of the target, where it is a link.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    file: u64,
}

impl Stamp {
    /// `None` when the file does not exist.
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(path).ok()?;
        Some(Self { modified: metadata.modified().ok(), bytes: metadata.len(), file: metadata.ino() })
    }
}

impl Fingerprint {
    fn of(source: &dyn Source) -> Self {
        Self(source.files().into_iter().map(|path| (Stamp::of(&path), path)).collect())
    }
}

/// All sources.
#[derive(Debug)]
pub(crate) struct Sources {
    sources: Vec<Arc<dyn Source>>,
    seen: Mutex<Seen>,
}

/// States of the files, by source.
#[derive(Debug, Default)]
struct Seen {
    /// At the last check, whether the files were valid or not.
    last: Vec<Fingerprint>,
    /// At the last reload that was applied.
    applied: Vec<Fingerprint>,
}

/// All errors of a reload, on one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ReloadError(String);

impl Sources {
    /// Reads everything once: a start accepts what a reload accepts.
    pub(crate) fn load(sources: Vec<Arc<dyn Source>>, metrics: &Metrics) -> Result<Self, ReloadError> {
        let sources = Self { sources, seen: Mutex::default() };
        sources.reload()?;
        metrics.last_reload_success.set(unix_time());
        Ok(sources)
    }

    /// Reads everything again. On an error everything stays as it is.
    pub(crate) fn reload(&self) -> Result<(), ReloadError> {
        self.read_and_apply(self.fingerprints(), |_| true)
    }

    /// Reads the sources that have changed since they were last applied. `None` when no file has changed since the
    /// last check.
    fn reload_changed(&self) -> Option<Result<(), ReloadError>> {
        let (now, applied) = (self.fingerprints(), self.seen.lock().applied.clone());
        let has_changed = now != self.seen.lock().last;
        has_changed.then(|| self.read_and_apply(now.clone(), |number| now.get(number) != applied.get(number)))
    }

    /// Called before the files are read, so that a change during the read is noticed at the next check.
    fn fingerprints(&self) -> Vec<Fingerprint> {
        self.sources.iter().map(|source| Fingerprint::of(&**source)).collect()
    }

    fn read_and_apply(
        &self,
        now: Vec<Fingerprint>,
        is_wanted: impl Fn(usize) -> bool,
    ) -> Result<(), ReloadError> {
        self.seen.lock().last.clone_from(&now);
        let wanted = self.sources.iter().enumerate().filter(|(number, _)| is_wanted(*number));
        let (mut changes, mut errors) = (Vec::new(), Vec::new());
        for (_, source) in wanted {
            match source.read() {
                Ok(apply) => changes.push(apply),
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(ReloadError(errors.join("; ").replace('\n', " ")));
        }
        changes.into_iter().for_each(|apply| apply());
        self.seen.lock().applied = now;
        Ok(())
    }

    /// Reloads at SIGHUP and when a file has changed, until the process ends.
    pub(crate) async fn keep_current(self: Arc<Self>, shutdown: Shutdown, metrics: Metrics) {
        let mut signals = shutdown.reloads();
        loop {
            let is_signal = tokio::select! {
                () = signals.next() => true,
                () = tokio::time::sleep(CHECK_INTERVAL) => false,
            };
            let sources = Arc::clone(&self);
            let reloading = tokio::task::spawn_blocking(move || {
                if is_signal { Some(sources.reload()) } else { sources.reload_changed() }
            });
            let result = match reloading.await {
                Ok(None) => continue,
                Ok(Some(Ok(()))) => {
                    tracing::info!("configuration reloaded");
                    metrics.last_reload_success.set(unix_time());
                    "reloaded"
                }
                Ok(Some(Err(error))) => {
                    tracing::error!(%error, "reload failed, keeping the previous configuration");
                    "failed"
                }
                Err(error) => {
                    tracing::error!(%error, "reload panicked, keeping the previous configuration");
                    "failed"
                }
            };
            metrics.reloads.get_or_create(&ByResult { result }).inc();
        }
    }
}

fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use utils::shutdown::Signal;

    use super::*;

    /// A file that is good unless it begins with `!`.
    #[derive(Debug)]
    struct File {
        path: PathBuf,
        content: Mutex<String>,
        takes: AtomicUsize,
    }

    impl Source for File {
        fn files(&self) -> Vec<PathBuf> {
            vec![self.path.clone()]
        }

        fn read(&self) -> Result<Apply<'_>, String> {
            let content = fs::read_to_string(&self.path).unwrap();
            if content.starts_with('!') {
                return Err(format!("{}:\nit is wrong", self.path.display()));
            }
            Ok(Box::new(|| {
                *self.content.lock() = content;
                self.takes.fetch_add(1, Ordering::Relaxed);
            }))
        }
    }

    struct Scene {
        files: [Arc<File>; 3],
        sources: Arc<Sources>,
        metrics: Metrics,
        _directory: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let files = ["one", "two", "three"].map(|name| {
                let path = directory.path().join(name);
                fs::write(&path, "old").unwrap();
                Arc::new(File { path, content: Mutex::default(), takes: AtomicUsize::new(0) })
            });
            let metrics = Metrics::new(&mut Default::default());
            let all = files.iter().map(|file| Arc::clone(file) as Arc<dyn Source>).collect();
            let sources = Arc::new(Sources::load(all, &metrics).unwrap());
            Self { files, sources, metrics, _directory: directory }
        }

        fn write(&self, contents: [&str; 3]) {
            for (file, content) in self.files.iter().zip(contents) {
                fs::write(&file.path, content).unwrap();
            }
        }

        fn contents(&self) -> [String; 3] {
            [0, 1, 2].map(|number: usize| self.files[number].content.lock().clone())
        }

        fn takes(&self) -> [usize; 3] {
            [0, 1, 2].map(|number: usize| self.files[number].takes.load(Ordering::Relaxed))
        }
    }

    /// Whichever file is invalid: nothing is applied, and one line names all invalid files.
    #[test]
    fn reload_with_wrong_files_applies_nothing() {
        let scene = Scene::new();
        for (contents, wrong) in [
            (["!", "new", "new"], &["one"][..]),
            (["new", "!", "new"], &["two"]),
            (["new", "new", "!"], &["three"]),
            (["!", "new", "!"], &["one", "three"]),
        ] {
            scene.write(contents);
            let error = scene.sources.reload().unwrap_err().to_string();
            let named = |name: &&str| error.contains(&format!("/{name}: it is wrong"));
            assert!(
                wrong.iter().all(named) && error.matches("it is wrong").count() == wrong.len(),
                "{error}"
            );
            assert!(!error.contains('\n'));
            assert_eq!((scene.contents(), scene.takes()), (["old"; 3].map(str::to_owned), [1; 3]));
        }
        scene.write(["new"; 3]);
        scene.sources.reload().unwrap();
        assert_eq!((scene.contents(), scene.takes()), (["new"; 3].map(str::to_owned), [2; 3]));
    }

    #[test]
    fn load_refuses_a_wrong_file() {
        let scene = Scene::new();
        scene.write(["new", "!", "new"]);
        let all = scene.files.iter().map(|file| Arc::clone(file) as Arc<dyn Source>).collect();
        Sources::load(all, &scene.metrics).unwrap_err();
    }

    /// A changed file is read until it is applied, and an invalid one is tried once.
    #[test]
    fn reload_changed_tries_each_change_once() {
        let scene = Scene::new();
        assert!(scene.sources.reload_changed().is_none());
        scene.write(["newer", "old", "old"]);
        scene.sources.reload_changed().unwrap().unwrap();
        assert_eq!(scene.takes()[0], 2);
        assert_eq!(scene.contents(), ["newer", "old", "old"]);
        scene.write(["newest", "!wrong", "old"]);
        scene.sources.reload_changed().unwrap().unwrap_err();
        assert!(scene.sources.reload_changed().is_none());
        assert_eq!(scene.contents(), ["newer", "old", "old"]);
        // A valid file is applied as soon as all others are valid too.
        fs::write(&scene.files[1].path, "right").unwrap();
        scene.sources.reload_changed().unwrap().unwrap();
        assert_eq!(scene.contents(), ["newest", "right", "old"]);
        assert!(scene.sources.reload_changed().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn keep_current_reloads_at_signal_and_change() {
        let scene = Scene::new();
        let shutdown = Shutdown::new();
        let (sources, metrics) = (Arc::clone(&scene.sources), scene.metrics.clone());
        let task = tokio::spawn(sources.keep_current(shutdown.clone(), metrics));
        tokio::task::yield_now().await;
        let count = |result| scene.metrics.reloads.get_or_create(&ByResult { result }).get();
        let until = async |result, number| {
            while count(result) < number {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        scene.metrics.last_reload_success.set(0.0);
        fs::write(&scene.files[0].path, "!").unwrap();
        shutdown.signal(Signal::Hangup);
        until("failed", 1).await;
        assert!(scene.metrics.last_reload_success.get() < 1.0);
        fs::write(&scene.files[0].path, "right").unwrap();
        until("reloaded", 1).await;
        assert!(scene.metrics.last_reload_success.get() > 1.0);
        task.abort();
    }
}
