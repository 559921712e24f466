//! One turn: receive from each link, let the engine decide, send what it decided. No thread, no clock, no waiting.

use crate::Bell;
use sluice_engine::{Engine, Now, Output};
use sluice_link::{Arrival, Link, LinkDown};
use sluice_memory::{Accounts, Batch, Pool};
use sluice_tables::{Reader, Tables};
use std::sync::Arc;

/// A worker's belongings.
#[derive(Debug)]
pub struct Worker<S, U> {
    pub service: S,
    pub underlay: U,
    pub engine: Engine,
    pub pool: Pool,
    pub accounts: Arc<Accounts>,
    tables: Reader,
    bell: Arc<Bell>,
    /// Boxed: some 200 KiB that are not to be moved with the worker.
    frames: Box<Frames>,
    generation: u64,
}

/// Frames on their way within a turn.
#[derive(Debug, Default)]
struct Frames {
    batch: Batch,
    output: Output,
}

/// Which links may have something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ready {
    pub service: bool,
    pub underlay: bool,
}

impl Ready {
    pub const BOTH: Self = Self {
        service: true,
        underlay: true,
    };
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Turn {
    /// Frames that came in.
    pub received: usize,
    /// Links that were not drained.
    pub more: Ready,
}

impl<S: Link, U: Link> Worker<S, U> {
    /// A worker of `service` and `underlay`, whose frames all live in `pool`.
    #[must_use]
    pub fn new(
        service: S,
        underlay: U,
        engine: Engine,
        tables: Reader,
        bell: Arc<Bell>,
        pool: Pool,
        accounts: Arc<Accounts>,
    ) -> Self {
        Self {
            service,
            underlay,
            engine,
            pool,
            accounts,
            tables,
            bell,
            frames: Box::default(),
            generation: 0,
        }
    }

    /// One round: answers that control published, one batch outbound, one batch inbound, timeouts.
    ///
    /// # Errors
    /// When a link is gone for good. What was received before is sent.
    pub fn turn(&mut self, ready: Ready, now: Now) -> Result<Turn, LinkDown> {
        let mut turn = Turn {
            received: 0,
            more: Ready {
                service: false,
                underlay: false,
            },
        };
        let Self {
            service,
            underlay,
            engine,
            pool,
            accounts,
            tables,
            bell,
            frames,
            generation,
        } = self;
        let Frames { batch, output } = &mut **frames;
        let tables: &Tables = tables.load();
        if tables.generation != *generation {
            *generation = tables.generation;
            engine.release_held(tables, now, pool, &accounts.engine, output);
            deliver(output, service, underlay, pool, accounts);
        }
        if ready.service {
            let arrival = service.receive(pool, &accounts.service, batch)?;
            turn.more.service = arrival == Arrival::More;
            turn.received += batch.len();
            if !batch.is_empty() {
                engine.outbound(batch, tables, now, pool, &accounts.engine, output);
                deliver(output, service, underlay, pool, accounts);
            }
        }
        if ready.underlay {
            let arrival = underlay.receive(pool, &accounts.underlay, batch)?;
            turn.more.underlay = arrival == Arrival::More;
            turn.received += batch.len();
            if !batch.is_empty() {
                engine.inbound(batch, tables, now, pool, &accounts.engine, output);
                deliver(output, service, underlay, pool, accounts);
            }
        }
        if engine.poll_timeout().is_some_and(|at| at <= now) {
            engine.handle_timeout(tables, now, pool, &accounts.engine, output);
            deliver(output, service, underlay, pool, accounts);
        }
        bell.ring_if_needed();
        Ok(turn)
    }

    /// When [`Worker::turn`] is to be called again though nothing came.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Now> {
        self.engine.poll_timeout()
    }
}

/// Sends what the engine decided and takes back the buffers it is done with.
fn deliver<S: Link, U: Link>(
    output: &mut Output,
    service: &mut S,
    underlay: &mut U,
    pool: &mut Pool,
    accounts: &Accounts,
) {
    if !output.to_underlay.is_empty() {
        underlay.transmit(&mut output.to_underlay, pool, &accounts.underlay);
    }
    if !output.to_service.is_empty() {
        service.transmit(&mut output.to_service, pool, &accounts.service);
    }
    for frame in output.done.drain(..) {
        pool.release(frame.into_buffer());
    }
}
