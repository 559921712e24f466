//! The file with the keys of sessions, for whoever must read a capture (`tunnel.key_log`).

use sluice_tunnel::key_log::Sink;
use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Opens the file, which nobody else may read, to be appended to, and says loudly what it is.
///
/// # Errors
/// When it cannot be opened, or is a symbolic link; the path is named.
pub(super) fn open(path: &Path) -> io::Result<Sink> {
    let named = |error: io::Error| {
        let way_out = "make its folder writable for the gateway, or take `tunnel.key_log` away";
        let text = format!("opening {}: {error}; {way_out}", path.display());
        io::Error::new(error.kind(), text)
    };
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(named)?;
    // It may have been there before.
    file.set_permissions(Permissions::from_mode(MODE))
        .map_err(named)?;
    tracing::warn!(
        file = %path.display(),
        "THE KEYS OF ALL TUNNELS, AND THIS NODE'S PRIVATE KEY, ARE WRITTEN TO A FILE: whoever has it can read all packets. \
         Take `tunnel.key_log` away when the capture is read, delete the file, and replace the key with `sluice key rotate`"
    );
    let path = path.to_owned();
    Ok(Box::new(move |lines| {
        if let Err(error) = file.write_all(lines.as_bytes()) {
            tracing::warn!(file = %path.display(), %error, "keys of a session are not logged");
        }
    }))
}

const MODE: u32 = 0o600;

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_perf::lab::scratch::Scratch;

    #[test]
    fn keys_are_appended_to_a_file_for_us_alone() {
        let dir = Scratch::new("sluice-key-log").unwrap();
        let path = dir.path().join("keys");
        std::fs::write(&path, "before\n").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        open(&path).unwrap()("key\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nkey\n");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);

        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let Err(error) = open(&link) else {
            panic!("a link is followed")
        };
        assert!(error.to_string().contains("link"), "{error}");
    }
}
