//! Handshake of a server, byte by byte: encryption, versions, cancel requests, deadlines, passwords.

use std::time::Duration;

use bytes::BytesMut;
use postgres_backend::{Accepted, ClosedBy, HandshakeConfig, HandshakeError, TlsMode, handshake};
use pq_proto::{
    BackendMessage, Encode, FrontendMessage, ProtocolVersion, SqlState, StartupPacket, authentication,
};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use crate::certificates::server_tls;
use crate::support::{RawClient, SessionEnd, encoded, in_time, startup};

const V3: ProtocolVersion = ProtocolVersion::V3_0;

#[tokio::test]
async fn handshake_declines_each_encryption_once() {
    let mut client = RawClient::new(TlsMode::Disabled);
    for request in [StartupPacket::Ssl, StartupPacket::GssEnc] {
        client.send(&request).await;
        assert_eq!(in_time(client.reader.read_byte()).await.unwrap(), Some(b'N'));
    }
    client.send(&startup(V3, &[("user", "me")])).await;
    assert_eq!(client.until_ready().await, "RSSKZ");
}

#[tokio::test]
async fn repeated_encryption_request_is_a_violation() {
    for request in [StartupPacket::Ssl, StartupPacket::GssEnc] {
        let mut client = RawClient::new(TlsMode::Disabled);
        client.send(&request).await;
        assert_eq!(in_time(client.reader.read_byte()).await.unwrap(), Some(b'N'));
        client.send(&request).await;
        assert_eq!(client.last_error().await.sqlstate, SqlState::PROTOCOL_VIOLATION);
        assert!(matches!(client.end().await, SessionEnd::Refused(HandshakeError::UnexpectedRequest(_))));
    }
}

/// They are refused before the request is answered: an attacker in the middle could have put them there.
#[tokio::test]
async fn bytes_behind_an_encryption_request_are_refused() {
    let (tls, _) = server_tls(&["localhost"]);
    for mode in [TlsMode::Disabled, TlsMode::Offered(tls.clone()), TlsMode::Required(tls)] {
        for request in [StartupPacket::Ssl, StartupPacket::GssEnc] {
            let mut client = RawClient::new(mode.clone());
            client.send_raw(&encoded(&[request, startup(V3, &[("user", "stuffed")])])).await;
            let error = client.last_error().await;
            assert_eq!(error.sqlstate, SqlState::PROTOCOL_VIOLATION);
            assert!(error.message.starts_with("received unencrypted data"), "{error}");
            assert!(matches!(client.end().await, SessionEnd::Refused(HandshakeError::UnencryptedData(_))));
        }
    }
}

#[tokio::test]
async fn required_tls_refuses_plain_sessions_of_any_version() {
    let (tls, _) = server_tls(&["localhost"]);
    for (version, expected) in [
        (V3, SqlState::INVALID_AUTHORIZATION),
        (ProtocolVersion(3 << 16 | 2), SqlState::INVALID_AUTHORIZATION),
        (ProtocolVersion(4 << 16), SqlState::FEATURE_NOT_SUPPORTED),
    ] {
        let mut client = RawClient::new(TlsMode::Required(tls.clone()));
        client.send(&startup(version, &[("user", "me")])).await;
        assert_eq!(client.last_error().await.sqlstate, expected);
        assert!(matches!(client.end().await, SessionEnd::Refused(_)));
    }
}

#[tokio::test]
async fn newer_minor_version_and_options_are_negotiated_down() {
    for (version, option, newest) in [
        (V3, Some("_pq_.command_progress"), V3),
        (ProtocolVersion::V3_2, Some("_pq_.x"), ProtocolVersion::V3_2),
        (ProtocolVersion(3 << 16 | 3), None, ProtocolVersion::V3_2),
        (ProtocolVersion(3 << 16 | 9999), Some("_pq_.x"), ProtocolVersion::V3_2),
    ] {
        let mut client = RawClient::new(TlsMode::Disabled);
        let option = option.map(|name| (name, "on"));
        let params: Vec<_> = [("user", "me")].into_iter().chain(option).collect();
        client.send(&startup(version, &params)).await;
        let unsupported = option.into_iter().map(|(name, _)| name.into()).collect();
        let expected = BackendMessage::NegotiateProtocolVersion { newest, unsupported };
        assert_eq!(client.receive().await, Some(expected), "{version}");
        assert_eq!(client.until_ready().await, "RSSKZ");
    }
}

#[tokio::test]
async fn supported_version_needs_no_negotiation() {
    for version in [V3, ProtocolVersion(3 << 16 | 1), ProtocolVersion::V3_2] {
        let mut client = RawClient::new(TlsMode::Disabled);
        client.send(&startup(version, &[("user", "me")])).await;
        assert_eq!(client.until_ready().await, "RSSKZ", "{version}");
    }
}

#[tokio::test]
async fn session_params_exclude_protocol_options() {
    let (mut client, server) = duplex(4096);
    client
        .write_all(&encoded(&[startup(V3, &[("user", "me"), ("_pq_.x", "1"), ("options", "-c a=b")])]))
        .await
        .unwrap();
    let Ok(Accepted::Session(session)) =
        handshake::accept(server, &HandshakeConfig::new(TlsMode::Disabled)).await
    else {
        panic!("no session");
    };
    let names: Vec<_> = session.params.iter().map(|(name, _)| name.to_str().unwrap()).collect();
    assert_eq!(names, ["user", "options"]);
    assert_eq!(session.tls, None);
}

#[tokio::test]
async fn malformed_opening_is_a_protocol_violation() {
    for bytes in [
        &b"\0\0\0\x07\0\x03\0"[..],
        b"\0\0\0\0",
        b"\0\0\0\x04",
        b"\xff\xff\xff\xff",
        b"\0\0\x27\x11\0\x03\0\0",
        b"\x7f\xff\xff\xff",
        b"\0\0\0\x09\0\x03\0\0x",
        b"\0\0\0\x0c\x04\xd2\x16\x2e\0\0\0\x01",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut client = RawClient::new(TlsMode::Disabled);
        client.send_raw(bytes).await;
        assert_eq!(client.last_error().await.sqlstate, SqlState::PROTOCOL_VIOLATION, "{bytes:?}");
        assert!(matches!(client.end().await, SessionEnd::Refused(HandshakeError::Connection(_))));
    }
}

#[tokio::test]
async fn unsupported_protocol_learns_the_supported_versions() {
    for version in [ProtocolVersion(2 << 16), ProtocolVersion(4 << 16)] {
        let mut client = RawClient::new(TlsMode::Disabled);
        client.send(&startup(version, &[])).await;
        let error = client.last_error().await;
        assert_eq!(error.sqlstate, SqlState::FEATURE_NOT_SUPPORTED);
        assert!(error.message.contains("server supports 3.0 to 3.2"), "{error}");
    }
}

#[tokio::test]
async fn cancel_request_has_4_or_256_key_bytes() {
    for length in [4, 256] {
        let mut client = RawClient::new(TlsMode::Disabled);
        let key = vec![b'k'; length];
        client.send(&StartupPacket::Cancel { pid: 7, key: key.clone().into() }).await;
        assert_eq!(client.receive().await, None);
        let SessionEnd::Cancelled(pid, given) = client.end().await else {
            panic!("not taken for a cancel request")
        };
        assert_eq!((pid, given), (7, key.into()));
    }
}

/// Port scans and health checks do so.
#[tokio::test]
async fn client_that_leaves_silently_is_no_error() {
    let client = RawClient::new(TlsMode::Disabled);
    assert!(matches!(client.end().await, SessionEnd::ClosedByClient));
}

#[tokio::test]
async fn query_sent_ahead_of_the_greeting_is_answered() {
    let mut client = RawClient::new(TlsMode::Disabled);
    let mut wire = encoded(&[startup(V3, &[("user", "me")])]);
    FrontendMessage::Query("SHOW x".into()).encode(&mut wire).unwrap();
    client.send_raw(&wire).await;
    assert_eq!(client.until_ready().await, "RSSKZ");
    assert_eq!(client.until_ready().await, "TDCZ");
    client.send(&FrontendMessage::Terminate).await;
    assert!(matches!(client.end().await, SessionEnd::Served(Ok(ClosedBy::Client))));
}

/// The clock of these tests is virtual: it jumps to the next timer when nothing else can happen.
#[tokio::test(start_paused = true)]
async fn handshake_deadline_covers_all_bytes_together() {
    let (mut client, server) = duplex(4096);
    let config = HandshakeConfig::new(TlsMode::Disabled);
    let began = tokio::time::Instant::now();
    let accepting = tokio::spawn(async move { handshake::accept(server, &config).await });
    let mut drip = tokio::time::interval(Duration::from_secs(1));
    for byte in encoded(&[startup(V3, &[("user", "a client that sends one byte a second")])]) {
        drip.tick().await;
        if client.write_all(&[byte]).await.is_err() {
            break;
        }
    }
    assert!(matches!(accepting.await.unwrap(), Err(HandshakeError::Timeout)));
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"E") && answer.windows(5).any(|five| five == b"57014"), "{answer:?}");
    assert!(began.elapsed() < handshake::HANDSHAKE_TIMEOUT + Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn silent_client_is_closed_without_a_message() {
    let mut client = RawClient::new(TlsMode::Disabled);
    assert_eq!(client.receive().await, None);
    assert!(matches!(client.end().await, SessionEnd::Refused(HandshakeError::Timeout)));
}

#[tokio::test(start_paused = true)]
async fn incomplete_startup_packet_times_out_at_the_deadline() {
    let began = tokio::time::Instant::now();
    let mut client = RawClient::new(TlsMode::Disabled);
    client.send_raw(b"\0\0\x27\x10\0\x03\0\0user\0me\0\0").await;
    assert_eq!(client.last_error().await.sqlstate, SqlState::QUERY_CANCELED);
    assert_eq!(began.elapsed(), handshake::HANDSHAKE_TIMEOUT);
    assert!(matches!(client.end().await, SessionEnd::Refused(HandshakeError::Timeout)));
}

#[tokio::test(start_paused = true)]
async fn missing_password_times_out_at_the_deadline() {
    let mut client = RawClient::with_config(HandshakeConfig::new(TlsMode::Disabled), Some("token"));
    client.send(&startup(V3, &[("user", "me")])).await;
    assert_eq!(client.receive().await.unwrap().tag(), b'R');
    assert_eq!(client.last_error().await.message, "canceling authentication due to timeout");
    assert!(matches!(client.end().await, SessionEnd::Refused(HandshakeError::Timeout)));
}

#[tokio::test]
async fn cleartext_password_is_verified() {
    for (password, expected) in [("token", Some("RSSKZ")), ("", None), ("tokens", None)] {
        let mut client = RawClient::with_config(HandshakeConfig::new(TlsMode::Disabled), Some("token"));
        client.send(&startup(V3, &[("user", "me")])).await;
        assert_eq!(client.receive().await.unwrap().tag(), b'R');
        client
            .send(&FrontendMessage::PasswordMessage(authentication::encode_password(&password.into())))
            .await;
        match expected {
            Some(tags) => assert_eq!(client.until_ready().await, tags),
            None => assert_eq!(client.last_error().await.sqlstate, SqlState::INVALID_PASSWORD),
        }
    }
}

#[tokio::test]
async fn query_in_place_of_the_password_is_refused() {
    let mut client = RawClient::with_config(HandshakeConfig::new(TlsMode::Disabled), Some("token"));
    client.send(&startup(V3, &[("user", "me")])).await;
    assert_eq!(client.receive().await.unwrap().tag(), b'R');
    client.send(&FrontendMessage::Query("SHOW x".into())).await;
    assert_eq!(client.last_error().await.sqlstate, SqlState::PROTOCOL_VIOLATION);
    assert!(matches!(client.end().await, SessionEnd::Refused(HandshakeError::Connection(_))));
}

#[test]
fn handshake_never_panics_or_hangs() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (tls, _) = server_tls(&["localhost"]);
    let length = prop_oneof![Just(8u32), 0u32..64, any::<u32>()];
    let code = prop_oneof![
        Just(80_877_102u32),
        Just(80_877_103),
        Just(80_877_104),
        Just(3 << 16),
        Just(0x1603_0100),
        any::<u32>()
    ];
    let rest = proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..80);
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(length in length, code in code, rest in rest, with_tls in any::<bool>())| {
        let mode = if with_tls { TlsMode::Offered(tls.clone()) } else { TlsMode::Disabled };
        runtime.block_on(async {
            let (mut client, server) = duplex(64 * 1024);
            let bytes = [&length.to_be_bytes()[..], &code.to_be_bytes(), &rest].concat();
            client.write_all(&bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let accepted = in_time(handshake::accept(server, &HandshakeConfig::new(mode))).await;
            drop(accepted);
            let mut answer = BytesMut::new();
            while client.read_buf(&mut answer).await.unwrap() > 0 {}
        });
    });
}
