//! TLS for clients: certificates, their files, and their replacement while the proxy runs.

pub(crate) mod certificates;
pub(crate) mod files;
pub(crate) mod store;

pub(crate) use self::certificates::{Certificate, Certificates};
pub(crate) use self::store::{Tls, TlsStore};
