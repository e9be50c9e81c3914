//! Certificates for tests: an authority of its own, and a certificate for 127.0.0.1 and `localhost` from it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// The files that were written.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority's certificate: what a client trusts.
    pub authority: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// The server's private key.
    pub key: PathBuf,
}

/// Writes a new authority and a server certificate for these names (besides `localhost` and 127.0.0.1).
pub fn write(directory: &Path, names: &[&str]) -> Result<Certificates> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority_key = KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;

    let mut all = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    all.extend(names.iter().map(|name| (*name).to_owned()));
    let key = KeyPair::generate()?;
    let issuer = Issuer::new(authority, authority_key);
    let certificate = CertificateParams::new(all)?.signed_by(&key, &issuer)?;

    let files = Certificates {
        authority: directory.join("ca.pem"),
        certificate: directory.join("server.pem"),
        key: directory.join("server.key"),
    };
    fs::write(&files.authority, authority_certificate.pem())?;
    fs::write(&files.certificate, certificate.pem())?;
    fs::write(&files.key, key.serialize_pem())?;
    Ok(files)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_three_files_are_pem() {
        let directory = tempfile::tempdir().unwrap();
        let files = super::write(directory.path(), &["*.example.test"]).unwrap();
        for file in [files.authority, files.certificate, files.key] {
            assert!(std::fs::read_to_string(file).unwrap().starts_with("-----BEGIN "));
        }
    }
}
