//! What Sluice is compared with: each peer is set up in the same namespaces, over the same cable.

pub mod vxlan;
pub mod route;
pub mod vxlan_path;
pub mod wireguard;
