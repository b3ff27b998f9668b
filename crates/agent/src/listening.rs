//! What listens in a guest: what the agent's own program says as a command, `imgagent ports`.
//!
//! ```text
//! tcp 0.0.0.0:80 217 nginx        protocol, address and port, process id, process name
//! udp [::]:53 - -                 whose process is not known, or is none
//! ```
//! A line each, in order. A name has no control characters, and may have spaces.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::ProtocolError;

/// A process's name is at most this long for the kernel (`TASK_COMM_LEN`), and a little more for
/// kernels to come.
const NAME_BYTES_MAX: usize = 64;

/// A socket that waits for whoever comes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// `tcp` or `udp`.
    pub protocol: Transport,
    /// Where it listens.
    pub address: SocketAddr,
    /// Who does: a process's id and name, where that is known.
    pub process: Option<(u32, String)>,
}

/// A protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// `tcp` or `udp`.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
    }

    /// What the kernel's tables have for a socket that waits: `TCP_LISTEN`, `TCP_CLOSE`.
    fn waiting(self) -> &'static str {
        match self {
            Transport::Tcp => "0A",
            Transport::Udp => "07",
        }
    }
}

impl Listener {
    /// As a line, without its end.
    pub fn to_line(&self) -> String {
        let Listener { protocol, address, process } = self;
        let protocol = protocol.name();
        match process {
            Some((pid, name)) => {
                let name: String = name.chars().filter(|c| !c.is_control()).collect();
                format!("{protocol} {address} {pid} {name}")
            }
            None => format!("{protocol} {address} - -"),
        }
    }
}

impl FromStr for Listener {
    type Err = ProtocolError;

    fn from_str(line: &str) -> Result<Self, ProtocolError> {
        let wrong = || ProtocolError::Invalid { field: "a listener", rule: "four words" };
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().ok_or_else(wrong);
        let protocol = match word()? {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return Err(wrong()),
        };
        let address = word()?.parse().map_err(|_| wrong())?;
        let process = match (word()?, word()?) {
            ("-", "-") => None,
            (_, name) if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) => {
                return Err(wrong());
            }
            (pid, name) => Some((pid.parse().map_err(|_| wrong())?, name.to_string())),
        };
        Ok(Listener { protocol, address, process })
    }
}

/// The sockets that wait in one of Linux's tables, `/proc/net/{tcp,tcp6,udp,udp6}` (proc(5)), each
/// with its inode's number. Lines that are not understood are left out.
pub fn waiting(table: &str, protocol: Transport) -> Vec<(SocketAddr, u64)> {
    let socket = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
        (*state == protocol.waiting()).then_some(())?;
        Some((address(local)?, inode.parse().ok()?))
    };
    // The first line names the columns.
    table.lines().skip(1).filter_map(socket).collect()
}

/// `0100007F:1F90`: the address's words as this machine reads them, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let mut bytes = [0; 16];
            bytes.copy_from_slice(words.as_flattened());
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn tables_are_read() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt";
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100";
        let talks = "   1: 0100007F:1F91 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0";
        let table = format!("{head}\n{v4}\n{talks}\nrubbish\n");
        let found = waiting(&table, Transport::Tcp);
        assert_eq!(found, [("127.0.0.1:8080".parse().unwrap(), 4711)]);
        assert_eq!(waiting(&table, Transport::Udp), []);
        let v6 = v4.replace("0100007F", "000080FE000000000000000001000000");
        let found = waiting(&format!("{head}\n{v6}"), Transport::Tcp);
        assert_eq!(found, [("[fe80::1]:8080".parse().unwrap(), 4711)]);
    }

    #[test]
    fn lines_come_back() {
        for line in ["tcp 0.0.0.0:80 217 nginx: worker", "udp [::]:53 - -", "tcp [::1]:1 1 "] {
            assert_eq!(line.parse::<Listener>().unwrap().to_line(), line);
        }
        let long = format!("tcp 0.0.0.0:80 217 {}", "x".repeat(NAME_BYTES_MAX + 1));
        for bad in
            ["", "tcp", "icmp 0.0.0.0:80 1 x", "tcp 0.0.0.0 1 x", "tcp 0.0.0.0:80 x y", &long]
        {
            assert!(bad.parse::<Listener>().is_err(), "{bad}");
        }
        assert!("tcp 0.0.0.0:80 1 \x1b[2J".parse::<Listener>().is_err());
    }
}
