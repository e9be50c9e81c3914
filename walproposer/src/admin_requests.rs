//! [`AdminRequests`]: what somebody at the HTTP port wants of whoever leads. The driver carries them out between two messages;
//! while it does not lead, nobody takes them, and the one who asks is told so.

use std::time::Duration;

use consensus::ConfigurationChange;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::configuration_change::{ChangeAccepted, ChangeError};
use crate::status::{LeadershipState, StatusBoard};

/// AdminRequests that may wait for the driver.
const REQUESTS_MAX: usize = 8;
/// For the driver to take an order up; it is busy with one message at a time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// One order, and where its answer goes.
pub(crate) struct AdminRequest {
    pub(crate) change: ConfigurationChange,
    pub(crate) answer: oneshot::Sender<Result<ChangeAccepted, ChangeError>>,
}

/// Why an order is not carry_over out.
#[derive(Debug, Error)]
pub(crate) enum AdminRequestError {
    #[error("this walproposer does not lead, and only a leader changes anything: {0}")]
    NotLeading(String),
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// For whoever gives orders.
#[derive(Clone, Debug)]
pub(crate) struct AdminRequests {
    sender: mpsc::Sender<AdminRequest>,
    board: StatusBoard,
}

impl AdminRequests {
    pub(crate) fn new(board: &StatusBoard) -> (Self, mpsc::Receiver<AdminRequest>) {
        let (sender, orders) = mpsc::channel(REQUESTS_MAX);
        (Self { sender, board: board.clone() }, orders)
    }

    /// Hands an order to the leader.
    pub(crate) async fn submit(
        &self,
        change: ConfigurationChange,
    ) -> Result<ChangeAccepted, AdminRequestError> {
        let snapshot = self.board.read();
        if snapshot.state != LeadershipState::Streaming {
            let why = snapshot.blocked().unwrap_or_else(|| "an election is under way".to_owned());
            return Err(AdminRequestError::NotLeading(why));
        }
        let (answer, answered) = oneshot::channel();
        // An order whose giver went away is not carry_over out: see `take`.
        let given = async {
            self.sender.send(AdminRequest { change, answer }).await.ok()?;
            answered.await.ok()
        };
        match timeout(REQUEST_TIMEOUT, given).await {
            Ok(Some(answer)) => Ok(answer?),
            Ok(None) | Err(_) => Err(AdminRequestError::NotLeading("leadership has just ended".to_owned())),
        }
    }
}

/// The next order that somebody still waits for. Cancel-safe; pending for ever once nobody can give any.
pub(crate) async fn next_request(requests: &mut mpsc::Receiver<AdminRequest>) -> AdminRequest {
    loop {
        match requests.recv().await {
            Some(request) if request.answer.is_closed() => {}
            Some(request) => return request,
            None => std::future::pending().await,
        }
    }
}
