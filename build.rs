//! Packs what the browser gets, once, so that the binary carries it small and sends it so.
//!
//! Each file of `src/pages` and the description of the API becomes a gzip member (RFC 1952) of the
//! same name in `OUT_DIR`, without a time or a name in it: equal files make equal binaries.

use std::path::{Path, PathBuf};
use std::{env, fs};

use flate2::{Compression, GzBuilder, read::GzEncoder};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let pages = root.join("src/pages");
    println!("cargo:rerun-if-changed={}", pages.display());
    let listed = fs::read_dir(&pages).expect("src/pages is a directory");
    for file in listed {
        pack(&file.expect("src/pages can be listed").path(), &out);
    }
    pack(&root.join("docs/openapi.yaml"), &out);
}

fn pack(file: &Path, out: &Path) {
    println!("cargo:rerun-if-changed={}", file.display());
    let bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut packer: GzEncoder<&[u8]> =
        GzBuilder::new().mtime(0).read(&bytes[..], Compression::best());
    let mut packed = Vec::new();
    std::io::Read::read_to_end(&mut packer, &mut packed).expect("memory can be read");
    let name = file.file_name().expect("a file has a name");
    fs::write(out.join(name), packed).expect("OUT_DIR can be written");
}
