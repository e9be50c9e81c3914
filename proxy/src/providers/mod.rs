//! The control planes that there are: each is a [`ControlPlane`](crate::control_plane::ControlPlane). Chosen by `server`.

mod auth_query;
mod command;
mod endpoints_file;
mod file;
mod http;
mod query_database;

pub(crate) use self::auth_query::AuthQueryControlPlane;
pub(crate) use self::file::FileControlPlane;
pub(crate) use self::http::{HttpControlPlane, TokenFile};
pub(crate) use self::query_database::{AskDatabase, AskError, Asked, Asker};
