//! A layer: a tar stream, perhaps compressed, as bytes on local disk that are checked while read.

mod pipe;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::interrupt;
use bundle::{Digest, Hasher};

use crate::{Error, Result};

pub use bundle::ImageConfig;
pub use pipe::Pipe;

/// A layer is at most this long once it is decompressed: 64 GiB.
pub const LAYER_BYTES_MAX: u64 = 64 << 30;
/// zstd windows are at most this many powers of two, what a stock `zstd -d` takes.
const WINDOW_LOG_MAX: u32 = 27;
/// Stored bytes are read in pieces of this many.
const READ_BYTES: usize = 256 << 10;
/// How many bytes at the beginning tell the compression: one tar header.
const HEAD_BYTES: u64 = 512;

/// A layer: a tar stream, perhaps compressed, as bytes on local disk.
#[derive(Clone, Debug)]
pub struct Layer {
    /// For errors and manifests: `docker.io/library/debian:12 layer 1 (sha256:…)`.
    pub origin: String,
    /// The file that holds the stored bytes.
    pub file: PathBuf,
    /// Where in the file they begin: a member of an archive is a range of it.
    pub offset: u64,
    /// How many there are.
    pub bytes: u64,
    /// Their digest. It is checked while they are read.
    pub digest: Digest,
    /// The digest of the decompressed bytes, where that is what the image vouches for: a
    /// docker-archive names its layers by it. Checked by [`Layer::decompressed`].
    pub content: Option<Digest>,
}

/// An image, or another source of layers, whose bytes are here.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The layers, the bottom one first.
    pub layers: Vec<Layer>,
    /// What it is called, for people: the image's reference, the tarball's name.
    pub name: String,
    /// The digest of the image's manifest (of its configuration for a docker-archive, which has no
    /// manifest), of the tarball as stored, or of the bootstrap's uncompressed tar.
    pub digest: Digest,
    /// How the image wants to be run, where it is an image.
    pub config: Option<ImageConfig>,
}

impl Layer {
    /// The stored bytes. Reading to the end checks their number and digest; whoever stops before
    /// must not use what was read.
    ///
    /// # Errors
    /// Where the file can not be opened. The reader's errors are ours: see [`into_error`].
    pub fn open(&self) -> Result<Verified> {
        let about = |e| Error::io(self.file.display(), e).within(&self.origin);
        let mut file = File::open(&self.file).map_err(about)?;
        let size = file.metadata().map_err(about)?.len();
        if size < self.offset.saturating_add(self.bytes) {
            return Err(truncated(self));
        }
        file.seek(SeekFrom::Start(self.offset)).map_err(about)?;
        let read = Arc::new(AtomicU64::new(0));
        let hasher = Some(Hasher::new());
        Ok(Verified { layer: self.clone(), file, hasher, left: self.bytes, read })
    }

    /// Reads the layer through and checks its size and digest.
    ///
    /// # Errors
    /// [`crate::Class::Trust`] for another digest, [`crate::Class::Input`] for a truncated file.
    pub fn verify(&self) -> Result<()> {
        let mut reader = self.open()?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(into_error(&self.origin, e)),
            }
        }
    }

    /// The digest of the stored bytes, whatever [`Layer::digest`] says.
    pub(crate) fn hash(&self) -> Result<Digest> {
        let mut reader = self.open()?;
        let mut hasher = reader.hasher.take().unwrap_or_default();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            interrupt::check()?;
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(n) => hasher.update(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(into_error(&self.origin, e)),
            }
        }
    }

    /// How the layer is compressed, by its first bytes and not by what anyone says of it.
    ///
    /// # Errors
    /// Where it is compressed otherwise, or is no tar.
    pub fn compression(&self) -> Result<Compression> {
        let mut head = Vec::new();
        let file = self.open()?.file; // At the offset, not yet hashed.
        let mut head_reader = file.take(self.bytes.min(HEAD_BYTES));
        head_reader.read_to_end(&mut head).map_err(|e| into_error(&self.origin, e))?;
        Compression::detect(&head).map_err(|e| e.within(&self.origin))
    }

    /// The tar stream. Its end checks the stored bytes as [`Layer::open`] does, and that nothing
    /// follows the compressed stream.
    ///
    /// # Errors
    /// As [`Layer::open`], or where the compression is not supported. The reader's errors are
    /// ours: see [`into_error`].
    pub fn decompressed(&self) -> Result<Decompressed> {
        let compression = self.compression()?;
        let verified = self.open()?;
        let read = Arc::clone(&verified.read);
        let stored = BufReader::with_capacity(READ_BYTES, verified);
        let stream: Box<dyn Read + Send> = match compression {
            Compression::None => Box::new(stored),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stored)),
            Compression::Zstd => {
                let about = |e| into_error(&self.origin, e);
                let mut decoder = zstd::Decoder::with_buffer(stored).map_err(about)?;
                decoder.window_log_max(WINDOW_LOG_MAX).map_err(about)?;
                Box::new(decoder)
            }
        };
        let hasher = self.content.map(|_| Hasher::new());
        Ok(Decompressed { layer: self.clone(), stream, hasher, left: LAYER_BYTES_MAX, read })
    }
}

fn truncated(layer: &Layer) -> Error {
    let file = layer.file.display();
    Error::input(format!("{}: {file} is truncated: {} bytes are missing from it", layer.origin, {
        let size = std::fs::metadata(&layer.file).map_or(0, |m| m.len());
        layer.offset.saturating_add(layer.bytes).saturating_sub(size)
    }))
}

/// Our error again that a reader of this module had to wrap into an [`io::Error`]; another error
/// becomes one about `what`.
pub fn into_error(what: &str, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(other) => Error::io(what, other),
    }
}

/// A layer's stored bytes; the last read checks their number and digest.
#[derive(Debug)]
pub struct Verified {
    layer: Layer,
    file: File,
    /// `None` once the digest has been checked.
    hasher: Option<Hasher>,
    left: u64,
    read: Arc<AtomicU64>,
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read(&mut buffer[..n])?;
        if n == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::other(truncated(&self.layer)));
        }
        self.left -= n as u64;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..n]);
        }
        // Before the last bytes are handed out, not after: who has them all has right ones.
        if self.left == 0
            && let Some(hasher) = self.hasher.take()
        {
            check(&self.layer, "", hasher, &self.layer.digest)?;
        }
        Ok(n)
    }
}

fn check(layer: &Layer, what: &str, hasher: Hasher, expected: &Digest) -> io::Result<()> {
    let found = hasher.finish();
    if found == *expected {
        return Ok(());
    }
    let origin = &layer.origin;
    let message = format!("{origin}: wrong digest{what}: expected {expected}, found {found}");
    Err(io::Error::other(Error::trust(message)))
}

/// A layer's tar stream.
pub struct Decompressed {
    layer: Layer,
    stream: Box<dyn Read + Send>,
    hasher: Option<Hasher>,
    left: u64,
    read: Arc<AtomicU64>,
}

impl std::fmt::Debug for Decompressed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressed").field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl Read for Decompressed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match self.stream.read(buffer) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => return Err(io::Error::other(self.explain(e))),
        };
        let Some(left) = self.left.checked_sub(n as u64) else {
            return Err(io::Error::other(Error::input(format!(
                "{}: it decompresses to more than {LAYER_BYTES_MAX} bytes",
                self.layer.origin
            ))));
        };
        self.left = left;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..n]);
        }
        if n == 0
            && !buffer.is_empty()
            && let (Some(hasher), Some(expected)) = (self.hasher.take(), &self.layer.content)
        {
            check(&self.layer, " of the decompressed layer", hasher, expected)?;
        }
        Ok(n)
    }
}

impl Decompressed {
    /// How many stored bytes have been read; another thread may look at it.
    fn stored_bytes_read(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }

    /// Bytes that do not decompress are usually not the right bytes: that is then the better error.
    fn explain(&self, error: io::Error) -> Error {
        let ours = error.get_ref().is_some_and(|inner| inner.is::<Error>());
        if ours || error.raw_os_error().is_some() {
            return into_error(&self.layer.origin, error);
        }
        if let Err(cause) = self.layer.verify() {
            return cause;
        }
        let origin = &self.layer.origin;
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "the compressed stream is truncated".to_string(),
            _ => format!("it does not decompress: {error}"),
        };
        Error::input(format!("{origin}: {why}"))
    }
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip (RFC 1952), perhaps several members.
    Gzip,
    /// zstd (RFC 8878), perhaps several frames.
    Zstd,
}

impl Compression {
    /// Tells the compression by the first bytes, of which 512 are enough. Nothing at all is an
    /// empty tar.
    ///
    /// # Errors
    /// Where it is another compression or no tar at all.
    pub fn detect(head: &[u8]) -> Result<Compression> {
        let unsupported: [(&[u8], &str); 5] = [
            (b"\xfd7zXZ\0", "xz"),
            (b"BZh", "bzip2"),
            (b"\x04\x22\x4d\x18", "lz4"),
            (b"\x5d\0\0", "lzma"),
            (b"PK\x03\x04", "zip"),
        ];
        // A skippable zstd frame may come first: 0x184D2A50 to 5F, little-endian.
        let skippable = head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == *b"\x2a\x4d\x18";
        if head.starts_with(b"\x1f\x8b") {
            Ok(Compression::Gzip)
        } else if head.starts_with(b"\x28\xb5\x2f\xfd") || skippable {
            Ok(Compression::Zstd)
        } else if head.is_empty() || is_tar(head) {
            Ok(Compression::None)
        } else if let Some((_, name)) =
            unsupported.iter().find(|(magic, _)| head.starts_with(magic))
        {
            Err(Error::input(format!("{name} compression is not supported"))
                .hint("recompress it with gzip or zstd"))
        } else {
            Err(Error::input("it is neither a tar nor compressed with gzip or zstd"))
        }
    }
}

/// Whether a block is a tar header (POSIX pax, "ustar Interchange Format") or a tar's end.
fn is_tar(head: &[u8]) -> bool {
    let Some(block) = head.first_chunk::<512>() else { return false };
    block.iter().all(|&b| b == 0) || crate::tar::is_header(block)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::Class;

    /// A real, if small, tar stream: one header's worth of checksum and some content.
    fn tar() -> Vec<u8> {
        let mut block = vec![0; 512];
        block[0] = b'a';
        block[148..156].fill(b' ');
        block[156] = b'0';
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let noise = (0..200_000u32).map(|i| (i.wrapping_mul(i) >> 9) as u8);
        block.extend(noise);
        block
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    struct Stored {
        _dir: tempfile::TempDir,
        layer: Layer,
    }

    fn store(stored: &[u8], digest: Digest) -> Stored {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("blob");
        // Something before and after, as in an archive.
        std::fs::write(&file, [b"before", stored, b"after"].concat()).unwrap();
        let bytes = stored.len() as u64;
        let origin = "the layer".to_string();
        Stored { _dir: dir, layer: Layer { origin, file, offset: 6, bytes, digest, content: None } }
    }

    fn read(layer: &Layer) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        let read = layer.decompressed()?.read_to_end(&mut all);
        read.map(|_| all).map_err(|e| into_error("a test", e))
    }

    #[test]
    fn every_compression_is_read() {
        let tar = tar();
        let zstd = |part: &[u8]| zstd::encode_all(part, 3).unwrap();
        let (left, right) = tar.split_at(1000);
        let forms = [
            tar.clone(),
            gzip(&tar),
            [gzip(left), gzip(right)].concat(),
            zstd(&tar),
            [zstd(left), zstd(right)].concat(),
            [b"\x50\x2a\x4d\x18\x02\0\0\0xx".to_vec(), zstd(&tar)].concat(),
        ];
        for (i, stored) in forms.iter().enumerate() {
            let stored = store(stored, Digest::of(stored));
            assert!(read(&stored.layer).unwrap() == tar, "form {i}");
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_a_wrong_digest() {
        let tar = tar();
        for good in [tar.clone(), gzip(&tar), zstd::encode_all(&tar[..], 3).unwrap()] {
            let step = good.len() / 50;
            for at in (600..good.len()).step_by(step) {
                let mut bad = good.clone();
                bad[at] ^= 0x10;
                let error = read(&store(&bad, Digest::of(&good)).layer).unwrap_err();
                assert_eq!(error.class(), Class::Trust, "{error}");
                assert!(error.to_string().starts_with("the layer: wrong digest: expected"));
            }
        }
    }

    #[test]
    fn cut_and_padded_streams_are_refused() {
        let tar = tar();
        for good in [gzip(&tar), zstd::encode_all(&tar[..], 3).unwrap()] {
            for cut in [good.len() - 1, good.len() / 2, 20] {
                let error = read(&store(&good[..cut], Digest::of(&good[..cut])).layer).unwrap_err();
                assert_eq!(error.class(), Class::Input, "{error}");
                assert!(error.to_string().contains("truncated"), "{error}");
            }
            for more in [&b"more"[..], &[0; 512], &[0x1f, 0x8b]] {
                let long = [&good[..], more].concat();
                let error = read(&store(&long, Digest::of(&long)).layer).unwrap_err();
                assert_eq!(error.class(), Class::Input, "{error}");
            }
        }
    }

    #[test]
    fn a_truncated_file_is_said_to_be_truncated() {
        let tar = tar();
        let stored = store(&tar, Digest::of(&tar));
        let file = File::options().write(true).open(&stored.layer.file).unwrap();
        let reader = stored.layer.open().unwrap();
        file.set_len(1000).unwrap();
        let error = into_error("x", { reader }.read_to_end(&mut Vec::new()).unwrap_err());
        assert_eq!(error.class(), Class::Input, "{error}");
        let error = read(&stored.layer).unwrap_err();
        assert_eq!(error.class(), Class::Input);
        assert!(error.to_string().contains("is truncated: 199518 bytes are missing"), "{error}");
    }

    #[test]
    fn the_decompressed_digest_is_checked_where_it_is_what_counts() {
        let tar = tar();
        let stored = gzip(&tar);
        let mut stored = store(&stored, Digest::of(&stored));
        stored.layer.content = Some(Digest::of(&tar));
        assert!(read(&stored.layer).is_ok());
        stored.layer.content = Some(Digest::of(b"other"));
        assert_eq!(read(&stored.layer).unwrap_err().class(), Class::Trust);
    }

    #[test]
    fn a_bomb_stops_at_the_cap() {
        let tar = tar();
        let stored = gzip(&tar);
        let stored = store(&stored, Digest::of(&stored));
        let mut stream = stored.layer.decompressed().unwrap();
        stream.left = tar.len() as u64;
        assert!(stream.read_to_end(&mut Vec::new()).is_ok());
        let mut stream = stored.layer.decompressed().unwrap();
        stream.left = tar.len() as u64 - 1;
        let error = into_error("x", stream.read_to_end(&mut Vec::new()).unwrap_err());
        assert!(error.to_string().contains("it decompresses to more than"), "{error}");
    }

    #[test]
    fn other_compressions_are_refused_by_name() {
        let table: [(&[u8], &str); 5] = [
            (b"\xfd7zXZ\0more", "xz compression is not supported"),
            (b"BZh91AY", "bzip2 compression is not supported"),
            (b"PK\x03\x04", "zip compression is not supported"),
            (b"hello", "it is neither a tar nor"),
            (&[b'x'; 512], "it is neither a tar nor"),
        ];
        for (head, sentence) in table {
            let error = Compression::detect(head).unwrap_err();
            assert!(error.to_string().starts_with(sentence), "{error}");
        }
        assert_eq!(Compression::detect(&[0; 512]).unwrap(), Compression::None);
        assert_eq!(Compression::detect(&[]).unwrap(), Compression::None);
    }
}
