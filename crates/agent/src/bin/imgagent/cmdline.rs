//! The words of ours on the kernel's command line.

use crate::network::Network;
use crate::volume::Volume;

/// What PID 1 is after the mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Init {
    /// This program.
    #[default]
    Agent,
    /// The image's systemd.
    Systemd,
}

/// `imgtool.*` words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    /// `imgtool.init=agent|systemd`
    pub(crate) init: Init,
    /// `imgtool.upper=NAME`: the disk (by serial number) or partition (by name) whose file system
    /// takes what is written; memory if absent. `/dev/NAME` where the VMM gives disks no serial of
    /// ours.
    pub(crate) upper: Option<String>,
    /// `imgtool.agent=vsock`: the host connects to our vsock port, there is no virtio-serial port.
    pub(crate) vsock: bool,
    /// `imgtool.redirect=off`: a renamed directory is copied, so that the upper file system says by
    /// itself what was changed. For machines that build images.
    pub(crate) plain_upper: bool,
    /// `imgtool.hostname=NAME`
    pub(crate) hostname: Option<String>,
    /// `imgtool.net=ADDRESS/PREFIX,GATEWAY,NAMESERVER`: the one interface; IPv4.
    pub(crate) network: Option<Network>,
    /// `imgtool.volume=SERIAL:PATH[:ro]`, once for each.
    pub(crate) volumes: Vec<Volume>,
}

/// Hostnames are at most this long (Linux: `__NEW_UTS_LEN`).
const HOSTNAME_BYTES_MAX: usize = 64;

/// The words of this machine's kernel.
pub(crate) fn read() -> Result<Words, String> {
    let text =
        std::fs::read_to_string("/proc/cmdline").map_err(|e| format!("/proc/cmdline: {e}"))?;
    parse(&text)
}

/// Reads the text of `/proc/cmdline`. A word of ours that is not understood is an error: a
/// machine that starts differently from what was asked for is worse than one that does not start.
pub(crate) fn parse(text: &str) -> Result<Words, String> {
    let mut words = Words::default();
    for word in text.split_ascii_whitespace() {
        let Some(word) = word.strip_prefix("imgtool.") else { continue };
        match word.split_once('=') {
            Some(("init", "agent")) => words.init = Init::Agent,
            Some(("init", "systemd")) => words.init = Init::Systemd,
            Some(("upper", serial)) if !serial.is_empty() => words.upper = Some(serial.into()),
            Some(("agent", "vsock")) => words.vsock = true,
            Some(("redirect", "off")) => words.plain_upper = true,
            Some(("hostname", name))
                if !name.is_empty()
                    && name.len() <= HOSTNAME_BYTES_MAX
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)) =>
            {
                words.hostname = Some(name.into());
            }
            Some(("volume", text)) if Volume::parse(text).is_some() => {
                words.volumes.extend(Volume::parse(text));
            }
            Some(("net", text)) if network(text).is_some() => words.network = network(text),
            _ => return Err(format!("cannot understand imgtool.{word} on the command line")),
        }
    }
    Ok(words)
}

fn network(text: &str) -> Option<Network> {
    let mut parts = text.split(',');
    let (address, prefix) = parts.next()?.split_once('/')?;
    let network = Network {
        address: address.parse().ok()?,
        prefix: prefix.parse().ok().filter(|bits| *bits <= 32)?,
        gateway: parts.next()?.parse().ok()?,
        nameserver: parts.next()?.parse().ok()?,
    };
    parts.next().is_none().then_some(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_are_left_alone() {
        let text = "root=/dev/vda ro quiet imgtool.init=systemd imgtool.upper=up0 imgtool.redirect=off imgtool.agent=vsock \
                    imgtool.volume=volume0:/a imgtool.volume=volume1:/b/c:ro \
                    imgtool.hostname=web-1.x imgtool.net=10.0.2.15/24,10.0.2.2,10.0.2.3 \
                    init=/usr/lib/imgtool/imgagent\n";
        let expected = Words {
            init: Init::Systemd,
            upper: Some("up0".into()),
            vsock: true,
            plain_upper: true,
            hostname: Some("web-1.x".into()),
            network: Some(Network {
                address: [10, 0, 2, 15].into(),
                prefix: 24,
                gateway: [10, 0, 2, 2].into(),
                nameserver: [10, 0, 2, 3].into(),
            }),
            volumes: ["volume0:/a", "volume1:/b/c:ro"].map(|v| Volume::parse(v).unwrap()).to_vec(),
        };
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(parse(""), Ok(Words::default()));
        let bad = [
            "init=x",
            "upper=",
            "hostname=a/b",
            "new=1",
            "redirect=on",
            "agent=serial",
            "net=",
            "volume=volume0",
            "volume=:/a",
            "volume=volume0:a",
            "volume=volume0:/a:rw",
            "net=10.0.2.15,10.0.2.2,10.0.2.3",
        ];
        let more = ["net=10.0.2.15/33,10.0.2.2,10.0.2.3", "net=10.0.2.15/24,10.0.2.2,10.0.2.3,1"];
        for bad in bad.into_iter().chain(more) {
            assert!(parse(&format!("imgtool.{bad}")).is_err(), "{bad}");
        }
    }
}
