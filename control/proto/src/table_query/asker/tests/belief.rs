//! Rows that are believed, and those that are not: signatures, epochs, and keys that change.

use super::*;
use crate::message::NodeKey;
use crate::signature::{Signed, Signer};

fn signer(seed: u8) -> Signer {
    Signer::from_seed(&[seed; 32])
}

fn signed(signer: &Signer, mut rows: Vec<InstanceEntry>) -> Vec<InstanceEntry> {
    for row in &mut rows {
        row.signature = Some(signer.sign(&Signed::of(&job(), row)));
    }
    rows
}

fn refused(asker: &Asker) -> (u64, u64) {
    (asker.refused().forged, asker.refused().outdated)
}

/// A gateway that has asked for the job, and knows whose rows to believe.
fn asking() -> Asker {
    let mut asker = asker();
    asker.handle_cluster_key(signer(1).public(), s(0));
    asker.handle_question(&Key::Name(job()), s(0));
    asker
}

#[test]
fn only_rows_that_the_cluster_signed_are_believed_and_the_question_stays_open() {
    let good = signed(&signer(1), vec![instance(0, 5, 1), instance(1, 6, 2)]);
    let tampers: [fn(&mut InstanceEntry); 3] = [
        |row| row.host_ip = Some(ip("198.51.100.1")),
        |row| row.public_key = Some(NodeKey::from_bytes([9; 32])),
        |row| row.signature = None,
    ];
    let mut asker = asking();
    let mut forged = 0;
    for tamper in tampers {
        let mut bad = good.clone();
        tamper(&mut bad[1]);
        // One bad row is enough: the whole answer was in wrong hands.
        asker.handle_result(&ours(JOB, 9, bad), s(0)).unwrap();
        forged += 1;
        assert_eq!(refused(&asker), (forged, 0));
        assert_eq!(events(&mut asker), []);
        assert_eq!(asker.queries(), 1, "still open");
    }
    let others = signed(&signer(2), vec![instance(0, 5, 1)]);
    asker.handle_result(&ours(JOB, 9, others), s(0)).unwrap();
    assert_eq!(refused(&asker), (forged + 1, 0));
    asker.handle_result(&ours(JOB, 3, good), s(0)).unwrap();
    assert_eq!(listed(&mut asker), [0, 1]);
    assert_eq!(asker.queries(), 0);
    assert_eq!(refused(&asker), (forged + 1, 0));
}

/// What the broker makes up changes nothing of what is held, neither rows nor what lives.
#[test]
fn a_forged_answer_leaves_what_is_held_alone() {
    let mut asker = asking();
    let good = signed(&signer(1), vec![instance(0, 5, 1)]);
    asker
        .handle_result(&ours(JOB, 3, good.clone()), s(0))
        .unwrap();
    let before = asker.routes(&job());
    events(&mut asker);
    let forged = ours("", 9, vec![instance(0, 7, 66)]);
    asker.handle_result(&forged, s(1)).unwrap();
    assert_eq!(asker.routes(&job()), before);
    assert_eq!(events(&mut asker), []);
    asker.handle_result(&ours("", 4, good), s(2)).unwrap();
    assert_eq!(asker.routes(&job()), before, "not overtaken by it");
}

#[test]
fn a_row_of_an_older_epoch_is_refused_also_after_its_successor_ended() {
    let mut asker = asking();
    let row = |epoch| signed(&signer(1), vec![instance(0, epoch, 1)]);
    asker.handle_result(&ours(JOB, 3, row(5)), s(0)).unwrap();
    events(&mut asker);
    // Of another life of the manager, so that the revision says nothing.
    let replay = |epoch| TableQueryResult {
        revision: Some(Revision {
            incarnation: 7,
            number: 1,
        }),
        ..ours("", 1, row(epoch))
    };
    asker.handle_result(&replay(4), s(1)).unwrap();
    assert_eq!((refused(&asker), events(&mut asker)), ((0, 1), vec![]));
    asker.handle_result(&ours("", 4, Vec::new()), s(2)).unwrap();
    let withdrawn = events(&mut asker);
    assert!(matches!(withdrawn[0], Event::Withdrawn { epoch: 5, .. }));
    asker.handle_result(&replay(4), s(3)).unwrap();
    assert_eq!((refused(&asker), events(&mut asker)), ((0, 2), vec![]));
    asker.handle_result(&replay(6), s(4)).unwrap();
    assert_eq!(listed(&mut asker), [0], "its successor is believed");
}

/// Without a key everybody is believed, as from managers that sign nothing.
#[test]
fn unsigned_rows_are_believed_until_a_key_is_known() {
    let mut asker = asker();
    asker.handle_question(&Key::Name(job()), s(0));
    asker
        .handle_result(&ours(JOB, 3, vec![instance(0, 5, 1)]), s(0))
        .unwrap();
    assert_eq!(listed(&mut asker), [0]);
    queries(&mut asker);
    asker.handle_cluster_key(signer(1).public(), s(1));
    asker.handle_timeout(s(3));
    assert_eq!(queries(&mut asker), [JOB], "asked anew");
    assert_eq!(events(&mut asker), [], "it stays meanwhile");
    asker
        .handle_result(&ours(JOB, 4, vec![instance(0, 5, 1)]), s(3))
        .unwrap();
    assert_eq!(refused(&asker), (1, 0));
    let good = signed(&signer(1), vec![instance(0, 5, 1)]);
    asker.handle_result(&ours(JOB, 4, good), s(3)).unwrap();
    assert_eq!(refused(&asker), (1, 0));
    assert_eq!(asker.routes(&job()).unwrap().instances.len(), 1);
}

#[test]
fn another_key_of_the_cluster_makes_everything_be_asked_anew_once() {
    let mut asker = asking();
    let rows = vec![instance(0, 5, 1)];
    asker
        .handle_result(&ours(JOB, 3, signed(&signer(1), rows.clone())), s(0))
        .unwrap();
    events(&mut asker);
    queries(&mut asker);
    asker.handle_cluster_key(signer(2).public(), s(1));
    asker.handle_cluster_key(signer(2).public(), s(1));
    asker.handle_timeout(s(3));
    assert_eq!(queries(&mut asker), [JOB]);
    assert_eq!(asker.routes(&job()).unwrap().instances.len(), 1, "it stays");
    let old = ours(JOB, 4, signed(&signer(1), rows.clone()));
    asker.handle_result(&old, s(3)).unwrap();
    assert_eq!(
        refused(&asker),
        (1, 0),
        "what was verified once counts anew"
    );
    asker
        .handle_result(&ours(JOB, 5, signed(&signer(2), rows)), s(3))
        .unwrap();
    assert_eq!(asker.queries(), 0);
    assert_eq!(refused(&asker), (1, 0));
}

/// A ServiceIP that the broker adds to an answer leads nowhere.
#[test]
fn by_which_addresses_a_service_is_called_is_signed_too() {
    let mut asker = asking();
    let mut answer = ours(JOB, 3, signed(&signer(1), vec![instance(0, 5, 1)]));
    let stolen = ip("10.30.77.7");
    let added = ServiceIpEntry::new(
        IpType::RoundRobin,
        Dual {
            v4: Some(stolen),
            v6: None,
        },
    );
    answer.service_ip_list = Some(vec![added, rr()]);
    asker.handle_result(&answer, s(0)).unwrap();
    let routes = asker.routes(&job()).unwrap();
    let mut addresses = routes.service_ips.iter().flat_map(|it| it.ip.iter());
    assert!(!addresses.any(|it| it.ip() == stolen));
    assert_eq!(routes.service_ips.len(), 1);
}

/// The disk is the gateway's own; what is on it was believed when it was written.
#[test]
fn a_snapshot_of_an_earlier_life_needs_no_signature() {
    let mut asker = Asker::new(Settings::default(), 1);
    asker.handle_cluster_key(signer(1).public(), s(0));
    asker.restore(&[legacy("", vec![instance(0, 5, 1)])], s(0));
    assert_eq!(listed(&mut asker), [0]);
    assert_eq!(refused(&asker), (0, 0));
}
