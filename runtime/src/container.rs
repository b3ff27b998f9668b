//! Container images, run as they are: flattened on this host into bundles like any other.
//!
//! | written | is |
//! |---|---|
//! | `HOST/NAME[:TAG][@DIGEST]` | an image in a registry, if `HOST` has a dot or a colon or is `localhost` |
//! | `docker://NAME…` | the same by docker's short names: `docker://alpine` is `docker.io/library/alpine` |
//! | `oci-layout:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:NAME]` | an image on disk |
//!
//! All else is a bundle's name or file: a bare `alpine` never comes from a registry, and what begins
//! with `/` or `.`, or ends in `.tar.zst`, is a path. Whether something lies there plays no part.
//!
//! The bundle names no kernel: it boots [`KERNEL_DEFAULT`](crate::KERNEL_DEFAULT). It is found again
//! by what this host wrote beside it ([`Container`]), never by what a bundle says of itself. Layers
//! stay in the store until `gc`, so that the next version fetches only what is new.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use bundle::{
    AgentInfo, Arch, Blob, Boot, Content, Digest, Hasher, HashingReader, ImageConfig, Init, Kind,
    Manifest, Name, Outline, Packing, ROOTFS, SBOM, SCHEMA, Source, Version,
};

use crate::cache::Cache;
use crate::image::{Image, Layout};
use crate::inject::{Agent, MOUNT_POINTS};
use crate::layer::Resolved;
use crate::lease::Lease;
use crate::oci::{self, Access, Pick, Reference};
use crate::store::threads;
use crate::{
    Cancel, Container, Error, Exec, Imported, Progress, Result, Store, Stored, Unit, packages, sbom,
};

/// Part of every key; raised when the same image begins to give another bundle.
const FORMAT: &str = "container image 1";
/// zstd's level: the packed file is thrown away.
const LEVEL: i32 = 1;
/// Frames are about so long.
const FRAME_BYTES: u32 = 1 << 20;
/// Names of bundles and versions are at most this long.
const NAME_BYTES_MAX: usize = 64;
/// Hex digits of a digest that tell a name from others, or are a version.
const SHORT_DIGITS: usize = 12;
/// An ext4 label is at most this long.
const LABEL_BYTES_MAX: usize = 16;

/// The container image that `text` names, if by its shape it names one.
pub fn told(text: &str) -> Option<Result<Reference>> {
    let parse = |text: &str| text.parse::<Reference>().map_err(Error::usage);
    if let Some(short) = text.strip_prefix("docker://") {
        return Some(parse(short));
    }
    if ["oci-layout:", "oci-archive:", "docker-archive:"].iter().any(|s| text.starts_with(s)) {
        let here = std::env::current_dir().map_err(|e| Error::io("the working directory", e));
        return Some(here.and_then(|here| Ok(parse(text)?.relative_to(&here))));
    }
    let (host, _) = text.split_once('/')?;
    let is_host = host == "localhost" || host.contains(['.', ':']);
    let is_path = host.starts_with('.') || text.ends_with(".tar.zst");
    (is_host && !is_path).then(|| parse(text))
}

/// The bundle of a container image: for one in a registry what is here already, whatever its tag
/// means by now; else as [`pull`].
///
/// # Errors
/// As [`pull`].
pub fn image(
    store: &Store,
    reference: &Reference,
    arch: Arch,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Stored> {
    if matches!(reference, Reference::Registry(_)) {
        if let Some(found) = here(store, reference, arch, progress)? {
            return Ok(found);
        }
        progress.note(format!("{reference} is not here: pulling it"));
    }
    let access = Access::of_user(None, false)?;
    Ok(pull(store, reference, arch, &access, progress, cancel)?.bundle)
}

/// Asks what `reference` means now, and makes the bundle of it unless it is here. Layers that are
/// here are not fetched again; two processes that want the same do it once. Blocks, and ends after
/// [`crate::interrupt::raise`].
///
/// # Errors
/// As [`oci::resolve`] and [`Image::flatten`]; [`crate::Class::Host`] where this program carries no
/// agent for `arch`. Nothing but whole layers is left behind then.
pub fn pull(
    store: &Store,
    reference: &Reference,
    arch: Arch,
    access: &Access,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Imported> {
    let agent = Agent::embedded(arch)?;
    let title = reference.to_string();
    let turn = store.claim(Digest::of(format!("{title} {arch}")), &title, progress, cancel)?;
    let made = make(store, reference, arch, &agent, access, progress, cancel);
    let removed = turn.remove();
    let made = made?;
    removed?;
    Ok(made)
}

/// What came last of `reference`.
fn here(
    store: &Store,
    reference: &Reference,
    arch: Arch,
    progress: &Progress,
) -> Result<Option<Stored>> {
    let title = reference.to_string();
    let is_it = |stored: &Stored| {
        stored.manifest.arch == arch && stored.container().is_some_and(|c| c.reference == title)
    };
    let found = store.list(progress)?.into_iter().filter(is_it);
    Ok(found.max_by_key(|stored| (stored.imported, stored.digest)))
}

fn make(
    store: &Store,
    reference: &Reference,
    arch: Arch,
    agent: &Agent,
    access: &Access,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Imported> {
    let cache = Cache::open(&store.layers())?;
    let source = oci::resolve(reference, arch, access, &cache, progress)?;
    let plan = Plan::new(reference, arch, agent, source)?;
    let known = store.list(progress)?.into_iter();
    let mut known = known.filter(|s| s.container().is_some_and(|c| c.key == plan.container.key));
    if let Some(bundle) = known.next() {
        // A tag may have gone back to what it was before.
        store.renew(&bundle)?;
        return Ok(Imported { bundle, new: false });
    }
    cancel.check()?;
    let lease = Lease::create(&store.staging())?;
    let dir = lease.path().join("bundle");
    std::fs::create_dir(&dir).map_err(|e| Error::io(dir.display(), e))?;
    let image = Image::flatten(&plan.layout, &dir, progress)?;
    let (outline, digest) = pack(plan.manifest, image, &dir, lease.path(), progress, cancel)?;
    store.adopt(dir, &outline, digest, &plan.container, cancel)
}

/// What the bundle will be.
struct Plan {
    layout: Layout,
    manifest: Manifest,
    container: Container,
}

impl Plan {
    fn new(reference: &Reference, arch: Arch, agent: &Agent, source: Resolved) -> Result<Self> {
        let (name, version) = naming(reference, &source.digest)?;
        let above = agent.layer(Init::Agent, 0);
        let layout = Layout {
            layers: source.layers,
            above: above.map_err(|e| Error::io("the agent's layer", e))?,
            mount_points: &MOUNT_POINTS,
            epoch: None,
            size_bytes: None,
            reserve_bytes: 0,
            label: label(name.as_str()),
        };
        let boot = Boot { init: Init::Agent, cmdline: Vec::new(), config: source.config };
        let mut key = Hasher::new();
        for field in [FORMAT, &source.name, name.as_str(), version.as_str(), arch.name()] {
            key.field(field);
        }
        key.field(source.digest.as_bytes());
        key.field(layout.digest().as_bytes());
        key.field(serde_json::to_vec(&boot).unwrap_or_default());
        let key = key.finish();
        let tool = concat!("imgrun ", env!("CARGO_PKG_VERSION")).to_string();
        let version_of_agent = env!("CARGO_PKG_VERSION").to_string();
        let manifest = Manifest {
            schema: SCHEMA,
            kind: Kind::Image,
            name,
            version,
            arch,
            files: Vec::new(),
            frames: Blob::of([]),
            boot: Some(boot),
            kernel: None,
            agent: Some(AgentInfo { version: version_of_agent, digest: agent.digest() }),
            sources: vec![Source { name: source.name, digest: source.digest }],
            recipe: key,
            lock: None,
            packages: Vec::new(),
            tool,
            tests: Vec::new(),
        };
        let container = Container { reference: reference.to_string(), key };
        Ok(Plan { layout, manifest, container })
    }
}

/// Lays the bundle's files into `dir`, and packs them for what comes of that: the frame table, and the
/// digest that names the bundle. The packed bytes themselves, in `scratch`, are thrown away.
fn pack(
    manifest: Manifest,
    mut image: Image,
    dir: &Path,
    scratch: &Path,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<(Outline, Digest)> {
    let installed = packages::read(image.file())?;
    let manifest = Manifest { packages: installed.packages, ..manifest };
    let sbom = sbom::spdx(&manifest, &installed.distribution, 0);
    let path = dir.join(SBOM);
    std::fs::write(&path, &sbom).map_err(|e| Error::io(path.display(), e))?;
    let stage = progress.stage("pack", Unit::Bytes, Some(image.bytes));
    let (bytes, seams) = (image.bytes, std::mem::take(&mut image.seams));
    let path = dir.join(ROOTFS);
    image.keep(&path)?;
    let open = |path: &Path| -> Result<Stoppable<'_>> {
        let file = File::open(path).map_err(|e| Error::io(path.display(), e))?;
        Ok(Stoppable { file: BufReader::new(file), cancel })
    };
    let rootfs: Box<dyn Read> = Box::new(open(&path)?);
    let contents = vec![
        Content { seams, ..Content::new(ROOTFS, rootfs, bytes) },
        Content::new(SBOM, Box::new(&sbom[..]), sbom.len() as u64),
    ];
    let packed = scratch.join("packed");
    let out = File::create(&packed).map_err(|e| Error::io(packed.display(), e))?;
    let packing = Packing { level: LEVEL, average_bytes: FRAME_BYTES, threads: threads() };
    let done = bundle::pack(manifest, contents, out, &packing, |n| stage.add(n));
    // Why the reading stopped is the better error.
    cancel.check()?;
    let (_, outline) = done.map_err(Error::from)?;
    let mut reader = HashingReader::new(open(&packed)?);
    let read = io::copy(&mut reader, &mut io::sink());
    cancel.check()?;
    read.map_err(|e| Error::io(packed.display(), e))?;
    stage.finish(Unit::Bytes.amount(bytes));
    Ok((outline, reader.finish().0))
}

/// Stops reading once asked to.
struct Stoppable<'c> {
    file: BufReader<File>,
    cancel: &'c Cancel,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        self.file.read(buffer)
    }
}

/// What a bundle of `reference` is called: `docker.io-library-alpine` and its tag, or the beginning
/// of `digest` where it has none. No catalog's `alpine` is mistaken for it.
///
/// # Errors
/// Never: what is not allowed in names was replaced.
fn naming(reference: &Reference, digest: &Digest) -> Result<(Name, Version)> {
    let (what, tag) = match reference {
        Reference::Registry(image) => {
            (format!("{}-{}", image.host, image.repository), image.tag.clone())
        }
        Reference::Layout { dir, pick } => (format!("oci-{}", file_name(dir)), tag(pick)),
        Reference::OciArchive { file, pick } => (format!("oci-{}", file_name(file)), tag(pick)),
        Reference::DockerArchive { file, name } => {
            let tag = name.as_deref().and_then(|name| name.rsplit_once(':'));
            (format!("docker-{}", file_name(file)), tag.map(|(_, tag)| tag.to_string()))
        }
    };
    let short = &digest.hex()[..SHORT_DIGITS];
    let version = match tag.and_then(|tag| tag.parse().ok()) {
        Some(version) => version,
        None => short.parse()?,
    };
    let name = plain(&what).parse().or_else(|_| "image".parse())?;
    Ok((name, version))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn tag(pick: &Pick) -> Option<String> {
    match pick {
        Pick::Tag(tag) => Some(tag.clone()),
        Pick::Only | Pick::Digest(_) => None,
    }
}

/// `text` with the letters of a bundle's name; one that is too long ends with its digest.
fn plain(text: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() || "._-".contains(c) => c,
        _ => '-',
    };
    let name: String = text.chars().map(plain).collect();
    let name = name.trim_start_matches(['.', '_', '-']);
    if name.len() <= NAME_BYTES_MAX {
        return name.to_string();
    }
    let short = &Digest::of(text).hex()[..SHORT_DIGITS];
    format!("{}-{short}", &name[..NAME_BYTES_MAX - SHORT_DIGITS - 1])
}

/// The end of a name, which tells more than its beginning.
fn label(name: &str) -> String {
    let start = name.len().saturating_sub(LABEL_BYTES_MAX);
    name[start..].trim_start_matches(['.', '_', '-']).to_string()
}

/// Adds to `exec` what the image says where the user said nothing: its variables, its user, its
/// directory, and where no command was given its entrypoint and its command. One that was given is
/// run as it is, without the entrypoint.
pub fn apply(config: &ImageConfig, is_given: bool, exec: &mut Exec) {
    let bytes = |text: &String| text.clone().into_bytes();
    let own: Vec<_> = config.entrypoint.iter().chain(&config.cmd).map(bytes).collect();
    if !is_given && !own.is_empty() {
        exec.argv = own;
    }
    // The last one of a name counts.
    exec.env.splice(0..0, config.env.iter().map(bytes));
    let said = |text: &String| (!text.is_empty()).then(|| bytes(text));
    exec.cwd = exec.cwd.take().or_else(|| said(&config.workdir));
    exec.user = exec.user.take().or_else(|| said(&config.user));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_tells_what_is_meant() {
        let table = [
            ("docker.io/library/alpine", Some("docker.io/library/alpine:latest")),
            ("docker.io/alpine", Some("docker.io/library/alpine:latest")),
            ("docker://alpine:3", Some("docker.io/library/alpine:3")),
            ("docker://r.example/a", Some("r.example/a:latest")),
            ("localhost/a", Some("localhost/a:latest")),
            ("localhost:5000/a/b:1", Some("localhost:5000/a/b:1")),
            ("oci-layout:/x:1", Some("oci-layout:/x:1")),
            ("alpine", None),
            ("alpine:3", None),
            ("library/alpine", None),
            ("./r.example/a", None),
            ("../r.example/a", None),
            ("/r.example/a", None),
            ("images.d/a-1-x86_64.tar.zst", None),
        ];
        for (text, meant) in table {
            let found = told(text).map(|found| found.unwrap().to_string());
            assert_eq!(found.as_deref(), meant, "{text}");
        }
        for wrong in ["docker://", "r.example/A", "https://r.example/a", "oci-layout:"] {
            assert_eq!(told(wrong).unwrap().unwrap_err().class(), crate::Class::Usage, "{wrong}");
        }
    }

    #[test]
    fn every_image_has_a_name() {
        let digest = Digest::of(b"");
        let named = |text: &str| {
            let (name, version) = naming(&told(text).unwrap().unwrap(), &digest).unwrap();
            format!("{name}:{version}")
        };
        let at = format!("r.example:5000/a/b@{digest}");
        let long = format!("r.example/{}", "a".repeat(200));
        assert_eq!(named("docker.io/library/alpine:3.21"), "docker.io-library-alpine:3.21");
        assert_eq!(named(&at), "r.example-5000-a-b:e3b0c44298fc");
        assert_eq!(named("[::1]:5000/a:_x"), "1--5000-a:e3b0c44298fc");
        assert_eq!(named("oci-layout:/x/Ä y:1"), "oci---y:1");
        assert_eq!(named(&long).len(), NAME_BYTES_MAX + ":latest".len());
        assert_eq!(label("docker.io-library-alpine"), "o-library-alpine");
        assert_eq!(label("r.example-a-b-debian-slim"), "a-b-debian-slim");
    }

    #[test]
    fn what_the_user_says_goes_before_what_the_image_says() {
        let config = ImageConfig {
            env: vec!["A=1".into(), "B=1".into()],
            entrypoint: vec!["/start".into()],
            cmd: vec!["now".into()],
            user: "me".into(),
            workdir: "/w".into(),
        };
        let mut exec = Exec { argv: vec![b"sh".to_vec()], ..Exec::default() };
        exec.env.push(b"B=2".to_vec());
        exec.user = Some(b"root".to_vec());
        let mut given = exec.clone();
        apply(&config, true, &mut given);
        assert_eq!(given.argv, [b"sh".to_vec()]);
        assert_eq!(given.env, [b"A=1".to_vec(), b"B=1".to_vec(), b"B=2".to_vec()]);
        assert_eq!((given.cwd, given.user), (Some(b"/w".to_vec()), Some(b"root".to_vec())));
        apply(&config, false, &mut exec);
        assert_eq!(exec.argv, [b"/start".to_vec(), b"now".to_vec()]);
        let mut bare = Exec { argv: vec![b"/bin/sh".to_vec()], ..Exec::default() };
        apply(&ImageConfig::default(), false, &mut bare);
        assert_eq!((bare.argv, bare.cwd, bare.user), (vec![b"/bin/sh".to_vec()], None, None));
    }
}
