//! Is it a service address, and may this instance begin to talk to it?

use crate::batch::{Answer, Step, Stop, Turn, drop_as};
use crate::engine::{Engine, Shared};
use crate::flow::{Flow, Pin};
use sluice_tables::slots::Slot;
use sluice_tables::{
    Instance, InstanceSlot, InstanceState, Isolation, Known, Placement, Question, Reach,
    ServiceSlot, Tables, Target, Upcall,
};
use sluice_wire::icmp_error::Unreachable;
use sluice_wire::{Class, DropReason, Ip, Parsed};

/// Only semantic addresses are ours; all else was routed here by mistake.
#[inline]
pub(crate) fn check_dialled(packet: &Parsed, tables: &Tables) -> Step<()> {
    match tables.plan.class(packet.dst) {
        Class::Semantic => Ok(()),
        Class::Node | Class::Foreign => drop_as(DropReason::DestinationNotSemantic),
    }
}

/// What a dialled address means; asks control when the tables do not say.
pub(crate) fn meaning(dialled: Ip, tables: &Tables) -> Step<Target> {
    match tables.semantic(dialled) {
        Some(Known::Target(target)) => Ok(target),
        Some(Known::Unavailable) => refuse(DropReason::Unavailable),
        Some(Known::Absent) => refuse(DropReason::Absent),
        None => Err(Stop::Ask(Question::Dialled(dialled))),
    }
}

/// Whether a conversation may begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Allowed,
    /// It is not allowed, but only observed.
    Observed,
    /// It is not allowed so far: the rules of this service are on their way.
    Awaited(ServiceSlot),
    Refused,
}

/// Whether a new flow of the local `caller` may choose the instance.
pub(crate) fn may_begin(caller: &Instance, callee: &Instance, tables: &Tables) -> Verdict {
    let allowed =
        matches!(callee.reach, Reach::Any) && tables.may_call(caller.service, callee.service);
    judge(allowed, caller, callee, tables)
}

/// Whether the `caller` elsewhere may begin a flow to the local instance.
pub(crate) fn may_accept(caller: &Instance, callee: &Instance, tables: &Tables) -> Verdict {
    let allowed = tables.may_call(caller.service, callee.service);
    judge(allowed, caller, callee, tables)
}

fn judge(allowed: bool, caller: &Instance, callee: &Instance, tables: &Tables) -> Verdict {
    match (allowed, tables.isolation()) {
        (true, _) | (false, Isolation::Off) => Verdict::Allowed,
        (false, Isolation::Observe) => Verdict::Observed,
        (false, Isolation::Enforce) => tables
            .awaits_rules(caller.service, callee.service)
            .map_or(Verdict::Refused, Verdict::Awaited),
    }
}

impl Shared {
    /// Ends the flows that the tables do not allow any more; `ending` sees each before. Returns how many.
    ///
    /// For control, after it published tables with fewer permissions: a worker that still has older ones may begin another
    /// flow until its turn ends, so that it takes a second look a moment later.
    pub fn end_forbidden(&self, tables: &Tables, mut ending: impl FnMut(&Flow)) -> usize {
        let flows = self.flows.iter_from(0);
        let forbidden = flows.filter(|flow| is_forbidden(flow, tables));
        forbidden
            .filter(|flow| {
                ending(flow);
                self.flows.remove(flow)
            })
            .count()
    }
}

fn is_forbidden(flow: &Flow, tables: &Tables) -> bool {
    let row = |pin: Pin| tables.instance_at(pin.slot, pin.epoch);
    let (Some(local), Some(remote)) = (row(flow.local), row(flow.remote)) else {
        // Its next packet ends it, for another reason.
        return false;
    };
    let verdict = if flow.state.is_passive() {
        may_accept(remote, local, tables)
    } else {
        may_begin(local, remote, tables)
    };
    verdict == Verdict::Refused
}

impl Engine {
    /// Counts a conversation that is only observed, and tells control of each pair once a second.
    pub(crate) fn observe(&mut self, caller: InstanceSlot, callee: InstanceSlot, turn: &Turn<'_>) {
        self.counters.observed.add(1);
        let pair = u128::from(caller.index()) << 32 | u128::from(callee.index());
        if self.observations.allows(pair, turn.now) {
            self.tell(Upcall::NotAllowed { caller, callee });
        }
    }
}

/// Whether the instance can be sent anything at all.
pub(crate) const fn is_usable(instance: &Instance) -> bool {
    !matches!(instance.state, InstanceState::Withdrawn)
        && !matches!(instance.placement, Placement::Nowhere)
}

/// Dropped, and the local caller gets an ICMP error that makes its `connect` fail at once.
pub(crate) const fn refuse<T>(reason: DropReason) -> Step<T> {
    let why = if matches!(reason, DropReason::NotAllowed) {
        Unreachable::Prohibited
    } else {
        Unreachable::Host
    };
    Err(Stop::Refuse(reason, Answer::Unreachable(why)))
}
