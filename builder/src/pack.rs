//! From an image to a bundle: describe it, pack it.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bundle::{AgentInfo, Boot, Digest, FileEntry, HashingReader, HashingWriter, Kind, Manifest};
use imgrun::{Progress, Unit, interrupt};

use crate::image::{Image, publish};
use crate::plan::Plan;
use crate::source::into_error;
use crate::{Error, Result};

/// zstd's level: 3 is where more time stops to buy much (field figures in ARCHITECTURE.md).
const COMPRESSION_LEVEL: i32 = 3;
/// The image is read back in pieces of this size.
const READ_BYTES: usize = 1 << 20;

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
    let digest = digest_of(image.file()).map_err(|e| into_error("read the image back", e))?;
    let manifest = manifest(
        plan,
        FileEntry { name: Kind::Image.files()[0].to_string(), digest, size: image.bytes },
    );
    let path = directory.join(manifest.file_name());
    let stage = progress.stage("pack", Unit::Bytes, Some(image.bytes));
    let draft = tempfile::Builder::new()
        .prefix(".imgtool-")
        .suffix(".partial")
        .tempfile_in(directory)
        .map_err(|e| Error::io(directory.display(), e))?;
    let file = image.file();
    file.seek(SeekFrom::Start(0)).map_err(|e| Error::io("the image", e))?;
    let out = HashingWriter::new(BufWriter::new(draft));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let out =
        bundle::pack(&manifest, [Interruptible(file)], out, COMPRESSION_LEVEL, threads, |n| {
            stage.add(n);
        })
        .map_err(|e| pack_error(&path, e))?;
    let (out, digest, bytes) = out.finish();
    let draft = out.into_inner().map_err(|e| Error::io(path.display(), e.into_error()))?;
    publish(draft, &path)?;
    stage.finish(format!("{}, {digest}", Unit::Bytes.amount(bytes)));
    Ok(Packed { path, digest, bytes, manifest })
}

/// Gives up between two reads once the user asked for it.
struct Interruptible<R>(R);

impl<R: Read> Read for Interruptible<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        interrupt::check().map_err(io::Error::other)?;
        self.0.read(buffer)
    }
}

fn manifest(plan: &Plan, file: FileEntry) -> Manifest {
    Manifest {
        schema: bundle::SCHEMA,
        kind: Kind::Image,
        name: plan.name.clone(),
        version: plan.version.clone(),
        arch: plan.arch,
        files: vec![file],
        boot: Some(Boot { init: plan.init, cmdline: Vec::new() }),
        kernel: Some(plan.kernel.clone()),
        agent: Some(AgentInfo {
            version: env!("CARGO_PKG_VERSION").to_string(),
            digest: plan.agent.digest(),
        }),
        sources: vec![plan.source.clone()],
        recipe: plan.recipe,
        tool: concat!("imgtool ", env!("CARGO_PKG_VERSION")).to_string(),
    }
}

fn digest_of(file: &mut File) -> io::Result<Digest> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = HashingReader::new(Interruptible(file));
    let mut buffer = vec![0; READ_BYTES];
    while reader.read(&mut buffer)? != 0 {}
    Ok(reader.finish().0)
}

fn pack_error(path: &Path, error: bundle::Error) -> Error {
    match error {
        bundle::Error::Io(e) => into_error(&path.display().to_string(), e),
        other => Error::bug(format!("{}: {other}", path.display())),
    }
}
