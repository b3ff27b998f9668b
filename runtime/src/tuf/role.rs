//! The four top-level roles and what each of them signs (TUF specification 1.0.33, 4.3 to 4.6).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use aws_lc_rs::digest;
use bundle::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::key::{Envelope, KeyId, PublicKey, to_hex};
use super::time;
use crate::{Error, Result};

/// The version of the specification that we write.
pub const SPEC_VERSION: &str = "1.0.31";

/// Who signs what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Says which keys the roles have. Its own keys are the ones to keep offline.
    Root,
    /// Says what is published.
    Targets,
    /// Says which metadata belong together.
    Snapshot,
    /// Says which snapshot is the last; short-lived.
    Timestamp,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 4] = [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp];

    /// As metadata spell it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Root => "root",
            Role::Targets => "targets",
            Role::Snapshot => "snapshot",
            Role::Timestamp => "timestamp",
        }
    }

    /// The name of version `version`'s file.
    pub fn file(self, version: u64) -> String {
        format!("{version}.{}.json", self.name())
    }

    /// A file of this role is at most so many bytes long. Other clients take 5 MB of targets.
    pub fn bytes_max(self) -> u64 {
        match self {
            Role::Root => 512 << 10,
            Role::Timestamp => 16 << 10,
            Role::Snapshot => 2 << 20,
            Role::Targets => 16 << 20,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::usage(format!("{text:?} is no role: {}", "root, targets, snapshot, timestamp"))
        };
        Role::ALL.into_iter().find(|role| role.name() == text).ok_or_else(wrong)
    }
}

/// What a role signs.
pub trait Signed: Serialize + for<'de> Deserialize<'de> {
    /// Whose it is.
    const ROLE: Role;

    /// Its version.
    fn version(&self) -> u64;

    /// When it stops being believed, in seconds since 1970.
    fn expires(&self) -> u64;

    /// What serde can not check.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Reads the signed part; the signatures are checked elsewhere.
    ///
    /// # Errors
    /// Where it is another role's or breaks the format.
    fn read(envelope: &Envelope, what: &str) -> Result<Self> {
        let wrong = |why: String| Error::trust(format!("{what}: {why}"));
        let role = Self::ROLE.name();
        if envelope.signed.get("_type").and_then(Value::as_str) != Some(role) {
            return Err(wrong(format!("it is not {role} metadata")));
        }
        let spec = envelope.signed.get("spec_version").and_then(Value::as_str).unwrap_or_default();
        if spec != "1" && !spec.starts_with("1.") {
            return Err(wrong(format!("it follows version {spec:?} of TUF, 1 is wanted")));
        }
        let signed = Self::deserialize(&envelope.signed).map_err(|e| wrong(e.to_string()))?;
        if signed.version() == 0 {
            return Err(wrong("its version is 0".to_string()));
        }
        signed.check().map_err(wrong)?;
        Ok(signed)
    }

    /// The JSON that is to be signed.
    fn to_value(&self) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["_type"] = Self::ROLE.name().into();
        value["spec_version"] = SPEC_VERSION.into();
        value
    }
}

macro_rules! signed {
    ($type:ident) => {
        impl Signed for $type {
            const ROLE: Role = Role::$type;

            fn version(&self) -> u64 {
                self.version
            }

            fn expires(&self) -> u64 {
                self.expires.0
            }
        }
    };
}

/// A time in seconds since 1970, as text in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&time::to_text(self.0))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom(format!("{text:?} is no time"));
        time::from_text(&text).map(Time).ok_or_else(wrong)
    }
}

/// Which keys the roles have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Root {
    /// Counts up by one.
    pub version: u64,
    /// When it stops being believed.
    pub expires: Time,
    /// Whether files have their version or digest in their names. Ours always have.
    #[serde(default)]
    pub consistent_snapshot: bool,
    /// All keys.
    pub keys: BTreeMap<KeyId, PublicKey>,
    /// Each role's.
    pub roles: BTreeMap<Role, RoleKeys>,
    /// How long what each role signs is to be believed; ours, others leave it alone.
    #[serde(
        rename = "x-imgtool-lifetime-seconds",
        default,
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub lifetimes: BTreeMap<Role, u64>,
    /// Whether timestamps are also kept under their numbers, as ours are.
    #[serde(
        rename = "x-imgtool-numbered-timestamps",
        default,
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub numbered_timestamps: bool,
    /// What was published last, where this root takes over from keys that can not sign any more: the
    /// newest targets, snapshot and timestamp, by role. Its owner may have these signed anew, and
    /// nothing else that the old keys have signed.
    #[serde(rename = "x-imgtool-succeeds", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub succeeds: BTreeMap<Role, MetaFile>,
}

/// The keys of a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    /// Their names.
    pub keyids: Vec<KeyId>,
    /// So many of them have to sign.
    pub threshold: u32,
}

impl Signed for Root {
    const ROLE: Role = Role::Root;

    fn version(&self) -> u64 {
        self.version
    }

    fn expires(&self) -> u64 {
        self.expires.0
    }

    fn check(&self) -> Result<(), String> {
        for role in Role::ALL {
            let keys = self.roles.get(&role).ok_or_else(|| format!("it has no role {role}"))?;
            if keys.threshold == 0 {
                return Err(format!("the role {role} needs no signature"));
            }
            let different: BTreeSet<_> = keys.keyids.iter().collect();
            if different.len() != keys.keyids.len() {
                return Err(format!("the role {role} lists a key twice"));
            }
        }
        Ok(())
    }
}

impl Root {
    /// The keys of `role` that are there.
    pub fn keys_of(&self, role: Role) -> Vec<(&KeyId, &PublicKey)> {
        let ids = self.roles.get(&role).map(|r| r.keyids.as_slice()).unwrap_or_default();
        ids.iter().filter_map(|id| self.keys.get_key_value(id)).collect()
    }

    /// How many have to sign for `role`.
    pub fn threshold(&self, role: Role) -> u32 {
        self.roles.get(&role).map_or(u32::MAX, |r| r.threshold.max(1))
    }

    /// Whether `role` has signed `envelope`.
    ///
    /// # Errors
    /// [`crate::Class::Trust`] where it has not.
    pub fn verify(&self, role: Role, envelope: &Envelope, what: &str) -> Result<()> {
        envelope.verify(&self.keys_of(role), self.threshold(role), what)
    }
}

/// One version of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaFile {
    /// The version.
    pub version: u64,
    /// Its size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Its digests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<BTreeMap<String, String>>,
}

impl MetaFile {
    /// That `bytes` are version `version`.
    pub fn of(version: u64, bytes: &[u8]) -> Self {
        let hashes = BTreeMap::from([("sha256".to_string(), Digest::of(bytes).hex())]);
        MetaFile { version, length: Some(bytes.len() as u64), hashes: Some(hashes) }
    }

    /// Whether `bytes` have its size and digest, as far as it names them.
    ///
    /// # Errors
    /// Where they have not, or no digest is one that we know.
    pub fn check(&self, bytes: &[u8], what: &str) -> Result<()> {
        if self.length.is_some_and(|length| length != bytes.len() as u64) {
            return Err(Error::trust(format!("{what}: it has another size than was signed")));
        }
        match &self.hashes {
            Some(hashes) if !match_hashes(hashes, bytes) => {
                Err(Error::trust(format!("{what}: it has another digest than was signed")))
            }
            _ => Ok(()),
        }
    }
}

/// Whether `bytes` have all those of `hashes` that we know, and we know one.
fn match_hashes(hashes: &BTreeMap<String, String>, bytes: &[u8]) -> bool {
    let known = hashes.iter().filter_map(|(name, hex)| {
        let algorithm = match name.as_str() {
            "sha256" => &digest::SHA256,
            "sha512" => &digest::SHA512,
            _ => return None,
        };
        Some(to_hex(digest::digest(algorithm, bytes).as_ref()) == *hex)
    });
    let known: Vec<bool> = known.collect();
    !known.is_empty() && known.iter().all(|right| *right)
}

/// Which metadata belong together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Counts up.
    pub version: u64,
    /// When it stops being believed.
    pub expires: Time,
    /// `targets.json` and, elsewhere, delegated roles.
    pub meta: BTreeMap<String, MetaFile>,
}

/// Which snapshot is the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timestamp {
    /// Counts up.
    pub version: u64,
    /// When it stops being believed.
    pub expires: Time,
    /// `snapshot.json`.
    pub meta: BTreeMap<String, MetaFile>,
}

/// What is published.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Targets {
    /// Counts up.
    pub version: u64,
    /// When it stops being believed.
    pub expires: Time,
    /// By path.
    pub targets: BTreeMap<String, Target>,
    /// Other people's; we neither follow nor write them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegations: Option<Value>,
}

/// A published file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Its size in bytes.
    pub length: u64,
    /// Its digests.
    pub hashes: BTreeMap<String, String>,
    /// What we say of it: see [`crate::catalog`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Value>,
}

impl Target {
    /// Whether `bytes` are the file.
    pub fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.length && match_hashes(&self.hashes, bytes)
    }

    /// Its SHA-256, where it is listed.
    pub fn digest(&self) -> Option<Digest> {
        format!("sha256:{}", self.hashes.get("sha256")?).parse().ok()
    }
}

signed!(Snapshot);
signed!(Timestamp);
signed!(Targets);

/// The only entry of a timestamp.
pub const SNAPSHOT: &str = "snapshot.json";
/// The top-level targets' entry of a snapshot.
pub const TARGETS: &str = "targets.json";

impl Timestamp {
    /// The snapshot that it names.
    pub fn snapshot(&self) -> Result<&MetaFile> {
        self.meta.get(SNAPSHOT).ok_or_else(|| Error::trust("the timestamp names no snapshot"))
    }
}

impl Snapshot {
    /// The targets that it names.
    pub fn targets(&self) -> Result<&MetaFile> {
        self.meta.get(TARGETS).ok_or_else(|| Error::trust("the snapshot names no targets"))
    }
}
