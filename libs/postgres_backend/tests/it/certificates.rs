//! Certificates for the tests of TLS: servers that show them, and clients that trust them.

use std::sync::Arc;

use postgres_backend::ServerTls;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ResolvesServerCertUsingSni;
use rustls::{ClientConfig, RootCertStore, crypto::ring};

pub(crate) fn self_signed(name: &str) -> CertifiedKey<KeyPair> {
    generate_simple_self_signed([name.to_owned()]).unwrap()
}

/// The same in the form that rustls serves.
pub(crate) fn usable(certified: &CertifiedKey<KeyPair>) -> rustls::sign::CertifiedKey {
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    rustls::sign::CertifiedKey::from_der(vec![certified.cert.der().clone()], key, &ring::default_provider())
        .unwrap()
}

/// A server with one self-signed certificate for each name, and those certificates.
pub(crate) fn server_tls(names: &[&str]) -> (ServerTls, Vec<CertificateDer<'static>>) {
    let mut resolver = ResolvesServerCertUsingSni::new();
    let mut certificates = Vec::new();
    for name in names {
        let certified = self_signed(name);
        certificates.push(certified.cert.der().clone());
        resolver.add(name, usable(&certified)).unwrap();
    }
    (ServerTls::from_resolver(Arc::new(resolver)).unwrap(), certificates)
}

/// A client that trusts these certificates only, and names these protocols.
pub(crate) fn client_config(trusted: &[CertificateDer<'static>], alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    trusted.iter().for_each(|certificate| roots.add(certificate.clone()).unwrap());
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}
