//! What a worker's engine counts beside the account of frames.

use sluice_memory::Counter;

/// Written by one worker, read by control at any time.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Flows begun by round robin.
    pub begun_round_robin: Counter,
    /// Flows begun to an InstanceIP.
    pub begun_instance: Counter,
    /// Flows begun by remote callers.
    pub begun_passive: Counter,
    /// Flows begun that no rule allows, where that is only observed.
    pub observed: Counter,
    /// Frames sent on to where their instance moved, and answers to them.
    pub relayed: Counter,
    /// Flows whose source port had to be rewritten.
    pub ports_rewritten: Counter,
    /// Frames held for an answer now.
    pub held: Counter,
    /// Fragments that wait for their first one now.
    pub fragments_waiting: Counter,
    /// Tunnels that are active now.
    pub tunnels: Counter,
    /// Questions put to control.
    pub questions: Counter,
    /// Suspicions told to control.
    pub suspicions: Counter,
    /// Questions and suspicions that found the queue to control full.
    pub upcalls_lost: Counter,
    /// ICMP errors sent, to local callers and through tunnels.
    pub errors_sent: Counter,
    /// TCP resets sent to local callers.
    pub resets_sent: Counter,
}
