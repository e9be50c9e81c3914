//! [`Outcome`]: what the exit code tells.

use std::process::ExitCode;

use serde::Serialize;

/// Result of a command, for scripts and for monitoring. The numbers are part of the documented interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// 0: everything that was asked is as it should be; a change is done.
    Healthy,
    /// 1: something needs attention. The output says what.
    Attention,
    /// 2: nothing could be asked: wrong arguments, no usable cluster file, or no program answered.
    CouldNotAsk,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Healthy => Self::SUCCESS,
            Outcome::Attention => Self::from(1),
            Outcome::CouldNotAsk => Self::from(2),
        }
    }
}
