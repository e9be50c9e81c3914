//! What is read again while the proxy runs: at SIGHUP all of it, and when files have changed those that have. All that is
//! read is checked before any of it counts: when one file is wrong, everything stays as it was, and the log names it.
//!
//! Which files there are and what counts of them is the business of each [`Source`]. Called by `server`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use utils::Shutdown;

use crate::observe::metrics::{ByResult, Metrics};

/// How often is looked for changed files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Has what was read count from now on. It does not fail, and takes no time.
pub(crate) type Take<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Something that is made of files.
pub(crate) trait Source: fmt::Debug + Send + Sync {
    /// What is looked at for changes. Looks at the disk.
    fn files(&self) -> Vec<PathBuf>;

    /// Reads and checks; nothing counts yet. An error names the file. Looks at the disk.
    fn read(&self) -> Result<Take<'_>, String>;
}

/// A state of files, without what is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fingerprint(Vec<(Option<Stamp>, PathBuf)>);

/// A state of a file; of the file that is meant, where links lead to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    file: u64,
}

impl Stamp {
    /// `None` when there is no file.
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

/// Everything that is read again.
#[derive(Debug)]
pub(crate) struct Sources {
    sources: Vec<Arc<dyn Source>>,
    seen: Mutex<Seen>,
}

/// States of the files, by source.
#[derive(Debug, Default)]
struct Seen {
    /// Those that were looked at last, good or wrong.
    last: Vec<Fingerprint>,
    /// Those that count.
    taken: Vec<Fingerprint>,
}

/// What is wrong, on one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ReloadError(String);

impl Sources {
    /// Reads everything once: what a start takes is what a reload takes.
    pub(crate) fn load(sources: Vec<Arc<dyn Source>>, metrics: &Metrics) -> Result<Self, ReloadError> {
        let sources = Self { sources, seen: Mutex::default() };
        sources.reload()?;
        metrics.last_reload_success.set(unix_time());
        Ok(sources)
    }

    /// Reads everything again. On an error everything stays as it is.
    pub(crate) fn reload(&self) -> Result<(), ReloadError> {
        self.take(self.look(), |_| true)
    }

    /// Reads what has changed since it was last good; `None` when that was tried already.
    fn reload_changed(&self) -> Option<Result<(), ReloadError>> {
        let (now, taken) = (self.look(), self.lock().taken.clone());
        let is_news = now != self.lock().last;
        is_news.then(|| self.take(now.clone(), |number| now.get(number) != taken.get(number)))
    }

    /// Before anything is read: what changes meanwhile is seen the next time.
    fn look(&self) -> Vec<Fingerprint> {
        self.sources.iter().map(|source| Fingerprint::of(&**source)).collect()
    }

    fn take(&self, now: Vec<Fingerprint>, is_wanted: impl Fn(usize) -> bool) -> Result<(), ReloadError> {
        self.lock().last.clone_from(&now);
        let wanted = self.sources.iter().enumerate().filter(|(number, _)| is_wanted(*number));
        let (mut takes, mut wrong) = (Vec::new(), Vec::new());
        for (_, source) in wanted {
            match source.read() {
                Ok(take) => takes.push(take),
                Err(error) => wrong.push(error),
            }
        }
        if !wrong.is_empty() {
            return Err(ReloadError(wrong.join("; ").replace('\n', " ")));
        }
        takes.into_iter().for_each(|take| take());
        self.lock().taken = now;
        Ok(())
    }

    /// Reloads at SIGHUP and when a file has changed, until the process ends.
    pub(crate) async fn keep_current(self: Arc<Self>, shutdown: Shutdown, metrics: Metrics) {
        let mut asked_for = shutdown.reloads();
        loop {
            let is_asked_for = tokio::select! {
                () = asked_for.next() => true,
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
            };
            let sources = Arc::clone(&self);
            let reloading = tokio::task::spawn_blocking(move || {
                if is_asked_for { Some(sources.reload()) } else { sources.reload_changed() }
            });
            let result = match reloading.await {
                Ok(None) => continue,
                Ok(Some(Ok(()))) => {
                    tracing::info!("the configuration was read again");
                    metrics.last_reload_success.set(unix_time());
                    "reloaded"
                }
                Ok(Some(Err(error))) => {
                    tracing::error!(%error, "the configuration cannot be used: what was read before stays");
                    "failed"
                }
                Err(error) => {
                    tracing::error!(%error, "the configuration was not read: what was read before stays");
                    "failed"
                }
            };
            metrics.reloads.get_or_create(&ByResult { result }).inc();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Nothing panics under this lock.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// A file that is right when it does not begin with `!`.
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

        fn read(&self) -> Result<Take<'_>, String> {
            let content = fs::read_to_string(&self.path).unwrap();
            if content.starts_with('!') {
                return Err(format!("{}:\nit is wrong", self.path.display()));
            }
            Ok(Box::new(|| {
                *self.content.lock().unwrap() = content;
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
            [0, 1, 2].map(|number: usize| self.files[number].content.lock().unwrap().clone())
        }

        fn takes(&self) -> [usize; 3] {
            [0, 1, 2].map(|number: usize| self.files[number].takes.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn whichever_is_wrong_nothing_counts_and_all_that_are_wrong_are_named_on_one_line() {
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
    fn a_start_with_a_wrong_file_is_none() {
        let scene = Scene::new();
        scene.write(["new", "!", "new"]);
        let all = scene.files.iter().map(|file| Arc::clone(file) as Arc<dyn Source>).collect();
        Sources::load(all, &scene.metrics).unwrap_err();
    }

    #[test]
    fn of_files_that_change_those_are_read_that_do_not_count_yet_and_wrong_ones_once() {
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
        // What was right all the time counts as soon as the rest is.
        fs::write(&scene.files[1].path, "right").unwrap();
        scene.sources.reload_changed().unwrap().unwrap();
        assert_eq!(scene.contents(), ["newest", "right", "old"]);
        assert!(scene.sources.reload_changed().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_and_a_change_have_everything_read_and_are_counted() {
        let scene = Scene::new();
        let shutdown = Shutdown::new();
        let (sources, metrics) = (Arc::clone(&scene.sources), scene.metrics.clone());
        let task = tokio::spawn(sources.keep_current(shutdown.clone(), metrics));
        tokio::task::yield_now().await;
        let count = |result| scene.metrics.reloads.get_or_create(&ByResult { result }).get();
        let until = async |how, number| {
            while count(how) < number {
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
