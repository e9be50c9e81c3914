//! Route errors: why no endpoint was found, and what the client is told.

use pq_proto::{ErrorResponse, SqlState};

use super::endpoint_name::{EndpointName, InvalidName};
use crate::client_facing::{ClientFacing, Response, violation};

/// Why a startup packet leads to no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("no endpoint is named")]
    None,
    #[error("two different endpoints are named: \"{0}\" and \"{1}\"")]
    Disagreement(EndpointName, EndpointName),
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    #[error("startup parameter \"{0}\" is given twice")]
    Duplicate(String),
}

impl ClientFacing for RouteError {
    fn label(&self) -> &'static str {
        "no_route"
    }

    fn response(&self) -> Option<Response> {
        let refused = ErrorResponse::fatal(SqlState::INVALID_AUTHORIZATION, self.to_string());
        Some(Response::Proxy(match self {
            Self::None => refused.with_hint(
                "Connect to a host name that begins with the endpoint, add \"options=endpoint=NAME\" to the \
                 connection parameters, write the user as USER@NAME, or the password as \"endpoint=NAME;PASSWORD\".",
            ),
            Self::Disagreement(..) => refused.with_hint("Host name and options must name the same endpoint."),
            Self::InvalidName(_) => refused.with_hint("A name has 1 to 63 of the characters a-z, 0-9 and -."),
            Self::NoUser => refused,
            Self::Duplicate(_) => violation(self.to_string()),
        }))
    }
}
