//! One turn: receive from each link, let the engine decide, send what it decided. No thread, no clock, no waiting.

use crate::Bell;
use crate::tunnel::{Surroundings, Tunnel, concerns_tunnel};
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
    /// `None` where only the plain format is spoken.
    tunnel: Option<Box<Tunnel>>,
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
            tunnel: None,
            frames: Box::default(),
            generation: 0,
        }
    }

    /// Lets it speak the encrypted format with the peers of which the tables say so. `tunnel` is its part of the gateway's.
    #[must_use]
    pub fn with_tunnel(mut self, tunnel: Tunnel) -> Self {
        self.underlay.watch_class();
        self.tunnel = Some(Box::new(tunnel));
        self
    }

    /// One round: answers that control published, one batch outbound, one batch inbound, timeouts, and what the tunnel has to do.
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
            tunnel,
            frames,
            generation,
        } = self;
        let Frames { batch, output } = &mut **frames;
        let tables: &Tables = tables.load();
        let accounts: &Accounts = accounts;
        let mut ends = Ends {
            service,
            tunnel: tunnel.as_deref_mut(),
            around: Surroundings {
                underlay,
                pool,
                accounts,
                tables,
                now,
            },
        };
        if tables.generation != *generation {
            *generation = tables.generation;
            let pool = &mut *ends.around.pool;
            engine.release_held(tables, now, pool, &accounts.engine, output);
            ends.deliver(output);
        }
        if ready.service {
            let pool = &mut *ends.around.pool;
            let arrival = ends.service.receive(pool, &accounts.service, batch)?;
            turn.more.service = arrival == Arrival::More;
            turn.received += batch.len();
            if !batch.is_empty() {
                engine.outbound(batch, tables, now, pool, &accounts.engine, output);
                ends.deliver(output);
            }
        }
        if ready.underlay {
            let arrival = ends.receive(batch, &mut turn.received)?;
            turn.more.underlay = arrival == Arrival::More;
            if !batch.is_empty() {
                let pool = &mut *ends.around.pool;
                engine.inbound(batch, tables, now, pool, &accounts.engine, output);
                ends.deliver(output);
            }
        }
        if engine.poll_timeout().is_some_and(|at| at <= now) {
            let pool = &mut *ends.around.pool;
            engine.handle_timeout(tables, now, pool, &accounts.engine, output);
            ends.deliver(output);
        }
        if let Some(tunnel) = ends.tunnel {
            tunnel.work(&mut ends.around);
        }
        bell.ring_if_needed();
        Ok(turn)
    }

    /// When [`Worker::turn`] is to be called again though nothing came.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Now> {
        let tunnel = self
            .tunnel
            .as_ref()
            .and_then(|tunnel| tunnel.poll_timeout());
        [self.engine.poll_timeout(), tunnel]
            .into_iter()
            .flatten()
            .min()
    }

    /// The tunnel, for the loop to wait on.
    pub(crate) fn tunnel(&self) -> Option<&Tunnel> {
        self.tunnel.as_deref()
    }
}

/// Where frames come from and go to within a turn.
struct Ends<'a, S, U> {
    service: &'a mut S,
    tunnel: Option<&'a mut Tunnel>,
    around: Surroundings<'a, U>,
}

impl<S: Link, U: Link> Ends<'_, S, U> {
    /// Receives from the underlay, opened and joined. `received` grows by what came.
    fn receive(&mut self, batch: &mut Batch, received: &mut usize) -> Result<Arrival, LinkDown> {
        let around = &mut self.around;
        let account = &around.accounts.underlay;
        let arrival = around.underlay.receive(around.pool, account, batch)?;
        *received += batch.len();
        let Some(tunnel) = &mut self.tunnel else {
            return Ok(arrival);
        };
        if !concerns_tunnel(batch) || !tunnel.open(batch, around) {
            return Ok(arrival);
        }
        let arrival = around.underlay.receive(around.pool, account, batch)?;
        // What did not fit before; its packets are joined in the next turn.
        let is_left = concerns_tunnel(batch) && tunnel.open(batch, around);
        Ok(if is_left { Arrival::More } else { arrival })
    }

    /// Sends what the engine decided and takes back the buffers it is done with.
    fn deliver(&mut self, output: &mut Output) {
        let around = &mut self.around;
        if !output.to_underlay.is_empty() {
            match &mut self.tunnel {
                Some(tunnel) => tunnel.transmit(&mut output.to_underlay, around),
                None => around.transmit(&mut output.to_underlay),
            }
        }
        if !output.to_service.is_empty() {
            let account = &around.accounts.service;
            self.service
                .transmit(&mut output.to_service, around.pool, account);
        }
        for frame in output.done.drain(..) {
            around.pool.release(frame.into_buffer());
        }
    }
}
