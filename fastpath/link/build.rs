//! Compiles the BPF programs of `bpf/` to the object that `src/bpf` embeds.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Includes all others.
const SOURCE: &str = "programs.c";

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    compile(SOURCE, &out.join(SOURCE).with_extension("o"));
}

/// # Panics
/// When clang is missing or refuses the source: there is nothing to fall back to.
fn compile(source: &str, object: &Path) {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let status = Command::new("clang")
        // -g: the loader reads the maps' types from BTF. v3: 32-bit jumps and atomics, since Linux 5.1.
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g"])
        .args(["-Wall", "-Wextra", "-Werror"])
        // Only the kernel's own headers: the C library's do not know this target.
        .args(["-nostdinc", "-isystem"])
        .arg(format!("/usr/include/{arch}-linux-gnu"))
        .args(["-isystem", "/usr/include"])
        // The object does not depend on where it was built.
        .args(["-fdebug-compilation-dir=.", "-c", source, "-o"])
        .arg(object)
        .current_dir("bpf")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "clang refused bpf/{source} ({status}); headers missing? apt-get install clang linux-libc-dev"
        ),
        Err(error) => {
            panic!("running clang for bpf/{source}: {error}; apt-get install clang linux-libc-dev")
        }
    }
}
