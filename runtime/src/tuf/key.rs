//! Public keys and what they have signed.

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bundle::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::canonical::canonical;
use crate::{Error, Result};

/// A key's name in metadata: the SHA-256 of its canonical JSON in hex, for the keys that we make.
/// Other people's may be any text: the specification only asks that it be unique.
pub type KeyId = String;

/// The DER of a P-256 `SubjectPublicKeyInfo` up to its point (RFC 5480).
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A public key as metadata lists it. Our own are ed25519. Others are read, so that a key service
/// can sign: P-256 and RSA. A key of a kind that we do not know verifies nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// `ed25519`, `ecdsa`, `rsa`.
    pub keytype: String,
    /// `ed25519`, `ecdsa-sha2-nistp256`, `rsassa-pss-sha256`.
    pub scheme: String,
    /// The key itself.
    pub keyval: KeyVal,
}

/// The key itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyVal {
    /// Hex for ed25519, a PEM file for the others.
    pub public: String,
}

impl PublicKey {
    /// An ed25519 key from its 32 bytes.
    pub fn ed25519(bytes: &[u8]) -> Self {
        let (keytype, scheme) = ("ed25519".to_string(), "ed25519".to_string());
        PublicKey { keytype, scheme, keyval: KeyVal { public: to_hex(bytes) } }
    }

    /// Its name.
    pub fn id(&self) -> KeyId {
        let value = json!({
            "keytype": self.keytype, "scheme": self.scheme, "keyval": {"public": self.keyval.public},
        });
        Digest::of(canonical(&value).unwrap_or_default()).hex()
    }

    /// Whether `signature` is this key's under `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let Some((algorithm, key)) = self.algorithm() else { return false };
        UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
    }

    fn algorithm(&self) -> Option<(&'static dyn VerificationAlgorithm, Vec<u8>)> {
        let public = &self.keyval.public;
        Some(match (self.keytype.as_str(), self.scheme.as_str()) {
            ("ed25519", "ed25519") => (&signature::ED25519, from_hex(public)?),
            ("ecdsa" | "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256") => {
                let point = pem(public)?.strip_prefix(&P256_PREFIX)?.to_vec();
                (&signature::ECDSA_P256_SHA256_ASN1, point)
            }
            ("rsa", "rsassa-pss-sha256") => (&signature::RSA_PSS_2048_8192_SHA256, pem(public)?),
            ("rsa", "rsa-pkcs1v15-sha256") => {
                (&signature::RSA_PKCS1_2048_8192_SHA256, pem(public)?)
            }
            _ => return None,
        })
    }
}

/// The bytes of a PEM file's only block.
fn pem(text: &str) -> Option<Vec<u8>> {
    let body = text.trim().strip_prefix("-----BEGIN PUBLIC KEY-----")?;
    let body = body.strip_suffix("-----END PUBLIC KEY-----")?;
    STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok()
}

/// Bytes as lower-case hex.
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes that hex text stands for.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |c: u8| char::from(c).to_digit(16);
    let byte = |pair: &[u8]| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
    text.as_bytes().chunks_exact(2).map(byte).collect()
}

/// One signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Whose.
    pub keyid: KeyId,
    /// Hex.
    pub sig: String,
}

/// What was signed, exactly, and the signatures: a metadata file. What is in it is believed only
/// when [`Envelope::verify`] says so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// In this order, as other clients expect it.
    pub signatures: Vec<Signature>,
    /// Kept as it came, fields that we do not know too: they are signed.
    pub signed: Value,
}

impl Envelope {
    /// From a file's bytes; `what` is how errors call it.
    ///
    /// # Errors
    /// Where it is no such JSON, or one key signs twice.
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self> {
        let envelope: Envelope = serde_json::from_slice(bytes)
            .map_err(|e| Error::trust(format!("{what}: it is no TUF metadata")).because(e))?;
        let mut ids: Vec<_> = envelope.signatures.iter().map(|s| &s.keyid).collect();
        ids.sort();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::trust(format!("{what}: one key has signed it twice")));
        }
        Ok(envelope)
    }

    /// The bytes that are signed.
    ///
    /// # Errors
    /// Where it holds a fraction, which has no canonical form.
    pub fn message(&self, what: &str) -> Result<Vec<u8>> {
        let fraction = || Error::trust(format!("{what}: it holds a number that is no integer"));
        canonical(&self.signed).ok_or_else(fraction)
    }

    /// As a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// Whether at least `threshold` of `keys` have signed it. A key that is listed under two names
    /// counts once.
    ///
    /// # Errors
    /// Where they have not.
    pub fn verify(&self, keys: &[(&KeyId, &PublicKey)], threshold: u32, what: &str) -> Result<()> {
        let message = self.message(what)?;
        let mut valid: Vec<&str> = Vec::new();
        for signature in &self.signatures {
            let key = keys.iter().find(|(id, _)| **id == signature.keyid).map(|(_, key)| *key);
            let Some((key, sig)) = key.zip(from_hex(&signature.sig)) else { continue };
            let public = key.keyval.public.as_str();
            if !valid.contains(&public) && key.verifies(&message, &sig) {
                valid.push(public);
            }
        }
        if valid.len() < threshold as usize {
            let found = valid.len();
            return Err(Error::trust(format!(
                "{what}: it needs {threshold} valid signatures of its role's keys, it has {found}"
            )));
        }
        Ok(())
    }
}
