//! Is it a service address, and may this instance begin to talk to it?

use crate::batch::{Answer, Step, Stop, drop_as};
use sluice_tables::{Instance, InstanceState, Known, Placement, Question, Reach, Tables, Target};
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

/// Whether a new flow of ours may choose the instance.
pub(crate) const fn may_begin(instance: &Instance) -> bool {
    matches!(instance.reach, Reach::Any)
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
