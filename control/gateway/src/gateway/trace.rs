//! From the engine's trace records to those of the admin socket.

use super::offload::Offloader;
use super::plane::now;
use crate::admin_api::{TraceFilter, TraceRecord};
use sluice_engine::Shared;
use sluice_engine::trace::{Decision, Entry, Filter};
use sluice_wire::{Family, Protocol};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Records that wait for the reader.
const RECORDS_MAX: usize = 1024;
/// The engine's queue is looked at so often; it holds 4,096 records.
const POLL: Duration = Duration::from_millis(20);
/// Packets of one trace: enough for any question, and an end if the reader forgets it.
const PACKETS_MAX: u64 = 1_000_000;

type Follower =
    Arc<dyn Fn(TraceFilter) -> Result<mpsc::Receiver<TraceRecord>, String> + Send + Sync>;

/// Begins traces, one at a time.
pub(crate) fn follower(shared: Arc<Shared>, offloader: Offloader) -> Follower {
    let busy = Arc::new(AtomicBool::new(false));
    Arc::new(move |filter| {
        if busy.swap(true, Ordering::AcqRel) {
            return Err("another trace is running; end it first".to_owned());
        }
        let (records, reader) = mpsc::channel(RECORDS_MAX);
        tokio::spawn(follow(
            Arc::clone(&shared),
            offloader.clone(),
            filter,
            records,
            Arc::clone(&busy),
        ));
        Ok(reader)
    })
}

/// ICMP of either family is one protocol to the engine.
fn protocol(number: u8) -> Protocol {
    match Protocol::from_number(number, Family::V4) {
        Protocol::Other(number) => Protocol::from_number(number, Family::V6),
        known @ (Protocol::Tcp | Protocol::Udp | Protocol::Icmp) => known,
    }
}

async fn follow(
    shared: Arc<Shared>,
    offloader: Offloader,
    filter: TraceFilter,
    records: mpsc::Sender<TraceRecord>,
    busy: Arc<AtomicBool>,
) {
    let tracer = shared.tracer();
    // Only workers record.
    offloader.pause(true);
    while tracer.pop().is_some() {}
    tracer.start(Filter {
        src: filter.src,
        dst: filter.dst,
        port: filter.port,
        protocol: filter.protocol.map(protocol),
        count: PACKETS_MAX,
    });
    let mut first = None;
    let mut directions: BTreeMap<u32, Entry> = BTreeMap::new();
    'reading: loop {
        while let Some(record) = tracer.pop() {
            if let Decision::Entered(entry, _) = record.decision {
                directions.insert(record.packet, entry);
            }
            let direction = directions
                .get(&record.packet)
                .map(Entry::to_string)
                .unwrap_or_default();
            let last = record.decision.is_last();
            if last {
                directions.remove(&record.packet);
            }
            let first = *first.get_or_insert(record.packet);
            let row = TraceRecord {
                packet: u64::from(record.packet.wrapping_sub(first)) + 1,
                at_ns: u64::try_from(now().as_nanos()).unwrap_or(u64::MAX),
                direction,
                stage: record.decision.stage().to_owned(),
                decided: record.decision.to_string(),
                last,
            };
            if records.send(row).await.is_err() {
                break 'reading;
            }
        }
        tokio::select! {
            () = records.closed() => break,
            () = tokio::time::sleep(POLL) => {}
        }
    }
    tracer.stop();
    offloader.pause(false);
    busy.store(false, Ordering::Release);
}
