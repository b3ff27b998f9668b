//! An OCI image of one layer, as an archive (OCI image specification: image layout, manifest,
//! configuration), for `skopeo copy oci-archive:FILE …`.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use bundle::{Digest, HashingWriter};
use imgrun::Stored;
use serde_json::json;

use crate::source::into_error;
use crate::tar::{Entry, Kind, Writer};
use crate::{Error, Result};

/// The layer's zstd level.
const COMPRESSION_LEVEL: i32 = 3;
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Writes the archive.
pub(super) fn write(stored: &Stored, image: File, out: &mut File) -> Result<()> {
    let about = |e| into_error("the archive", e);
    let mut layer = tempfile::tempfile().map_err(|e| Error::io("a temporary file", e))?;
    let (diff_id, layer_digest, layer_bytes) = pack(image, &mut layer)?;
    let manifest = &stored.manifest;
    let config = json!({
        "architecture": manifest.arch.oci_name(),
        "os": "linux",
        "config": { "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/sh"] },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created_by": manifest.tool, "comment": format!("{} {}", manifest.name, manifest.version) }],
    })
    .to_string();
    let image_manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": Digest::of(&config), "size": config.len() },
        "layers": [{ "mediaType": LAYER, "digest": layer_digest, "size": layer_bytes }],
    })
    .to_string();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{
            "mediaType": MANIFEST, "digest": Digest::of(&image_manifest), "size": image_manifest.len(),
            "annotations": { "org.opencontainers.image.ref.name": manifest.version.as_str() },
            "platform": { "architecture": manifest.arch.oci_name(), "os": "linux" },
        }],
    })
    .to_string();
    let mut tar = Writer::new(io::BufWriter::new(out));
    for directory in ["blobs", "blobs/sha256"] {
        tar.entry(&entry(directory, Kind::Directory)).map_err(about)?;
    }
    let mut file = |name: String, size: u64, content: &mut dyn Read| {
        tar.file(&entry(&name, Kind::File { size }), content).map_err(about)
    };
    for text in [&config, &image_manifest] {
        let name = format!("blobs/sha256/{}", Digest::of(text).hex());
        file(name, text.len() as u64, &mut text.as_bytes())?;
    }
    layer.rewind().map_err(|e| Error::io("the layer", e))?;
    file(format!("blobs/sha256/{}", layer_digest.hex()), layer_bytes, &mut layer)?;
    file("index.json".into(), index.len() as u64, &mut index.as_bytes())?;
    let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
    file("oci-layout".into(), version.len() as u64, &mut version.as_bytes())?;
    tar.finish().and_then(|mut out| out.flush()).map_err(about)
}

fn entry(path: &str, kind: Kind) -> Entry {
    let mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
    let (path, mtime) = (path.as_bytes().to_vec(), ext4::Time::default());
    Entry { path, kind, mode, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
}

/// Packs the tree of `image` as a layer: the digests of the tar and of what is stored, its length.
fn pack(image: File, layer: &mut File) -> Result<(Digest, Digest, u64)> {
    let about = |e| into_error("the layer", e);
    let stored = HashingWriter::new(layer);
    let encoder = zstd::Encoder::new(stored, COMPRESSION_LEVEL).map_err(about)?;
    let mut tar = Writer::new(HashingWriter::new(encoder));
    super::tar::write(image, true, &mut tar)?;
    let (encoder, diff_id, _) = tar.finish().map_err(about)?.finish();
    let (_, digest, bytes) = encoder.finish().map_err(about)?.finish();
    Ok((diff_id, digest, bytes))
}
