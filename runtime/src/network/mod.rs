//! How a machine is connected.

mod forward;
mod guard;

use std::net::Ipv4Addr;

pub use forward::Forward;
pub(crate) use guard::Guard;

/// How a machine is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// Not at all.
    #[default]
    None,
    /// Outbound IPv4 only, by the VMM's own sockets: no root, no interface of the host's; what
    /// reaches in are [`crate::Spec::forwards`] alone. The guest reaches what the host reaches, the host's own addresses
    /// included, but for its loopback and link-local addresses (a cloud's metadata).
    User,
}

/// The guest's own address, and how many bits of it are the network's.
pub(crate) const GUEST: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 2, 15), 24);
/// The router that the guest sees.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Passes questions for names on to the host's own name server.
pub const NAMESERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

impl Network {
    /// `none` or `user`.
    pub fn name(self) -> &'static str {
        match self {
            Network::None => "none",
            Network::User => "user",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Network::None, Network::User].into_iter().find(|network| network.name() == name)
    }

    /// What the agent is told: `ADDRESS/PREFIX,GATEWAY,NAMESERVER`.
    pub(crate) fn guest_word(self) -> Option<String> {
        let (address, prefix) = GUEST;
        match self {
            Network::None => None,
            Network::User => Some(format!("{address}/{prefix},{GATEWAY},{NAMESERVER}")),
        }
    }
}
