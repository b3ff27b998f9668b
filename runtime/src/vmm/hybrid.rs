//! A guest's vsock port behind a UNIX socket of the VMM's, as Firecracker and Cloud Hypervisor have it:
//! who connects says `CONNECT PORT\n`, and hears `OK NUMBER\n` once the guest has accepted; where
//! nobody listens in the guest, the connection ends instead.

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::Place;

/// A guest that does not listen yet is asked again after this.
const RETRY: Duration = Duration::from_millis(10);
/// `OK` and a number.
const ANSWER_BYTES_MAX: usize = 32;

/// Connects `ours` with the guest's `port` as soon as it listens, and passes bytes on until either
/// side ends. The first bytes wait in `ours` meanwhile, as in a virtio-serial port.
pub(super) async fn bridge(ours: StdStream, place: Place, port: u32) -> io::Result<()> {
    ours.set_nonblocking(true)?;
    let mut ours = UnixStream::from_std(ours)?;
    let mut guest = loop {
        match dial(&place, port).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    };
    tokio::io::copy_bidirectional(&mut ours, &mut guest).await.map(drop)
}

async fn dial(place: &Place, port: u32) -> io::Result<UnixStream> {
    let mut stream = place.connect(Path::new(super::AGENT_SOCKET)).await?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") && answer.len() < ANSWER_BYTES_MAX {
        // A byte at a time: what follows is the guest's.
        answer.push(stream.read_u8().await?);
    }
    if answer.starts_with(b"OK ") { Ok(stream) } else { Err(io::ErrorKind::InvalidData.into()) }
}
