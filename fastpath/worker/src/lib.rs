//! A pinned worker: receive, path, send or release.
