//! What makes a machine of its own out of a copy of another: everything that two copies of one
//! memory must not share.

use crate::{ProtocolError, tlv};

/// Random bytes for the kernel's generator.
pub const SEED_BYTES: usize = 64;
/// Bytes of machine-id(5).
pub const MACHINE_ID_BYTES: usize = 16;
/// Bytes of an Ethernet address.
pub const MAC_BYTES: usize = 6;
/// A host name is at most this long (Linux: `__NEW_UTS_LEN`).
const HOSTNAME_BYTES_MAX: usize = 64;
/// What went wrong is cut here.
const TEXT_BYTES_MAX: usize = 1024;

/// Who a restored machine is from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The host's wall clock, nanoseconds since 1970.
    pub wall_clock_unix_ns: u64,
    /// Fresh random bytes: what the generator knew, all copies know.
    pub seed: [u8; SEED_BYTES],
    /// Its own name for itself: letters, digits, `-`, `.`.
    pub hostname: String,
    /// The new machine-id(5).
    pub machine_id: [u8; MACHINE_ID_BYTES],
    /// The new address of its network interface, where it has one.
    pub mac: Option<[u8; MAC_BYTES]>,
}

/// What came of a [`Restore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The command that [`crate::Hello::keep`] named runs.
    pub kept: bool,
    /// Why it is not the machine it was to become; then nobody may use it.
    pub failure: Option<String>,
}

const TAG_WALL_CLOCK: u8 = 1;
const TAG_SEED: u8 = 2;
const TAG_HOSTNAME: u8 = 3;
const TAG_MACHINE_ID: u8 = 4;
const TAG_MAC: u8 = 5;

const TAG_KEPT: u8 = 1;
const TAG_FAILURE: u8 = 2;

impl Restore {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, ProtocolError> {
        self.check()?;
        let mut out = Vec::new();
        tlv::put(&mut out, TAG_WALL_CLOCK, &self.wall_clock_unix_ns.to_le_bytes());
        tlv::put(&mut out, TAG_SEED, &self.seed);
        tlv::put(&mut out, TAG_HOSTNAME, self.hostname.as_bytes());
        tlv::put(&mut out, TAG_MACHINE_ID, &self.machine_id);
        if let Some(mac) = &self.mac {
            tlv::put(&mut out, TAG_MAC, mac);
        }
        Ok(out)
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let (mut clock, mut seed, mut hostname, mut id, mut mac) = (None, None, None, None, None);
        for field in tlv::fields(payload) {
            match field? {
                (TAG_WALL_CLOCK, v) => clock = Some(tlv::u64(v, "wall clock")?),
                (TAG_SEED, v) => seed = Some(tlv::array(v, "seed")?),
                (TAG_HOSTNAME, v) => hostname = Some(tlv::text(v, HOSTNAME_BYTES_MAX + 1)),
                (TAG_MACHINE_ID, v) => id = Some(tlv::array(v, "machine id")?),
                (TAG_MAC, v) => mac = Some(tlv::array(v, "mac")?),
                _ => {}
            }
        }
        let restore = Restore {
            wall_clock_unix_ns: clock.ok_or(ProtocolError::Missing { field: "wall clock" })?,
            seed: seed.ok_or(ProtocolError::Missing { field: "seed" })?,
            hostname: hostname.ok_or(ProtocolError::Missing { field: "host name" })?,
            machine_id: id.ok_or(ProtocolError::Missing { field: "machine id" })?,
            mac,
        };
        restore.check()?;
        Ok(restore)
    }

    fn check(&self) -> Result<(), ProtocolError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-.".contains(&b);
        let name = &self.hostname;
        if name.is_empty() || name.len() > HOSTNAME_BYTES_MAX || !name.bytes().all(allowed) {
            let rule = "1 to 64 letters, digits, - and .";
            return Err(ProtocolError::Invalid { field: "host name", rule });
        }
        Ok(())
    }
}

impl Restored {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        tlv::put(&mut out, TAG_KEPT, &[u8::from(self.kept)]);
        if let Some(why) = &self.failure {
            let why = &why.as_bytes()[..why.len().min(TEXT_BYTES_MAX)];
            tlv::put(&mut out, TAG_FAILURE, why);
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let (mut kept, mut failure) = (None, None);
        for field in tlv::fields(payload) {
            match field? {
                (TAG_KEPT, v) => kept = Some(tlv::bool(v, "kept")?),
                (TAG_FAILURE, v) => failure = Some(tlv::text(v, TEXT_BYTES_MAX)),
                _ => {}
            }
        }
        let kept = kept.ok_or(ProtocolError::Missing { field: "kept" })?;
        Ok(Restored { kept, failure })
    }
}
