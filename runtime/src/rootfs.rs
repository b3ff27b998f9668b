//! The root file system as a value: layers flattened into one tree, contents streamed into the
//! image as they pass.
//!
//! Layers are read **top-down**: whatever is found first at a path is what the image has there,
//! whiteouts hide what lies below, and a hidden file's bytes are never written. The rules are those
//! of the OCI image specification (`layer.md`), applied in the other direction:
//!
//! - a whiteout `.wh.NAME` and an opaque marker `.wh..wh..opq` hide entries of *lower* layers only,
//!   wherever in their own layer they stand;
//! - a directory's metadata comes from the topmost layer that names it; one that no entry names is
//!   `0755 root:root`;
//! - within a layer the last entry of a path wins;
//! - a hard link is to the file that its target was when its layer was made: where a higher layer
//!   has replaced that one, the old content is still what the link names;
//! - an entry below a path that a lower layer makes a symlink goes where the symlink points,
//!   provided that its own layer does not name the directory, and even where a still higher layer
//!   has removed or replaced the symlink; within one layer, an entry below a symlink is refused.

mod detour;
mod flatten;
mod graft;
mod links;
mod merge;
mod path;

pub use detour::{Detours, Shadows};
pub use flatten::Flatten;
pub(crate) use flatten::image_error;

/// A flattened tree; file contents are references into the image that is being written.
pub type Rootfs = ext4::Tree;
