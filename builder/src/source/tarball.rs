//! A root file system as a local tar, plain or compressed with gzip or zstd.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bundle::Hasher;
use imgrun::{Progress, Unit, interrupt};

use super::Resolved;
use crate::{Error, Result};

/// The file is hashed in pieces of this many bytes.
const PIECE_BYTES: usize = 1 << 20;

/// The tar in `file`. It is read through once, so that its digest can be named; every later read
/// checks that it is still the same.
///
/// # Errors
/// Where it can not be read, is empty, or is no tar.
pub fn resolve(file: &Path, progress: &Progress) -> Result<Resolved> {
    let about = |e| Error::io(file.display(), e);
    let mut reader = File::open(file).map_err(about)?;
    let found = reader.metadata().map_err(about)?;
    if !found.is_file() {
        return Err(Error::input(format!("{}: it is not a regular file", file.display())));
    }
    let stage = progress.stage(format!("hash {}", file.display()), Unit::Bytes, Some(found.len()));
    let mut hasher = Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut bytes = 0_u64;
    loop {
        interrupt::check()?;
        let n = match reader.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(about(e)),
        };
        hasher.update(&piece[..n]);
        bytes += n as u64;
        stage.add(n as u64);
    }
    let digest = hasher.finish();
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    let found = super::single(file.display().to_string(), name, file, bytes, digest)?;
    stage.finish(digest.to_string());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Class;

    #[test]
    fn what_is_no_tar_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let write = |content: &[u8]| std::fs::write(dir.path().join("t"), content).unwrap();
        let resolve = |name: &str| resolve(&dir.path().join(name), &Progress::silent());
        for content in [&b""[..], b"hello", b"BZh9"] {
            write(content);
            let error = resolve("t").unwrap_err();
            assert_eq!(error.class(), Class::Input);
            assert!(error.to_string().contains("/t: "), "{error}");
        }
        assert_eq!(resolve("missing").unwrap_err().class(), Class::Input);
        assert_eq!(resolve(".").unwrap_err().class(), Class::Input);
        write(&[0; 1024]);
        let layer = resolve("t").unwrap().layers.remove(0);
        assert!(layer.verify().is_ok());
        write(&[1; 1024]);
        assert_eq!(layer.verify().unwrap_err().class(), Class::Trust);
    }
}
