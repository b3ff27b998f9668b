//! What a guest may send: a filter between its network card and the VMM's own sockets.
//!
//! QEMU's user-mode stack opens sockets with the rights of whoever started it, and takes the router's
//! address for the host's `127.0.0.1`. So it gets no frame that we have not looked at: QEMU hands each
//! to us and takes back what may pass (`filter-redirector`: `[len u32, big-endian]` and the frame).
//! Only destinations count, and each fragment of a packet has its own.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{GATEWAY, GUEST, NAMESERVER};

/// QEMU's own limit: 64 KiB and 4 KiB for headers.
const FRAME_BYTES_MAX: usize = 68 << 10;
/// Frames that wait for QEMU to take them back. More are dropped, as networks do: QEMU must never
/// wait for us while we wait for it.
const FRAMES_MAX: usize = 256;
/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const TCP: u8 = 6;
const UDP: u8 = 17;
const DNS_PORT: u16 = 53;
const DHCP_SERVER_PORT: u16 = 67;

/// Passes frames on. It ends with the VMM, or when it is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    tasks: [JoinHandle<()>; 2],
}

impl Guard {
    /// Reads the guest's frames from `from` and writes those that may pass to `to`; `answers` where
    /// a forwarded port leads in.
    pub(crate) fn start(from: UnixStream, to: UnixStream, answers: bool) -> Self {
        let (frames, passed) = mpsc::channel(FRAMES_MAX);
        Guard {
            tasks: [tokio::spawn(read(from, frames, answers)), tokio::spawn(write(to, passed))],
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn read(mut from: UnixStream, frames: mpsc::Sender<Vec<u8>>, answers: bool) {
    let (mut buffer, mut waiting) = (vec![0; READ_BYTES], Vec::new());
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        waiting.extend_from_slice(&buffer[..n]);
        let mut at = 0;
        while let Some(header) = waiting.get(at..at + 4) {
            let len = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
            if len > FRAME_BYTES_MAX {
                return;
            }
            let Some(frame) = waiting.get(at..at + 4 + len) else { break };
            if is_allowed(&frame[4..], answers) {
                let _ = frames.try_send(frame.to_vec());
            }
            at += 4 + len;
        }
        waiting.drain(..at);
    }
}

async fn write(mut to: UnixStream, mut passed: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = passed.recv().await {
        if to.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Whether the guest may send this Ethernet frame; `answers` to the router, too.
fn is_allowed(frame: &[u8], answers: bool) -> bool {
    match frame.get(12..14).map(|kind| [kind[0], kind[1]]) {
        // Answered by the stack itself.
        Some(ETHERTYPE_ARP) => true,
        Some(ETHERTYPE_IPV4) => is_allowed_packet(&frame[14..], answers),
        _ => false,
    }
}

fn is_allowed_packet(packet: &[u8], answers: bool) -> bool {
    const VERSION_4_NO_OPTIONS: u8 = 0x45;
    let Some((header, body)) = packet.split_at_checked(20) else { return false };
    // Options can name another way to another destination.
    if header[0] != VERSION_4_NO_OPTIONS {
        return false;
    }
    let to = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let protocol = header[9];
    let port = body.get(2..4).map(|port| u16::from_be_bytes([port[0], port[1]]));
    let port = port.filter(|_| !is_fragment && matches!(protocol, TCP | UDP));
    match to {
        // Answers to who came in by a forwarded port. The stack opens a socket of its own only for
        // a segment with SYN and no ACK.
        GATEWAY => answers && port.is_some() && protocol == TCP && is_answer(body),
        NAMESERVER => port == Some(DNS_PORT),
        // Answered by the stack itself.
        Ipv4Addr::BROADCAST => protocol == UDP && port == Some(DHCP_SERVER_PORT),
        to => is_allowed_address(to),
    }
}

/// Whether a TCP segment belongs to a connection that somebody else began.
fn is_answer(segment: &[u8]) -> bool {
    const FLAGS: usize = 13;
    const ACK: u8 = 0x10;
    segment.get(FLAGS).is_some_and(|flags| flags & ACK != 0)
}

/// Not the host itself by any name that only it has, not the network between it and the guest,
/// not what a cloud tells a host in confidence (169.254.169.254), not everybody.
fn is_allowed_address(to: Ipv4Addr) -> bool {
    let (guest, prefix) = GUEST;
    let ours = (to.to_bits() ^ guest.to_bits()) >> (32 - u32::from(prefix)) == 0;
    let [first, ..] = to.octets();
    !(ours || to.is_loopback() || to.is_link_local() || first == 0 || first >= 224)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_allowed(frame: &[u8]) -> bool {
        super::is_allowed(frame, true)
    }

    /// A frame to `to`, as a guest makes one.
    fn frame(to: [u8; 4], protocol: u8, port: u16) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(ETHERTYPE_IPV4);
        frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 2, 15]);
        frame.extend(to);
        frame.extend([0x9c, 0x40]);
        frame.extend(port.to_be_bytes());
        frame.extend([0; 4]);
        frame
    }

    #[test]
    fn the_host_and_its_neighbours_by_link_are_out_of_reach() {
        for to in [
            [10, 0, 2, 2],
            [10, 0, 2, 7],
            [10, 0, 2, 255],
            [127, 0, 0, 1],
            [127, 9, 9, 9],
            [0, 0, 0, 0],
            [169, 254, 169, 254],
            [224, 0, 0, 1],
            [255, 255, 255, 255],
        ] {
            for (protocol, port) in [(TCP, 22), (UDP, 53), (1, 8)] {
                assert!(!is_allowed(&frame(to, protocol, port)), "{to:?} {protocol}");
            }
        }
        for to in [[192, 0, 2, 1], [10, 0, 3, 2], [172, 16, 0, 1], [8, 8, 8, 8]] {
            assert!(is_allowed(&frame(to, TCP, 80)), "{to:?}");
        }
    }

    #[test]
    fn the_name_server_answers_names_and_nothing_else() {
        let dns = [10, 0, 2, 3];
        assert!(is_allowed(&frame(dns, UDP, 53)) && is_allowed(&frame(dns, TCP, 53)));
        assert!(!is_allowed(&frame(dns, TCP, 22)) && !is_allowed(&frame(dns, 1, 53)));
        let mut fragment = frame(dns, UDP, 53);
        fragment[20] = 0x20;
        assert!(!is_allowed(&fragment));
        assert!(is_allowed(&frame([255; 4], UDP, 67)) && !is_allowed(&frame([255; 4], TCP, 67)));
    }

    #[test]
    fn a_guest_answers_through_the_router_but_begins_nothing() {
        let segment = |flags: u8| {
            let mut frame = frame([10, 0, 2, 2], TCP, 40_000);
            frame.resize(14 + 20 + 20, 0);
            frame[14 + 20 + 13] = flags;
            frame
        };
        let (syn, ack, rst) = (0x02, 0x10, 0x04);
        assert!(is_allowed(&segment(syn | ack)) && is_allowed(&segment(ack | rst)));
        assert!(!super::is_allowed(&segment(syn | ack), false));
        assert!(
            !is_allowed(&segment(syn)) && !is_allowed(&segment(0)) && !is_allowed(&segment(rst))
        );
        let mut udp = segment(ack);
        udp[14 + 9] = UDP;
        assert!(!is_allowed(&udp));
        let mut fragment = segment(ack);
        fragment[14 + 7] = 1;
        assert!(!is_allowed(&fragment));
    }

    #[test]
    fn what_is_not_plain_ipv4_or_arp_does_not_pass() {
        let good = frame([192, 0, 2, 1], TCP, 80);
        for len in 0..34 {
            assert!(!is_allowed(&good[..len]), "{len}");
        }
        // IPv6, a tag of a virtual LAN, a header with options.
        for (at, byte) in [(12, 0x86), (12, 0x81), (14, 0x46), (14, 0x65)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(!is_allowed(&bad), "{at} {byte:#x}");
        }
        let mut arp = vec![0; 42];
        arp[12..14].copy_from_slice(&ETHERTYPE_ARP);
        assert!(is_allowed(&arp));
    }
}
