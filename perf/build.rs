//! Compiles the traffic generator and the sink (`bpf/traffic.c`) to the object that `src/traffic/frames.rs` embeds.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// # Panics
/// When clang is missing or refuses the source: there is nothing to fall back to.
fn main() {
    println!("cargo::rerun-if-changed=bpf");
    // The laboratory alone, as the demo uses it, sends no frames of its own.
    if env::var_os("CARGO_FEATURE_SUITES").is_none() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let status = Command::new("clang")
        // As fastpath/link/build.rs does, which says why.
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g"])
        .args(["-Wall", "-Wextra", "-Werror"])
        .args(["-nostdinc", "-isystem"])
        .arg(format!("/usr/include/{arch}-linux-gnu"))
        .args(["-isystem", "/usr/include"])
        .args(["-fdebug-compilation-dir=.", "-c", "traffic.c", "-o"])
        .arg(out.join("traffic.o"))
        .current_dir("bpf")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "clang refused bpf/traffic.c ({status}); headers missing? apt-get install clang linux-libc-dev"
        ),
        Err(error) => {
            panic!("running clang for bpf/traffic.c: {error}; apt-get install clang linux-libc-dev")
        }
    }
}
