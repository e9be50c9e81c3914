//! Certificates: chooses the certificate for a server name, and knows the domains that route and the hash that SCRAM binds to.
//!
//! [`super::files`] finds the files, [`super::store`] replaces certificates while the proxy runs, and `postgres_backend` does
//! the handshake. Called by every session.

use std::path::PathBuf;
use std::sync::Arc;

use postgres_backend::TlsError;
use postgres_backend::tls::load_certified_key;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::TlsFiles;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// A file cannot be read or used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Certificate and key do not belong together.
    #[error("{} and {}: {error}", files.certificate.display(), files.key.display())]
    Pair {
        /// The files.
        files: TlsFiles,
        /// The cause.
        error: TlsError,
    },
    /// The certificate is not valid X.509.
    #[error("cannot read the names in certificate {}", .0.display())]
    Names(PathBuf),
    /// The directory of certificates cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        error: std::io::Error,
    },
    /// The directory has no certificate with a key.
    #[error("no certificate with its key in directory {}", .0.display())]
    EmptyDirectory(PathBuf),
}

/// All certificates of this server. The first one is for clients that name no known server.
#[derive(Debug)]
pub(crate) struct Certificates {
    first: Certificate,
    others: Vec<Certificate>,
}

/// One certificate, with the names in it.
#[derive(Debug)]
pub(crate) struct Certificate {
    key: Arc<CertifiedKey>,
    /// Names without a wildcard, in lower case.
    pub(super) names: Vec<String>,
    /// `D` of every name `*.D`, in lower case.
    domains: Vec<String>,
    end_point_hash: Option<Vec<u8>>,
}

impl Certificates {
    /// Reads every pair of files. `None` when `files` is empty.
    pub(crate) fn load(files: &[TlsFiles]) -> Result<Option<Self>, CertificateError> {
        let mut certificates =
            files.iter().map(Certificate::load).collect::<Result<Vec<_>, _>>()?.into_iter();
        let Some(first) = certificates.next() else { return Ok(None) };
        Ok(Some(Self { first, others: certificates.collect() }))
    }

    /// The certificate for this name: one that has it, then one that has a wildcard for it, then the first.
    pub(crate) fn choose(&self, server_name: Option<&str>) -> &Certificate {
        let name = server_name.unwrap_or_default().to_ascii_lowercase();
        let domain = name.split_once('.').map_or("", |(_, domain)| domain);
        let all = || std::iter::once(&self.first).chain(&self.others);
        all()
            .find(|certificate| certificate.names.contains(&name))
            .or_else(|| all().find(|certificate| certificate.domains.iter().any(|known| known == domain)))
            .unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.choose(client_hello.server_name()).key))
    }
}

impl Certificate {
    fn load(files: &TlsFiles) -> Result<Self, CertificateError> {
        let key = load_certified_key(&files.certificate, &files.key).map_err(|error| match error {
            TlsError::Pem { .. } => error.into(),
            // The other errors do not name the files.
            error => CertificateError::Pair { files: files.clone(), error },
        })?;
        let unreadable = || CertificateError::Names(files.certificate.clone());
        let leaf = key.cert.first().ok_or_else(unreadable)?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| unreadable())?;
        let alternative = parsed.subject_alternative_name().map_err(|_| unreadable())?;
        let all = alternative.iter().flat_map(|extension| &extension.value.general_names);
        let mut all: Vec<String> = all
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            })
            .collect();
        // Only a certificate without alternative names is for its common name (RFC 6125, section 6.4.4).
        if all.is_empty() {
            let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
            all = common.map(str::to_ascii_lowercase).collect();
        }
        let domains = all.iter().filter_map(|name| name.strip_prefix("*.")).map(str::to_owned).collect();
        let names = all.iter().filter(|name| !name.starts_with("*.")).cloned().collect();
        let algorithm = parsed.signature_algorithm.algorithm.to_id_string();
        let end_point_hash = end_point_hash(&algorithm, leaf);
        Ok(Self { names, domains, end_point_hash, key: Arc::new(key) })
    }

    /// The domains in which the label of a server name is an endpoint.
    pub(crate) fn domains(&self) -> &[String] {
        &self.domains
    }

    /// The hash for the channel binding `tls-server-end-point` (RFC 5929, section 4).
    pub(crate) fn end_point_hash(&self) -> Option<&[u8]> {
        self.end_point_hash.as_deref()
    }
}

/// Hash of the certificate with the hash of its signature, where MD5 and SHA-1 become SHA-256 (RFC 5929, section 4.1).
/// `None` for a signature without a hash of its own, such as Ed25519: there clients and servers do not agree on one.
fn end_point_hash(algorithm: &str, certificate: &[u8]) -> Option<Vec<u8>> {
    Some(match algorithm {
        // MD5, SHA-1 and SHA-256 with RSA; ECDSA with SHA-1 and SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Sha256::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Sha384::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Sha512::digest(certificate).to_vec(),
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm};

    use super::*;

    /// Writes a self-signed certificate and its key.
    pub(crate) fn write(
        directory: &Path,
        names: &[&str],
        algorithm: &'static SignatureAlgorithm,
    ) -> TlsFiles {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let file = directory.join(names.first().unwrap());
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let files = TlsFiles { certificate: file.with_extension("pem"), key: file.with_extension("key") };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn server_name_chooses_its_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let write = |names: &[&str]| write(directory.path(), names, &rcgen::PKCS_ECDSA_P256_SHA256);
        let files = [
            write(&["first.test", "127.0.0.1"]),
            write(&["wild", "*.D.test"]),
            write(&["exact.d.test", "*.sub.d.test"]),
        ];
        let certificates = Certificates::load(&files).unwrap().unwrap();
        for (server_name, first_name) in [
            (None, "first.test"),
            (Some("first.test"), "first.test"),
            (Some("unknown.example"), "first.test"),
            (Some("main.d.test"), "wild"),
            (Some("MAIN.D.TEST"), "wild"),
            (Some("exact.d.test"), "exact.d.test"),
            (Some("a.sub.d.test"), "exact.d.test"),
            (Some("a.b.d.test"), "first.test"),
            (Some("d.test"), "first.test"),
        ] {
            assert_eq!(certificates.choose(server_name).names[0], first_name, "{server_name:?}");
        }
        assert_eq!(certificates.choose(Some("x.d.test")).domains(), ["d.test"]);
        assert!(certificates.choose(None).domains().is_empty());
    }

    #[test]
    fn common_name_counts_without_alternative_names() {
        let directory = tempfile::tempdir().unwrap();
        let with_common_name = |file: &str, names: &[&str]| {
            let key = KeyPair::generate().unwrap();
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, "*.Common.test");
            let path = directory.path().join(file);
            let files = TlsFiles { certificate: path.with_extension("pem"), key: path.with_extension("key") };
            std::fs::write(&files.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
            std::fs::write(&files.key, key.serialize_pem()).unwrap();
            Certificate::load(&files).unwrap()
        };
        assert_eq!(with_common_name("old", &[]).domains(), ["common.test"]);
        assert_eq!(with_common_name("new", &["*.alternative.test"]).domains(), ["alternative.test"]);
    }

    #[test]
    fn keys_of_every_usual_form_are_read() {
        let directory = tempfile::tempdir().unwrap();
        for (name, options) in [
            ("ec-pkcs8", "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1"),
            ("rsa-pkcs8", "-newkey rsa:2048"),
        ] {
            let file = |end: &str| directory.path().join(name).with_extension(end);
            let files = TlsFiles { certificate: file("crt"), key: file("key") };
            let openssl = |arguments: &str| {
                let words = arguments.split(' ');
                let output = std::process::Command::new("openssl").args(words).output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            };
            let (certificate, key) = (files.certificate.display(), files.key.display());
            openssl(&format!("req -x509 -nodes -subj /CN=a.test {options} -out {certificate} -keyout {key}"));
            assert_eq!(Certificate::load(&files).unwrap().names, ["a.test"]);
            // The older form has the name of the algorithm in its first line.
            let older = TlsFiles { key: file("old"), ..files.clone() };
            openssl(&format!("pkey -in {key} -traditional -out {}", older.key.display()));
            assert!(!std::fs::read_to_string(&older.key).unwrap().contains("BEGIN PRIVATE KEY"));
            assert_eq!(Certificate::load(&older).unwrap().end_point_hash().map(<[u8]>::len), Some(32));
        }
    }

    #[test]
    fn channel_binding_needs_a_defined_signature_hash() {
        let directory = tempfile::tempdir().unwrap();
        for (algorithm, bytes) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(32)),
            (&PKCS_ECDSA_P384_SHA384, Some(48)),
            (&PKCS_ED25519, None),
        ] {
            let files = write(directory.path(), &["name.test"], algorithm);
            let certificates = Certificates::load(&[files]).unwrap().unwrap();
            assert_eq!(certificates.choose(None).end_point_hash().map(<[u8]>::len), bytes);
        }
    }

    #[test]
    fn certificates_without_files_mean_no_tls() {
        assert!(Certificates::load(&[]).unwrap().is_none());
        let missing = TlsFiles { certificate: "/nonexistent/c.pem".into(), key: "/nonexistent/k.pem".into() };
        assert!(Certificates::load(&[missing]).unwrap_err().to_string().contains("/nonexistent/c.pem"));
    }
}
