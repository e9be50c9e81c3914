//! Server side of the replication protocol, as far as a walproposer uses it.

use std::time::SystemTime;

use bytes::BytesMut;
use postgres_backend::authentication::Greeting;
use postgres_backend::{
    Accepted, AfterCopy, Answer, Connection, CopyBoth, CopyEnd, CopyMessage, CopyReader, CopyWriter, Handler,
    HandshakeConfig, QueryError, ResultSet, TlsMode, handshake, serve,
};
use pq_proto::replication::{FromStandby, PrimaryKeepalive, postgres_micros, put_xlog_data_header};
use pq_proto::{BackendMessage, ErrorResponse, FieldDescription, SqlState};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use wal_types::{Lsn, Tli};

use super::state::{PrimaryState, SYSTEM_ID, SettingsConnections};

const MESSAGE_BYTES_MAX: usize = 1024;

/// Serves one connection to its end.
pub(super) async fn serve_connection(stream: TcpStream, server: watch::Sender<PrimaryState>) {
    let config = HandshakeConfig::new(TlsMode::Disabled);
    let Ok(Accepted::Session(mut session)) = handshake::accept(stream, &config).await else { return };
    let is_for_settings =
        session.params.get("replication").is_some_and(|kind| kind.as_bytes() == b"database");
    let settings_connections = server.borrow().settings_connections;
    match settings_connections {
        SettingsConnections::Refused if is_for_settings => {
            let refusal = ErrorResponse::fatal(SqlState::INVALID_AUTHORIZATION, "no pg_hba.conf entry");
            let _ = session.connection.writer.send(&BackendMessage::ErrorResponse(refusal)).await;
            return;
        }
        SettingsConnections::Hung if is_for_settings => std::future::pending().await,
        _ => {}
    }

    let parameters = [("server_version", "15.18"), ("integer_datetimes", "on"), ("client_encoding", "UTF8")];
    session.greet(&Greeting { parameters: &parameters, key: None }).await.unwrap();
    let mut handler = PrimaryHandler { server };
    let _ = serve(session.connection, &mut handler, std::future::pending()).await;
}

struct PrimaryHandler {
    server: watch::Sender<PrimaryState>,
}

impl PrimaryHandler {
    fn answer(&self, query: &str) -> Result<Answer<(Lsn, Tli)>, ErrorResponse> {
        let server = self.server.borrow().clone();
        if let Some(name) = query.strip_prefix("SHOW ") {
            let value = server.setting(name).to_owned();
            return Ok(Answer::row([FieldDescription::text(name)], [Some(value)], "SHOW"));
        }

        if query.starts_with("SELECT name, setting, source") {
            return Ok(Answer::Results(vec![settings_rows(&server)]));
        }

        if query == "IDENTIFY_SYSTEM" {
            let columns = ["systemid", "timeline", "xlogpos", "dbname"].map(FieldDescription::text);
            let flush = server.flush_lsn().to_string();
            let values = [Some(SYSTEM_ID.to_string()), Some(server.tli.to_string()), Some(flush), None];
            return Ok(Answer::row(columns, values, "IDENTIFY_SYSTEM"));
        }

        if query == "READ_REPLICATION_SLOT \"wp\"" {
            let columns = ["slot_type", "restart_lsn", "restart_tli"].map(FieldDescription::text);
            let text = |text: &str| server.slot.then(|| text.to_owned());
            return Ok(Answer::row(
                columns,
                [text("physical"), text(&server.slot_restart_lsn.to_string()), text("1")],
                "READ_REPLICATION_SLOT",
            ));
        }

        if query.starts_with("TIMELINE_HISTORY ") {
            let columns = ["filename", "content"].map(FieldDescription::text);
            return Ok(Answer::row(columns, [Some("x".into()), server.history], "TIMELINE_HISTORY"));
        }

        if let Some(rest) = query.strip_prefix("START_REPLICATION SLOT \"wp\" PHYSICAL ") {
            self.server.send_modify(|server| server.streams.push(rest.to_owned()));
            let mut words = rest.split(' ');
            let from = words.next().unwrap().parse().unwrap();
            let tli = Tli(words.nth(1).unwrap().parse().unwrap());
            return Ok(Answer::CopyBoth((from, tli)));
        }
        Err(ErrorResponse::error(SqlState::SYNTAX_ERROR, format!("unexpected command {query}")))
    }
}

impl Handler<TcpStream> for PrimaryHandler {
    type Copy = (Lsn, Tli);

    async fn query(
        &mut self,
        _: &mut Connection<TcpStream>,
        query: &str,
    ) -> Result<Answer<Self::Copy>, QueryError> {
        Ok(self.answer(query)?)
    }

    async fn copy_both(
        &mut self,
        (from, tli): (Lsn, Tli),
        stream: CopyBoth<TcpStream>,
    ) -> CopyEnd<TcpStream> {
        let CopyBoth { mut reader, mut writer } = stream;
        let reply_requested = Notify::new();
        reply_requested.notify_one();
        let mut changes = self.server.subscribe();
        let fork = changes.borrow().fork(tli);
        let mut ended_by_standby = false;
        let sent = tokio::select! {
            sent = send(&mut writer, &mut changes, &reply_requested, from, tli) => sent,
            received = receive(&mut reader, &self.server, &reply_requested) => {
                ended_by_standby = received.is_ok();
                received
            }
        };
        let after = match (sent, fork) {
            (Ok(()), _) if ended_by_standby => end_of_copy(&mut writer).await,
            (Ok(()), Some(fork)) => end_of_timeline(&mut reader, &mut writer, &self.server, fork).await,
            (sent, _) => sent.map(|()| AfterCopy::Ready(vec![ResultSet::tag("COPY 0")])),
        };
        CopyEnd::new(CopyBoth { reader, writer }, after)
    }
}

/// Answer to the question for the settings.
fn settings_rows(server: &PrimaryState) -> ResultSet {
    let text = |text: &str| Some(text.to_owned().into());
    let names = ["synchronous_standby_names", "synchronous_commit", "fsync", "full_page_writes"];
    let setting = |name| vec![text(name), text(server.setting(name)), text("configuration file"), None, None];
    let overrides = server
        .commit_overrides
        .iter()
        .map(|(role, value)| vec![text("override"), text(value), None, text(role), None]);
    ResultSet {
        columns: ["name", "setting", "source", "role", "database"].map(FieldDescription::text).to_vec(),
        rows: names.into_iter().map(setting).chain(overrides).collect(),
        tag: "SELECT".into(),
    }
}

/// Streams until the connection ends, or up to the end of the timeline.
async fn send(
    writer: &mut CopyWriter<TcpStream>,
    changes: &mut watch::Receiver<PrimaryState>,
    reply_requested: &Notify,
    from: Lsn,
    tli: Tli,
) -> Result<(), QueryError> {
    let mut at = from;
    loop {
        let server = changes.borrow_and_update().clone();
        let now = postgres_micros(SystemTime::now());
        let (server_end, fork) = (server.flush_lsn(), server.fork(tli));
        let end = fork.unwrap_or(server_end);

        while at < end {
            let wal = server.piece(tli, at, end)?;
            let mut payload = BytesMut::new();
            put_xlog_data_header(&mut payload, at, server_end, now);
            payload.extend_from_slice(&wal);
            writer.send(&payload).await?;
            at = at.advance(wal.len() as u64);
        }

        if fork.is_some() {
            return Ok(());
        }

        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return Ok(());
            },
            () = reply_requested.notified() => {
                let keepalive = PrimaryKeepalive { server_end, sent_at_micros: now, reply_requested: true };
                let mut payload = BytesMut::new();
                keepalive.encode(&mut payload);
                writer.send(&payload).await?;
            }
        }
    }
}

/// Records status updates, until the walproposer ends the stream.
async fn receive(
    reader: &mut CopyReader<TcpStream>,
    server: &watch::Sender<PrimaryState>,
    reply_requested: &Notify,
) -> Result<(), QueryError> {
    loop {
        match reader.next(MESSAGE_BYTES_MAX).await? {
            CopyMessage::Data(payload) => {
                let FromStandby::StatusUpdate(status) = FromStandby::decode(payload).unwrap() else {
                    continue;
                };
                if status.reply_requested {
                    reply_requested.notify_one();
                }
                server.send_modify(|server| {
                    server.status = Some(status);
                    server.statuses.push(status);
                });
            }
            CopyMessage::Done | CopyMessage::Fail(_) | CopyMessage::Terminate => return Ok(()),
        }
    }
}

/// Ends the stream after the walproposer has ended it.
async fn end_of_copy(writer: &mut CopyWriter<TcpStream>) -> Result<AfterCopy, QueryError> {
    writer.put_done()?;
    writer.flush().await?;
    Ok(AfterCopy::Ready(vec![ResultSet::tag("START_REPLICATION")]))
}

/// Ends the stream on both sides, and names the next timeline.
async fn end_of_timeline(
    reader: &mut CopyReader<TcpStream>,
    writer: &mut CopyWriter<TcpStream>,
    server: &watch::Sender<PrimaryState>,
    fork: Lsn,
) -> Result<AfterCopy, QueryError> {
    writer.put_done()?;
    writer.flush().await?;
    receive(reader, server, &Notify::new()).await?;
    let next = ResultSet {
        columns: ["next_tli", "next_tli_startpos"].map(FieldDescription::text).to_vec(),
        rows: vec![vec![Some(server.borrow().tli.to_string().into()), Some(fork.to_string().into())]],
        tag: "START_STREAMING".into(),
    };
    Ok(AfterCopy::Ready(vec![next, ResultSet::tag("START_REPLICATION")]))
}
