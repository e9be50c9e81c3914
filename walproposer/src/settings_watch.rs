//! [`SettingsWatch`]: looks at the primary's settings every few seconds while a leadership lasts, and shows on the status
//! board what is wrong with them.
//!
//! It is a task beside the one that streams, with a connection of its own: a look that hangs or is refused delays no commit.
//! What the last look saw stays on the board until the next one succeeds; its age is shown. Called by `leadership`.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::RunConfig;
use crate::primary::{PrimaryError, SettingsReader};
use crate::primary_settings::PrimarySettings;
use crate::status::{SettingsView, StatusBoard};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);
/// A connection that cannot see all settings is replaced after this long: the operator may have allowed a better one.
const LESSER_CONNECTION_MAX: Duration = Duration::from_secs(60);

/// The running looks. Dropping it ends them, and closes their connection.
#[derive(Debug)]
pub(crate) struct SettingsWatch {
    _task: JoinSet<()>,
}

impl SettingsWatch {
    /// Begins to look at the primary of `config`, at once and then again and again.
    pub(crate) fn start(config: &RunConfig, board: &StatusBoard) -> Self {
        let mut task = JoinSet::new();
        task.spawn(watch(config.clone(), board.clone()));
        Self { _task: task }
    }
}

/// Shows settings that were just read, and logs what changed.
pub(crate) fn show(
    config: &RunConfig,
    board: &StatusBoard,
    settings: PrimarySettings,
    error: Option<String>,
) {
    let view = SettingsView::new(settings, &config.application_name, error);
    let mut before = Vec::new();
    board.update(|snapshot| {
        let old = snapshot.settings.replace(view.clone());
        before = old.map(|old| old.problems).unwrap_or_default();
    });

    if view.problems == before {
        return;
    }
    for problem in &view.problems {
        tracing::warn!(setting = problem.reason.setting(), reason = problem.sentence, "unsafe primary");
    }
    if view.problems.is_empty() {
        tracing::info!("the primary's settings are safe again");
    }
}

/// Shows settings of the server at the beginning of a leadership. Those of roles and databases, which the first look will
/// read, stay as they were seen last.
pub(crate) fn show_server(config: &RunConfig, board: &StatusBoard, mut settings: PrimarySettings) {
    if let Some(before) = board.read().settings {
        settings.overrides = before.settings.overrides;
    }
    show(config, board, settings, None);
}

async fn watch(config: RunConfig, board: StatusBoard) {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kept = None;
    loop {
        ticks.tick().await;
        match look(&config, &mut kept).await {
            Ok((settings, refusal)) => show(&config, &board, settings, refusal),
            Err(error) => board.update(|snapshot| {
                if let Some(view) = &mut snapshot.settings {
                    view.error = Some(error.to_string());
                }
            }),
        }
    }
}

/// A connection, and since when it is open.
type Kept = Option<(SettingsReader, Instant)>;

/// Reads the settings once, on the connection in `kept` or on a new one, which is kept unless the look fails. Returns why
/// some of the settings cannot be read, too.
async fn look(
    config: &RunConfig,
    kept: &mut Kept,
) -> Result<(PrimarySettings, Option<String>), PrimaryError> {
    let is_usable = |(reader, since): &(SettingsReader, Instant)| {
        reader.refusal().is_none() || since.elapsed() < LESSER_CONNECTION_MAX
    };
    let (mut reader, since) = match kept.take().filter(is_usable) {
        Some(kept) => kept,
        None => (SettingsReader::connect(config).await?, Instant::now()),
    };

    let settings = reader.read().await?;
    let refusal = reader.refusal().map(str::to_owned);
    *kept = Some((reader, since));
    Ok((settings, refusal))
}
