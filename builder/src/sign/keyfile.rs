//! Keys in files.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::Ed25519KeyPair;
use bundle::Name;
use imgrun::tuf::PublicKey;
use pkcs8::der::pem::{LineEnding, PemLabel};
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SecretDocument};

use super::{Ask, Known, Place, SigningKey};
use crate::{Error, Result};

/// A key's file is at most this long.
const KEY_BYTES_MAX: u64 = 64 << 10;
const PLAIN: &str = PrivateKeyInfoRef::PEM_LABEL;
const ENCRYPTED: &str = EncryptedPrivateKeyInfoRef::PEM_LABEL;

/// The keys in `dir`, by name; none where it is not there.
pub(super) fn list(dir: &Path) -> Result<Vec<Known>> {
    let about = |e| Error::io(dir.display(), e);
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(about)?,
    };
    let mut known = Vec::new();
    for entry in entries {
        let path = entry.map_err(about)?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".json")) else {
            continue;
        };
        let json = read(&path)?;
        let public: PublicKey = serde_json::from_str(&json)
            .map_err(|e| Error::input(format!("{}: it is no key", path.display())).because(e))?;
        let place = Place::File(path.with_file_name(format!("{name}.pem")));
        known.push(Known { name: name.to_string(), public, place });
    }
    known.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(known)
}

/// A file's text. A private key that others may read is refused.
pub(super) fn read(path: &Path) -> Result<String> {
    let about = |e| Error::io(path.display(), e);
    let file = fs::File::open(path).map_err(about)?;
    let mode = file.metadata().map_err(about)?.mode();
    let private = path.extension().is_some_and(|e| e == "pem");
    if private && mode & 0o077 != 0 {
        return Err(Error::trust(format!("{}: others may read it", path.display()))
            .hint(format!("chmod 600 {}", path.display())));
    }
    let mut text = String::new();
    file.take(KEY_BYTES_MAX).read_to_string(&mut text).map_err(about)?;
    Ok(text)
}

/// Writes `key` as `name`; the public half last, which makes it known.
pub(super) fn create(dir: &Path, name: &str, key: &SigningKey, ask: &Ask<'_>) -> Result<PathBuf> {
    let name: Name = name.parse().map_err(|e| Error::usage(format!("{e}")))?;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| Error::io(dir.display(), e))?;
    let path = dir.join(format!("{name}.pem"));
    let there = || {
        Error::usage(format!("{}: there is a key of that name", path.display()))
            .hint("keys are never overwritten: choose another name")
    };
    if path.exists() {
        return Err(there());
    }
    let pem = to_pem(key, &ask(name.as_str())?)?;
    let new = |path: &Path, text: &str| -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    new(&path, &pem).map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => there(),
        _ => Error::io(path.display(), e),
    })?;
    let public = serde_json::to_string_pretty(key.public()).unwrap_or_default() + "\n";
    let public_path = dir.join(format!("{name}.json"));
    new(&public_path, &public).map_err(|e| Error::io(public_path.display(), e))?;
    let synced = fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| Error::io(dir.display(), e))?;
    Ok(path)
}

fn to_pem(key: &SigningKey, passphrase: &str) -> Result<String> {
    let broken = |_| Error::bug("a new key can not be written");
    let plain = key.pair.to_pkcs8v1().map_err(|_| Error::bug("a new key can not be written"))?;
    let info = PrivateKeyInfoRef::try_from(plain.as_ref()).map_err(broken)?;
    let pem = if passphrase.is_empty() {
        let document = SecretDocument::encode_msg(&info);
        document.and_then(|d| d.to_pem(PLAIN, LineEnding::LF))
    } else {
        let document = info.encrypt(passphrase.as_bytes()).map_err(broken)?;
        document.to_pem(ENCRYPTED, LineEnding::LF)
    };
    Ok(pem.map_err(|_| Error::bug("a new key can not be written"))?.to_string())
}

/// The PEM blocks of a text.
pub(super) fn blocks(text: &str) -> Result<Vec<String>> {
    let mut blocks = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find("-----END ").and_then(|at| Some(at + rest[at..].find("KEY-----")? + 8));
        let end = end.filter(|_| rest.starts_with("-----BEGIN ")).ok_or_else(|| {
            Error::input(format!("{}: PEM blocks of private keys are wanted", super::KEYS_VARIABLE))
        })?;
        blocks.push(rest[..end].to_string());
        rest = rest[end..].trim();
    }
    Ok(blocks)
}

/// The private key in `pem`.
pub(super) fn open(pem: &str, name: &str, ask: &Ask<'_>) -> Result<SigningKey> {
    let wrong = || Error::input(format!("key {name}: it is no ed25519 key in PKCS#8"));
    let (label, document) = SecretDocument::from_pem(pem.trim()).map_err(|_| wrong())?;
    let plain = match label {
        PLAIN => document,
        ENCRYPTED => {
            let info =
                EncryptedPrivateKeyInfoRef::try_from(document.as_bytes()).map_err(|_| wrong())?;
            info.decrypt(ask(name)?.as_bytes())
                .map_err(|_| Error::trust(format!("key {name}: the passphrase is wrong")))?
        }
        _ => return Err(wrong()),
    };
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(plain.as_bytes()).map_err(|_| wrong())?;
    Ok(SigningKey::from_pair(pair))
}

#[cfg(test)]
mod tests {
    use super::super::Keys;
    use super::*;

    #[test]
    fn a_key_comes_back_with_its_passphrase_only() {
        let dir = tempfile::tempdir().unwrap();
        let right: &Ask<'_> = &|_| Ok("open sesame".to_string());
        let keys = Keys::load(dir.path(), None, right).unwrap();
        let (public, path) = keys.create("root-1", right).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&path).unwrap().starts_with("-----BEGIN ENCRYPTED PRIVATE KEY"));
        assert!(keys.create("root-1", right).is_err());
        let keys = Keys::load(dir.path(), None, right).unwrap();
        let known = keys.find("root-1").unwrap();
        assert_eq!(keys.find(&public.id()[..10]).unwrap().name, "root-1");
        assert_eq!(*keys.open(known, right).unwrap().public(), public);
        let error = keys.open(known, &|_| Ok("guess".to_string())).unwrap_err();
        assert_eq!(error.to_string(), "key root-1: the passphrase is wrong");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(keys.open(known, right).unwrap_err().to_string().contains("others may read it"));
    }

    #[test]
    fn keys_come_from_the_environment_too() {
        let dir = tempfile::tempdir().unwrap();
        let none: &Ask<'_> = &|_| Ok(String::new());
        let keys = Keys::load(dir.path(), None, none).unwrap();
        let pems: String = ["a", "b"]
            .into_iter()
            .map(|name| fs::read_to_string(keys.create(name, none).unwrap().1).unwrap())
            .collect();
        let elsewhere = dir.path().join("none");
        let keys = Keys::load(&elsewhere, Some(&pems), none).unwrap();
        assert_eq!(keys.iter().count(), 2);
        assert!(Keys::load(&elsewhere, Some("secret"), none).is_err());
    }
}
