//! TLS store: the present certificates for clients, and when TLS is used.
//!
//! A [reload](crate::lifecycle::reload) replaces all of it at once, for later connections; invalid files change
//! nothing. A session gets them once, so that SCRAM binds to the certificate that the handshake showed.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use postgres_backend::{ServerTls, TlsMode};
use rustls::server::ResolvesServerCert;

use super::certificates::{CertificateError, Certificates};
use crate::config::TlsSources;
use crate::lifecycle::reload::{Apply, Source};

/// Certificates, and the mode that uses them.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// `None` when sessions are not encrypted.
    pub(crate) certificates: Option<Arc<Certificates>>,
    pub(crate) mode: TlsMode,
}

/// The present TLS state, and where its files are.
#[derive(Debug)]
pub(crate) struct TlsStore {
    sources: TlsSources,
    current: ArcSwap<Tls>,
}

impl TlsStore {
    pub(crate) fn load(sources: TlsSources) -> Result<Self, CertificateError> {
        let current = ArcSwap::from_pointee(Tls::load(&sources)?);
        Ok(Self { sources, current })
    }

    pub(crate) fn current(&self) -> Arc<Tls> {
        self.current.load_full()
    }
}

impl Source for TlsStore {
    fn files(&self) -> Vec<PathBuf> {
        self.sources.files()
    }

    fn read(&self) -> Result<Apply<'_>, String> {
        let tls = Arc::new(Tls::load(&self.sources).map_err(|error| error.to_string())?);
        Ok(Box::new(|| self.current.store(tls)))
    }
}

impl Tls {
    fn load(sources: &TlsSources) -> Result<Self, CertificateError> {
        let Some(certificates) = Certificates::load(&sources.all_pairs()?)?.map(Arc::new) else {
            return Ok(Self { certificates: None, mode: TlsMode::Disabled });
        };
        let resolver = Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>;
        let tls = match &sources.client_authority {
            Some(authority) => ServerTls::with_client_authority(resolver, authority)?,
            None => ServerTls::from_resolver(resolver)?,
        };
        Ok(Self { certificates: Some(certificates), mode: TlsMode::Required(tls) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tls::certificates::tests::write;

    #[test]
    fn tls_reload_is_all_or_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let pair = |name| write(directory.path(), &[name], &rcgen::PKCS_ECDSA_P256_SHA256);
        let (old, new) = (pair("old.test"), pair("new.test"));
        let store = TlsStore::load(TlsSources { pairs: vec![old.clone()], ..TlsSources::default() }).unwrap();
        let names = || store.current().certificates.as_ref().unwrap().choose(None).names.clone();
        let in_use = store.current();
        // The new certificate is in place, its key is not yet.
        fs::copy(&new.certificate, &old.certificate).unwrap();
        assert!(store.read().is_err());
        assert_eq!(names(), ["old.test"]);
        fs::copy(&new.key, &old.key).unwrap();
        let apply = store.read().unwrap();
        assert_eq!(names(), ["old.test"]);
        apply();
        assert_eq!(names(), ["new.test"]);
        // A connection that has begun keeps its certificate.
        assert_eq!(in_use.certificates.as_ref().unwrap().choose(None).names, ["old.test"]);
    }

    #[test]
    fn store_without_certificates_disables_tls() {
        let store = TlsStore::load(TlsSources::default()).unwrap();
        assert!(matches!(store.current().mode, TlsMode::Disabled));
    }
}
