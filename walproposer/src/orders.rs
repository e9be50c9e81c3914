//! [`Orders`]: what somebody at the HTTP port wants of whoever leads. The driver carries them out between two messages;
//! while it does not lead, nobody takes them, and the one who asks is told so.

use std::time::Duration;

use consensus::ConfigurationChange;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use wal_types::Generation;

use crate::campaign::ChangeError;
use crate::status::{Board, State};

/// Orders that may wait for the driver.
const ORDERS_MAX: usize = 8;
/// For the driver to take an order up; it is busy with one message at a time.
const ORDER_TIMEOUT: Duration = Duration::from_secs(5);

/// One order, and where its answer goes.
pub(crate) struct Order {
    pub(crate) change: ConfigurationChange,
    pub(crate) answer: oneshot::Sender<Result<Accepted, ChangeError>>,
}

/// An order that is carried out from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// The log has this generation when it is done.
    Begun(Generation),
    /// Everything is so already, under this generation.
    Already(Generation),
}

/// Why an order is not carried out.
#[derive(Debug, Error)]
pub(crate) enum Refused {
    #[error("this walproposer does not lead, and only a leader changes anything: {0}")]
    NotLeading(String),
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// For whoever gives orders.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    sender: mpsc::Sender<Order>,
    board: Board,
}

impl Orders {
    pub(crate) fn new(board: &Board) -> (Self, mpsc::Receiver<Order>) {
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        (Self { sender, board: board.clone() }, orders)
    }

    /// Hands an order to the leader.
    pub(crate) async fn give(&self, change: ConfigurationChange) -> Result<Accepted, Refused> {
        let snapshot = self.board.read();
        if snapshot.state != State::Streaming {
            let why = snapshot.blocked().unwrap_or_else(|| "an election is under way".to_owned());
            return Err(Refused::NotLeading(why));
        }
        let (answer, answered) = oneshot::channel();
        // An order whose giver went away is not carried out: see `take`.
        let given = async {
            self.sender.send(Order { change, answer }).await.ok()?;
            answered.await.ok()
        };
        match timeout(ORDER_TIMEOUT, given).await {
            Ok(Some(answer)) => Ok(answer?),
            Ok(None) | Err(_) => Err(Refused::NotLeading("leadership has just ended".to_owned())),
        }
    }
}

/// The next order that somebody still waits for. Cancel-safe; pending for ever once nobody can give any.
pub(crate) async fn take(orders: &mut mpsc::Receiver<Order>) -> Order {
    loop {
        match orders.recv().await {
            Some(order) if order.answer.is_closed() => {}
            Some(order) => return order,
            None => std::future::pending().await,
        }
    }
}
