//! Tests of the built binaries that need no virtual machine.
