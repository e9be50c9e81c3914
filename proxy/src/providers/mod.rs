//! The control planes that there are: each is a [`ControlPlane`](crate::control_plane::ControlPlane). Chosen by `server`.

mod ask_database;
mod auth_query;
mod command;
mod endpoints_file;
mod file;

pub(crate) use self::ask_database::{AskDatabase, AskError, Asked, Asker};
pub(crate) use self::auth_query::AuthQueryControlPlane;
pub(crate) use self::file::FileControlPlane;
