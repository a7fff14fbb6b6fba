//! Packs what the browser gets, once, so that the binary carries it small and sends it so.
//!
//! Each file of `src/pages` and the description of the API becomes a gzip member (RFC 1952) of the
//! same name in `OUT_DIR`, without a time or a name in it: equal files make equal binaries. The page
//! of one session is the home page again, a step deeper: `session.html` is made of `index.html`.

use std::path::{Path, PathBuf};
use std::{env, fs};

use zopfli::{Format, Options};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let pages = root.join("src/pages");
    println!("cargo:rerun-if-changed={}", pages.display());
    let listed = fs::read_dir(&pages).expect("src/pages is a directory");
    for file in listed {
        let file = file.expect("src/pages can be listed").path();
        let bytes = read(&file);
        if file.ends_with("index.html") {
            let text = std::str::from_utf8(&bytes).expect("a page is text");
            pack(a_step_deeper(text).as_bytes(), &out.join("session.html"));
        }
        pack(&bytes, &out.join(file.file_name().expect("a file has a name")));
    }
    pack(&read(&root.join("docs/openapi.yaml")), &out.join("openapi.yaml"));
}

fn read(file: &Path) -> Vec<u8> {
    println!("cargo:rerun-if-changed={}", file.display());
    fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// A page whose links, which are all relative, hold one directory further down.
fn a_step_deeper(page: &str) -> String {
    let mut deeper = String::new();
    for part in page.split_inclusive("=\"") {
        let is_link = deeper.ends_with("href=\"") || deeper.ends_with("src=\"");
        match part.strip_prefix("./") {
            Some(rest) if is_link => deeper.extend(["../", rest]),
            _ if is_link && !part.starts_with('#') => deeper.extend(["../", part]),
            _ => deeper.push_str(part),
        }
    }
    deeper
}

fn pack(bytes: &[u8], file: &Path) {
    let mut packed = Vec::new();
    zopfli::compress(Options::default(), Format::Gzip, bytes, &mut packed)
        .expect("memory can be read and written");
    fs::write(file, packed).expect("OUT_DIR can be written");
}
