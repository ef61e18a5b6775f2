//! Orders: what an operator changes of a running node. The API reads them, the owner of the node's state obeys.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;

use crate::error::ApiError;

/// Orders that wait for the owner; it works on one at a time, and who orders waits for the answer.
const WAITING: usize = 64;

/// A backend, by its pool's name and its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendName {
    /// The pool.
    pub pool: String,
    /// The address.
    pub address: SocketAddr,
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.address)
    }
}

/// Whether a backend takes part, as an operator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverrideState {
    /// No new work; what is established goes on, and checks do.
    Draining,
    /// No new work, and no checks: somebody works on it.
    Disabled,
}

impl OverrideState {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

/// What an operator has set in place of the config; at least one of both is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Absent: it takes part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<OverrideState>,
    /// Its weight, from 0 to 1,000; absent: that of the config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1000)]
    pub weight: Option<u16>,
}

impl Override {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This one, with what `change` gives in the place of its own.
    pub fn changed_by(self, change: Self) -> Self {
        Self {
            state: change.state.or(self.state),
            weight: change.weight.or(self.weight),
        }
    }
}

/// A backend and its override.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OverrideView {
    /// The backend's pool.
    pub pool: String,
    /// Its address.
    #[schema(value_type = String, example = "10.0.2.11:8080")]
    pub address: SocketAddr,
    /// What is set.
    #[serde(flatten)]
    pub set: Override,
}

/// What is ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Set what is given; what is not stays.
    Set(BackendName, Override),
    /// Go by the config again.
    Clear(BackendName),
}

/// Why an order was not obeyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The config has no such backend.
    #[error("the config has no backend {0}")]
    NoBackend(String),
    /// It has no override to clear.
    #[error("backend {0} has no override")]
    NoOverride(String),
    /// The node is about to stop.
    #[error("the node is about to stop")]
    Stopping,
    /// It could not be kept or put in force.
    #[error("{0}")]
    Failed(String),
}

impl From<OrderError> for ApiError {
    fn from(error: OrderError) -> Self {
        let message = error.to_string();
        match error {
            OrderError::NoBackend(_) | OrderError::NoOverride(_) => Self::missing(message),
            OrderError::Stopping => Self::unavailable(message),
            OrderError::Failed(_) => Self::internal(message),
        }
    }
}

/// An order, and whom to tell what became of it: what is set now.
#[derive(Debug)]
pub struct Ask {
    /// The order.
    pub order: Order,
    /// Dropped without a word where the owner has gone.
    pub reply: oneshot::Sender<Result<Override, OrderError>>,
}

/// Where orders are handed in.
#[derive(Clone, Debug)]
pub struct Desk(mpsc::Sender<Ask>);

impl Desk {
    /// A desk, and where the owner hears what is handed in.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    /// Hands an order in and waits until it is obeyed.
    pub async fn order(&self, order: Order) -> Result<Override, OrderError> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask { order, reply };
        self.0.send(ask).await.map_err(|_| OrderError::Stopping)?;
        answer.await.map_err(|_| OrderError::Stopping)?
    }
}
