//! Tells systemd how far the service is (sd_notify(3)); nothing happens when systemd did not ask.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service is up: systemd starts what waits for it.
pub fn ready() {
    tell("READY=1");
}

/// The service begins to stop.
pub fn stopping() {
    tell("STOPPING=1");
}

fn tell(message: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&socket, message) {
        tracing::debug!(%error, message, "systemd was not told");
    }
}

fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    // A leading `@` stands for the abstract name space.
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(message.as_bytes(), &address)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_hears_it_on_a_path_and_on_an_abstract_name() {
        let name = format!("sluice-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let listeners = [
            (
                path.as_os_str().to_owned(),
                UnixDatagram::bind(&path).unwrap(),
            ),
            (
                format!("@{name}").into(),
                UnixDatagram::bind_addr(&abstract_address).unwrap(),
            ),
        ];
        for (socket, listener) in listeners {
            send(&socket, "READY=1").unwrap();
            let mut heard = [0; 32];
            let len = listener.recv(&mut heard).unwrap();
            assert_eq!(&heard[..len], b"READY=1");
        }
        std::fs::remove_file(path).unwrap();
        assert!(send(OsStr::new("/nonexistent/notify"), "READY=1").is_err());
    }
}
