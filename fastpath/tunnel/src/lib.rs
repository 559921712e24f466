//! Tunnel formats and the active-tunnel list, sans-IO.
