//! The root file system as an image file.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, Write};
use std::path::Path;

use crate::{Progress, Stage, Unit, interrupt};
use bundle::{Digest, Hasher};
use tempfile::NamedTempFile;

use crate::layer::{Layer, Pipe};
use crate::rootfs::{Detours, Flatten, image_error};
use crate::{Error, Result};

/// Part of every layout's digest; raised when the same inputs begin to give other bytes.
const FORMAT: u32 = 2;

/// Progress is told, and an interrupt heard, every so many stored bytes.
const WATCH_BYTES: u64 = 1 << 20;

/// All that decides an image's bytes.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The layers, the bottom one first.
    pub layers: Vec<Layer>,
    /// A tar that lies above them, perhaps empty.
    pub above: Vec<u8>,
    /// Directories that the root must have, with their modes where no layer has them.
    pub mount_points: &'static [(&'static str, u16)],
    /// No time in the image is later than so many seconds after 1970.
    pub epoch: Option<u64>,
    /// The image's size, where it is not computed.
    pub size_bytes: Option<u64>,
    /// Free space to leave.
    pub reserve_bytes: u64,
    /// The file system's label.
    pub label: String,
}

impl Layout {
    /// The digest of all that decides the bytes; the image's UUID comes from it.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(&FORMAT.to_le_bytes());
        hasher.field(self.epoch.map_or(String::new(), |epoch| epoch.to_string()));
        hasher.field(self.size_bytes.map_or(String::new(), |size| size.to_string()));
        hasher.update(&self.reserve_bytes.to_le_bytes());
        hasher.field(&self.label);
        hasher.field(&self.above);
        for (name, mode) in self.mount_points {
            hasher.field(name);
            hasher.update(&mode.to_le_bytes());
        }
        for layer in &self.layers {
            hasher.field(layer.digest.as_bytes());
        }
        hasher.finish()
    }

    /// Lays the layers under each other.
    fn lay<W: Write + Seek>(&self, flatten: &mut Flatten<'_, W>, stage: &Stage) -> Result<()> {
        flatten.layer("what imgtool adds", || Ok(&self.above[..]))?;
        let mut pipes = Ahead::new(&self.layers)?;
        let mut done = 0;
        for layer in self.layers.iter().rev() {
            let mut first = pipes.next()?;
            flatten.layer(&layer.origin, || {
                let pipe = first.take().map_or_else(|| Pipe::start(layer), Ok)?;
                Ok(Watched { pipe, stage, before: done, said: 0 })
            })?;
            done += layer.bytes;
            stage.set(done);
        }
        for (name, mode) in self.mount_points {
            flatten.mount_point(name, *mode);
        }
        Ok(())
    }

    fn options(&self) -> ext4::Options {
        let digest = self.digest();
        // The versions of one image share their seeds: else no block of metadata would be as before.
        let mut hasher = Hasher::new();
        hasher.field("seeds of an image");
        hasher.field(&self.label);
        let seeds = hasher.finish();
        let (hash_seed, checksum_seed) = seeds.as_bytes().split_at(16);
        ext4::Options {
            size_bytes: self.size_bytes,
            reserve_bytes: self.reserve_bytes,
            uuid: version_8_uuid(&digest.as_bytes()[..16]),
            checksum_seed: checksum_seed.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)),
            hash_seed: std::array::from_fn(|i| hash_seed[i]),
            label: self.label.clone(),
            ..ext4::Options::default()
        }
    }
}

/// A root file system in a temporary file.
#[derive(Debug)]
pub struct Image {
    file: NamedTempFile,
    /// Its length in bytes.
    pub bytes: u64,
    /// Inodes in it.
    pub inodes: u64,
    /// Where its regions begin, in bytes: see [`ext4::Summary::seams`].
    pub seams: Vec<u64>,
}

impl Image {
    /// Flattens a layout's layers into a new image in `directory`.
    ///
    /// # Errors
    /// On a layer that is damaged or refused, naming it; where the image can not be written.
    pub fn flatten(layout: &Layout, directory: &Path, progress: &Progress) -> Result<Self> {
        let mut detours = Detours::default();
        loop {
            if let Some(image) = Self::lay(layout, directory, &mut detours, progress)? {
                return Ok(image);
            }
        }
    }

    /// Lays the layers once. `None` where they have to be laid anew, with more `detours`.
    fn lay(
        layout: &Layout,
        directory: &Path,
        detours: &mut Detours,
        progress: &Progress,
    ) -> Result<Option<Self>> {
        let about = |e| Error::io(directory.display(), e);
        let file = tempfile::Builder::new()
            .prefix(".imgtool-")
            .suffix(".ext4")
            .tempfile_in(directory)
            .map_err(about)?;
        let out = file.reopen().map_err(about)?;
        let mut writer = ext4::Writer::new(out, layout.options()).map_err(image_error)?;
        let epoch = layout.epoch.map(|epoch| i64::try_from(epoch).unwrap_or(i64::MAX));
        let total = layout.layers.iter().map(|layer| layer.bytes).sum();
        let stage = progress.stage("flatten", Unit::Bytes, Some(total));
        let mut flatten = Flatten::new(&mut writer, epoch, detours);
        let laid = layout.lay(&mut flatten, &stage);
        let shadows = flatten.take_shadows();
        let entries = flatten.entries();
        let tree = laid.and_then(|()| flatten.finish());
        if detours.learn(shadows)? {
            return Ok(None);
        }
        let (_, summary) = writer.finish(&tree?).map_err(image_error)?;
        let size = Unit::Bytes.amount(summary.bytes);
        stage.finish(format!("{entries} entries, image of {size}"));
        let ext4::Summary { bytes, inodes, seams, .. } = summary;
        Ok(Some(Image { file, bytes, inodes, seams }))
    }

    /// Where it is; gone with this value.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file, to read it.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Keeps the image as `path`.
    ///
    /// # Errors
    /// Where `path` can not be written; what was there is then still whole.
    pub fn keep(self, path: &Path) -> Result<()> {
        publish(self.file, path)
    }
}

/// Starts to decompress the next layer while the current one is laid.
struct Ahead<'l> {
    layers: std::iter::Rev<std::slice::Iter<'l, Layer>>,
    started: Option<Pipe>,
}

impl<'l> Ahead<'l> {
    fn new(layers: &'l [Layer]) -> Result<Self> {
        let mut ahead = Ahead { layers: layers.iter().rev(), started: None };
        ahead.start()?;
        Ok(ahead)
    }

    fn start(&mut self) -> Result<()> {
        self.started = self.layers.next().map(Pipe::start).transpose()?;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Pipe>> {
        let pipe = self.started.take();
        self.start()?;
        Ok(pipe)
    }
}

/// A layer that tells how far it is, and stops where the user asked for it.
struct Watched<'s> {
    pipe: Pipe,
    stage: &'s Stage,
    /// Bytes of the layers before.
    before: u64,
    said: u64,
}

impl BufRead for Watched<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let read = self.pipe.stored_bytes_read();
        if read >= self.said + WATCH_BYTES {
            interrupt::check().map_err(io::Error::other)?;
            self.stage.set(self.before + read);
            self.said = read;
        }
        self.pipe.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.pipe.consume(amount);
    }
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let n = available.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

/// RFC 9562: version 8 is for values that the application makes up, from a digest for instance.
fn version_8_uuid(bytes: &[u8]) -> [u8; 16] {
    let mut uuid = std::array::from_fn(|i| bytes[i]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// Puts a whole file under its final name: synced, readable, renamed over what was there.
///
/// # Errors
/// Where `path` can not be written; what was there is then still whole.
pub fn publish(mut draft: NamedTempFile, path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let about = |e| Error::io(path.display(), e);
    draft.flush().map_err(about)?;
    draft.as_file().set_permissions(PermissionsExt::from_mode(0o644)).map_err(about)?;
    draft.as_file().sync_all().map_err(about)?;
    draft.persist(path).map_err(|e| about(e.error))?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(about)
}
