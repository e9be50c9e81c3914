//! Commands on a connection to the primary: logs in, asks for one row, and shows a setting.

use std::time::Duration;

use postgres_backend::client::{Client, ConnectOptions, SimpleRow};
use tokio::time::timeout;

use super::error::{PRIMARY_ANSWER_TIMEOUT, PrimaryError, no_answer};
use crate::config::RunConfig;

/// Time for TCP, startup and authentication together.
const PRIMARY_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects and logs in, with these startup parameters.
pub(super) async fn connect_client(
    config: &RunConfig,
    params: &[(&str, &str)],
) -> Result<Client, PrimaryError> {
    let primary = &config.primary;
    let options = ConnectOptions {
        host: primary.host.clone(),
        port: primary.port,
        user: primary.user.clone(),
        params: params.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        password: primary.password.clone(),
        tls: None,
    };
    Ok(Client::connect(&options, PRIMARY_CONNECT_TIMEOUT).await?)
}

/// Value of a setting of this session.
pub(super) async fn show(client: &mut Client, name: &'static str) -> Result<String, PrimaryError> {
    let row = one_row(client, &format!("SHOW {name}")).await?;
    row.at(0).map(str::to_owned).ok_or_else(|| unexpected(name))
}

/// The first row of the answer.
pub(super) async fn one_row(client: &mut Client, command: &str) -> Result<SimpleRow, PrimaryError> {
    let answered = timeout(PRIMARY_ANSWER_TIMEOUT, client.simple_query(command)).await;
    let rows = answered.map_err(|_| no_answer(command))??;
    rows.into_iter().next().ok_or_else(|| unexpected(command))
}

/// The answer to a command is not what the server promises.
pub(super) fn unexpected(command: &str) -> PrimaryError {
    PrimaryError::Refused(format!("unexpected answer to {command}"))
}
