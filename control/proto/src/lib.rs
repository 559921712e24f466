//! Control protocols as values: table query, leases, descriptors; no socket, clock or tokio.
