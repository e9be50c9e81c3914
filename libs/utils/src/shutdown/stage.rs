//! Stages of a shutdown: which stage a signal leads to. Pure; [`Shutdown`](super::Shutdown) holds the stage.

/// How far the shutdown of the process has come. A stage never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// No signal to end has arrived.
    Running,
    /// The server accepts no new work; work under way may finish.
    Draining,
    /// The process ends now; nothing is waited for.
    Immediate,
}

impl Stage {
    /// Returns the stage that `signal` leads to.
    #[must_use]
    pub const fn after(self, signal: Signal) -> Self {
        match (self, signal) {
            (stage, Signal::Hangup) => stage,
            (Self::Running, Signal::Terminate) => Self::Draining,
            (Self::Draining | Self::Immediate, Signal::Terminate) | (_, Signal::Interrupt | Signal::Quit) => {
                Self::Immediate
            }
        }
    }
}

/// A request of the operator or the service manager. The table in [`shutdown`](super) gives the effect of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGQUIT. It is handled so that no core file is written.
    Quit,
    /// SIGHUP.
    Hangup,
}

#[cfg(test)]
mod tests {
    use super::Signal::{Hangup, Interrupt, Quit, Terminate};
    use super::Stage::{Draining, Immediate, Running};

    #[test]
    fn every_stage_and_signal() {
        let table = [
            (Running, Terminate, Draining),
            (Running, Interrupt, Immediate),
            (Running, Quit, Immediate),
            (Running, Hangup, Running),
            (Draining, Terminate, Immediate),
            (Draining, Interrupt, Immediate),
            (Draining, Quit, Immediate),
            (Draining, Hangup, Draining),
            (Immediate, Terminate, Immediate),
            (Immediate, Interrupt, Immediate),
            (Immediate, Quit, Immediate),
            (Immediate, Hangup, Immediate),
        ];
        for (before, signal, after) in table {
            assert_eq!(before.after(signal), after, "{before:?} {signal:?}");
        }
    }
}
