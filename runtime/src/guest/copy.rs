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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agent::{Ack, Decoder, FromHost, HostEvent, InitKind, Restored, Shutdown};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    /// An agent that has been greeted, and what the host made of that.
    async fn greeted(keep: Option<Kept>) -> (DuplexStream, Guest, Option<Running>) {
        let (host, mut agent) = tokio::io::duplex(1 << 20);
        let greet = Guest::greet_copy(host, keep);
        let answer = async {
            let (mut wire, mut buffer) = (FromHost::new(), vec![0; 4096]);
            let n = agent.read(&mut buffer).await.unwrap();
            let Some(HostEvent::Hello(hello)) = wire.feed(&mut &buffer[..n]).unwrap() else {
                panic!("no greeting");
            };
            assert_eq!(hello.keep, keep.map(|kept| kept.channel));
            let ack = Ack {
                nonce: hello.nonce,
                protocol: 1,
                protocol_min: 1,
                protocol_max: 1,
                version: "test".into(),
                init: InitKind::Agent,
                restores: true,
            };
            agent.write_all(&ack.encode()).await.unwrap();
        };
        let (guest, ()) = tokio::join!(greet, answer);
        let (guest, command) = guest.unwrap();
        (agent, guest, command)
    }

    /// The next message of the host's.
    async fn next(agent: &mut DuplexStream) -> Message {
        let mut decoder = Decoder::new();
        loop {
            let byte = [agent.read_u8().await.unwrap()];
            if let Some(frame) = decoder.feed(&mut &byte[..]).unwrap() {
                return Message::decode(frame).unwrap();
            }
        }
    }

    async fn say(agent: &mut DuplexStream, channel: u32, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(channel, &mut bytes).unwrap();
        agent.write_all(&bytes).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_is_quiet_and_what_came_before_is_heard() {
        let (mut agent, guest, _) = greeted(None).await;
        assert!(guest.quiet().await.unwrap_err().to_string().contains("does not answer"));
        let Message::Ping { .. } = next(&mut agent).await else { panic!("no ping") };
        let answer = async {
            let Message::Ping { token } = next(&mut agent).await else { panic!("no ping") };
            say(&mut agent, CHANNEL_CONTROL, &Message::Pong { token }).await;
        };
        let (quiet, ()) = tokio::join!(guest.quiet(), answer);
        let quiet = quiet.unwrap();
        guest.ask_shutdown().unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(3600), next(&mut agent)).await;
        assert!(heard.is_err(), "{heard:?}");
        drop(quiet);
        assert_eq!(next(&mut agent).await, Message::Shutdown(Shutdown::PowerOff));
    }

    #[tokio::test]
    async fn a_copy_without_an_identity_is_nobodys() {
        let kept = Kept { channel: 7, pid: 70 };
        for (answer, words) in [
            (Restored { kept: true, failure: Some("no seed".into()) }, Some("no seed")),
            (Restored { kept: false, failure: None }, Some("its command ended")),
            (Restored { kept: true, failure: None }, None),
        ] {
            let (mut agent, guest, command) = greeted(Some(kept)).await;
            let mut command = command.expect("the command");
            let identity = Identity::fresh(&Hostname::from_name("copy"), true).unwrap();
            let agent = async {
                let Message::Restore(restore) = next(&mut agent).await else { panic!("another") };
                assert_eq!(restore.hostname, "copy");
                assert!(restore.mac.is_some_and(|mac| mac.starts_with(&MAC_PREFIX)));
                say(&mut agent, CHANNEL_CONTROL, &Message::Restored(answer)).await;
                let more = Message::Data(agent::Stream::Stdout, b"more".to_vec());
                say(&mut agent, kept.channel, &more).await;
                agent
            };
            let (assumed, _agent) = tokio::join!(guest.assume(identity, true), agent);
            match words {
                Some(words) => assert!(assumed.unwrap_err().to_string().contains(words)),
                None => {
                    assumed.unwrap();
                    assert_eq!(command.stdout.read().await.unwrap(), Some(b"more".to_vec()));
                }
            }
        }
    }
}
