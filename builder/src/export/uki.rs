//! A kernel with its command line as one program for UEFI firmware: a "unified kernel image" (UAPI
//! group specification 5). It is systemd's boot stub, a PE file, with two sections more; the stub
//! finds them by name, and starts the one with the words of the other.

use std::fs;
use std::path::Path;

use bundle::Arch;

use crate::{Error, Result};

/// Where Debian's systemd-boot-efi and other distributions' systemd put the stubs.
const STUBS: &str = "/usr/lib/systemd/boot/efi";
/// A stub is 100 KB.
const STUB_BYTES_MAX: usize = 16 << 20;
/// Sections begin at multiples of this in memory, whatever the stub's own alignment is.
const SECTION_BYTES: u32 = 4096;
/// IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ.
const READ_ONLY_DATA: u32 = 0x4000_0040;
/// A section header, and the optional header of 64-bit programs up to its directory.
const SECTION_HEADER_BYTES: usize = 40;
/// What stands before the optional header: the signature and the COFF header.
const COFF_BYTES: usize = 24;
const PE32_PLUS: u16 = 0x20b;

/// The program that boots `kernel` with `cmdline`.
///
/// # Errors
/// Where this host has no stub, or `kernel`, which is called `title` in errors, is no program for
/// UEFI.
pub(super) fn make(arch: Arch, kernel: &[u8], title: &str, cmdline: &str) -> Result<Vec<u8>> {
    if Pe::of(kernel).is_none() {
        return Err(Error::input(format!("the kernel {title} is no program for UEFI firmware"))
            .hint(
                "the generic kernels are; `--boot none` makes a disk that a VMM's -kernel boots",
            ));
    }
    let path = Path::new(STUBS).join(match arch {
        Arch::X86_64 => "linuxx64.efi.stub",
        Arch::Aarch64 => "linuxaa64.efi.stub",
    });
    let stub = fs::read(&path).map_err(|e| {
        Error::io(path.display(), e)
            .hint("systemd's boot stub makes a disk start by UEFI: apt install systemd-boot-efi")
    })?;
    let sections = [(*b".cmdline", cmdline.as_bytes()), (*b".linux\0\0", kernel)];
    append(&stub, &sections)
        .ok_or_else(|| Error::input(format!("{}: not a stub that we understand", path.display())))
}

/// The places in a PE file's headers that a new section changes (Microsoft's "PE Format").
struct Pe {
    /// The COFF header.
    coff: usize,
    /// The optional header.
    optional: usize,
    /// The first section header.
    table: usize,
    sections: usize,
    file_alignment: u32,
    headers_end: usize,
}

impl Pe {
    fn of(file: &[u8]) -> Option<Pe> {
        if file.get(..2)? != b"MZ" {
            return None;
        }
        let signature = u32_at(file, 0x3c)? as usize;
        let coff = signature.checked_add(4)?;
        if file.get(signature..coff)? != b"PE\0\0" {
            return None;
        }
        let optional = signature.checked_add(COFF_BYTES)?;
        let table = optional.checked_add(u16_at(file, coff + 16)?.into())?;
        (u16_at(file, optional)? == PE32_PLUS).then_some(())?;
        Some(Pe {
            coff,
            optional,
            table,
            sections: u16_at(file, coff + 2)?.into(),
            file_alignment: u32_at(file, optional + 36)?,
            headers_end: u32_at(file, optional + 60)? as usize,
        })
    }
}

/// `stub` with more sections at its end; `None` where it is no PE file or its headers have no room.
fn append(stub: &[u8], sections: &[([u8; 8], &[u8])]) -> Option<Vec<u8>> {
    if stub.len() > STUB_BYTES_MAX {
        return None;
    }
    let pe = Pe::of(stub)?;
    let alignment = pe.file_alignment;
    let mut header = pe.table.checked_add(pe.sections * SECTION_HEADER_BYTES)?;
    let fits = header + sections.len() * SECTION_HEADER_BYTES <= pe.headers_end;
    if !fits || !alignment.is_power_of_two() || alignment > SECTION_BYTES {
        return None;
    }
    // Where the stub's own sections end, in memory and in the file.
    let (mut memory_end, mut file_end) = (u32::try_from(pe.headers_end).ok()?, pe.headers_end);
    for index in 0..pe.sections {
        let at = pe.table + index * SECTION_HEADER_BYTES;
        let bytes = u32_at(stub, at + 8)?.max(u32_at(stub, at + 16)?);
        memory_end = memory_end.max(u32_at(stub, at + 12)?.checked_add(bytes)?);
        let end = u32_at(stub, at + 20)?.checked_add(u32_at(stub, at + 16)?)?;
        file_end = file_end.max(end as usize);
    }
    // What follows are symbols for a debugger.
    let mut out = stub.get(..file_end)?.to_vec();
    for (name, content) in sections {
        out.resize(out.len().next_multiple_of(alignment as usize), 0);
        let address = memory_end.checked_next_multiple_of(SECTION_BYTES)?;
        let bytes = u32::try_from(content.len()).ok()?;
        let at = u32::try_from(out.len()).ok()?;
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(alignment as usize), 0);
        let stored = u32::try_from(out.len()).ok()? - at;
        out.get_mut(header..header + 8)?.copy_from_slice(name);
        // Size and place in memory, size and place in the file, nothing to relocate.
        for (index, value) in [bytes, address, stored, at, 0, 0, 0].into_iter().enumerate() {
            put(&mut out, header + 8 + 4 * index, value)?;
        }
        put(&mut out, header + 36, READ_ONLY_DATA)?;
        header += SECTION_HEADER_BYTES;
        memory_end = address.checked_add(bytes)?;
    }
    let count = u16::try_from(pe.sections + sections.len()).ok()?;
    out.get_mut(pe.coff + 2..pe.coff + 4)?.copy_from_slice(&count.to_le_bytes());
    // The symbols, which are gone; the size in memory; the checksum, which only drivers need.
    for (at, value) in [
        (pe.coff + 8, 0),
        (pe.coff + 12, 0),
        (pe.optional + 56, memory_end.checked_next_multiple_of(SECTION_BYTES)?),
        (pe.optional + 64, 0),
    ] {
        put(&mut out, at, value)?;
    }
    Some(out)
}

fn put(file: &mut [u8], at: usize, value: u32) -> Option<()> {
    file.get_mut(at..at.checked_add(4)?)?.copy_from_slice(&value.to_le_bytes());
    Some(())
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(file.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(file.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PE file with one section of four bytes and room for `room` more headers.
    fn stub(room: usize) -> Vec<u8> {
        let mut file = vec![0; 0x400];
        file[..2].copy_from_slice(b"MZ");
        file[0x3c] = 0x80;
        file[0x80..0x84].copy_from_slice(b"PE\0\0");
        file[0x86] = 1;
        file[0x94] = 0xf0;
        file[0x98..0x9a].copy_from_slice(&PE32_PLUS.to_le_bytes());
        for (at, value) in [(0x98 + 36, 0x200), (0x98 + 60, 0x400), (0x8c, 0x600), (0x90, 9)] {
            put(&mut file, at, value).unwrap();
        }
        let table = 0x98 + 0xf0;
        for (index, value) in [4, 0x1000, 0x200, 0x400].into_iter().enumerate() {
            put(&mut file, table + 8 + 4 * index, value).unwrap();
        }
        put(&mut file, 0x98 + 60, (table + (1 + room) * SECTION_HEADER_BYTES) as u32).unwrap();
        file.extend_from_slice(b"code");
        file.resize(0x600, 0);
        file.extend_from_slice(b"symbols");
        file
    }

    #[test]
    fn sections_are_found_where_their_headers_say() {
        let sections = [(*b".cmdline", &b"a b"[..]), (*b".linux\0\0", &[7; 5000])];
        let made = append(&stub(2), &sections).unwrap();
        let pe = Pe::of(&made).unwrap();
        assert_eq!((pe.sections, u32_at(&made, 0x8c), u32_at(&made, 0x90)), (3, Some(0), Some(0)));
        for (index, (name, content)) in sections.iter().enumerate() {
            let at = pe.table + (1 + index) * SECTION_HEADER_BYTES;
            let field = |n: usize| u32_at(&made, at + 8 + 4 * n).unwrap() as usize;
            assert_eq!(&made[at..at + 8], name);
            assert_eq!((field(0), field(1)), (content.len(), [0x2000, 0x3000][index]));
            assert_eq!(&made[field(3)..field(3) + content.len()], *content);
        }
        assert_eq!(u32_at(&made, pe.optional + 56), Some(0x5000));
    }

    #[test]
    fn what_is_no_stub_is_refused() {
        let sections = [(*b".cmdline", &b"x"[..]), (*b".linux\0\0", &b"y"[..])];
        assert!(append(&stub(1), &sections).is_none(), "no room");
        let whole = stub(2);
        for cut in [0, 1, 0x3d, 0x81, 0x99, 0x190, 0x5ff] {
            assert!(append(&whole[..cut], &sections).is_none(), "{cut:#x}");
        }
        for (at, value) in [(0x3c, u32::MAX), (0x98 + 36, 3), (0x188 + 20, u32::MAX)] {
            let mut wrong = whole.clone();
            put(&mut wrong, at, value).unwrap();
            assert!(append(&wrong, &sections).is_none(), "{at:#x}");
        }
    }
}
