//! `<kernel>.toml`: what a kernel is made of, checked.
//!
//! ```toml
//! name = "generic-6.1"
//! version = "6.1.192"           # what the sources say: `make kernelversion`
//!
//! [source]                      # a Debian source package …
//! debian = "linux-source-6.1"
//! version = "6.1.192-2"
//! sha256 = "<64 hex digits>"    # of the .tar.xz inside it
//! # file = "linux-6.1.tar.xz"   # … or a file, beside the configuration, or a URL:
//! # url = "https://cdn.kernel.org/pub/linux/kernel/v6.x/linux-6.1.1.tar.xz"
//! # signature = "https://cdn.kernel.org/pub/linux/kernel/v6.x/linux-6.1.1.tar.sign"
//! # signers = ["<fingerprint>"] # one of them must have signed: keys/<fingerprint>.asc
//!
//! # Applied in this order with `patch -p1`; files beside the configuration.
//! # patches = ["0001-fix.patch"]   (above the tables)
//!
//! [arch.x86_64]                 # a table for each architecture it can be built for
//! fragments = ["base", "fs"]    # fragments/<name>.config, beside the configuration
//! ```
//!
//! kernel.org signs the uncompressed tar, so a signature is checked over what the archive unpacks
//! to. `sha256` pins the archive itself and is wanted besides: `sha256sums.asc` there lists it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bundle::{Arch, Digest, Name, Version};
use reqwest::Url;
use serde::Deserialize;
use toml::Spanned;

use crate::{Error, Result};

/// A configuration or fragment is at most this many bytes long.
pub(super) const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// An OpenPGP version 4 fingerprint: SHA-1 in hexadecimal.
const FINGERPRINT_CHARS: usize = 40;

/// A checked kernel configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Config {
    /// The kernel's name, and that of its bundle.
    pub(super) name: Name,
    /// The kernel's version, and that of its bundle.
    pub(super) version: Version,
    /// Where its sources come from.
    pub(super) source: Source,
    /// Patches, applied in this order.
    pub(super) patches: Vec<PathBuf>,
    /// The fragments' names for each architecture, in the order written.
    pub(super) fragments: BTreeMap<Arch, Vec<Name>>,
}

/// Where sources come from: a compressed tar whose digest is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The place.
    pub(super) place: Place,
    /// The digest of the `.tar.xz`.
    pub(super) digest: Digest,
}

/// The place of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `/usr/src/<package>.tar.xz` of a Debian package.
    Debian {
        /// `linux-source-6.1`.
        package: Name,
        /// The package's version: `6.1.192-2`.
        version: Version,
    },
    /// A file.
    File(PathBuf),
    /// A server.
    Url {
        /// Of the `.tar.xz`.
        url: Url,
        /// Who must have signed the tar inside it.
        signature: Option<Signature>,
    },
}

/// A detached signature and those whose it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Signature {
    /// Where it is.
    pub(super) url: Url,
    /// Fingerprints of primary keys: 40 upper-case hex digits.
    pub(super) signers: Vec<String>,
    /// Where the keys are: `<fingerprint>.asc`.
    pub(super) keys: PathBuf,
}

impl Source {
    /// As people say it.
    pub(super) fn title(&self) -> String {
        match &self.place {
            Place::Debian { package, version } => format!("{package} {version}"),
            Place::File(path) => path.file_name().unwrap_or_default().to_string_lossy().into(),
            Place::Url { url, .. } => url.path().rsplit('/').next().unwrap_or_default().into(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    name: Spanned<String>,
    version: Spanned<String>,
    source: Spanned<WireSource>,
    #[serde(default)]
    patches: Vec<PathBuf>,
    arch: BTreeMap<Spanned<String>, WireArch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSource {
    debian: Option<Spanned<String>>,
    version: Option<Spanned<String>>,
    file: Option<PathBuf>,
    url: Option<Spanned<String>>,
    signature: Option<Spanned<String>>,
    signers: Option<Vec<Spanned<String>>>,
    sha256: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireArch {
    fragments: Vec<Spanned<String>>,
}

impl Config {
    /// Checks `text`, which was read from `path`. Reads nothing.
    ///
    /// # Errors
    /// [`Class::Input`](crate::Class::Input), with file and line.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Config> {
        let file = File { path, text };
        let wire: Wire = toml::from_str(text).map_err(|e| {
            file.wrong(e.span().unwrap_or_default(), e.message().lines().next().unwrap_or(""))
        })?;
        let name: Name = file.value(&wire.name)?;
        if path.file_stem().is_none_or(|stem| stem != name.as_str()) {
            let why = format!("a kernel called {name} is configured in {name}.toml");
            return Err(file.wrong(wire.name.span(), &why));
        }
        let mut fragments = BTreeMap::new();
        for (arch, table) in &wire.arch {
            let names =
                table.fragments.iter().map(|f| file.value(f)).collect::<Result<Vec<_>>>()?;
            let arch_name: Arch = file.value(arch)?;
            if fragments.insert(arch_name, names).is_some() {
                return Err(file.wrong(arch.span(), "this architecture is there twice"));
            }
        }
        Ok(Config {
            version: file.value(&wire.version)?,
            source: file.source(&wire.source)?,
            patches: wire.patches.iter().map(|patch| file.beside(patch)).collect(),
            name,
            fragments,
        })
    }

    /// The fragments for `arch`.
    ///
    /// # Errors
    /// [`Class::Usage`](crate::Class::Usage) where it can not be built for `arch`.
    pub(super) fn fragments_for(&self, arch: Arch) -> Result<&[Name]> {
        self.fragments.get(&arch).map(Vec::as_slice).ok_or_else(|| {
            let known: Vec<&str> = self.fragments.keys().map(|a| a.name()).collect();
            let known = known.join(", ");
            Error::usage(format!("kernel {} can not be built for {arch}", self.name))
                .hint(format!("its configuration has: {known}"))
        })
    }
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn wrong(&self, span: Range<usize>, why: &str) -> Error {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Error::input(format!("{}:{line}:{column}: {why}", self.path.display()))
    }

    fn value<T: FromStr<Err = bundle::Error>>(&self, text: &Spanned<String>) -> Result<T> {
        text.get_ref().parse().map_err(|e: T::Err| self.wrong(text.span(), &e.to_string()))
    }

    fn source(&self, wire: &Spanned<WireSource>) -> Result<Source> {
        let source = wire.get_ref();
        let digest = format!("sha256:{}", source.sha256.get_ref());
        let digest = digest
            .parse()
            .map_err(|_| self.wrong(source.sha256.span(), "64 lower-case hex digits are wanted"))?;
        let place = match (&source.debian, &source.version, &source.file, &source.url) {
            (Some(package), Some(version), None, None) => {
                Place::Debian { package: self.value(package)?, version: self.value(version)? }
            }
            (None, None, Some(path), None) => Place::File(self.beside(path)),
            (None, None, None, Some(url)) => {
                Place::Url { url: self.url(url, ".tar.xz")?, signature: self.signature(source)? }
            }
            _ => {
                let why = "a source has either debian and version, or file, or url";
                return Err(self.wrong(wire.span(), why));
            }
        };
        if source.url.is_none()
            && let Some(signature) = &source.signature
        {
            return Err(self.wrong(signature.span(), "only what has a url has a signature"));
        }
        Ok(Source { place, digest })
    }

    fn beside(&self, path: &Path) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    fn url(&self, text: &Spanned<String>, suffix: &str) -> Result<Url> {
        let url =
            Url::parse(text.get_ref()).map_err(|e| self.wrong(text.span(), &e.to_string()))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(self.wrong(text.span(), "a URL begins with https:// or http://"));
        }
        if !url.path().ends_with(suffix) {
            return Err(self.wrong(text.span(), &format!("a URL that ends in {suffix} is wanted")));
        }
        Ok(url)
    }

    fn signature(&self, source: &WireSource) -> Result<Option<Signature>> {
        let (url, signers) = match (&source.signature, source.signers.as_deref()) {
            (None, None) => return Ok(None),
            (Some(url), Some(signers)) if !signers.is_empty() => (url, signers),
            (Some(url), _) => {
                return Err(self.wrong(url.span(), "a signature needs signers: fingerprints"));
            }
            (None, Some(_)) => {
                let why = "signers are of a signature: its URL is missing";
                return Err(self.wrong(source.sha256.span(), why));
            }
        };
        let fingerprint = |signer: &Spanned<String>| {
            let text = signer.get_ref();
            let hex = |c: u8| c.is_ascii_digit() || (b'A'..=b'F').contains(&c);
            if text.len() == FINGERPRINT_CHARS && text.bytes().all(hex) {
                return Ok(text.clone());
            }
            Err(self.wrong(signer.span(), "a fingerprint of 40 upper-case hex digits is wanted"))
        };
        Ok(Some(Signature {
            url: self.url(url, "")?,
            signers: signers.iter().map(fingerprint).collect::<Result<_>>()?,
            keys: self.beside(Path::new("keys")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "k-1"
version = "6.1.2"
[source]
debian = "linux-source-6.1"
version = "6.1.2-1"
sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
[arch.x86_64]
fragments = ["base", "fs"]
"#;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(Path::new("dir/k-1.toml"), text)
    }

    #[test]
    fn a_good_one_is_read() {
        let config = parse(GOOD).unwrap();
        assert_eq!(config.name.as_str(), "k-1");
        assert_eq!(config.source.title(), "linux-source-6.1 6.1.2-1");
        assert_eq!(config.fragments_for(Arch::X86_64).unwrap().len(), 2);
        let error = config.fragments_for(Arch::Aarch64).unwrap_err();
        assert_eq!(error.hint_text(), Some("its configuration has: x86_64"));
    }

    #[test]
    fn a_file_is_beside_the_configuration() {
        let text = GOOD.replace("version = \"6.1.2-1\"\n", "");
        let config = parse(&text.replace("debian = \"linux-source-6.1\"", "file = \"k.tar.xz\""));
        assert_eq!(config.unwrap().source.place, Place::File("dir/k.tar.xz".into()));
    }

    #[test]
    fn a_url_may_have_a_signature() {
        let signer = "647F28654894E3BD457199BE38DBBDC86092693E";
        let with = |place: &str| {
            let text = GOOD.replace("version = \"6.1.2-1\"\n", "");
            parse(&text.replace("debian = \"linux-source-6.1\"", place)).map(|c| c.source)
        };
        let url = "url = \"https://k.example/l-6.1.2.tar.xz\"";
        let source = with(url).unwrap();
        assert_eq!(source.title(), "l-6.1.2.tar.xz");
        assert!(matches!(source.place, Place::Url { signature: None, .. }));
        let sign = "signature = \"https://k.example/l.sign\"";
        let source = with(&format!("{url}\n{sign}\nsigners = [\"{signer}\"]")).unwrap();
        let Place::Url { signature: Some(signature), .. } = source.place else { panic!() };
        assert_eq!(signature.signers, [signer]);
        assert_eq!(signature.keys, Path::new("dir/keys"));
        let cases = [
            ("url = \"ftp://k.example/a.tar.xz\"".to_string(), ":5:7: a URL begins with"),
            (
                "url = \"https://k.example/a.tar.gz\"".to_string(),
                ":5:7: a URL that ends in .tar.xz",
            ),
            ("url = \"nowhere\"".to_string(), ":5:7: relative URL"),
            (format!("{url}\n{sign}"), ":6:13: a signature needs signers"),
            (format!("{url}\n{sign}\nsigners = []"), ":6:13: a signature needs signers"),
            (format!("{url}\nsigners = [\"{signer}\"]"), ":7:10: signers are of a signature"),
            (format!("{url}\n{sign}\nsigners = [\"6092693E\"]"), ":7:12: a fingerprint of 40"),
            (format!("file = \"a\"\n{sign}"), ":6:13: only what has a url"),
        ];
        for (place, wanted) in cases {
            let error = with(&place).unwrap_err().to_string();
            assert!(error.starts_with(&format!("dir/k-1.toml{wanted}")), "{place}: {error}");
        }
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let digits = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let cases = [
            ("name = \"k-1\"", "name = \"K\"", ":2:8: name \"K\" is not valid"),
            ("name = \"k-1\"", "name = \"other\"", ":2:8: a kernel called other"),
            ("name = \"k-1\"", "nome = \"k-1\"", ":2:1: unknown field `nome`"),
            ("name = \"k-1\"", "name = 7", ":2:8: invalid type: integer"),
            ("name = \"k-1\"", "name = \"k-1", ":2:"),
            ("debian =", "debain =", ":5:1: unknown field `debain`"),
            ("debian = \"linux-source-6.1\"", "", ":4:1: a source has either"),
            ("debian = \"linux-source-6.1\"", "url = \"https://h/a.tar.xz\"", ":4:1: a source has"),
            ("name = \"k-1\"", "name = \"k-1\"\npatches = [7]", ":3:12: invalid type: integer"),
            (digits, "e3b0", ":7:10: 64 lower-case hex digits"),
            ("arch.x86_64", "arch.mips", ":8:7: architecture \"mips\" is not valid"),
            ("\"fs\"", "\"../fs\"", ":9:22: name \"../fs\" is not valid"),
        ];
        for (from, to, wanted) in cases {
            assert!(GOOD.contains(from), "{from}");
            let error = parse(&GOOD.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("dir/k-1.toml{wanted}")), "{to}: {error}");
        }
        let error = parse("").unwrap_err().to_string();
        assert!(error.contains("missing field `name`"), "{error}");
    }
}
