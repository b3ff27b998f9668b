//! A port of the host's that leads into a machine.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

use crate::{Error, Result};

/// A TCP port of the host's that leads to one of the machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where the host listens.
    pub host: SocketAddrV4,
    /// The port in the machine.
    pub guest: u16,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.guest)
    }
}

impl FromStr for Forward {
    type Err = Error;

    /// `[ADDRESS:]PORT:PORT`; where no address is given, only the host itself can connect.
    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || Error::usage(format!("port {text:?}: [ADDRESS:]PORT:PORT is wanted, 8080:80 say"));
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        let (host, guest) = text.rsplit_once(':').ok_or_else(wrong)?;
        let (address, host) = match host.rsplit_once(':') {
            Some((address, port)) => (address.parse().map_err(|_| wrong())?, port),
            None => (Ipv4Addr::LOCALHOST, host),
        };
        let (host, guest) = (port(host).ok_or_else(wrong)?, port(guest).ok_or_else(wrong)?);
        Ok(Forward { host: SocketAddrV4::new(address, host), guest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_as_they_are_written() {
        for (text, same) in [
            ("8080:80", "127.0.0.1:8080:80"),
            ("0.0.0.0:8080:80", "0.0.0.0:8080:80"),
            ("192.0.2.1:1:65535", "192.0.2.1:1:65535"),
        ] {
            assert_eq!(text.parse::<Forward>().unwrap().to_string(), same);
        }
        for bad in
            ["", "80", ":80", "80:", "0:80", "80:0", "65536:1", "host:1:1", "1:1:1:1", "-1:1"]
        {
            assert!(bad.parse::<Forward>().is_err(), "{bad}");
        }
    }
}
