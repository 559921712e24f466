//! The cluster manager.
mod api;
mod bus;
mod calls;
mod pool;
