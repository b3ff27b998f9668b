//! Who signed a kernel's sources.
//!
//! kernel.org signs the uncompressed tar: `linux-6.1.tar.sign` beside `linux-6.1.tar.xz`. What
//! counts is a signature that gpgv calls valid (`VALIDSIG`, which names the key by its whole
//! fingerprint; `GOODSIG` names a short id and a text that anybody can write into a key), made by a
//! pinned primary key or a subkey of it, good now: not expired, not revoked. gpgv sees no keys but
//! the pinned ones, and nothing of the user's keyrings. Its status lines:
//! `doc/DETAILS` in GnuPG's sources.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use imgrun::{Class, Progress, Tool, Unit, tool};

use super::config::Signature;
use super::read_text;
use crate::{Error, Result};

/// Unpacking and hashing 1.3 GB.
const VERIFY_TIME_MAX: Duration = Duration::from_secs(1800);
/// What a status line of gpgv's begins with.
const STATUS: &str = "[GNUPG:] ";
/// Of these words one says why a signature is not good.
const REASONS: &[(&str, &str)] = &[
    ("BADSIG", "it is not of these bytes"),
    ("EXPKEYSIG", "its key has expired"),
    ("REVKEYSIG", "its key was revoked"),
    ("EXPSIG", "the signature has expired"),
    ("NO_PUBKEY", "it is by another key"),
    ("ERRSIG", "it can not be checked"),
    ("NODATA", "it is no signature"),
    ("UNEXPECTED", "it is no detached signature"),
];

/// The pinned keys, read and ready: what can be wrong with them is found before sources are
/// fetched.
#[derive(Debug)]
pub(super) struct Keys {
    keyring: Vec<u8>,
    signers: Vec<String>,
}

impl Keys {
    /// Reads the keys of `signature`'s signers.
    ///
    /// # Errors
    /// [`Class::Input`] where one is missing or is no key; [`Class::Host`] without gpgv.
    pub(super) fn read(signature: &Signature) -> Result<Keys> {
        tool::require(&["gpgv"])?;
        let mut keyring = Vec::new();
        for signer in &signature.signers {
            let path = signature.keys.join(format!("{signer}.asc"));
            let text = read_text(&path).map_err(|e| {
                e.hint(format!("the signer's key goes there: gpg --export --armor {signer}"))
            })?;
            let key = dearmor(&text);
            let key = key.ok_or_else(|| {
                Error::input(format!("{} is no armored OpenPGP key", path.display()))
            })?;
            keyring.extend_from_slice(&key);
        }
        Ok(Keys { keyring, signers: signature.signers.clone() })
    }

    /// Checks that `signature` is one of the signers' on what `archive`, an `.xz`, unpacks to.
    /// `dir` is for temporary files.
    ///
    /// # Errors
    /// [`Class::Trust`] where it is not.
    pub(super) fn check(
        &self,
        signature: &Path,
        archive: &Path,
        dir: &Path,
        progress: &Progress,
    ) -> Result<()> {
        let stage = progress.stage("check who signed the sources", Unit::Items, None);
        let home = tempfile::Builder::new()
            .prefix(".gpgv-")
            .tempdir_in(dir)
            .map_err(|e| Error::io(dir.display(), e))?;
        let keyring = home.path().join("pinned.gpg");
        fs::write(&keyring, &self.keyring).map_err(|e| Error::io(keyring.display(), e))?;
        let status = Mutex::new(Vec::new());
        let (reader, writer) = io::pipe().map_err(|e| Error::io("a pipe", e))?;
        let gpgv = Tool::new("gpgv")
            .args(["--status-fd=1", "--weak-digest=SHA1", "--homedir"])
            .arg(home.path())
            .arg("--keyring")
            .arg(&keyring)
            .arg("--")
            .arg(signature)
            .arg("-")
            .env("LC_ALL", "C")
            .stdin(reader)
            .timeout(VERIFY_TIME_MAX)
            .fails_as(Class::Trust)
            .on_stdout_line(|line| {
                status.lock().unwrap_or_else(|p| p.into_inner()).push(line.to_string());
            });
        let (unpacked, verified) = std::thread::scope(|scope| {
            let unpacking = scope.spawn(|| unpack(archive, writer));
            let verified = gpgv.run();
            (unpacking.join(), verified)
        });
        let status = status.into_inner().unwrap_or_else(|p| p.into_inner());
        let untrusted = |why: &str| Error::trust(format!("the signature of the sources: {why}"));
        match verified {
            Err(error) if error.class() != Class::Trust => return Err(error),
            Err(error) => {
                let why = reason(&status).unwrap_or("gpgv does not accept it");
                return Err(untrusted(why).because(error));
            }
            Ok(_) => {}
        }
        unpacked.map_err(|_| Error::bug("unpacking panicked"))??;
        // gpgv is content with a key that has expired, for one.
        let signer = signer(&status, &self.signers)
            .ok_or_else(|| untrusted(reason(&status).unwrap_or("it is not by a pinned signer")))?;
        stage.finish(format!("signed by {signer}"));
        Ok(())
    }
}

/// Unpacks `archive` into gpgv's standard input.
fn unpack(archive: &Path, mut to: io::PipeWriter) -> Result<()> {
    Tool::new("xz")
        .args(["--decompress", "--stdout", "--threads=0"])
        .arg(archive)
        .timeout(VERIFY_TIME_MAX)
        .fails_as(Class::Input)
        .stream(|tar| {
            io::copy(tar, &mut to).and_then(|_| to.flush()).map_err(|e| Error::io("gpgv", e))
        })
}

/// The pinned signer, if `status` says that one of the signatures is good in every way.
fn signer<'a>(status: &[String], signers: &'a [String]) -> Option<&'a str> {
    let words = status.iter().filter_map(|line| line.strip_prefix(STATUS));
    let lines: Vec<Vec<&str>> = words.map(|line| line.split(' ').collect()).collect();
    // NEWSIG begins what is said of one signature.
    lines.split(|line| line[0] == "NEWSIG").skip(1).find_map(|about| {
        let says = |word: &str| about.iter().any(|line| line[0] == word);
        let bad = REASONS.iter().any(|(word, _)| says(word));
        if bad || !says("GOODSIG") {
            return None;
        }
        let valid = about.iter().find(|line| line[0] == "VALIDSIG")?;
        // VALIDSIG, the key's fingerprint, eight more words, the primary key's.
        let primary = valid.get(10)?;
        signers.iter().map(String::as_str).find(|signer| signer == primary)
    })
}

/// Why a signature is not good, if gpgv says so.
fn reason(status: &[String]) -> Option<&'static str> {
    let said = |word: &str| {
        let begins = |line: &String| {
            let line = line.strip_prefix(STATUS).unwrap_or_default();
            line.split(' ').next() == Some(word)
        };
        status.iter().any(begins)
    };
    REASONS.iter().find(|(word, _)| said(word)).map(|(_, why)| *why)
}

/// The bytes of an armored block (RFC 4880, 6.2); `None` where it is none. The checksum at its end
/// is left out: a fingerprint decides.
fn dearmor(text: &str) -> Option<Vec<u8>> {
    const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
    const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";
    let (_, block) = text.split_once(BEGIN)?;
    let (block, _) = block.split_once(END)?;
    let mut lines = block.lines().map(str::trim).skip(1);
    // Headers, then an empty line.
    lines.by_ref().find(|line| line.is_empty())?;
    let data: String = lines.take_while(|line| !line.starts_with('=')).collect();
    BASE64.decode(data).ok().filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "1111111111111111111111111111111111111111";
    const SUBKEY: &str = "2222222222222222222222222222222222222222";

    fn signed_by(lines: &[&str]) -> Option<String> {
        let status: Vec<String> = lines.iter().map(ToString::to_string).collect();
        signer(&status, &[KEY.to_string()]).map(str::to_string)
    }

    fn valid(primary: &str) -> String {
        format!("[GNUPG:] VALIDSIG {SUBKEY} 2026-01-01 1 0 4 0 1 8 00 {primary}")
    }

    #[test]
    fn only_a_valid_signature_of_a_pinned_key_counts() {
        let (new, good) = ("[GNUPG:] NEWSIG", "[GNUPG:] GOODSIG 1111111111111111 a");
        let by = valid(KEY);
        assert_eq!(signed_by(&[new, good, &by]).as_deref(), Some(KEY));
        // The subkey's fingerprint alone is not pinned.
        assert_eq!(signed_by(&[new, good, &valid(SUBKEY)]), None);
        assert_eq!(signed_by(&[new, good]), None);
        assert_eq!(signed_by(&[new, &by]), None);
        assert_eq!(signed_by(&[good, &by]), None);
        assert_eq!(signed_by(&[]), None);
        for bad in ["EXPKEYSIG 1 a", "REVKEYSIG 1 a", "EXPSIG 1 a", "BADSIG 1 a", "ERRSIG 1"] {
            let bad = format!("[GNUPG:] {bad}");
            assert_eq!(signed_by(&[new, &bad, good, &by]), None, "{bad}");
            // Another one's fault is not ours.
            assert_eq!(signed_by(&[new, &bad, new, good, &by]).as_deref(), Some(KEY));
        }
        // What one signature has, another can not borrow.
        assert_eq!(signed_by(&[new, good, new, &by]), None);
        // Text that looks like it but is not at the line's beginning.
        let trick = format!("[GNUPG:] GOODSIG 11 x {by}");
        assert_eq!(signed_by(&[new, good, &trick]), None);
    }

    #[test]
    fn armor_is_taken_off() {
        let armored = "text\n-----BEGIN PGP PUBLIC KEY BLOCK-----\nComment: x\n\naGVs\nbG8=\n=abcd\n\
                       -----END PGP PUBLIC KEY BLOCK-----\n";
        assert_eq!(dearmor(armored).unwrap(), b"hello");
        for bad in [
            "",
            "hello",
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\naGVs",
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----",
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n???\n-----END PGP PUBLIC KEY BLOCK-----",
        ] {
            assert_eq!(dearmor(bad), None, "{bad}");
        }
    }
}
