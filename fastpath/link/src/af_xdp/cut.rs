//! Super-frames become packets here, and partial checksums complete ones: an AF_XDP ring takes neither.

use crate::pieces::{HeaderBytes, Pieces, complete_checksum};
use sluice_memory::{Account, Frame, Pool};
use sluice_wire::DropReason;

/// Calls `send` with `frame`, its checksum complete, or with each of the packets it stands for.
#[inline]
pub(super) fn each(
    mut frame: Frame,
    pool: &mut Pool,
    account: &Account,
    mut send: impl FnMut(Frame, &mut Pool),
) {
    if frame.gso.is_none() {
        match complete_checksum(&mut frame) {
            Ok(()) => send(frame, pool),
            Err(reason) => drop_frame(frame, reason, pool, account),
        }
        return;
    }
    let pieces = match Pieces::of(&frame) {
        Ok(pieces) => pieces,
        Err(reason) => return drop_frame(frame, reason, pool, account),
    };
    account.split.add(pieces.len() as u64 - 1);
    for index in 0..pieces.len() {
        match piece(&frame, &pieces, index, pool) {
            Ok(piece) => {
                account.copied.add(1);
                send(piece, pool);
            }
            Err(reason) => account.drop_frame(reason),
        }
    }
    pool.release(frame.into_buffer());
}

/// Packet `index` of a super-frame in a buffer of its own.
fn piece(
    whole: &Frame,
    pieces: &Pieces<'_>,
    index: usize,
    pool: &mut Pool,
) -> Result<Frame, DropReason> {
    let mut header: HeaderBytes = [0; _];
    let header_len = pieces.header(index, &mut header)?;
    let payload = pieces.payload(index);
    let mut frame = Frame::new(pool.take().ok_or(DropReason::PoolEmpty)?);
    if header_len + payload.len() > frame.tailroom() {
        pool.release(frame.into_buffer());
        return Err(DropReason::TooBig);
    }
    frame.append(header.get(..header_len).unwrap_or(&[]));
    frame.append(payload);
    frame.outer = whole.outer;
    frame.trace = whole.trace;
    Ok(frame)
}

fn drop_frame(frame: Frame, reason: DropReason, pool: &mut Pool, account: &Account) {
    account.drop_frame(reason);
    pool.release(frame.into_buffer());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{payload, tcp4_super_frame};
    use sluice_memory::{Checksum, Gso, GsoKind};
    use sluice_wire::{checksum, parse};

    #[test]
    fn a_super_frame_becomes_complete_packets_that_carry_its_bytes() {
        let mut pool = Pool::new(8, 8000).unwrap();
        let account = Account::default();
        let mut frame = Frame::new(pool.take().unwrap());
        frame.fill(&tcp4_super_frame(2500, 1000));
        frame.checksum = Checksum::Partial {
            start: 20,
            offset: 16,
        };
        frame.gso = Some(Gso {
            kind: GsoKind::Tcp4,
            segment_size: 1000,
            header_len: 40,
        });
        account.received.add(1);
        let mut carried = Vec::new();
        each(frame, &mut pool, &account, |frame, pool| {
            let parsed = parse(frame.bytes()).unwrap();
            assert!(checksum::verify_l4(frame.bytes(), &parsed));
            assert!(frame.len() <= 1040);
            carried.extend_from_slice(&frame.bytes()[40..]);
            account.forwarded.add(1);
            pool.release(frame.into_buffer());
        });
        assert_eq!(carried, payload(2500));
        assert_eq!(account.balance(), (3, 3));
        assert_eq!((account.copied.value(), pool.outstanding()), (3, 0));
    }

    #[test]
    fn pieces_without_a_buffer_are_dropped_by_name() {
        let mut pool = Pool::new(2, 8000).unwrap();
        let account = Account::default();
        let mut frame = Frame::new(pool.take().unwrap());
        frame.fill(&tcp4_super_frame(2500, 1000));
        frame.gso = Some(Gso {
            kind: GsoKind::Tcp4,
            segment_size: 1000,
            header_len: 40,
        });
        account.received.add(1);
        let mut kept = Vec::new();
        each(frame, &mut pool, &account, |frame, _| {
            account.forwarded.add(1);
            kept.push(frame);
        });
        assert_eq!(account.dropped(DropReason::PoolEmpty), 2);
        assert_eq!(account.balance(), (3, 3));
    }

    #[test]
    fn a_partial_checksum_is_finished() {
        let mut pool = Pool::new(1, 2000).unwrap();
        let account = Account::default();
        let mut bytes = crate::testing::tcp(true, 4000, 1, &payload(99));
        let parsed = parse(&bytes).unwrap();
        checksum::partial_l4(&mut bytes, &parsed);
        assert!(!checksum::verify_l4(&bytes, &parsed));
        let mut frame = Frame::new(pool.take().unwrap());
        frame.fill(&bytes);
        frame.checksum = Checksum::Partial {
            start: 40,
            offset: 16,
        };
        each(frame, &mut pool, &account, |frame, pool| {
            assert!(checksum::verify_l4(frame.bytes(), &parsed));
            pool.release(frame.into_buffer());
        });
        assert_eq!(pool.outstanding(), 0);
    }
}
