//! A bundle in memory, and ways to take it apart.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Mutex;

use bundle::{
    Arch, Blob, Boot, Content, Digest, Error, Form, Init, Kind, Manifest, Outline, Packing, ROOTFS,
    Reference, Result, SBOM,
};

pub(crate) const MIB: usize = 1 << 20;

/// Bytes that zstd can do little with.
pub(crate) fn noise(bytes: usize, mut state: u64) -> Vec<u8> {
    let word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut noise: Vec<u8> = std::iter::repeat_with(word).flatten().take(bytes + 8).collect();
    noise.truncate(bytes);
    noise
}

/// A disk image with noise, text, a long hole, a short one, and a hole at its end.
pub(crate) fn disk() -> Vec<u8> {
    let mut disk = noise(3 * MIB, 1);
    disk.resize(12 * MIB, 0);
    disk.extend(b"some text that repeats\n".iter().cycle().take(2 * MIB));
    disk.resize(disk.len() + 8192, 0);
    disk.extend(noise(MIB, 2));
    disk.resize(20 * MIB, 0);
    disk
}

pub(crate) fn manifest() -> Manifest {
    Manifest {
        schema: bundle::SCHEMA,
        kind: Kind::Image,
        name: "t".parse().unwrap(),
        version: "1".parse().unwrap(),
        arch: Arch::X86_64,
        files: vec![],
        frames: Blob::of([]),
        boot: Some(Boot { init: Init::Agent, cmdline: vec![], config: None }),
        kernel: Some(Reference {
            name: "k".parse().unwrap(),
            version: "6.1".parse().unwrap(),
            digest: Digest::of(b"k"),
        }),
        agent: None,
        sources: vec![],
        recipe: Digest::of(b"r"),
        lock: None,
        packages: vec![],
        tool: "test".into(),
        tests: Vec::new(),
    }
}

pub(crate) fn packing() -> Packing {
    Packing { level: 1, average_bytes: 64 << 10, threads: 2 }
}

/// A packed image of `disk` and `sbom`.
pub(crate) fn pack_with(disk: &[u8], sbom: &[u8], packing: &Packing) -> (Vec<u8>, Outline) {
    let contents = [(ROOTFS, disk), (SBOM, sbom)]
        .map(|(name, file)| Content::new(name, file, file.len() as u64));
    let out = Cursor::new(Vec::new());
    let (out, outline) = bundle::pack(manifest(), contents.into(), out, packing, |_| {}).unwrap();
    assert_eq!(out.get_ref().len() as u64, outline.packed_bytes());
    (out.into_inner(), outline)
}

/// A packed image of [`disk`].
pub(crate) fn packed() -> (Vec<u8>, Outline) {
    pack_with(&disk(), b"{\"sbom\": true}\n", &packing())
}

/// Reads a packed file as an import does: the manifest from its start, the frames from their
/// places.
pub(crate) fn read(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let json = bundle::read_manifest(&mut &bytes[..])?;
    let outline = Outline::read(json, &mut Cursor::new(bytes))?;
    assemble(&outline, |index, buffer| {
        let piece = &outline.pieces()[index];
        let (at, length) = (piece.packed_at as usize, piece.frame.packed_bytes() as usize);
        buffer.extend_from_slice(&bytes[at..at + length]);
        Ok(Form::Packed)
    })
}

/// The files that `outline` and `fetch` give.
pub(crate) fn assemble(
    outline: &Outline,
    fetch: impl Fn(usize, &mut Vec<u8>) -> Result<Form> + Sync,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let entries = &outline.manifest().files;
    let files: Vec<Mutex<Vec<u8>>> =
        entries.iter().map(|file| Mutex::new(vec![0; file.size as usize])).collect();
    let put = |piece: &bundle::Piece, raw: &[u8]| {
        let at = piece.raw_at as usize;
        files[piece.file].lock().unwrap()[at..at + raw.len()].copy_from_slice(raw);
        Ok::<(), Error>(())
    };
    outline.assemble(3, |index, _, buffer| fetch(index, buffer), put)?;
    let files = files.into_iter().map(|file| file.into_inner().unwrap());
    Ok(entries.iter().map(|file| file.name.clone()).zip(files).collect())
}

/// A packed file built by hand, so that each part can lie.
#[derive(Clone)]
pub(crate) struct Forged {
    pub(crate) manifest: serde_json::Value,
    pub(crate) table: Vec<u8>,
    /// The packed file from behind its manifest up to the frame table.
    pub(crate) body: Vec<u8>,
    /// Frames in the body, for the seek table: packed and raw length.
    pub(crate) seek: Vec<(u32, u32)>,
}

pub(crate) const ENTRY: usize = 72;
pub(crate) const HEADER: usize = 16;

impl Forged {
    /// An honest one.
    pub(crate) fn new(outline: &Outline, bytes: &[u8]) -> Self {
        let head = stored(&member("manifest.json", outline.json())).len();
        let tail = 17 + 8 * (outline.pieces().len() + 5) + 8 + outline.table().len();
        let sizes = outline.manifest().files.iter().map(|file| file.size as usize);
        let padding: Vec<usize> = sizes.map(|size| size.next_multiple_of(512) - size).collect();
        let glue = |bytes: usize| (stored(&vec![0; bytes]).len() as u32, bytes as u32);
        let frames = |file: usize| {
            let own = outline.pieces().iter().filter(move |piece| piece.file == file);
            own.map(|p| (p.frame.packed_bytes() as u32, p.frame.raw_bytes() as u32))
        };
        let mut seek = vec![glue(512)];
        seek.extend(frames(0));
        seek.push(glue(padding[0] + 512));
        seek.extend(frames(1));
        seek.push(glue(padding[1] + 1024));
        Forged {
            manifest: serde_json::from_slice(outline.json()).unwrap(),
            table: outline.table(),
            body: bytes[head..bytes.len() - tail].to_vec(),
            seek,
        }
    }

    /// The table's entry `index`: raw length, packed length, raw digest, packed digest.
    pub(crate) fn entry(&mut self, index: usize) -> &mut [u8] {
        &mut self.table[HEADER + ENTRY * index..][..ENTRY]
    }

    /// The frame table's count, set to what the table has.
    pub(crate) fn recount(&mut self) {
        let count = ((self.table.len() - HEADER) / ENTRY) as u32;
        self.table[12..16].copy_from_slice(&count.to_le_bytes());
    }

    /// The packed file, its manifest naming the table.
    pub(crate) fn bytes(mut self) -> Vec<u8> {
        self.manifest["frames"]["digest"] = Digest::of(&self.table).to_string().into();
        self.manifest["frames"]["size"] = self.table.len().into();
        self.bytes_with_this_manifest()
    }

    /// The packed file, the manifest as it is.
    pub(crate) fn bytes_with_this_manifest(mut self) -> Vec<u8> {
        let member = member("manifest.json", &serde_json::to_vec(&self.manifest).unwrap());
        let mut bytes = stored(&member);
        self.seek.insert(0, (bytes.len() as u32, member.len() as u32));
        bytes.extend(&self.body);
        self.seek.push((8 + self.table.len() as u32, 0));
        bytes.extend(0x184d_2a5c_u32.to_le_bytes());
        bytes.extend((self.table.len() as u32).to_le_bytes());
        bytes.extend(&self.table);
        bytes.extend(0x184d_2a5e_u32.to_le_bytes());
        bytes.extend((8 * self.seek.len() as u32 + 9).to_le_bytes());
        for (packed, raw) in &self.seek {
            bytes.extend(packed.to_le_bytes());
            bytes.extend(raw.to_le_bytes());
        }
        bytes.extend((self.seek.len() as u32).to_le_bytes());
        bytes.push(0);
        bytes.extend(0x8f92_eab1_u32.to_le_bytes());
        bytes
    }
}

/// A tar member with its padding.
pub(crate) fn member(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    let mut member = header.as_bytes().to_vec();
    member.extend_from_slice(content);
    member.resize(member.len().next_multiple_of(512), 0);
    member
}

/// A zstd frame of raw blocks, as the format's description says it.
pub(crate) fn stored(content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x80, 0x38];
    frame.extend((content.len() as u32).to_le_bytes());
    let blocks = content.len().div_ceil(128 << 10).max(1);
    for i in 0..blocks {
        let block = &content[i << 17..content.len().min((i + 1) << 17)];
        let header = (block.len() as u32) << 3 | u32::from(i + 1 == blocks);
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(block);
    }
    frame
}
