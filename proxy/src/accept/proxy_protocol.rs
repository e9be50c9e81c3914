//! The PROXY protocol, version 2: a load balancer tells the address of the client before the client's first byte (HAProxy
//! documentation, "The PROXY protocol", section 2.2). Any client that can connect can claim any address, so it is only for
//! listeners that only the balancer reaches. Called by `accept`, before the handshake.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::config::ProxyProtocol;

/// Beginning of every header. No other protocol begins with these bytes.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of the fixed part: signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
/// Longest header in bytes. Balancers send some hundred; the length field would allow 64 KiB.
const HEADER_BYTES_MAX: usize = 4096;
/// Room for one read.
const READ_BYTES: usize = 512;

/// Type of the additional field with the checksum.
const TLV_CRC32C: u8 = 0x03;
/// Type and length of an additional field.
const TLV_HEADER_BYTES: usize = 3;

/// Why the first bytes of a connection are no valid header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyProtocolError {
    #[error("connection does not begin with a PROXY protocol header")]
    Missing,
    #[error("connection ended inside the PROXY protocol header")]
    Torn,
    #[error("PROXY protocol header of {0} bytes exceeds {HEADER_BYTES_MAX} bytes")]
    TooLong(usize),
    #[error("malformed PROXY protocol header: {0}")]
    Malformed(&'static str),
    #[error("PROXY protocol header has a wrong checksum")]
    Checksum,
    #[error("cannot read the PROXY protocol header: {0}")]
    Io(#[from] std::io::Error),
}

/// Reads the header, if one is expected. Returns the client's address, if the header has one, and the client's bytes
/// that were read behind the header.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    expected: ProxyProtocol,
) -> Result<(Option<SocketAddr>, BytesMut), ProxyProtocolError> {
    let mut buffer = BytesMut::new();
    if expected == ProxyProtocol::Rejected {
        return Ok((None, buffer));
    }
    let mut wanted = FIXED_BYTES;
    while buffer.len() < wanted {
        buffer.reserve(READ_BYTES);
        let is_over = stream.read_buf(&mut buffer).await? == 0;
        let seen = buffer.len().min(SIGNATURE.len());
        match (buffer[..seen] == SIGNATURE[..seen], expected) {
            // A port check. The handshake finds that the connection is closed.
            _ if buffer.is_empty() => return Ok((None, buffer)),
            (false, ProxyProtocol::Optional) => return Ok((None, buffer)),
            (false, _) => return Err(ProxyProtocolError::Missing),
            (true, _) if is_over => return Err(ProxyProtocolError::Torn),
            (true, _) => {}
        }
        if let Some([high, low]) = buffer.get(FIXED_BYTES - 2..FIXED_BYTES) {
            wanted = FIXED_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
        }
        if wanted > HEADER_BYTES_MAX {
            return Err(ProxyProtocolError::TooLong(wanted));
        }
    }
    let client = parse(&buffer[..wanted])?;
    buffer.advance(wanted);
    Ok((client, buffer))
}

/// Returns the client's address from a complete header. `None` when the load balancer connects for itself, or does
/// not know the client.
fn parse(header: &[u8]) -> Result<Option<SocketAddr>, ProxyProtocolError> {
    let (version, command, family) = (header[12] >> 4, header[12] & 0xf, header[13]);
    if version != 2 || command > 1 {
        return Err(ProxyProtocolError::Malformed("neither LOCAL nor PROXY of version 2"));
    }
    let is_local = command == 0;
    let body = &header[FIXED_BYTES..];
    let truncated = ProxyProtocolError::Malformed("ends inside the addresses");
    let (client, address_bytes) = match family {
        0x00 => (None, 0),
        0x11 => (Some(client_v4(body).ok_or(truncated)?), 12),
        0x21 => (Some(client_v6(body).ok_or(truncated)?), 36),
        // Unix sockets: two paths of 108 bytes.
        0x31 if body.len() >= 216 => (None, 216),
        // What a balancer says about itself does not matter.
        _ if is_local => return Ok(None),
        _ => return Err(ProxyProtocolError::Malformed("client is not connected over TCP")),
    };
    check_fields(header, FIXED_BYTES + address_bytes)?;
    Ok(client.filter(|_| !is_local))
}

/// Layout: source address, destination address, source port, destination port.
fn client_v4(body: &[u8]) -> Option<SocketAddr> {
    let (address, rest) = body.split_first_chunk::<4>()?;
    Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(*address)), port(rest, 4)?))
}

fn client_v6(body: &[u8]) -> Option<SocketAddr> {
    let (address, rest) = body.split_first_chunk::<16>()?;
    Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*address)), port(rest, 16)?))
}

fn port(rest: &[u8], destination_bytes: usize) -> Option<u16> {
    let (source, destination) = rest.get(destination_bytes..)?.split_first_chunk::<2>()?;
    destination.first_chunk::<2>().map(|_| u16::from_be_bytes(*source))
}

/// The additional fields must be whole, and the checksum right when it is one of them.
fn check_fields(header: &[u8], mut at: usize) -> Result<(), ProxyProtocolError> {
    while at < header.len() {
        let truncated = ProxyProtocolError::Malformed("ends inside an additional field");
        let Some([kind, high, low]) = header.get(at..at + TLV_HEADER_BYTES) else { return Err(truncated) };
        let begin = at + TLV_HEADER_BYTES;
        let value = begin..begin + usize::from(u16::from_be_bytes([*high, *low]));
        let content = header.get(value.clone()).ok_or(truncated)?;
        at = value.end;
        if *kind == TLV_CRC32C {
            let told = content.try_into().map(u32::from_be_bytes);
            let told = told.map_err(|_| ProxyProtocolError::Malformed("checksum is not 4 bytes long"))?;
            // Of the whole header, with zeros in place of the checksum.
            let before = crc32c::crc32c(&header[..value.start]);
            let zeros = crc32c::crc32c_append(before, &[0; 4]);
            if crc32c::crc32c_append(zeros, &header[value.end..]) != told {
                return Err(ProxyProtocolError::Checksum);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: &[u8] = b"\x01\x02\x03\x04\x0a\0\0\x01\x30\x39\x15\x38";
    const V6: &[u8] =
        b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\0\x07\x15\x38";

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    /// With a checksum, which is right when `wrong` is 0.
    fn with_checksum(family: u8, addresses: &[u8], wrong: u8) -> Vec<u8> {
        let body = [addresses, b"\x04\0\x02no", b"\x03\0\x04\0\0\0\0", b"\xea\0\0"].concat();
        let mut bytes = header(0x21, family, &body);
        let checksum = crc32c::crc32c(&bytes).to_be_bytes();
        let at = bytes.len() - 7;
        bytes[at..at + 4].copy_from_slice(&checksum);
        bytes[at] ^= wrong;
        bytes
    }

    async fn read_all(bytes: &[u8], expected: ProxyProtocol) -> Result<(Option<String>, Vec<u8>), String> {
        // One byte at a time, and all at once: it must not matter.
        let mut slow = tokio_test_reader(bytes, 1);
        let slow = outcome(read(&mut slow, expected).await, &mut slow).await;
        let mut fast = tokio_test_reader(bytes, usize::MAX);
        let fast = outcome(read(&mut fast, expected).await, &mut fast).await;
        assert_eq!(slow, fast);
        fast
    }

    async fn outcome(
        read: Result<(Option<SocketAddr>, BytesMut), ProxyProtocolError>,
        stream: &mut Pieces,
    ) -> Result<(Option<String>, Vec<u8>), String> {
        let (client, rest) = read.map_err(|error| error.to_string())?;
        let mut rest = rest.to_vec();
        stream.read_to_end(&mut rest).await.unwrap();
        Ok((client.map(|client| client.to_string()), rest))
    }

    fn tokio_test_reader(bytes: &[u8], piece: usize) -> Pieces {
        Pieces { bytes: bytes.to_vec().into(), piece }
    }

    struct Pieces {
        bytes: bytes::Bytes,
        piece: usize,
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            let count = self.piece.min(self.bytes.len()).min(buffer.remaining());
            buffer.put_slice(&self.bytes.split_to(count));
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn header_names_the_client_and_leaves_its_bytes() {
        for (header, client) in [
            (header(0x21, 0x11, V4), Some("1.2.3.4:12345")),
            (header(0x21, 0x21, V6), Some("[2001:db8::1]:7")),
            (header(0x21, 0x11, &[V4, b"\x04\0\x02no"].concat()), Some("1.2.3.4:12345")),
            (with_checksum(0x11, V4, 0), Some("1.2.3.4:12345")),
            (with_checksum(0x21, V6, 0), Some("[2001:db8::1]:7")),
            (with_checksum(0x00, b"", 0), None),
            (header(0x21, 0x31, &[0; 216]), None),
            // A health check of the balancer, and a client that it does not know.
            (header(0x20, 0x00, b""), None),
            (header(0x20, 0x11, V4), None),
            (header(0x20, 0x77, b"whatever"), None),
            (header(0x21, 0x00, b""), None),
        ] {
            for rest in [&b""[..], b"\0\0\0\x08\x04\xd2\x16/"] {
                let bytes = [&header, rest].concat();
                for expected in [ProxyProtocol::Required, ProxyProtocol::Optional] {
                    let read = read_all(&bytes, expected).await;
                    assert_eq!(read, Ok((client.map(str::to_owned), rest.to_vec())), "{bytes:?}");
                }
                let untouched = read_all(&bytes, ProxyProtocol::Rejected).await;
                assert_eq!(untouched, Ok((None, bytes)));
            }
        }
    }

    #[tokio::test]
    async fn missing_header_is_an_error_only_if_required() {
        for bytes in
            [&b"\0\0\0\x08\x04\xd2\x16/"[..], b"\x16\x03\x01", b"\r\n\r\nGET", b"\r\n\r\n\0\r\nQUIT "]
        {
            assert_eq!(read_all(bytes, ProxyProtocol::Optional).await, Ok((None, bytes.to_vec())));
            let missing = read_all(bytes, ProxyProtocol::Required).await.unwrap_err();
            assert_eq!(missing, ProxyProtocolError::Missing.to_string());
        }
        for expected in [ProxyProtocol::Required, ProxyProtocol::Optional] {
            assert_eq!(read_all(b"", expected).await, Ok((None, Vec::new())));
        }
    }

    #[tokio::test]
    async fn read_refuses_invalid_headers() {
        for (bytes, words) in [
            (header(0x11, 0x11, V4), "neither LOCAL nor PROXY"),
            (header(0x22, 0x11, V4), "neither LOCAL nor PROXY"),
            (header(0x21, 0x12, V4), "client is not connected over TCP"),
            (header(0x21, 0x99, V4), "client is not connected over TCP"),
            (header(0x21, 0x11, &V4[..11]), "ends inside the addresses"),
            (header(0x21, 0x11, b""), "ends inside the addresses"),
            (header(0x21, 0x21, &V6[..35]), "ends inside the addresses"),
            (header(0x21, 0x31, &[0; 215]), "client is not connected over TCP"),
            (header(0x21, 0x11, &[V4, b"\x04"].concat()), "ends inside an additional field"),
            (header(0x21, 0x11, &[V4, b"\xea\0\x02n"].concat()), "ends inside an additional field"),
            (header(0x21, 0x11, &[V4, b"\x03\0\x03abc"].concat()), "checksum is not 4 bytes long"),
            (header(0x21, 0x11, &[V4, b"\x03\0\0"].concat()), "checksum is not 4 bytes long"),
            (with_checksum(0x11, V4, 1), "PROXY protocol header has a wrong checksum"),
            (header(0x21, 0x11, V4)[..20].to_vec(), "ended inside the PROXY protocol header"),
            (SIGNATURE.to_vec(), "ended inside the PROXY protocol header"),
            (b"\r\n".to_vec(), "ended inside the PROXY protocol header"),
            (header(0x21, 0x11, &[0; 4081]), "header of 4097 bytes"),
            ([&SIGNATURE[..], b"\x21\x11\xff\xff"].concat(), "header of 65551 bytes"),
        ] {
            for expected in [ProxyProtocol::Required, ProxyProtocol::Optional] {
                let error = read_all(&bytes, expected).await.unwrap_err();
                assert!(error.contains(words), "{bytes:?}: {error}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(command in 0x20u8..=0x21, family: u8, body in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&header(command, family, &body));
        }
    }
}
