//! The files that journals stand in: the standard library's, under one name, and whose they are.
//!
//! This is a seam and nothing else. The simulation compiles `journal.rs` against a twin of this
//! file, whose disk is slow, full, failing or torn by a crash; so whatever a journal does with a
//! file, it does by these names.

pub use std::fs::{
    DirBuilder, File, OpenOptions, Permissions, exists, read_dir, read_to_string, remove_dir_all,
    remove_file, rename, symlink_metadata,
};
pub use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};

pub use super::sys::effective_uid;
