//! [`TlsStore`]: what TLS for clients is at the moment. A reload exchanges all of it at once, for connections that come
//! after it; when the new files are wrong, the old state stays. Kept by `server`, asked by every session once, so that
//! what SCRAM binds to is what the handshake showed.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use postgres_backend::{ServerTls, TlsPolicy};
use rustls::server::ResolvesServerCert;
use utils::Shutdown;

use super::files::TlsSources;
use super::{CertificateError, Certificates};
use crate::metrics::{How, Metrics};

/// How often is looked for changed files.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// A state.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// `None` when sessions are not encrypted.
    pub(crate) certificates: Option<Arc<Certificates>>,
    pub(crate) policy: TlsPolicy,
}

/// The state at the moment.
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

    /// Reads all files again. On an error everything stays as it is.
    pub(crate) fn reload(&self) -> Result<(), CertificateError> {
        self.current.store(Arc::new(Tls::load(&self.sources)?));
        Ok(())
    }

    /// Reloads at SIGHUP and when a file has changed, until the process ends. Where TLS is not configured there is nothing
    /// to do.
    pub(crate) async fn keep_current(self: Arc<Self>, shutdown: Shutdown, metrics: Metrics) {
        if self.current().certificates.is_none() {
            return;
        }
        let mut asked_for = shutdown.reloads();
        let mut known = self.fingerprint().await;
        loop {
            let is_asked_for = tokio::select! {
                () = asked_for.next() => true,
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
            };
            let now = self.fingerprint().await;
            if !is_asked_for && now == known {
                continue;
            }
            known = now;
            let store = Arc::clone(&self);
            let reloaded = tokio::task::spawn_blocking(move || store.reload()).await;
            let how = match reloaded {
                Ok(Ok(())) => {
                    tracing::info!("certificates were read again");
                    "reloaded"
                }
                Ok(Err(error)) => {
                    tracing::error!(%error, "new certificates cannot be used: the old ones stay");
                    "failed"
                }
                Err(_) => "failed",
            };
            metrics.tls_reloads.get_or_create(&How { how }).inc();
        }
    }

    async fn fingerprint(self: &Arc<Self>) -> Option<super::files::Fingerprint> {
        let store = Arc::clone(self);
        tokio::task::spawn_blocking(move || store.sources.fingerprint()).await.ok()
    }
}

impl Tls {
    fn load(sources: &TlsSources) -> Result<Self, CertificateError> {
        let Some(certificates) = Certificates::load(&sources.all_pairs()?)?.map(Arc::new) else {
            return Ok(Self { certificates: None, policy: TlsPolicy::Disabled });
        };
        let resolver = Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>;
        let tls = match &sources.client_authority {
            Some(authority) => ServerTls::with_client_authority(resolver, authority)?,
            None => ServerTls::from_resolver(resolver)?,
        };
        Ok(Self { certificates: Some(certificates), policy: TlsPolicy::Required(tls) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tls::tests::write;

    #[test]
    fn a_reload_takes_all_or_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let pair = |name| write(directory.path(), &[name], &rcgen::PKCS_ECDSA_P256_SHA256);
        let (old, new) = (pair("old.test"), pair("new.test"));
        let store = TlsStore::load(TlsSources { pairs: vec![old.clone()], ..TlsSources::default() }).unwrap();
        let names = || store.current().certificates.as_ref().unwrap().choose(None).names.clone();
        let in_use = store.current();
        // The certificate is there, its key is not yet.
        fs::copy(&new.certificate, &old.certificate).unwrap();
        store.reload().unwrap_err();
        assert_eq!(names(), ["old.test"]);
        fs::copy(&new.key, &old.key).unwrap();
        store.reload().unwrap();
        assert_eq!(names(), ["new.test"]);
        // A connection that has begun goes on with what it began with.
        assert_eq!(in_use.certificates.as_ref().unwrap().choose(None).names, ["old.test"]);
    }

    #[test]
    fn without_certificates_there_is_no_tls_and_nothing_to_ask_clients_for() {
        let store = TlsStore::load(TlsSources::default()).unwrap();
        assert!(matches!(store.current().policy, TlsPolicy::Disabled));
    }
}
