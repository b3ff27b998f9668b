//! Reading the packed file, strictly: a byte that [`crate::pack`] would not write is an error.

use std::io::{self, BufReader, Read, Write};

use crate::pack::{MANIFEST_NAME, tar_header, tar_padding};
use crate::{Error, FileEntry, HashingReader, Manifest, Result};

/// A manifest is at most this long.
pub const MANIFEST_BYTES_MAX: u64 = 16 << 20;

/// zstd windows are at most this many powers of two, what a stock `zstd -d` takes.
pub const WINDOW_LOG_MAX: u32 = 27;

/// Opens a packed bundle: reads and checks its manifest; the files follow from [`Contents`].
///
/// # Errors
/// Where the bytes are not zstd, not our tar, or the manifest is wrong.
pub fn unpack<R: Read>(packed: R) -> Result<Contents<R>> {
    let mut decoder = zstd::Decoder::new(packed)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut contents = Contents { decoder, manifest: None, next: 0 };
    let mut header = [0; 512];
    contents.read_exact(&mut header, "the manifest's header")?;
    let size = tar::Header::from_byte_slice(&header).entry_size().unwrap_or(u64::MAX);
    if size > MANIFEST_BYTES_MAX || header != tar_header(MANIFEST_NAME, size)? {
        return Err(Error::format("it does not begin with manifest.json"));
    }
    let mut json = vec![0; size as usize];
    contents.read_exact(&mut json, MANIFEST_NAME)?;
    contents.skip_padding(size)?;
    contents.manifest = Some(Manifest::parse(&json)?);
    Ok(contents)
}

/// A bundle whose manifest has been read and whose files come next.
pub struct Contents<R: Read> {
    decoder: zstd::Decoder<'static, BufReader<R>>,
    manifest: Option<Manifest>,
    next: usize,
}

impl<R: Read> std::fmt::Debug for Contents<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

impl<R: Read> Contents<R> {
    /// What the bundle says of itself.
    pub fn manifest(&self) -> &Manifest {
        match &self.manifest {
            Some(manifest) => manifest,
            None => unreachable!("unpack() returns only with a manifest"),
        }
    }

    /// The file that [`Contents::copy_next`] will give.
    pub fn upcoming(&self) -> Option<&FileEntry> {
        self.manifest().files.get(self.next)
    }

    /// Copies the next file to `out` and checks its size and digest.
    ///
    /// # Errors
    /// Where the bytes differ from the manifest; what is in `out` is then to be thrown away.
    pub fn copy_next(&mut self, out: &mut impl Write) -> Result<()> {
        let entry =
            self.upcoming().ok_or_else(|| Error::format("the bundle holds no more files"))?.clone();
        let mut header = [0; 512];
        self.read_exact(&mut header, &entry.name)?;
        if header != tar_header(&entry.name, entry.size)? {
            return Err(Error::format(format!("{} is not where it must be", entry.name)));
        }
        let mut content = HashingReader::new((&mut self.decoder).take(entry.size));
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = fill(&mut content, &mut buffer).map_err(|e| broken(&entry.name, e))?;
            if n == 0 {
                break;
            }
            out.write_all(&buffer[..n])?;
        }
        let (found, bytes) = content.finish();
        if bytes != entry.size {
            return Err(Error::format(format!("it ends in the middle of {}", entry.name)));
        }
        if found != entry.digest {
            return Err(Error::Digest { what: entry.name, expected: entry.digest, found });
        }
        self.skip_padding(entry.size)?;
        self.next += 1;
        Ok(())
    }

    /// Checks that all files were taken and nothing follows; returns the manifest and the reader.
    pub fn finish(mut self) -> Result<(Manifest, R)> {
        if let Some(entry) = self.upcoming() {
            return Err(Error::format(format!("{} was not read", entry.name)));
        }
        let mut end = [0; 1024];
        self.read_exact(&mut end, "its end")?;
        let more = self.decoder.read(&mut [0; 1]).map_err(|e| broken("its end", e))?;
        if end != [0; 1024] || more != 0 {
            return Err(Error::format("bytes follow its last file"));
        }
        let manifest = self.manifest.take();
        let manifest = manifest.ok_or_else(|| Error::format("it has no manifest"))?;
        Ok((manifest, self.decoder.finish().into_inner()))
    }

    fn read_exact(&mut self, buf: &mut [u8], what: &str) -> Result<()> {
        self.decoder.read_exact(buf).map_err(|e| broken(what, e))
    }

    fn skip_padding(&mut self, size: u64) -> Result<()> {
        let mut padding = [0; 512];
        let padding = &mut padding[..tar_padding(size)];
        self.decoder.read_exact(padding).map_err(|e| broken("padding", e))?;
        if padding.iter().any(|&b| b != 0) {
            return Err(Error::format("padding that is not zero"));
        }
        Ok(())
    }
}

/// Reads until `buf` is full or the input ends: large pieces let a sparse writer find its holes.
fn fill(reader: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match reader.read(&mut buf[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// The decoder reports bad bytes as I/O errors of several kinds; for us they are one.
fn broken(what: &str, e: io::Error) -> Error {
    match e.raw_os_error() {
        Some(_) => Error::Io(e),
        None if e.kind() == io::ErrorKind::UnexpectedEof => {
            Error::format(format!("it ends in the middle of {what}"))
        }
        None => Error::format(format!("{what} does not decompress: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arch, Boot, Digest, Init, Kind, Reference, pack};

    fn manifest(content: &[u8]) -> Manifest {
        Manifest {
            schema: crate::SCHEMA,
            kind: Kind::Image,
            name: "t".parse().unwrap(),
            version: "1".parse().unwrap(),
            arch: Arch::X86_64,
            files: vec![FileEntry {
                name: "rootfs.ext4".into(),
                digest: Digest::of(content),
                size: content.len() as u64,
            }],
            boot: Some(Boot { init: Init::Agent, cmdline: vec![] }),
            kernel: Some(Reference {
                name: "k".parse().unwrap(),
                version: "6.1".parse().unwrap(),
                digest: Digest::of(b"k"),
            }),
            agent: None,
            sources: vec![],
            recipe: Digest::of(b"r"),
            tool: "test".into(),
        }
    }

    fn packed(content: &[u8], threads: usize) -> Vec<u8> {
        pack(&manifest(content), [content], Vec::new(), 1, threads, |_| {}).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut contents = unpack(bytes)?;
        let mut out = Vec::new();
        contents.copy_next(&mut out)?;
        contents.finish()?;
        Ok(out)
    }

    #[test]
    fn round_trips_whatever_the_threads() {
        let content: Vec<u8> = (0..5_000_001u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let one = packed(&content, 1);
        assert_eq!(one, packed(&content, 5));
        assert_eq!(read(&one).unwrap(), content);
        assert_eq!(read(&packed(b"", 2)).unwrap(), b"");
    }

    #[test]
    fn every_cut_and_every_flip_is_noticed() {
        let good = packed(&vec![7; 9000], 1);
        for cut in 0..good.len() {
            assert!(read(&good[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            // A flip in a frame header may leave the same content; it must never give another.
            if let Ok(content) = read(&bad) {
                assert_eq!(content, vec![7; 9000], "flip at {at}");
            }
        }
        let mut longer = good.clone();
        longer.extend_from_slice(b"more");
        assert!(read(&longer).is_err());
        longer.truncate(good.len());
        longer.extend_from_slice(&good);
        assert!(read(&longer).is_err());
    }
}
