//! `imgrun pull NAME…`

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::str::FromStr;

use bundle::{Arch, Kind};
use imgrun::feed::{Feed, Flags};
use imgrun::oci::{Access, Reference};
use imgrun::offer::{self, Offer};
use imgrun::pull::{Options, Pulled, Wanted, kernel_of, parse_rate};
use imgrun::{Cancel, Error, Imported, Progress, Result, Store, Unit, container};
use serde_json::{Value, json};

use super::{Shell, say};

/// Fetch images and their kernels from a catalog, or container images from registries
///
/// Only what no bundle here holds already is fetched, and every byte is checked before it counts.
/// A pull that was cut goes on where it was. The kernel that an image was built with comes with it.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// What to fetch: debian, debian@12.9, debian@sha256:…; without a version the newest. Or a
    /// container image, named in full: docker.io/library/alpine
    #[arg(required = true, value_name = "NAME")]
    names: Vec<Named>,
    /// For another kind of machine: x86_64, aarch64
    #[arg(long, default_value_t = Arch::host())]
    arch: Arch,
    /// Take this kernel with each image instead of the one that it was built with
    #[arg(long, value_name = "NAME")]
    kernel: Option<Wanted>,
    /// Print a JSON array of what is here now
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: SourceArgs,
}

/// Which catalogs, and how fast. Also for other verbs.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct SourceArgs {
    /// Ask this depot instead of the configured ones: file:DIR, http://…, https://…, s3://…, oci://…;
    /// several are asked in order
    #[arg(long, value_name = "DEPOT")]
    from: Vec<String>,
    /// The root.json that the owner of the catalog in --from gave you; needed once
    #[arg(long, value_name = "FILE", requires = "from")]
    root: Option<PathBuf>,
    /// The list of catalogs, instead of ~/.config/imgrun/catalogs.toml
    #[arg(long, value_name = "FILE")]
    catalogs: Option<PathBuf>,
    /// Bytes a second from the network, at most: 500K, 2M
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    limit_rate: Option<NonZeroU64>,
}

/// What is to be pulled.
#[derive(Clone, Debug)]
enum Named {
    /// By a catalog's name.
    Bundle(Wanted),
    /// From a registry, or what another program has written.
    Container(Reference),
}

impl FromStr for Named {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match container::told(text) {
            Some(reference) => reference.map(Named::Container),
            None => text.parse().map(Named::Bundle),
        }
    }
}

/// What is here now.
enum Here {
    Pulled(Pulled),
    Made(Imported),
}

const HELP: &str = "\
Examples:
  imgrun pull debian                               the newest version, from the configured catalogs
  imgrun pull debian@12.9 --arch aarch64
  imgrun pull debian --from https://images.example --root root.json
  imgrun pull debian --limit-rate 2M --json
  imgrun pull docker.io/library/alpine:3.21        a container image becomes a bundle: imgrun run --help

Catalogs are listed in $IMGRUN_CATALOGS, else ~/.config/imgrun/catalogs.toml, else
/etc/imgrun/catalogs.toml:

  [[catalog]]                      # asked in this order; the first that has the name is taken
  name = \"house\"                   # under which this host remembers what it has seen of it
  root = \"house-root.json\"         # the root of trust, a file beside this one
  depots = [                       # the same catalog in several places, asked in this order
    \"https://images.example\",
    \"file:/srv/mirror\",
    \"s3://bucket/prefix?endpoint=https://s3.example&region=auto\",
    \"oci://registry.example/team/images\",
  ]

Buckets are read with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or without a
log-in where they are public. Registries are read with the log-ins of docker and podman, by the
mirrors that ~/.config/imgtool/registries.toml names (imgrun run --help).";

impl SourceArgs {
    /// Whether a catalog was named.
    pub(super) fn is_given(&self) -> bool {
        !self.from.is_empty() || self.catalogs.is_some()
    }

    pub(super) fn options(&self) -> Options {
        Options { limit_rate: self.limit_rate }
    }

    /// The catalogs to ask.
    pub(super) fn feeds(&self, store: &Store) -> Result<Vec<Feed>> {
        let flags = Flags {
            from: self.from.clone(),
            root: self.root.clone(),
            config: self.catalogs.clone(),
        };
        Feed::all(&flags, store)
    }
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        let json = self.json;
        let pulled = shell.blocking(move |progress, cancel| self.perform(&store, progress, cancel));
        let pulled = pulled.await?;
        if json {
            return say(
                &Value::from(pulled.iter().map(Here::object).collect::<Vec<_>>()).to_string()
            );
        }
        pulled.iter().try_for_each(|here| say(&here.line()))
    }

    /// What is said of catalogs can not hold for registries, and is not passed over.
    fn check_flags(&self) -> Result<()> {
        let source = &self.source;
        match source.is_given() || source.limit_rate.is_some() || self.kernel.is_some() {
            true => {
                Err(Error::usage("--from, --catalogs, --limit-rate and --kernel are for bundles")
                    .hint("pull container images by a command of their own"))
            }
            false => Ok(()),
        }
    }

    fn perform(self, store: &Store, progress: &Progress, cancel: &Cancel) -> Result<Vec<Here>> {
        let mut all = Vec::new();
        let options = self.source.options();
        for named in &self.names {
            let wanted = match named {
                Named::Bundle(wanted) => wanted,
                Named::Container(image) => {
                    self.check_flags()?;
                    if Feed::is_any_known()? {
                        offer::default_kernel(store, self.arch, progress, cancel)?;
                    }
                    let access = Access::of_user(None, false)?;
                    let made = container::pull(store, image, self.arch, &access, progress, cancel)?;
                    all.push(Here::Made(made));
                    continue;
                }
            };
            let offer = Offer::find(self.source.feeds(store)?, wanted, progress)?;
            let entry = wanted.choose(&offer.catalog, self.arch)?;
            let kernel = match (entry.about.kind, &entry.about.kernel, &self.kernel) {
                (Kind::Kernel, ..) => None,
                (Kind::Image, _, Some(kernel)) => Some(kernel.choose(&offer.catalog, self.arch)?),
                (Kind::Image, Some(named), None) => Some(kernel_of(&offer.catalog, named)?),
                (Kind::Image, None, None) => None,
            };
            // The kernel first: who finds the image can boot it.
            for entry in kernel.into_iter().chain([entry]) {
                all.push(Here::Pulled(offer.pull(store, entry, &options, progress, cancel)?));
            }
        }
        Ok(all)
    }
}

impl Here {
    fn line(&self) -> String {
        match self {
            Here::Pulled(pulled) => line(pulled),
            Here::Made(Imported { bundle, new }) => {
                let how = if *new { "made" } else { "was there" };
                format!("{} {} ({how})", bundle.title(), bundle.digest)
            }
        }
    }

    fn object(&self) -> Value {
        match self {
            Here::Pulled(pulled) => object(pulled),
            Here::Made(Imported { bundle, new }) => {
                let manifest = &bundle.manifest;
                json!({
                    "name": manifest.name, "version": manifest.version, "kind": manifest.kind,
                    "arch": manifest.arch, "digest": bundle.digest, "new": new,
                    "container": manifest.sources,
                })
            }
        }
    }
}

pub(super) fn line(pulled: &Pulled) -> String {
    let (title, digest) = (pulled.bundle.title(), pulled.bundle.digest);
    if !pulled.new {
        return format!("{title} {digest} (was there)");
    }
    let amount = |bytes| Unit::Bytes.amount(bytes);
    let (fetched, saved) = (amount(pulled.fetched_bytes), amount(pulled.saved_bytes));
    format!("{title} {digest} ({fetched} fetched, {saved} saved)")
}

pub(super) fn object(pulled: &Pulled) -> Value {
    let manifest = &pulled.bundle.manifest;
    json!({
        "name": manifest.name, "version": manifest.version, "kind": manifest.kind,
        "arch": manifest.arch, "digest": pulled.bundle.digest, "new": pulled.new,
        "fetched_bytes": pulled.fetched_bytes, "saved_bytes": pulled.saved_bytes,
        "resumed_bytes": pulled.resumed_bytes,
    })
}
