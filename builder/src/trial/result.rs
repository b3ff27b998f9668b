//! The signed result of a trial: `<bundle>.tar.zst.test.json`.
//!
//! It is an envelope as TUF's metadata are (signatures over the canonical JSON of `signed`), so that
//! the keys of `imgtool key` sign it. `signed` is a [`TestResult`] with two more fields:
//! `"_type": "imgtool-test"`, which no role of a catalog has, so that neither passes for the other,
//! and `"schema": 1`.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bundle::TestResult;
use imgrun::tuf::{Envelope, PublicKey};
use serde::{Deserialize, Serialize};

use crate::sign::SigningKey;
use crate::{Error, Result};

/// A result is at most this long.
pub const RESULT_BYTES_MAX: u64 = 1 << 20;
const KIND: &str = "imgtool-test";
const SCHEMA: u32 = 1;
const SUFFIX: &str = ".test.json";

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(rename = "_type")]
    kind: String,
    schema: u32,
    #[serde(flatten)]
    result: TestResult,
}

/// Where the result of the bundle `packed` is.
pub fn path_beside(packed: &Path) -> PathBuf {
    let mut path = packed.as_os_str().to_owned();
    path.push(SUFFIX);
    path.into()
}

/// A result that says something, whoever wrote it.
#[derive(Clone, Debug)]
pub struct Document {
    path: PathBuf,
    envelope: Envelope,
    result: TestResult,
}

impl Document {
    /// Reads the result beside the bundle `packed`; `None` where there is none.
    ///
    /// # Errors
    /// Where there is something else, or it can not be read.
    pub fn beside(packed: &Path) -> Result<Option<Self>> {
        let path = path_beside(packed);
        let about = |e| Error::io(path.display(), e);
        let file = match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(about)?,
        };
        let mut bytes = Vec::new();
        file.take(RESULT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(about)?;
        let what = path.display().to_string();
        if bytes.len() as u64 > RESULT_BYTES_MAX {
            return Err(Error::input(format!("{what}: it is too long for a test's result")));
        }
        let wrong = |e: serde_json::Error| {
            Error::input(format!("{what}: it is no test's result")).because(e)
        };
        let envelope: Envelope = serde_json::from_slice(&bytes).map_err(wrong)?;
        let wire = Wire::deserialize(&envelope.signed).map_err(wrong)?;
        if (wire.kind.as_str(), wire.schema) != (KIND, SCHEMA) {
            return Err(Error::input(format!(
                "{what}: it is {:?} of schema {}, {KIND:?} of schema {SCHEMA} is read",
                wire.kind, wire.schema
            )));
        }
        Ok(Some(Document { path, envelope, result: wire.result }))
    }

    /// Signs `result` and writes it beside the bundle `packed`, whole or not at all.
    ///
    /// # Errors
    /// Where it can not be written.
    pub fn create(packed: &Path, result: TestResult, key: &SigningKey) -> Result<Self> {
        let path = path_beside(packed);
        let wire = Wire { kind: KIND.to_string(), schema: SCHEMA, result };
        let signed = serde_json::to_value(&wire)
            .map_err(|e| Error::bug("a test's result can not be written").because(e))?;
        let mut envelope = Envelope { signatures: Vec::new(), signed };
        key.sign(&mut envelope)?;
        let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let about = |e: std::io::Error| Error::io(path.display(), e);
        let mut draft = tempfile::Builder::new()
            .prefix(".imgtool-")
            .suffix(".partial")
            .tempfile_in(directory)
            .map_err(about)?;
        draft.write_all(&envelope.to_bytes()).map_err(about)?;
        crate::image::publish(draft, &path)?;
        Ok(Document { path, envelope, result: wire.result })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says, whoever says so.
    pub fn claim(&self) -> &TestResult {
        &self.result
    }

    /// What it says, once one of `keys` has signed it.
    ///
    /// # Errors
    /// [`crate::Class::Trust`] where none has.
    pub fn verify(&self, keys: &[PublicKey]) -> Result<&TestResult> {
        let what = self.path.display().to_string();
        let ids: Vec<_> = keys.iter().map(PublicKey::id).collect();
        let keys: Vec<_> = ids.iter().zip(keys).collect();
        let signers = self.envelope.signatures.iter().map(|s| &s.keyid);
        let known = signers.clone().any(|id| ids.contains(id));
        if !known {
            let signers: Vec<_> =
                signers.map(|id| id.chars().take(8).collect::<String>()).collect();
            let signers = if signers.is_empty() { "nobody".into() } else { signers.join(", ") };
            return Err(Error::trust(format!("{what}: it is signed by {signers}, no known key"))
                .hint("known are the keys at hand (imgtool key list) and those of the catalog"));
        }
        self.envelope.verify(&keys, 1, &what)?;
        Ok(&self.result)
    }
}
