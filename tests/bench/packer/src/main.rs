//! The library's part of `imgtool build` and `imgrun import`, to be measured by itself.
//!
//! - `packer pack IMAGE OUT LEVEL AVERAGE-KIB SEAM,SEAM,…` prints packed bytes and frames;
//! - `packer unpack BUNDLE DIRECTORY` writes the files, not synced;
//! - `packer reuse OLD NEW` prints packed bytes of data in NEW, and those whose frames OLD has.

use std::collections::HashSet;
use std::error::Error;
use std::fs::File;
use std::io::{BufReader, BufWriter, Cursor, Read, Seek};
use std::os::unix::fs::FileExt;

use bundle::{
    Arch, Blob, Boot, Content, Digest, Form, Frame, HashingReader, Init, Kind, Manifest, Outline,
    Packing, Piece, ROOTFS, Reference, SBOM,
};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const PIECE_BYTES: usize = 128 << 10;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["pack", image, out, level, average, seams] => {
            let seams = seams.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?;
            pack(image, out, level.parse()?, average.parse()?, seams)
        }
        ["unpack", bundle, directory] => unpack(bundle, directory),
        ["reuse", old, new] => reuse(old, new),
        _ => Err("see the source".into()),
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

fn manifest() -> Result<Manifest> {
    Ok(Manifest {
        schema: bundle::SCHEMA,
        kind: Kind::Image,
        name: "bench".parse()?,
        version: "1".parse()?,
        arch: Arch::host(),
        files: vec![],
        frames: Blob::of([]),
        boot: Some(Boot { init: Init::Agent, cmdline: vec![], config: None }),
        kernel: Some(Reference {
            name: "k".parse()?,
            version: "1".parse()?,
            digest: Digest::of([]),
        }),
        agent: None,
        sources: vec![],
        recipe: Digest::of([]),
        lock: None,
        packages: vec![],
        tool: "bench".into(),
        tests: Vec::new(),
    })
}

fn pack(image: &str, out: &str, level: i32, average_kib: u32, seams: Vec<u64>) -> Result<()> {
    let image = File::open(image)?;
    let size = image.metadata()?.len();
    let image: Box<dyn Read> = Box::new(image);
    let contents = vec![
        Content { seams, ..Content::new(ROOTFS, image, size) },
        Content::new(SBOM, Box::new(Cursor::new("{}\n")) as Box<dyn Read>, 3),
    ];
    let out = File::options().read(true).write(true).create(true).truncate(true).open(out)?;
    let out = BufWriter::with_capacity(PIECE_BYTES, out);
    let packing = Packing { level, average_bytes: average_kib << 10, threads: threads() };
    let (out, outline) = bundle::pack(manifest()?, contents, out, &packing, |_| {})?;
    let mut out = out.into_inner()?;
    // The bundle's name, which whoever packs needs, too.
    out.rewind()?;
    let mut reader = HashingReader::new(out);
    let mut buffer = vec![0; PIECE_BYTES];
    while reader.read(&mut buffer)? != 0 {}
    println!("{} {} {}", outline.packed_bytes(), outline.pieces().len(), reader.finish().0);
    Ok(())
}

fn open(path: &str) -> Result<(File, Outline)> {
    let file = File::open(path)?;
    let mut reader = HashingReader::new(BufReader::with_capacity(PIECE_BYTES, &file));
    let json = bundle::read_manifest(&mut reader)?;
    let mut buffer = vec![0; PIECE_BYTES];
    while reader.read(&mut buffer)? != 0 {}
    let outline = Outline::read(json, &mut &file)?;
    Ok((file, outline))
}

fn unpack(path: &str, directory: &str) -> Result<()> {
    let (packed, outline) = open(path)?;
    let mut files = Vec::new();
    for entry in &outline.manifest().files {
        let file = File::create(format!("{directory}/{}", entry.name))?;
        file.set_len(entry.size)?;
        files.push(file);
    }
    let fetch = |index: usize, _: Form, buffer: &mut Vec<u8>| {
        let piece = &outline.pieces()[index];
        buffer.resize(piece.frame.packed_bytes() as usize, 0);
        packed.read_exact_at(buffer, piece.packed_at)?;
        Ok(Form::Packed)
    };
    let put = |piece: &Piece, raw: &[u8]| files[piece.file].write_all_at(raw, piece.raw_at);
    let put = |piece: &Piece, raw: &[u8]| Ok::<_, bundle::Error>(put(piece, raw)?);
    outline.assemble(threads(), fetch, put)?;
    Ok(())
}

fn reuse(old: &str, new: &str) -> Result<()> {
    let data = |outline: &Outline| -> Vec<(Digest, u64)> {
        let data = outline.pieces().iter().filter_map(|piece| match piece.frame {
            Frame::Data { raw, .. } => Some((raw, piece.frame.packed_bytes())),
            Frame::Zero { .. } => None,
        });
        data.collect()
    };
    let known: HashSet<Digest> = data(&open(old)?.1).into_iter().map(|(raw, _)| raw).collect();
    let frames = data(&open(new)?.1);
    let all: u64 = frames.iter().map(|(_, bytes)| bytes).sum();
    let had: u64 =
        frames.iter().filter(|(raw, _)| known.contains(raw)).map(|(_, bytes)| bytes).sum();
    println!("{all} {had}");
    Ok(())
}
