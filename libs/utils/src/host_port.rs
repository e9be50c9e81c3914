//! [`is_host_port`]: checks that a flag has the form `HOST:PORT`. Resolves nothing; called by the flags of each server.

/// True for a host that is not empty, a colon, and a port from 0 to 65535: `127.0.0.1:5454`, `[::1]:0`, `db.local:5432`.
pub fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::is_host_port;

    #[test]
    fn host_port_needs_both_parts() {
        for (text, expected) in [
            ("127.0.0.1:0", true),
            ("[::1]:5432", true),
            ("db.local:65535", true),
            ("5432", false),
            (":5432", false),
            ("h:", false),
            ("h:65536", false),
        ] {
            assert_eq!(is_host_port(text), expected, "{text}");
        }
    }
}
