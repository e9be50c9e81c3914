//! [`AdminRequests`]: changes that an operator requests over HTTP, handed to the leadership.
//!
//! The leadership carries them out between two messages. While this process does not lead, a request is refused at once.

use std::task::{Context, Poll};
use std::time::Duration;

use consensus::ConfigurationChange;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::change_result::{ChangeAccepted, ChangeError};
use crate::status::{LeadershipState, StatusBoard};

/// Requests that may wait for the leadership.
const REQUESTS_MAX: usize = 8;
/// Time for the leadership to answer a request; it handles one message at a time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// One requested change, and the channel for its answer.
pub(crate) struct AdminRequest {
    pub(crate) change: ConfigurationChange,
    pub(crate) answer: oneshot::Sender<Result<ChangeAccepted, ChangeError>>,
}

/// Reason for which a request is not carried out.
#[derive(Debug, Error)]
pub(crate) enum AdminRequestError {
    #[error("this walproposer does not lead, and only a leader can change the configuration: {0}")]
    NotLeading(String),
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// The sending side, for the HTTP server. Clones send to the same leadership.
#[derive(Clone, Debug)]
pub(crate) struct AdminRequests {
    sender: mpsc::Sender<AdminRequest>,
    board: StatusBoard,
}

impl AdminRequests {
    /// The sending side, and the receiver for the leadership.
    pub(crate) fn new(board: &StatusBoard) -> (Self, mpsc::Receiver<AdminRequest>) {
        let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
        (Self { sender, board: board.clone() }, receiver)
    }

    /// Hands a change to the leadership and waits for its answer.
    pub(crate) async fn submit(
        &self,
        change: ConfigurationChange,
    ) -> Result<ChangeAccepted, AdminRequestError> {
        let snapshot = self.board.read();
        if snapshot.state != LeadershipState::Streaming {
            let reason = snapshot.blocked().unwrap_or_else(|| "an election is under way".to_owned());
            return Err(AdminRequestError::NotLeading(reason));
        }

        let (answer, answered) = oneshot::channel();
        // When this wait ends early, `answered` is dropped, and `poll_request` skips the request.
        let submitted = async {
            self.sender.send(AdminRequest { change, answer }).await.ok()?;
            answered.await.ok()
        };
        match timeout(REQUEST_TIMEOUT, submitted).await {
            Ok(Some(answer)) => Ok(answer?),
            Ok(None) | Err(_) => Err(AdminRequestError::NotLeading("leadership has just ended".to_owned())),
        }
    }
}

/// The next request whose sender still waits, when there is one.
pub(crate) fn poll_request(
    requests: &mut mpsc::Receiver<AdminRequest>,
    cx: &mut Context<'_>,
) -> Poll<AdminRequest> {
    loop {
        match requests.poll_recv(cx) {
            Poll::Ready(Some(request)) if request.answer.is_closed() => {}
            Poll::Ready(Some(request)) => return Poll::Ready(request),
            // All senders are gone: there will be no more.
            Poll::Ready(None) | Poll::Pending => return Poll::Pending,
        }
    }
}
