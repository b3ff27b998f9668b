//! The words of ours on the kernel's command line.

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
    /// `imgtool.upper=SERIAL`: the disk whose file system takes what is written; memory if absent.
    pub(crate) upper: Option<String>,
    /// `imgtool.hostname=NAME`
    pub(crate) hostname: Option<String>,
}

/// Hostnames are at most this long (Linux: `__NEW_UTS_LEN`).
const HOSTNAME_BYTES_MAX: usize = 64;

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
            Some(("hostname", name))
                if !name.is_empty()
                    && name.len() <= HOSTNAME_BYTES_MAX
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)) =>
            {
                words.hostname = Some(name.into());
            }
            _ => return Err(format!("cannot understand imgtool.{word} on the command line")),
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_are_left_alone() {
        let text = "root=/dev/vda ro quiet imgtool.init=systemd imgtool.upper=up0 \
                    imgtool.hostname=web-1.x init=/usr/lib/imgtool/imgagent\n";
        let expected = Words {
            init: Init::Systemd,
            upper: Some("up0".into()),
            hostname: Some("web-1.x".into()),
        };
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(parse(""), Ok(Words::default()));
        for bad in ["imgtool.init=x", "imgtool.upper=", "imgtool.hostname=a/b", "imgtool.new=1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
