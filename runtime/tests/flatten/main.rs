//! Images judged from the outside: `e2fsck -fn`, then the kernel mounts them and a program that
//! shares no code with ours compares every inode with the layers.

mod hostile;
mod semantics;
mod sparse;
mod world;
