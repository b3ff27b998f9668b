//! A session with a guest that is a copy of another: what it must have of its own.

use std::time::{SystemTime, UNIX_EPOCH};

use agent::{CHANNEL_CONTROL, MAC_BYTES, MACHINE_ID_BYTES, Message, Restore, SEED_BYTES};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Guest, random};
use crate::{Error, Hostname, Result, Running};

/// QEMU's, and with the bit of addresses that nobody assigns.
const MAC_PREFIX: [u8; 3] = [0x52, 0x54, 0x00];

/// A command that goes on in a copy: its channel, and its process id in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    pub(crate) channel: u32,
    pub(crate) pid: u32,
}

/// What no other machine has.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    hostname: String,
    seed: [u8; SEED_BYTES],
    machine_id: [u8; MACHINE_ID_BYTES],
    mac: Option<[u8; MAC_BYTES]>,
}

impl Identity {
    /// A new one; `network` where the machine has an interface.
    pub(crate) fn fresh(hostname: &Hostname, network: bool) -> Result<Self> {
        let mut machine_id = random::<MACHINE_ID_BYTES>()?;
        // As machine-id(5) wants it: a random UUID of version 4.
        machine_id[6] = machine_id[6] & 0x0f | 0x40;
        machine_id[8] = machine_id[8] & 0x3f | 0x80;
        let mac = match network {
            true => {
                let ([a, b, c], [d, e, f]) = (MAC_PREFIX, random::<3>()?);
                Some([a, b, c, d, e, f])
            }
            false => None,
        };
        let (hostname, seed) = (hostname.to_string(), random()?);
        Ok(Identity { hostname, seed, machine_id, mac })
    }
}

impl Guest {
    /// As [`Guest::greet`], in a copy of a machine: the command `keep` goes on.
    pub(crate) async fn greet_copy<S>(
        stream: S,
        keep: Option<Kept>,
    ) -> Result<(Self, Option<Running>)>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        Self::begin(stream, keep).await
    }

    /// Makes the guest a machine of its own. Before that is done nobody may use it.
    ///
    /// # Errors
    /// `Guest` where it is not, whyever; then it is to be thrown away.
    pub(crate) async fn assume(&self, identity: Identity, keeps: bool) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Identity { hostname, seed, machine_id, mac } = identity;
        let wall_clock_unix_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let restore = Restore { wall_clock_unix_ns, seed, hostname, machine_id, mac };
        self.link.change(|state| state.restored = None);
        self.link.send(CHANNEL_CONTROL, &Message::Restore(restore))?;
        let restored = self.link.restored().await?;
        if let Some(why) = restored.failure {
            return Err(Error::guest(format!("the copy has no identity of its own: {why}")));
        }
        if keeps && !restored.kept {
            return Err(Error::guest("its command ended while it was saved"));
        }
        Ok(())
    }
}
