//! Debian packages, installed by mmdebstrap, as one layer.
//!
//! mmdebstrap writes its tar to standard output; we compress it into the cache on the way, so the
//! tree is never unpacked here. Which mirror is asked is mmdebstrap's own business. The bytes are
//! the same for root (mode `root`) and for an unprivileged user (mode `unshare`): times are clamped
//! by `SOURCE_DATE_EPOCH`, mmdebstrap clears logs and caches and the machine id, and we take out the
//! two files that it copies from this machine, `/etc/hostname` and `/etc/resolv.conf`.
//!
//! What it made is kept under a key of everything that we tell it. The archive moves on, the key
//! does not: the next build takes the same packages from the cache, without the network, until it is
//! asked to refresh.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use bundle::{Arch, Digest, Hasher};
use imgrun::{Progress, Tool, Unit, interrupt};
use serde::{Deserialize, Serialize};

use super::{Layer, Resolved};
use crate::cache::{Cache, Draft};
use crate::recipe::Bootstrap;
use crate::{Error, Result, date};

/// A bootstrap takes this long at most: a slow mirror, a big set of packages.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(2 * 60 * 60);
/// To say its version, mmdebstrap takes this long at most.
const VERSION_TIMEOUT: Duration = Duration::from_secs(30);
/// The layer's zstd level.
const ZSTD_LEVEL: i32 = 3;
/// The tar is passed on in pieces of this many bytes.
const PIECE_BYTES: usize = 256 << 10;
/// User ids that the unprivileged mode needs.
const SUBIDS_MIN: u64 = 65_536;

/// Run in the new tree before it is packed; `$1` is its directory.
const CUSTOMIZE: &str = r#"rm -f "$1/etc/hostname" "$1/etc/resolv.conf""#;

/// What mmdebstrap sees of our environment: how to reach the network, and where to put its tree.
const KEPT_ENVIRONMENT: [&str; 10] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// What the cache notes about a bootstrap.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// When it was made, in seconds since 1970.
    made: u64,
    /// The compressed tar in the cache.
    blob: Digest,
    /// Its size in bytes.
    bytes: u64,
    /// The tar itself.
    tar: Digest,
    /// What it is, for people.
    #[serde(default)]
    name: String,
}

/// Whether the cache may and must do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    /// Make it anew.
    pub(super) refresh: bool,
    /// Do not make it.
    pub(super) offline: bool,
}

/// The tree of `bootstrap` for `arch`, with times up to `epoch` (seconds since 1970); from the
/// cache, unless it is not there or `want` asks for a new one.
///
/// # Errors
/// [`crate::Class::Host`] where mmdebstrap is missing, may not be used by this user or fails.
pub(super) fn resolve(
    bootstrap: &Bootstrap,
    arch: Arch,
    epoch: u64,
    want: Want,
    cache: &Cache,
    progress: &Progress,
) -> Result<Resolved> {
    imgrun::tool::require(&["mmdebstrap"])?;
    let version = Tool::new("mmdebstrap").arg("--version").timeout(VERSION_TIMEOUT).run()?;
    let key = key(bootstrap, arch, epoch, &version.stdout);
    let name = format!("debian {} {} {arch}", bootstrap.suite, bootstrap.variant);
    let known = cache.note(&key).and_then(|note| serde_json::from_slice::<Note>(&note).ok());
    let known = known.filter(|note| cache.find(&note.blob, note.bytes).is_some());
    let note = match known {
        Some(mut note) if !want.refresh => {
            if note.name.is_empty() {
                // Made before notes had names.
                note.name.clone_from(&name);
                save(&note, &key, cache)?;
            }
            progress.note(format!(
                "using the bootstrap of {} from the cache (--refresh to make it anew)",
                date::day(note.made)
            ));
            note
        }
        _ if want.offline => {
            return Err(Error::network(format!("offline: {name} is not in the cache"))
                .hint("build it once without --offline"));
        }
        _ => {
            check_user()?;
            let note =
                Note { name: name.clone(), ..make(bootstrap, arch, epoch, cache, progress)? };
            save(&note, &key, cache)?;
            note
        }
    };
    let file = cache.find(&note.blob, note.bytes);
    let file = file.ok_or_else(|| Error::host(format!("{} left the cache", note.blob)))?;
    let layer = Layer {
        origin: format!("{name} ({})", note.blob),
        file,
        offset: 0,
        bytes: note.bytes,
        digest: note.blob,
        content: None,
    };
    Ok(Resolved { layers: vec![layer], name, digest: note.tar, config: None })
}

fn save(note: &Note, key: &Digest, cache: &Cache) -> Result<()> {
    let json = serde_json::to_vec(note).map_err(|e| Error::bug("write a note").because(e))?;
    cache.set_note(key, &json)
}

/// Everything that decides what mmdebstrap makes, but for the day's packages.
fn key(bootstrap: &Bootstrap, arch: Arch, epoch: u64, version: &[u8]) -> Digest {
    let mut key = Hasher::new();
    key.field("imgtool bootstrap 1");
    key.field(version);
    for argument in arguments(bootstrap, arch, "any") {
        key.field(argument);
    }
    key.field(epoch.to_le_bytes());
    key.field([u8::try_from(ZSTD_LEVEL).unwrap_or(0)]);
    key.finish()
}

fn arguments(bootstrap: &Bootstrap, arch: Arch, mode: &str) -> Vec<String> {
    // Debian's names of architectures are those of OCI.
    // Where nothing is executed, there is nothing to customize.
    let hook = if bootstrap.variant == "extract" { "extract" } else { "customize" };
    let mut arguments = vec![
        format!("--mode={mode}"),
        "--format=tar".to_string(),
        format!("--variant={}", bootstrap.variant),
        format!("--architectures={}", arch.oci_name()),
        format!("--components={}", bootstrap.components.join(",")),
        format!("--{hook}-hook={CUSTOMIZE}"),
    ];
    if !bootstrap.packages.is_empty() {
        arguments.push(format!("--include={}", bootstrap.packages.join(",")));
    }
    arguments.extend([bootstrap.suite.clone(), "-".to_string()]);
    arguments
}

fn make(
    bootstrap: &Bootstrap,
    arch: Arch,
    epoch: u64,
    cache: &Cache,
    progress: &Progress,
) -> Result<Note> {
    let mode = if is_root() { "root" } else { "unshare" };
    let title = format!("mmdebstrap {} {}", bootstrap.suite, arch.oci_name());
    let mut step = Some(progress.stage(format!("{title}: begins"), Unit::Items, None));
    let tool = Tool::new("mmdebstrap")
        .args(arguments(bootstrap, arch, mode))
        .only_env(&KEPT_ENVIRONMENT)
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        // The program runs as root or in a name space of its own; its files need not be in ours.
        .dir("/")
        .timeout(BOOTSTRAP_TIMEOUT)
        .on_stderr_line(|line| {
            let Some(what) = line.strip_prefix("I: ") else { return };
            if !what.ends_with("...") {
                return;
            }
            if let Some(stage) = step.take() {
                stage.finish("done");
            }
            let what = what.trim_end_matches('.');
            step = Some(progress.stage(format!("{title}: {what}"), Unit::Items, None));
        });
    let packed = tool.stream(|tar| pack(tar, cache.draft()?))?;
    if let Some(stage) = step.take() {
        stage.finish("done");
    }
    // Only now: a program that failed has written half a tar.
    let (blob, bytes) = (packed.draft.digest(), packed.draft.bytes());
    packed.draft.commit(&blob, bytes)?;
    Ok(Note { made: date::now(), blob, bytes, tar: packed.tar, name: String::new() })
}

/// A compressed tar that has no name yet.
struct Packed {
    draft: Draft,
    /// The digest of the tar itself.
    tar: Digest,
}

fn pack(tar: &mut dyn Read, draft: Draft) -> Result<Packed> {
    let about = |e| Error::io("compress the bootstrap", e);
    let mut encoder = zstd::Encoder::new(draft, ZSTD_LEVEL).map_err(about)?;
    encoder.include_checksum(true).map_err(about)?;
    let mut hasher = Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut total = 0_u64;
    loop {
        interrupt::check()?;
        let n = match tar.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::io("read mmdebstrap's tar", e)),
        };
        hasher.update(&piece[..n]);
        encoder.write_all(&piece[..n]).map_err(about)?;
        total += n as u64;
    }
    if total == 0 {
        return Err(Error::host("mmdebstrap wrote no tar"));
    }
    Ok(Packed { draft: encoder.finish().map_err(about)?, tar: hasher.finish() })
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether mmdebstrap's unprivileged mode can work: it maps the user's range of subordinate ids.
fn check_user() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    imgrun::tool::require(&["newuidmap", "newgidmap"])?;
    let uid = rustix::process::geteuid().as_raw();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = user_name(&passwd, uid).unwrap_or_else(|| uid.to_string());
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = std::fs::read_to_string(Path::new(file)).unwrap_or_default();
        if subids(&text, &user, uid) < SUBIDS_MIN {
            return Err(Error::host(format!(
                "a bootstrap without root needs {SUBIDS_MIN} subordinate ids, and {file} has none \
                 for {user}"
            ))
            .hint(format!(
                "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
            )));
        }
    }
    Ok(())
}

/// The name of user `uid` (passwd(5)).
fn user_name(passwd: &str, uid: u32) -> Option<String> {
    let mut lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let line = lines.find(|fields| fields.get(2).is_some_and(|id| *id == uid.to_string()))?;
    Some(line[0].to_string())
}

/// The largest range that `user` has in a file of subordinate ids (subuid(5)).
fn subids(text: &str, user: &str, uid: u32) -> u64 {
    let uid = uid.to_string();
    let ranges = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let count = fields.nth(1)?.trim().parse::<u64>().ok()?;
        (owner == user || owner == uid).then_some(count)
    });
    ranges.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_are_found_by_name_and_by_number() {
        let text = "me:100000:65536\n1001:165536:10\nbroken\n:::\nme:1:2\n";
        assert_eq!(subids(text, "me", 7), 65_536);
        assert_eq!(subids(text, "you", 1001), 10);
        assert_eq!(subids(text, "you", 7), 0);
        let passwd = "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/:/bin/sh\nodd\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("me"));
        assert_eq!(user_name(passwd, 5), None);
    }

    #[test]
    fn everything_that_matters_is_in_the_key() {
        let bootstrap = Bootstrap {
            suite: "bookworm".into(),
            variant: "minbase".into(),
            components: vec!["main".into()],
            packages: vec!["curl".into()],
        };
        let mut keys = vec![key(&bootstrap, Arch::X86_64, 1, b"mmdebstrap 1")];
        keys.push(key(&bootstrap, Arch::Aarch64, 1, b"mmdebstrap 1"));
        keys.push(key(&bootstrap, Arch::X86_64, 2, b"mmdebstrap 1"));
        keys.push(key(&bootstrap, Arch::X86_64, 1, b"mmdebstrap 2"));
        let more = Bootstrap { packages: vec!["curl".into(), "git".into()], ..bootstrap.clone() };
        keys.push(key(&more, Arch::X86_64, 1, b"mmdebstrap 1"));
        let other = Bootstrap { suite: "trixie".into(), ..bootstrap };
        keys.push(key(&other, Arch::X86_64, 1, b"mmdebstrap 1"));
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }
}
