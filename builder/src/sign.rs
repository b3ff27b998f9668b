//! Private keys: the one module that holds any.
//!
//! ```text
//! <keys>/<name>.pem    the private key, encrypted, mode 0600
//! <keys>/<name>.json   the public key as metadata list it
//! ```
//! A key is ed25519. Its file is PKCS#8 in PEM, encrypted as PBES2 with scrypt and AES-256 (RFC 8018,
//! RFC 7914) by the crate pkcs8: an ordinary format, so that the owner of a root key can read it in
//! ten years with other tools, and a crate that is small beside `age`. CBC has no integrity check of
//! its own: a decrypted key is used only if its public half is the one that was asked for.
//! In CI keys come from the environment instead ([`KEYS_VARIABLE`]).

mod keyfile;

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use imgrun::tuf::{Envelope, KeyId, PublicKey, Signature, Signed, to_hex};

use crate::{Error, Result};

/// Holds PEM blocks: private keys one after the other, encrypted or not.
pub const KEYS_VARIABLE: &str = "IMGTOOL_SIGNING_KEYS";
/// Names a directory to use instead of `$XDG_CONFIG_HOME/imgtool/keys`.
pub const KEYS_DIR_VARIABLE: &str = "IMGTOOL_KEYS";

/// Asks for the passphrase of the key of that name; it is asked again for a new key.
pub type Ask<'a> = dyn Fn(&str) -> Result<String> + 'a;

/// A private key, ready to sign.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id())
    }
}

impl SigningKey {
    /// A new one, from the system's random numbers.
    ///
    /// # Errors
    /// Where there are none.
    pub fn generate() -> Result<Self> {
        let pair = Ed25519KeyPair::generate();
        Ok(Self::from_pair(pair.map_err(|_| Error::host("the system gives no random numbers"))?))
    }

    fn from_pair(pair: Ed25519KeyPair) -> Self {
        let public = PublicKey::ed25519(pair.public_key().as_ref());
        SigningKey { pair, public }
    }

    /// Its public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Its name in metadata.
    pub fn id(&self) -> KeyId {
        self.public.id()
    }

    /// Adds its signature to `envelope`, in place of an older one.
    ///
    /// # Errors
    /// Where what is to be signed has no canonical form.
    pub fn sign(&self, envelope: &mut Envelope) -> Result<()> {
        let message = envelope.message("what is to be signed")?;
        let id = self.id();
        envelope.signatures.retain(|s| s.keyid != id);
        let sig = to_hex(self.pair.sign(&message).as_ref());
        envelope.signatures.push(Signature { keyid: id, sig });
        Ok(())
    }
}

/// `signed` by all of `keys`, in no order that depends on theirs.
///
/// # Errors
/// As [`SigningKey::sign`].
pub fn sign<T: Signed>(signed: &T, keys: &[&SigningKey]) -> Result<Envelope> {
    let mut envelope = Envelope { signatures: Vec::new(), signed: signed.to_value() };
    for key in keys {
        key.sign(&mut envelope)?;
    }
    envelope.signatures.sort_by(|a, b| a.keyid.cmp(&b.keyid));
    Ok(envelope)
}

/// Where the private half of a key is.
#[derive(Debug)]
enum Place {
    File(PathBuf),
    /// PEM, from the environment.
    Text(String),
}

/// A key that could be used.
#[derive(Debug)]
pub struct Known {
    /// Its name: its file's, or `environment 1`.
    pub name: String,
    /// Its public half.
    pub public: PublicKey,
    place: Place,
}

/// The keys at hand: those of a directory and those of the environment. Nothing is decrypted until
/// it has to sign.
#[derive(Debug)]
pub struct Keys {
    dir: PathBuf,
    known: Vec<Known>,
}

impl Keys {
    /// `$IMGTOOL_KEYS`, `$XDG_CONFIG_HOME/imgtool/keys` or `~/.config/imgtool/keys`.
    ///
    /// # Errors
    /// Where no home is known.
    pub fn default_dir() -> Result<PathBuf> {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        set(KEYS_DIR_VARIABLE)
            .or_else(|| set("XDG_CONFIG_HOME").map(|dir| dir.join("imgtool/keys")))
            .or_else(|| set("HOME").map(|dir| dir.join(".config/imgtool/keys")))
            .ok_or_else(|| {
                Error::host("no place for keys: HOME is not set")
                    .hint(format!("set {KEYS_DIR_VARIABLE} to a directory"))
            })
    }

    /// The keys in `dir` and in `environment`, the value of [`KEYS_VARIABLE`].
    ///
    /// # Errors
    /// Where they can not be read; `ask` is called for encrypted keys of the environment only.
    pub fn load(dir: &Path, environment: Option<&str>, ask: &Ask<'_>) -> Result<Self> {
        let mut known = keyfile::list(dir)?;
        for (i, pem) in keyfile::blocks(environment.unwrap_or_default())?.into_iter().enumerate() {
            let name = format!("environment {}", i + 1);
            let public = keyfile::open(&pem, &name, ask)?.public().clone();
            known.push(Known { name, public, place: Place::Text(pem) });
        }
        Ok(Keys { dir: dir.to_path_buf(), known })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Known> {
        self.known.iter()
    }

    /// The key called `name`, or whose id begins with it.
    ///
    /// # Errors
    /// Where there is none, or more than one.
    pub fn find(&self, name: &str) -> Result<&Known> {
        if let Some(known) = self.known.iter().find(|k| k.name == name) {
            return Ok(known);
        }
        let long = name.len() >= 8;
        let mut found = self.known.iter().filter(|k| long && k.public.id().starts_with(name));
        match (found.next(), found.next()) {
            (Some(known), None) => Ok(known),
            (None, _) => Err(Error::usage(format!("there is no key {name:?}"))
                .hint("imgtool key list shows those in reach")),
            _ => Err(Error::usage(format!("{name:?} is the beginning of several keys' ids"))),
        }
    }

    /// Makes a new key called `name`, encrypted by the passphrase that `ask` gives, and returns its
    /// public half. An empty passphrase leaves it plain.
    ///
    /// # Errors
    /// Where there is one of that name, or it can not be written.
    pub fn create(&self, name: &str, ask: &Ask<'_>) -> Result<(PublicKey, PathBuf)> {
        let key = SigningKey::generate()?;
        let path = keyfile::create(&self.dir, name, &key, ask)?;
        Ok((key.public, path))
    }

    /// The private half of `known`.
    ///
    /// # Errors
    /// Where it can not be read, or the passphrase is wrong.
    pub fn open(&self, known: &Known, ask: &Ask<'_>) -> Result<SigningKey> {
        let key = match &known.place {
            Place::Text(pem) => keyfile::open(pem, &known.name, ask)?,
            Place::File(path) => keyfile::open(&keyfile::read(path)?, &known.name, ask)?,
        };
        if key.public != known.public {
            let name = &known.name;
            return Err(Error::trust(format!("key {name}: its file holds another key")));
        }
        Ok(key)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
