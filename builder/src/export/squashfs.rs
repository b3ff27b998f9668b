//! A compressed file system that is only read: squashfs, by sqfstar of squashfs-tools, which takes a
//! tar with every owner, device and attribute. (No crate writes attributes; Debian's mkfs.erofs takes
//! no tar.)

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use ext4::read::{Inode, Reader};
use imgrun::Tool;

use super::{tar, tree};
use crate::tar::Writer;
use crate::{Error, Result};

/// Packing takes this long at most.
const PACK_TIME_MAX: Duration = Duration::from_secs(4 * 3600);

/// Writes the file system of the tree of `image` as `out`, which must not be there.
pub(super) fn write(image: File, out: &Path) -> Result<()> {
    imgrun::tool::require(&["sqfstar"])?;
    let about = |e| Error::io("a pipe", e);
    let (reader, writer) = std::io::pipe().map_err(about)?;
    // sqfstar takes no root from a tar, and gives it the time of now. It takes later times back to the
    // epoch it is told: the newest of the tree, so that equal trees give equal bytes.
    let again = image.try_clone().map_err(about)?;
    let root = Reader::open(again).and_then(|mut reader| reader.root()).map_err(tree::damaged)?;
    let mut newest = time(&root);
    tree::walk(image.try_clone().map_err(about)?, |item, _| {
        newest = newest.max(time(&item.inode));
        Ok(())
    })?;
    let sqfstar = Tool::new("sqfstar")
        .args(["-comp", "zstd", "-no-progress", "-quiet"])
        .args(["-root-mode", &format!("{:o}", root.mode), "-root-uid", &root.uid.to_string()])
        .args(["-root-gid", &root.gid.to_string()])
        .env("SOURCE_DATE_EPOCH", newest.to_string())
        .arg(out)
        .stdin(reader)
        .timeout(PACK_TIME_MAX);
    std::thread::scope(|scope| {
        let written = scope.spawn(move || {
            let mut tar = Writer::new(std::io::BufWriter::new(writer));
            tar::write(image, false, &mut tar)?;
            let mut out = tar.finish().map_err(about)?;
            std::io::Write::flush(&mut out).map_err(about)
        });
        // Where sqfstar fails, that is the reason; the pipe it leaves is not.
        sqfstar.run()?;
        written.join().map_err(|_| Error::bug("the tree's writer died"))?
    })
}

/// squashfs counts seconds from 1970 to 2106.
fn time(inode: &Inode) -> u32 {
    u32::try_from(inode.mtime.seconds).unwrap_or(0)
}
