//! Links against the kernel.

#[cfg(test)]
mod xdp_programs;
