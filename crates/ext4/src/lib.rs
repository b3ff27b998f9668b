//! Writes ext4 file systems: a tree in, image bytes out.
