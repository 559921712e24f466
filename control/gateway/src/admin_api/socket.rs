//! The admin socket: a unix socket that only its owner may open.

use axum::Router;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};

#[derive(Debug, Error)]
pub enum SocketError {
    #[error("cannot listen on {path}: {source}", path = path.display())]
    Listen {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "a gateway answers on {path} already; stop it, or set `gateway.admin_socket` to another path",
        path = path.display()
    )]
    InUse { path: PathBuf },
}

/// A bound admin socket; its file is removed when it is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl AdminSocket {
    /// Binds `path` with mode 0600, replacing what a process that died left behind.
    ///
    /// # Errors
    /// When another process answers there, or the path cannot be used.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Listen {
            path: path.to_owned(),
            source,
        };
        if UnixStream::connect(path).await.is_ok() {
            return Err(SocketError::InUse {
                path: path.to_owned(),
            });
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        if let Err(error) = std::fs::remove_file(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(failed(error));
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self {
            listener: Some(listener),
            path: path.to_owned(),
        })
    }

    /// Serves until the future is dropped; the socket's file goes with it.
    pub async fn serve(mut self, routes: Router) {
        if let Some(listener) = self.listener.take() {
            // axum's accept loop handles its errors itself and never returns one.
            let _ = axum::serve(listener, routes).await;
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
