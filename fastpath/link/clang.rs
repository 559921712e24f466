//! Compiles BPF programs in C. Build scripts of other crates take this file in by its path.

use std::path::Path;
use std::process::Command;

/// Compiles `bpf/<source>` of the crate that is built to `object`.
///
/// # Panics
/// When clang is missing or refuses the source: there is nothing to fall back to.
pub(crate) fn compile(source: &str, object: &Path) {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
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
