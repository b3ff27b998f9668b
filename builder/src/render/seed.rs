//! A seed for cloud-init's NoCloud (its documentation, "NoCloud"): an ISO 9660 file system with the
//! volume id `cidata` and two files. A machine gets it as one more disk.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bundle::{Digest, Kind, Manifest};
use imgrun::Tool;
use minijinja::context;
use tempfile::NamedTempFile;

use crate::image::publish;
use crate::{Error, Result};

const META_DATA: &str = include_str!("../../../templates/render/meta-data.yaml");
const USER_DATA: &str = include_str!("../../../templates/render/user-data.yaml");
/// cloud-init looks for this label.
const VOLUME: &str = "cidata";
/// Two small files.
const WRITE_TIME_MAX: Duration = Duration::from_secs(60);
/// How lines in a file of public keys begin (sshd(8), "AUTHORIZED_KEYS FILE FORMAT").
const KEY_TYPES: [&str; 3] = ["ssh-", "ecdsa-sha2-", "sk-"];
/// All times in it, of the volume and of files: 2000-01-01. Equal wishes give equal bytes.
const EPOCH: &str = "946684800";
const DATE: &str = "2000010100000000";

/// Who comes in, and where.
#[derive(Clone, Debug)]
pub struct Login {
    /// The machine's name; the bundle's by default.
    pub hostname: Option<String>,
    /// The user, who is made where the image has none of that name.
    pub user: String,
    /// Public keys, a line each.
    pub keys: Vec<String>,
}

/// Writes the seed for a machine of the bundle `digest` with `manifest` as `out`.
///
/// # Errors
/// Where it is no image, a key is none, xorriso is missing, or `out` can not be written.
pub fn seed(manifest: &Manifest, digest: &Digest, login: &Login, out: &Path) -> Result<()> {
    if manifest.kind != Kind::Image {
        return Err(Error::input(format!("{} is a kernel, not an image", manifest.name)));
    }
    if login.keys.is_empty() {
        return Err(Error::usage("nobody could come in").hint("--ssh-key FILE: a public key"));
    }
    if let Some(wrong) = login.keys.iter().find(|key| !is_public_key(key)) {
        let start: String = wrong.chars().take(20).collect();
        return Err(Error::usage(format!("{start:?}…: not a public ssh key"))
            .hint("ssh-keygen keeps the public one in a file that ends in .pub"));
    }
    imgrun::tool::require(&["xorriso"])?;
    let name = login.hostname.as_deref().unwrap_or(manifest.name.as_str());
    let values = context! {
        name => manifest.name.as_str(),
        version => manifest.version.as_str(),
        digest => digest.to_string(),
        hex => digest.hex(),
        hostname => super::label(name),
        user => login.user,
        ssh_keys => login.keys,
    };
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let about = |e| Error::io(out.display(), e);
    let work = tempfile::Builder::new().prefix(".imgtool-").tempdir_in(parent).map_err(about)?;
    let tree = work.path().join("tree");
    fs::create_dir(&tree).map_err(about)?;
    for (file, template) in [("meta-data", META_DATA), ("user-data", USER_DATA)] {
        fs::write(tree.join(file), super::fill(template, values.clone())?).map_err(about)?;
    }
    let draft = NamedTempFile::new_in(work.path()).map_err(about)?;
    Tool::new("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-volid", VOLUME, "-joliet", "-rational-rock"])
        .args(["--set_all_file_dates", DATE])
        .arg("-output")
        .arg(draft.path())
        .arg(&tree)
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .timeout(WRITE_TIME_MAX)
        .run()?;
    publish(draft, out)
}

fn is_public_key(line: &str) -> bool {
    let plain = line.chars().all(|c| !c.is_control());
    let mut words = line.split(' ');
    let known = words.next().is_some_and(|kind| KEY_TYPES.iter().any(|k| kind.starts_with(k)));
    plain && known && words.next().is_some_and(|key| key.starts_with("AAAA"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_is_no_public_one() {
        for key in ["ssh-ed25519 AAAAC3Nz me@home", "ecdsa-sha2-nistp256 AAAAE2", "sk-x AAAA"] {
            assert!(is_public_key(key), "{key}");
        }
        for line in ["-----BEGIN OPENSSH PRIVATE KEY-----", "", "ssh-rsa", "ssh-rsa AAAA\nroot: x"]
        {
            assert!(!is_public_key(line), "{line}");
        }
    }
}
