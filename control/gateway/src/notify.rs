//! Tells systemd how far the service is (sd_notify(3)); nothing happens when systemd did not ask.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service is up: systemd starts what waits for it.
pub fn ready() {
    send("READY=1");
}

/// The service begins to stop.
pub fn stopping() {
    send("STOPPING=1");
}

/// A line that `systemctl status` shows.
pub fn status(text: &str) {
    send(&format!("STATUS={text}"));
}

fn send(message: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    // A leading `@` stands for the abstract name space.
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::debug!(%error, message, "systemd was not told");
    }
}
