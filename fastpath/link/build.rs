//! Compiles the BPF programs of `bpf/` to the object that `src/bpf` embeds.

mod clang;

use std::env;
use std::path::PathBuf;

/// Includes all others.
const SOURCE: &str = "programs.c";

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-changed=clang.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    clang::compile(SOURCE, &out.join(SOURCE).with_extension("o"));
}
