//! Each planted mistake is found by one of the seeds that run every day.

use sluice_sim::planted::Bug;
use sluice_sim::report::first_seed;

fn is_found(bug: Bug) {
    assert!(
        first_seed(bug, 200).is_some(),
        "no seed of 200 finds {}",
        bug.name()
    );
}

// Two tests, so that they share the cores.

#[test]
fn mistakes_of_managers_are_found() {
    for bug in [
        Bug::AcknowledgeBeforeSync,
        Bug::NoticeLostOnRestart,
        Bug::EpochNotBumped,
        Bug::WithdrawnIsAnswered,
        Bug::NegativeForEver,
    ] {
        is_found(bug);
    }
}

#[test]
fn mistakes_of_gateways_are_found() {
    for bug in [
        Bug::RevisionIgnored,
        Bug::PrunedIsWithdrawn,
        Bug::UsedInterestExpires,
        Bug::AddressWithoutRest,
        Bug::WrongReverseKey,
        Bug::SignatureIgnored,
    ] {
        is_found(bug);
    }
}
