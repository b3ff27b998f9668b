//! From an image to a bundle: describe it, pack it.

mod settle;

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek};
use std::path::{Path, PathBuf};
use std::thread;

use bundle::{
    AgentInfo, Blob, Boot, Content, Digest, HashingReader, Kind, Manifest, Packing, ROOTFS, SBOM,
};
use imgrun::{Progress, Unit, interrupt};

use crate::image::{Image, publish};
use crate::plan::Plan;
use crate::source::into_error;
use crate::{Error, Result, packages, sbom};
use settle::settled;

/// zstd's level. `tests/bench/pack --levels` measures what the next ones cost and save. At 3 a third of
/// all work would be digests; at 6 bundles are 7 % smaller for twice the time, and every host that
/// pulls one gains.
const COMPRESSION_LEVEL: i32 = 6;
/// Frames of an image are about so long: `tests/bench/pack --levels` again. Shorter ones share more
/// with the next version; at this level those of 256 KiB are 10 % more bytes than one frame is.
const FRAME_BYTES: u32 = 384 << 10;
/// Read and written in pieces of this size.
const PIECE_BYTES: usize = 128 << 10;

/// A bundle on disk.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Where it is.
    pub path: PathBuf,
    /// The digest of the packed file: the bundle's name.
    pub digest: Digest,
    /// The packed file's length in bytes.
    pub bytes: u64,
    /// What it says of itself.
    pub manifest: Manifest,
}

/// Packs `image`, which was made of `plan`, with its manifest into `directory`, under the manifest's file name.
///
/// # Errors
/// Where the bundle can not be written; an older one of that name is then still whole.
pub fn pack(
    plan: &Plan,
    mut image: Image,
    directory: &Path,
    progress: &Progress,
) -> Result<Packed> {
    let installed = packages::read(image.file())?;
    for note in &installed.notes {
        progress.note(note);
    }
    let manifest = Manifest { packages: installed.packages, ..manifest(plan) };
    let sbom = sbom::spdx(&manifest, &installed.distribution, plan.epoch.unwrap_or(0));
    let path = directory.join(manifest.file_name());
    let stage = progress.stage("pack", Unit::Bytes, Some(image.bytes));
    let draft = tempfile::Builder::new()
        .prefix(".imgtool-")
        .suffix(".partial")
        .tempfile_in(directory)
        .map_err(|e| Error::io(directory.display(), e))?;
    let (bytes, seams) = (image.bytes, std::mem::take(&mut image.seams));
    let file = image.file();
    file.rewind().map_err(|e| Error::io("the image", e))?;
    let rootfs: Box<dyn Read> = Box::new(Interruptible(file));
    let contents = vec![
        Content { seams, ..Content::new(ROOTFS, rootfs, bytes) },
        Content::new(SBOM, Box::new(&sbom[..]), sbom.len() as u64),
    ];
    let outline = settled(draft.as_file(), |out| {
        let out = BufWriter::with_capacity(PIECE_BYTES, out);
        let (_, outline) = bundle::pack(manifest, contents, out, &packing(), |n| stage.add(n))?;
        Ok(outline)
    });
    let outline = outline.map_err(|e| pack_error(&path, e))?;
    let digest = name(draft.as_file()).map_err(|e| into_error(&path.display().to_string(), e))?;
    publish(draft, &path)?;
    let bytes = outline.packed_bytes();
    stage.finish(format!("{}, {digest}", Unit::Bytes.amount(bytes)));
    Ok(Packed { path, digest, bytes, manifest: outline.manifest().clone() })
}

fn packing() -> Packing {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    Packing { level: COMPRESSION_LEVEL, average_bytes: FRAME_BYTES, threads }
}

/// Gives up between two reads once the user asked for it.
struct Interruptible<R>(R);

impl<R: Read> Read for Interruptible<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        interrupt::check().map_err(io::Error::other)?;
        self.0.read(buffer)
    }
}

fn manifest(plan: &Plan) -> Manifest {
    Manifest {
        schema: bundle::SCHEMA,
        kind: Kind::Image,
        name: plan.name.clone(),
        version: plan.version.clone(),
        arch: plan.arch,
        files: Vec::new(),
        frames: Blob::of([]),
        boot: Some(Boot { init: plan.init, cmdline: Vec::new(), config: None }),
        kernel: Some(plan.kernel.clone()),
        agent: Some(AgentInfo {
            version: env!("CARGO_PKG_VERSION").to_string(),
            digest: plan.agent.digest(),
        }),
        sources: vec![plan.source.clone()],
        recipe: plan.recipe,
        lock: plan.lock,
        packages: Vec::new(),
        tool: concat!("imgtool ", env!("CARGO_PKG_VERSION")).to_string(),
        tests: plan.tests.clone(),
    }
}

/// The digest of the file, while what is left of it goes to the disk.
fn name(file: &File) -> io::Result<Digest> {
    thread::scope(|scope| {
        let synced = scope.spawn(|| file.sync_data());
        let digest = digest_of(file)?;
        synced.join().map_err(|_| io::Error::other("a thread ended early"))??;
        Ok(digest)
    })
}

/// The digest of a whole file.
///
/// # Errors
/// Where it can not be read, or the user asked us to stop.
pub fn digest_of(mut file: &File) -> io::Result<Digest> {
    file.rewind()?;
    let mut reader = HashingReader::new(Interruptible(file));
    let mut buffer = vec![0; PIECE_BYTES];
    while reader.read(&mut buffer)? != 0 {}
    Ok(reader.finish().0)
}

fn pack_error(path: &Path, error: bundle::Error) -> Error {
    match error {
        bundle::Error::Io(e) => into_error(&path.display().to_string(), e),
        other => Error::bug(format!("{}: {other}", path.display())),
    }
}
