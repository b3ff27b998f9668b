//! What a distribution's `/boot/vmlinuz` holds: the kernel itself, uncompressed.
//!
//! - x86_64: a `bzImage` (the kernel's Documentation/arch/x86/boot.rst). Its setup header, from
//!   0x1f1 on, says where the compressed kernel is: `payload_offset` and `payload_length`, counted
//!   from the protected-mode code after `setup_sects` + 1 sectors. The payload's last four bytes
//!   are the length of what it unpacks to (scripts/Makefile.lib, `size_append`; gzip has the same
//!   at its end), an ELF file.
//! - aarch64: an `Image` (Documentation/arch/arm64/booting.rst), as it is or compressed by gzip.
//!
//! No byte pattern is searched for: what a header does not point to is not there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use bundle::Arch;
use imgrun::{Class, Tool};

use crate::{Error, Result};

/// A compressed kernel is at most this long.
pub(super) const VMLINUZ_BYTES_MAX: u64 = 256 << 20;
/// And so long uncompressed.
const VMLINUX_BYTES_MAX: u64 = 1 << 30;
const UNPACK_TIME_MAX: Duration = Duration::from_secs(300);
const SECTOR_BYTES: usize = 512;
/// The boot protocol that has `payload_offset`: Linux 2.6.26.
const PROTOCOL_MIN: u16 = 0x0208;
/// Longer version strings than this are cut off.
const RELEASE_BYTES_MAX: usize = 128;

const ELF_MAGIC: &[u8] = b"\x7fELF";
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

/// A kernel, uncompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unpacked {
    pub(super) arch: Arch,
    /// An ELF file on x86_64, an `Image` on aarch64.
    pub(super) bytes: Vec<u8>,
}

/// Unpacks a `vmlinuz`, or takes a kernel that is not packed. `dir` is for temporary files.
///
/// # Errors
/// [`Class::Input`] where it is no kernel or its header points outside of it; [`Class::Host`]
/// where the program that unpacks it is missing.
pub(super) fn unpack(file: &[u8], dir: &Path) -> Result<Unpacked> {
    let is_arm_image = |bytes: &[u8]| bytes.get(56..60) == Some(b"ARM\x64");
    if file.starts_with(ELF_MAGIC) {
        let machine = u16_at(file, 18).unwrap_or_default();
        let arch = Arch::ALL.into_iter().find(|arch| arch.elf_machine() == machine);
        let arch = arch.ok_or_else(|| Error::input("an ELF file for another architecture"))?;
        if arch != Arch::X86_64 {
            return Err(Error::input("a vmlinux for aarch64 does not boot: its Image does"));
        }
        return Ok(Unpacked { arch, bytes: file.to_vec() });
    }
    if is_arm_image(file) {
        return Ok(Unpacked { arch: Arch::Aarch64, bytes: file.to_vec() });
    }
    if file.starts_with(GZIP_MAGIC) {
        let bytes = gunzip(file)?;
        if is_arm_image(&bytes) {
            return Ok(Unpacked { arch: Arch::Aarch64, bytes });
        }
        return Err(Error::input("what is compressed in it is no Image for aarch64"));
    }
    let payload = payload(file)?;
    let (packed, length) = payload
        .split_last_chunk()
        .ok_or_else(|| Error::input("its header says that its kernel is empty"))?;
    let length = u64::from(u32::from_le_bytes(*length));
    let bytes = decompress(payload, packed, dir)?;
    if bytes.len() as u64 != length {
        let found = bytes.len();
        return Err(Error::input(format!("it unpacks to {found} bytes instead of {length}")));
    }
    if !bytes.starts_with(ELF_MAGIC) || u16_at(&bytes, 18) != Some(Arch::X86_64.elf_machine()) {
        return Err(Error::input("what is compressed in it is no ELF file for x86_64"));
    }
    Ok(Unpacked { arch: Arch::X86_64, bytes })
}

/// The compressed kernel in a bzImage.
fn payload(file: &[u8]) -> Result<&[u8]> {
    let header = |at: usize, magic: &[u8]| file.get(at..at + magic.len()) == Some(magic);
    if !header(0x1fe, &[0x55, 0xaa]) || !header(0x202, b"HdrS") {
        return Err(Error::input("it is no kernel: neither an ELF file, a bzImage nor an Image"));
    }
    let cut = || Error::input("its header points past its end: it is cut off or damaged");
    let protocol = u16_at(file, 0x206).ok_or_else(cut)?;
    if protocol < PROTOCOL_MIN {
        return Err(Error::input(format!("boot protocol {protocol:#x} is older than 0x208")));
    }
    // Zero means four, for the oldest boot loaders.
    let setup_sectors = match file.get(0x1f1).ok_or_else(cut)? {
        0 => 4,
        sectors => usize::from(*sectors),
    };
    let offset = u32_at(file, 0x248).ok_or_else(cut)? as usize;
    let length = u32_at(file, 0x24c).ok_or_else(cut)? as usize;
    let begin = (setup_sectors + 1) * SECTOR_BYTES + offset;
    file.get(begin..).and_then(|rest| rest.get(..length)).ok_or_else(cut)
}

/// Unpacks a payload; `packed` is it without the length at its end.
fn decompress(payload: &[u8], packed: &[u8], dir: &Path) -> Result<Vec<u8>> {
    let begins = |magic: &[u8]| payload.starts_with(magic);
    if begins(GZIP_MAGIC) {
        gunzip(payload)
    } else if begins(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::Decoder::new(packed).and_then(|mut decoder| {
            decoder.window_log_max(bundle::WINDOW_LOG_MAX)?;
            Ok(decoder.single_frame())
        });
        read_all(decoder.map_err(broken)?)
    } else if begins(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        by_program("xz", &["--decompress", "--stdout"], packed, dir)
    } else if begins(&[0x02, 0x21, 0x4c, 0x18]) {
        by_program("lz4", &["-d", "-c"], packed, dir)
    } else if begins(&[0x5d, 0, 0]) {
        by_program("xz", &["--format=lzma", "--decompress", "--stdout"], packed, dir)
    } else if begins(b"BZh") {
        by_program("bzip2", &["-d", "-c"], packed, dir)
    } else if begins(b"\x89LZO\0\r\n\x1a\n") {
        by_program("lzop", &["-d", "-c"], packed, dir)
    } else if begins(ELF_MAGIC) {
        Ok(packed.to_vec())
    } else {
        Err(Error::input("it is compressed in an unknown way"))
    }
}

fn gunzip(packed: &[u8]) -> Result<Vec<u8>> {
    read_all(flate2::read::GzDecoder::new(packed))
}

fn by_program(program: &str, args: &[&str], packed: &[u8], dir: &Path) -> Result<Vec<u8>> {
    let failed = |e| Error::io(dir.display(), e);
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    file.write_all(packed).map_err(failed)?;
    Tool::new(program)
        .args(args)
        .stdin(File::open(file.path()).map_err(failed)?)
        .timeout(UNPACK_TIME_MAX)
        .fails_as(Class::Input)
        .stream(|out| read_all(out))
}

fn read_all(from: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(VMLINUX_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() as u64 > VMLINUX_BYTES_MAX {
        return Err(Error::input(format!("it unpacks to more than {VMLINUX_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn broken(error: io::Error) -> Error {
    Error::input("what is compressed in it is damaged").because(error)
}

/// The release that a kernel says it is, as `uname -r` shows it: from its banner,
/// `Linux version 6.1.0-50-cloud-amd64 (…`.
pub(super) fn release(kernel: &[u8]) -> Option<&str> {
    const BANNER: &[u8] = b"Linux version ";
    let mut rest = kernel;
    while let Some(at) = rest.windows(BANNER.len()).position(|window| window == BANNER) {
        rest = &rest[at + BANNER.len()..];
        let end = rest.iter().take(RELEASE_BYTES_MAX).position(|byte| *byte == b' ');
        let word = end.and_then(|end| std::str::from_utf8(&rest[..end]).ok());
        // The format string `Linux version %s` is there, too.
        if let Some(word) = word.filter(|word| word.starts_with(|c: char| c.is_ascii_digit())) {
            return Some(word);
        }
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file as far as anybody looks, with a banner in it.
    fn vmlinux() -> Vec<u8> {
        let mut elf = vec![0; 100_000];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        elf[2000..2018].copy_from_slice(b"Linux version %s (");
        elf[3000..3029].copy_from_slice(b"Linux version 6.1.0-9-x (gcc)");
        elf
    }

    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 3 * SECTOR_BYTES];
        file[0x1f1] = 1;
        file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        file[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
        file[0x248..0x24c].copy_from_slice(&512u32.to_le_bytes());
        file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        file.extend_from_slice(payload);
        file.extend_from_slice(b"what follows");
        file
    }

    /// `bytes` as a program compresses them, with their length behind.
    fn packed(program: &str, args: &[&str], bytes: &[u8]) -> Vec<u8> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let tool = Tool::new(program).args(args).stdin(File::open(file.path()).unwrap());
        let mut out = tool.run().unwrap().stdout;
        if program != "gzip" {
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        }
        out
    }

    fn unpacked(file: &[u8]) -> Result<Unpacked> {
        unpack(file, tempfile::tempdir().unwrap().path())
    }

    #[test]
    fn every_way_of_compressing_is_known() {
        let bytes = vmlinux();
        let ways: &[(&str, &[&str])] = &[
            ("gzip", &["-9", "-c"]),
            ("xz", &["--check=crc32", "-c"]),
            ("xz", &["--format=lzma", "-c"]),
            ("bzip2", &["-c"]),
            ("zstd", &["-19", "-c"]),
            ("lz4", &["-l", "-c"]),
            ("cat", &[]),
        ];
        for (program, args) in ways {
            let found = unpacked(&bz_image(&packed(program, args, &bytes))).unwrap();
            assert_eq!((found.arch, &found.bytes), (Arch::X86_64, &bytes), "{program}");
            assert_eq!(release(&found.bytes), Some("6.1.0-9-x"));
        }
        assert_eq!(unpacked(&bytes).unwrap().bytes, bytes);
    }

    #[test]
    fn an_image_is_as_it_is_or_compressed() {
        let mut image = vec![0; 5000];
        image[56..60].copy_from_slice(b"ARM\x64");
        let found = unpacked(&image).unwrap();
        assert_eq!((found.arch, found.bytes), (Arch::Aarch64, image.clone()));
        let found = unpacked(&packed("gzip", &["-c"], &image)).unwrap();
        assert_eq!((found.arch, found.bytes), (Arch::Aarch64, image));
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let good = bz_image(&packed("gzip", &["-c"], &vmlinux()));
        let with = |at: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            file
        };
        let end = "its header points past its end";
        let cases = [
            (vec![], "it is no kernel"),
            (b"text".to_vec(), "it is no kernel"),
            (with(0x1fe, &[0]), "it is no kernel"),
            (good[..0x240].to_vec(), end),
            (good[..good.len() - 20].to_vec(), end),
            (with(0x206, &[7, 2]), "boot protocol 0x207"),
            (with(0x248, &[0xff; 4]), end),
            (with(0x24c, &[0xff; 4]), end),
            (with(0x24c, &[2, 0, 0, 0]), "its header says that its kernel is empty"),
            (with(0x24c, &[100, 0, 0, 0]), "what is compressed in it is damaged"),
            (with(1536, &[0xaa, 0xbb]), "it is compressed in an unknown way"),
            (with(1700, &[0xff; 8]), "what is compressed in it is damaged"),
            (bz_image(&packed("gzip", &["-c"], b"no ELF")), "what is compressed in it is no ELF"),
            (packed("gzip", &["-c"], b"no Image"), "what is compressed in it is no Image"),
        ];
        for (file, wanted) in cases {
            let error = unpacked(&file).unwrap_err();
            assert_eq!(error.class(), Class::Input, "{error}");
            assert!(error.to_string().starts_with(wanted), "{wanted}: {error}");
        }
        let mut lies = packed("zstd", &["-c"], &vmlinux());
        let last = lies.len() - 4;
        lies[last] ^= 1;
        let error = unpacked(&bz_image(&lies)).unwrap_err().to_string();
        assert!(error.starts_with("it unpacks to 100000 bytes instead of"), "{error}");
    }
}
