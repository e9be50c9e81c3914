//! Providers of a control plane: an endpoints file, the databases' own `pg_authid`, an HTTP service. Each implements
//! [`ControlPlane`](crate::control_plane::ControlPlane); `server` makes the one that the operator chose.

mod auth_query;
mod command;
mod endpoints_file;
mod file;
mod http;
mod query_database;

pub(crate) use self::auth_query::AuthQueryControlPlane;
pub(crate) use self::file::FileControlPlane;
pub(crate) use self::http::{HttpControlPlane, TokenFile};
pub(crate) use self::query_database::{QueryDatabase, QueryError, QueryReply, QueryUser};
