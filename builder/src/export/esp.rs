//! The EFI system partition: a FAT32 file system (Microsoft's "FAT32 File System Specification", which
//! the UEFI specification takes over) with the one program that firmware starts where nobody told it
//! otherwise ("Removable Media Boot Behavior").
//!
//! Ours, because the one crate that writes FAT, fatfs 0.3, gives `.` and `..` long names, and fsck.vfat
//! and firmware may not agree on what such a directory is. Two directories and one file behind each
//! other are all there is to write.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use bundle::Arch;

use crate::{Error, Result};

/// Room for some kernels; FAT32, which every firmware reads, begins at 33 MiB.
pub(super) const ESP_BYTES: u64 = 64 << 20;

/// A cluster is a sector.
const SECTOR_BYTES: usize = 512;
const SECTORS: u32 = (ESP_BYTES / SECTOR_BYTES as u64) as u32;
/// Before the first table: the boot sector, what is free, copies of both.
const RESERVED: u32 = 32;
const INFO_SECTOR: u16 = 1;
const BACKUP_SECTOR: u16 = 6;
/// Tables of four bytes for each cluster, of which the first two do not exist.
const TABLES: u32 = 2;
const TABLE_SECTORS: u32 = (SECTORS - RESERVED + 2).div_ceil(SECTOR_BYTES as u32 / 4 + TABLES);
const DATA: u32 = RESERVED + TABLES * TABLE_SECTORS;
const CLUSTERS: u32 = SECTORS - DATA;
/// Clusters; there are no 0 and 1.
const ROOT: u32 = 2;
const EFI: u32 = 3;
const BOOT: u32 = 4;
const PROGRAM: u32 = 5;
const LAST_OF_CHAIN: u32 = 0x0fff_ffff;
const LABEL: &[u8; 11] = b"ESP        ";
const IS_LABEL: u8 = 0x08;
const IS_DIRECTORY: u8 = 0x10;
const IS_FILE: u8 = 0x20;
/// 1980-01-01, where FAT's time begins: equal programs give equal bytes.
const DATE: u16 = 0x0021;

/// The file system that starts `program`, as a file without a name. `id` is its serial number, `first`
/// the sector at which the partition begins.
pub(super) fn make(arch: Arch, program: &[u8], id: u32, first: u32) -> Result<File> {
    let about = |e: io::Error| Error::io("the EFI system partition", e);
    let length = program.len().div_ceil(SECTOR_BYTES);
    let end = u32::try_from(length).ok().and_then(|n| n.checked_add(PROGRAM));
    let Some(end) = end.filter(|end| *end < CLUSTERS + 2) else {
        return Err(Error::input(format!(
            "a kernel of {} bytes does not fit into the EFI system partition",
            program.len()
        )));
    };
    let mut disk = tempfile::tempfile().map_err(about)?;
    disk.set_len(ESP_BYTES).map_err(about)?;
    write(&mut disk, arch, program, (id, first, end)).map_err(about)?;
    disk.rewind().map_err(about)?;
    Ok(disk)
}

fn write(disk: &mut File, arch: Arch, program: &[u8], about: (u32, u32, u32)) -> io::Result<()> {
    let (id, first, end) = about;
    let mut put = |sector: u32, bytes: &[u8]| {
        disk.seek(SeekFrom::Start(u64::from(sector) * SECTOR_BYTES as u64))?;
        disk.write_all(bytes)
    };
    for copy in [0, BACKUP_SECTOR.into()] {
        put(copy, &boot_sector(id, first))?;
        put(copy + u32::from(INFO_SECTOR), &info_sector(end))?;
    }
    let table = table(end);
    for copy in 0..TABLES {
        put(RESERVED + copy * TABLE_SECTORS, &table)?;
    }
    let name = match arch {
        Arch::X86_64 => b"BOOTX64 EFI",
        Arch::Aarch64 => b"BOOTAA64EFI",
    };
    // A directory above that is the root has no number.
    let entries = [
        (ROOT, vec![entry(LABEL, IS_LABEL, 0, 0), entry(b"EFI        ", IS_DIRECTORY, EFI, 0)]),
        (EFI, vec![dot(1, EFI), dot(2, 0), entry(b"BOOT       ", IS_DIRECTORY, BOOT, 0)]),
        (
            BOOT,
            vec![dot(1, BOOT), dot(2, EFI), entry(name, IS_FILE, PROGRAM, program.len() as u32)],
        ),
    ];
    for (cluster, entries) in entries {
        put(DATA + cluster - ROOT, &entries.concat())?;
    }
    put(DATA + PROGRAM - ROOT, program)
}

/// Bytes at their places in a sector that is else zero.
fn sector(fields: &[(usize, &[u8])]) -> [u8; SECTOR_BYTES] {
    let mut sector = [0; SECTOR_BYTES];
    for (at, bytes) in fields {
        sector[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    sector
}

fn boot_sector(id: u32, first: u32) -> [u8; SECTOR_BYTES] {
    sector(&[
        (0, &[0xeb, 0x58, 0x90]),
        (3, b"IMGTOOL "),
        (11, &(SECTOR_BYTES as u16).to_le_bytes()),
        (13, &[1]),
        (14, &(RESERVED as u16).to_le_bytes()),
        (16, &[TABLES as u8]),
        // A fixed disk; its sectors on a track, its heads and what lies before it.
        (21, &[0xf8]),
        (24, &63_u16.to_le_bytes()),
        (26, &255_u16.to_le_bytes()),
        (28, &first.to_le_bytes()),
        (32, &SECTORS.to_le_bytes()),
        (36, &TABLE_SECTORS.to_le_bytes()),
        (44, &ROOT.to_le_bytes()),
        (48, &INFO_SECTOR.to_le_bytes()),
        (50, &BACKUP_SECTOR.to_le_bytes()),
        (64, &[0x80]),
        (66, &[0x29]),
        (67, &id.to_le_bytes()),
        (71, LABEL),
        (82, b"FAT32   "),
        (510, &[0x55, 0xaa]),
    ])
}

/// How much is free, and where: `end` is the first cluster that is.
fn info_sector(end: u32) -> [u8; SECTOR_BYTES] {
    sector(&[
        (0, b"RRaA"),
        (484, b"rrAa"),
        (488, &(CLUSTERS + 2 - end).to_le_bytes()),
        (492, &end.to_le_bytes()),
        (510, &[0x55, 0xaa]),
    ])
}

/// Which cluster follows which: directories have one each, the program has the rest up to `end`.
fn table(end: u32) -> Vec<u8> {
    let mut next = vec![0x0fff_fff8, LAST_OF_CHAIN, LAST_OF_CHAIN, LAST_OF_CHAIN, LAST_OF_CHAIN];
    next.extend((PROGRAM..end).map(|cluster| cluster + 1));
    if let Some(last) = next.last_mut() {
        *last = LAST_OF_CHAIN;
    }
    next.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn dot(dots: usize, cluster: u32) -> [u8; 32] {
    let mut name = [b' '; 11];
    name[..dots].fill(b'.');
    entry(&name, IS_DIRECTORY, cluster, 0)
}

fn entry(name: &[u8; 11], attributes: u8, cluster: u32, bytes: u32) -> [u8; 32] {
    let mut entry = [0; 32];
    let [low, high] = [cluster as u16, (cluster >> 16) as u16];
    let fields: [(usize, &[u8]); 7] = [
        (0, name),
        (11, &[attributes]),
        (16, &DATE.to_le_bytes()),
        (20, &high.to_le_bytes()),
        (24, &DATE.to_le_bytes()),
        (26, &low.to_le_bytes()),
        (28, &bytes.to_le_bytes()),
    ];
    for (at, bytes) in fields {
        entry[at..at + bytes.len()].copy_from_slice(bytes);
    }
    entry
}
