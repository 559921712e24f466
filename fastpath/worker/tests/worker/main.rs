//! Workers with real engines: on links in memory, and in network namespaces on TUN and UDP.

#[cfg(test)]
mod memory;
#[cfg(test)]
mod namespaces;
#[cfg(test)]
mod encrypted;
#[cfg(test)]
mod encrypted_xdp;
#[cfg(test)]
mod abuse;
#[cfg(test)]
mod congestion;
#[cfg(test)]
mod stock;
#[cfg(test)]
mod interop;
#[cfg(test)]
mod selftest;
#[cfg(test)]
mod mtu;
#[cfg(test)]
mod site;
#[cfg(test)]
mod offload;
#[cfg(test)]
mod offload_xdp;
