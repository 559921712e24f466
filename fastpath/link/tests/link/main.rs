//! Links against the kernel.

#[cfg(test)]
mod af_xdp;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod xdp_programs;
