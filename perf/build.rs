//! Compiles the traffic generator and the sink (`bpf/traffic.c`) to the object that `src/traffic/frames.rs` embeds.

#[path = "../fastpath/link/clang.rs"]
mod clang;

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-changed=../fastpath/link/clang.rs");
    // The laboratory alone, as the demo uses it, sends no frames of its own.
    if env::var_os("CARGO_FEATURE_SUITES").is_none() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    clang::compile("traffic.c", &out.join("traffic.o"));
}
