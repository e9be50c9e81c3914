//! Certificates: creates an authority and a server certificate that it signs, for 127.0.0.1, `localhost` and other
//! names. The authority's key is not kept, so nothing else can ever be signed with it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Paths of the certificate files (PEM).
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority's certificate, which clients trust.
    pub authority: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// The server's private key.
    pub key: PathBuf,
}

impl Certificates {
    /// The paths in a directory.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            authority: directory.join("ca.pem"),
            certificate: directory.join("server.pem"),
            key: directory.join("server.key"),
        }
    }

    fn all_exist(&self) -> bool {
        [&self.authority, &self.certificate, &self.key].iter().all(|file| file.exists())
    }
}

/// Returns the certificates in the directory, or creates new ones when one is missing. A crash leaves all files or
/// none.
pub fn load_or_create(directory: &Path, names: &[&str]) -> Result<Certificates> {
    let kept = Certificates::in_directory(directory);
    if kept.all_exist() {
        return Ok(kept);
    }
    let unfinished = directory.with_extension("unfinished");
    for old in [directory, &unfinished] {
        if old.exists() {
            fs::remove_dir_all(old)?;
        }
    }
    fs::create_dir(&unfinished)?;
    create(&unfinished, names)?;
    fs::rename(&unfinished, directory)?;
    Ok(kept)
}

/// Writes a new authority and a server certificate for these names (besides `localhost` and 127.0.0.1). The two have
/// different subjects: OpenSSL takes a certificate whose issuer equals its subject for a self-signed one.
pub fn create(directory: &Path, names: &[&str]) -> Result<Certificates> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "Holdfast local authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority_key = KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;

    let mut all = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    all.extend(names.iter().map(|name| (*name).to_owned()));
    let key = KeyPair::generate()?;
    let issuer = Issuer::new(authority, authority_key);
    let mut server = CertificateParams::new(all)?;
    server.distinguished_name.push(DnType::CommonName, "Holdfast local server");
    let certificate = server.signed_by(&key, &issuer)?;

    let files = Certificates::in_directory(directory);
    fs::write(&files.authority, authority_certificate.pem())?;
    fs::write(&files.certificate, certificate.pem())?;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&files.key)?;
    file.write_all(key.serialize_pem().as_bytes())?;
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Only the owner may read the key.
    #[test]
    fn certificate_files_are_pem_with_a_private_key() {
        let directory = tempfile::tempdir().unwrap();
        let files = create(directory.path(), &["*.example.test"]).unwrap();
        assert_eq!(fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);
        for file in [files.authority, files.certificate, files.key] {
            assert!(fs::read_to_string(file).unwrap().starts_with("-----BEGIN "));
        }
    }

    #[test]
    fn certificates_are_kept_until_one_is_missing() {
        let directory = tempfile::tempdir().unwrap().path().join("tls");
        fs::create_dir_all(directory.parent().unwrap()).unwrap();
        let authority = || {
            let files = load_or_create(&directory, &["*.example.test"]).unwrap();
            (fs::read(&files.authority).unwrap(), files)
        };
        let (first, files) = authority();
        assert_eq!(authority().0, first);
        fs::remove_file(files.key).unwrap();
        assert_ne!(authority().0, first);
    }
}
