//! The machine's network, as the host described it: the interface, a route, who answers names.
//! The kernel is asked by rtnetlink(7), which needs no unsafe code and no program of the image's.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;

use agent::MAC_BYTES;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::console;

/// What `imgtool.net` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) address: Ipv4Addr,
    /// Bits of the address that are the network's.
    pub(crate) prefix: u8,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) nameserver: Ipv4Addr,
}

const INTERFACES: &str = "/sys/class/net";
/// Linux: `ARPHRD_ETHER`, in `/sys/class/net/NAME/type`.
const ETHERNET: &str = "1";

// rtnetlink(7), linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const NLMSG_HEADER_BYTES: usize = 16;
/// `NLM_F_REQUEST | NLM_F_ACK`
const CHANGE: u16 = 0x1 | 0x4;
/// `NLM_F_REPLACE | NLM_F_CREATE`, too.
const PUT: u16 = CHANGE | 0x100 | 0x400;
const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;

/// Brings up `lo`.
pub(crate) fn loopback_up() -> Result<(), String> {
    let up = || link_up(&netlink_socket()?, index("lo")?);
    up().map_err(|e| format!("cannot bring up lo: {e}"))
}

/// Connects the machine as `network` says.
pub(crate) fn configure(network: &Network) -> Result<(), String> {
    let name = interface().ok_or("imgtool.net=, but there is no network interface")?;
    let set_up = || -> io::Result<()> {
        let (socket, index) = (netlink_socket()?, index(&name)?);
        link_up(&socket, index)?;
        ask(&socket, RTM_NEWADDR, PUT, &address(index, network))?;
        ask(&socket, RTM_NEWROUTE, PUT, &default_route(index, network.gateway))
    };
    set_up().map_err(|e| format!("cannot set up {name}: {e}"))?;
    // An image may have anything at that place, and runs all the same.
    if let Err(e) = write_resolv_conf(network.nameserver) {
        console::say(&format!("cannot write /etc/resolv.conf: {e}"));
    }
    Ok(())
}

/// Gives the interface another address.
pub(crate) fn set_mac(mac: &[u8; MAC_BYTES]) -> Result<(), String> {
    let name = interface().ok_or("there is no network interface to give an address to")?;
    let set = || -> io::Result<()> {
        // struct ifinfomsg: family, type, index, flags, mask of flags to change
        let mut body = vec![0; 4];
        body.extend_from_slice(&index(&name)?.to_ne_bytes());
        body.extend_from_slice(&[0; 8]);
        // An attribute's length does not count what pads it to four bytes.
        body.extend_from_slice(&(4 + MAC_BYTES as u16).to_ne_bytes());
        body.extend_from_slice(&IFLA_ADDRESS.to_ne_bytes());
        body.extend_from_slice(mac);
        body.extend_from_slice(&[0; 2]);
        ask(&netlink_socket()?, RTM_NEWLINK, CHANGE, &body)
    };
    set().map_err(|e| format!("cannot change the address of {name}: {e}"))
}

/// The only Ethernet interface that a machine of ours has.
fn interface() -> Option<String> {
    fs::read_dir(INTERFACES).ok()?.flatten().find_map(|entry| {
        let kind = fs::read_to_string(entry.path().join("type")).ok()?;
        (kind.trim() == ETHERNET).then(|| entry.file_name().to_string_lossy().into_owned())
    })
}

fn index(name: &str) -> io::Result<u32> {
    let text = fs::read_to_string(format!("{INTERFACES}/{name}/ifindex"))?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

fn netlink_socket() -> io::Result<OwnedFd> {
    // Protocol 0 is NETLINK_ROUTE.
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?)
}

fn link_up(socket: &OwnedFd, index: u32) -> io::Result<()> {
    // struct ifinfomsg: family, type, index, flags, mask of flags to change
    let mut body = vec![0; 4];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&IFF_UP.to_ne_bytes());
    body.extend_from_slice(&IFF_UP.to_ne_bytes());
    ask(socket, RTM_NEWLINK, CHANGE, &body)
}

fn address(index: u32, network: &Network) -> Vec<u8> {
    // struct ifaddrmsg: family, prefix, flags, scope, index
    let mut body = vec![AF_INET, network.prefix, 0, 0];
    body.extend_from_slice(&index.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, network.address.octets());
    attribute(&mut body, IFA_ADDRESS, network.address.octets());
    body
}

fn default_route(index: u32, gateway: Ipv4Addr) -> Vec<u8> {
    // struct rtmsg: family, destination's and source's bits, tos, table, protocol, scope, type, flags
    let mut body = vec![AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST];
    body.extend_from_slice(&0u32.to_ne_bytes());
    attribute(&mut body, RTA_GATEWAY, gateway.octets());
    attribute(&mut body, RTA_OIF, index.to_ne_bytes());
    body
}

/// All of ours are four bytes, which need no padding.
fn attribute(body: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    body.extend_from_slice(&8u16.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(&value);
}

/// Sends one request and reads whether it was granted.
fn ask(socket: &OwnedFd, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let mut request = Vec::new();
    request.extend_from_slice(&((NLMSG_HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&flags.to_ne_bytes());
    // Sequence and sender: one request at a time needs neither.
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(body);
    rustix::io::write(socket, &request)?;
    let mut answer = [0; 1024];
    let n = rustix::io::read(socket, &mut answer)?;
    granted(&answer[..n])
}

/// An answer is a header and, for `NLMSG_ERROR`, the negative error number; 0 is none.
fn granted(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).map(|k| u16::from_ne_bytes([k[0], k[1]]));
    let errno = answer.get(NLMSG_HEADER_BYTES..NLMSG_HEADER_BYTES + 4);
    match (kind, errno.map(|e| i32::from_ne_bytes([e[0], e[1], e[2], e[3]]))) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(errno)) => Err(io::Error::from_raw_os_error(-errno)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Puts a new file in the place of whatever is there: a link into a `/run` that is empty, often.
fn write_resolv_conf(nameserver: Ipv4Addr) -> io::Result<()> {
    const NEW: &str = "/etc/.resolv.conf.imgtool";
    if !Path::new("/etc").is_dir() {
        return Ok(());
    }
    // What a boot that was cut short left on a disk that stays.
    match fs::remove_file(NEW) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(NEW, flags, Mode::from(0o644))?);
    file.write_all(format!("nameserver {nameserver}\n").as_bytes())?;
    fs::rename(NEW, "/etc/resolv.conf").inspect_err(|_| {
        let _ = fs::remove_file(NEW);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_requests_one_by_one() {
        // Nobody has this index: the request is understood, and refused.
        let socket = netlink_socket().expect("a netlink socket");
        let refused = link_up(&socket, 0x7fff_fff0).expect_err("no such interface");
        assert!(refused.raw_os_error().is_some(), "{refused}");
        assert!(index("lo").expect("every machine has lo") > 0);
    }

    #[test]
    fn answers_that_are_cut_off_are_errors() {
        let mut answer = [0; 20];
        answer[4] = 2;
        assert!(granted(&answer).is_ok());
        for n in 0..20 {
            assert!(granted(&answer[..n]).is_err());
        }
        answer[16..].copy_from_slice(&(-17i32).to_ne_bytes());
        assert_eq!(granted(&answer).expect_err("an error").raw_os_error(), Some(17));
    }
}
