//! How a recipe names an OCI image, and what the name means in full.
//!
//! | written | means |
//! |---|---|
//! | `oci-layout:DIR`, `…:TAG`, `…@sha256:…` | a directory in the OCI image layout |
//! | `oci-archive:FILE`, `…:TAG` | the same in a tar |
//! | `docker-archive:FILE`, `…:NAME:TAG` | what `docker save` and `skopeo copy` write |
//! | anything else | an image in a registry, by the rules of docker's short names |
//!
//! A path ends at the first colon, as it does for skopeo. In a registry's name the part before the
//! first `/` is a host if it has a dot or a colon or is `localhost`; else the host is `docker.io`
//! and a name without `/` is in `library/`. Without tag and digest the tag is `latest`; with both
//! the digest counts and the tag is for people.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bundle::Digest;

/// A tag is at most this long (OCI distribution specification, "Pulling manifests").
const TAG_BYTES_MAX: usize = 128;
/// Host and repository together are at most this long (as docker has it).
const NAME_BYTES_MAX: usize = 255;
/// The host of a short name.
const DEFAULT_HOST: &str = "docker.io";

/// An OCI image, named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A directory in the OCI image layout.
    Layout {
        /// The directory that holds `oci-layout`.
        dir: PathBuf,
        /// Which of its images.
        pick: Pick,
    },
    /// An OCI image layout in a tar file, which is read in place.
    OciArchive {
        /// The tar file.
        file: PathBuf,
        /// Which of its images.
        pick: Pick,
    },
    /// What `docker save` writes, read in place.
    DockerArchive {
        /// The tar file.
        file: PathBuf,
        /// `NAME:TAG` of one of its images; the only one where absent.
        name: Option<String>,
    },
    /// An image in a registry.
    Registry(RegistryReference),
}

/// Which image of a layout is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// The only one.
    Only,
    /// The one whose `org.opencontainers.image.ref.name` is this.
    Tag(String),
    /// The one with this manifest or index.
    Digest(Digest),
}

/// An image in a registry, its name in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryReference {
    /// Host and perhaps port, as written: `docker.io`, `localhost:5000`.
    pub host: String,
    /// The repository: `library/debian`.
    pub repository: String,
    /// The tag; `None` only where there is a digest.
    pub tag: Option<String>,
    /// The digest of the manifest or index.
    pub digest: Option<Digest>,
}

impl Reference {
    /// The same with a path that is relative to `directory`.
    #[must_use]
    pub fn relative_to(self, directory: &Path) -> Self {
        match self {
            Reference::Layout { dir, pick } => Reference::Layout { dir: directory.join(dir), pick },
            Reference::OciArchive { file, pick } => {
                Reference::OciArchive { file: directory.join(file), pick }
            }
            Reference::DockerArchive { file, name } => {
                Reference::DockerArchive { file: directory.join(file), name }
            }
            Reference::Registry(_) => self,
        }
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(char::is_control) {
            return Err(format!("{text:?} is no image reference: control characters"));
        }
        if let Some(rest) = text.strip_prefix("oci-layout:") {
            let (dir, pick) = path_and_pick(rest)?;
            return Ok(Reference::Layout { dir, pick });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (file, pick) = path_and_pick(rest)?;
            return Ok(Reference::OciArchive { file, pick });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (path, name) = match rest.split_once(':') {
                Some((path, name)) => (path, Some(name)),
                None => (rest, None),
            };
            let file = non_empty_path(path)?;
            let name = name.map(|name| name.parse::<RegistryReference>()).transpose()?;
            return Ok(Reference::DockerArchive { file, name: name.map(|name| name.to_string()) });
        }
        text.parse().map(Reference::Registry)
    }
}

fn non_empty_path(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() { Err("a path is missing".into()) } else { Ok(PathBuf::from(path)) }
}

fn path_and_pick(rest: &str) -> Result<(PathBuf, Pick), String> {
    if let Some((path, hex)) = rest.split_once("@sha256:") {
        return Ok((non_empty_path(path)?, Pick::Digest(parse_digest(&format!("sha256:{hex}"))?)));
    }
    match rest.split_once(':') {
        None => Ok((non_empty_path(rest)?, Pick::Only)),
        // Anything may be a layout's ref.name, `example.org/a:1` too.
        Some((_, "")) => Err(format!("{rest:?}: a tag is missing after the colon")),
        Some((path, tag)) => Ok((non_empty_path(path)?, Pick::Tag(tag.to_string()))),
    }
}

fn parse_digest(text: &str) -> Result<Digest, String> {
    text.parse().map_err(|e: bundle::Error| e.to_string())
}

impl FromStr for RegistryReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} is no image reference: {why}");
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(wrong(&format!("write it without {scheme}://")));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
            None => (text, None),
        };
        let (host, path) = match rest.split_once('/') {
            Some((first, path)) if is_host(first) => (first, path),
            _ => (DEFAULT_HOST, rest),
        };
        let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
        check_host(host).map_err(wrong)?;
        let (path, tag) = match path.split_once(':') {
            Some((path, tag)) => (path, Some(tag.to_string())),
            None => (path, None),
        };
        if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("a tag has 1 to 128 letters, digits, _ . - (no . - first)"));
        }
        let repository = match host {
            DEFAULT_HOST if !path.contains('/') => format!("library/{path}"),
            _ => path.to_string(),
        };
        if !path.split('/').all(is_component) {
            return Err(wrong("a name has lower-case letters and digits, single . _ - between"));
        }
        if host.len() + 1 + repository.len() > NAME_BYTES_MAX {
            return Err(wrong("it is longer than 255 bytes"));
        }
        let tag = if digest.is_none() { tag.or(Some("latest".into())) } else { tag };
        Ok(RegistryReference { host: host.to_string(), repository, tag, digest })
    }
}

fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.contains(char::is_uppercase)
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "its host is no IPv6 address")?;
            ("ipv6", rest)
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !name.split('.').all(label) {
        return Err("its host is not a host name");
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(number) if number.bytes().all(|c| c.is_ascii_digit()) => match number.parse::<u16>() {
            Ok(1..) => Ok(()),
            _ => Err("its port is no port"),
        },
        _ => Err("its port is no port"),
    }
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
fn is_tag(tag: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    tag.len() <= TAG_BYTES_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|c| word(c) || c == b'.' || c == b'-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(component: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let between =
        |gap: &str| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|c| c == b'-');
    component.starts_with(plain)
        && component.ends_with(plain)
        && component.split(plain).all(between)
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pick::Only => Ok(()),
            Pick::Tag(tag) => write!(f, ":{tag}"),
            Pick::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Layout { dir, pick } => write!(f, "oci-layout:{}{pick}", dir.display()),
            Reference::OciArchive { file, pick } => {
                write!(f, "oci-archive:{}{pick}", file.display())
            }
            Reference::DockerArchive { file, name } => {
                write!(f, "docker-archive:{}", file.display())?;
                name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))
            }
            Reference::Registry(reference) => fmt::Display::fmt(reference, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn short_names_become_full_ones() {
        let table = [
            ("debian", "docker.io/library/debian:latest"),
            ("debian:12", "docker.io/library/debian:12"),
            ("docker.io/debian", "docker.io/library/debian:latest"),
            ("index.docker.io/debian", "docker.io/library/debian:latest"),
            ("me/app", "docker.io/me/app:latest"),
            ("a/b/c:1", "docker.io/a/b/c:1"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("r.example/a__b/c--d/e.f:T.g-1_", "r.example/a__b/c--d/e.f:T.g-1_"),
            ("Example.org/a", "Example.org/a:latest"),
        ];
        for (written, meant) in table {
            let reference: Reference = written.parse().unwrap();
            assert_eq!(reference.to_string(), meant, "{written}");
            assert_eq!(meant.parse::<Reference>().unwrap(), reference, "{written}");
        }
        let pinned: RegistryReference = format!("debian@{HEX}").parse().unwrap();
        assert_eq!(pinned.tag, None);
        assert_eq!(pinned.to_string(), format!("docker.io/library/debian@{HEX}"));
        let both: RegistryReference = format!("debian:12@{HEX}").parse().unwrap();
        assert_eq!((both.tag.as_deref(), both.digest), (Some("12"), HEX.parse().ok()));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = "a/".repeat(130) + "a";
        let long_tag = format!("a:{}", "t".repeat(129));
        let bad = [
            "",
            "/",
            "a//b",
            "/a",
            "a/",
            "A",
            "a b",
            "a:",
            "a:-x",
            "a:b:c",
            "a@sha256:12",
            "a@",
            "https://r.example/a",
            "r.example:/a",
            "r.example:0/a",
            "r.example:99999/a",
            "r.example:5x/a",
            "-r.example/a",
            "r..example/a",
            "a___b",
            "a._b",
            "_a",
            "a-",
            "a/../b",
            "[::g]:1/a",
            "user@host/a",
            "a\nb",
            "oci-layout:",
            "oci-layout:d:",
            "oci-archive:",
            "oci-layout:d@sha256:1",
            "docker-archive:",
            "docker-archive:f:A",
            &long,
            &long_tag,
        ];
        for text in bad {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn paths_are_relative_to_the_recipe() {
        let table = [
            ("oci-layout:d", "oci-layout:/r/d"),
            ("oci-layout:/x/d:1.0", "oci-layout:/x/d:1.0"),
            ("oci-archive:f.tar:example.org/a:1", "oci-archive:/r/f.tar:example.org/a:1"),
            ("docker-archive:f.tar", "docker-archive:/r/f.tar"),
            ("docker-archive:f.tar:app:1", "docker-archive:/r/f.tar:docker.io/library/app:1"),
            ("debian:12", "docker.io/library/debian:12"),
        ];
        for (written, meant) in table {
            let reference: Reference = written.parse().unwrap();
            assert_eq!(reference.relative_to(Path::new("/r")).to_string(), meant);
        }
        let pinned: Reference = format!("oci-layout:d@{HEX}").parse().unwrap();
        assert!(matches!(pinned, Reference::Layout { pick: Pick::Digest(_), .. }));
    }
}
