//! Root and cluster manager are killed (SIGKILL) again and again while they allot addresses: none is given twice, and
//! nothing that they acknowledged is lost.
//!
//! ```text
//!   workers ──HTTP──> sluice root <──HTTP── sluice cluster <──MQTT── workers      killed: either, or both at once
//! ```
//!
//! A worker repeats a request until it is answered, so that the ledger of all answers is what the root must know. 50
//! kills; `SLUICE_KILLS` says another number and `SLUICE_KILL_SEED` another seed, as in
//! `SLUICE_KILLS=1000 cargo test -p sluice --test kill -- --nocapture`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "real processes are killed in real time"
)]

mod ledger;
mod orchestrator;
mod nodes;
mod processes;
mod random;

use ledger::Ledger;
use processes::Installation;
use random::Random;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::{Duration, Instant};

/// Without an answer for so long, one of the managers does not come back.
const PATIENCE: Duration = Duration::from_secs(60);
/// The ledger is compared with the root after so many kills, and at the end.
const COMPARE_EVERY: u64 = 25;

/// What workers and the killing thread share.
struct Shared {
    ledger: Ledger,
    /// Read-locked during one operation with all its repetitions, so that the comparison can wait until none is open.
    open: RwLock<()>,
    answered: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    /// Runs `operation` until the end of the test.
    fn repeat(&self, mut operation: impl FnMut()) {
        while !self.stop.load(Ordering::Relaxed) {
            {
                let _open = self.open.read().unwrap();
                operation();
            }
            self.answered.fetch_add(1, Ordering::Relaxed);
            // A waiting writer must get its turn whatever the lock's fairness is.
            thread::yield_now();
        }
    }
}

#[test]
fn managers_killed_while_they_allot_lose_nothing_and_give_nothing_twice() {
    let kills: u64 = number("SLUICE_KILLS", 50);
    let seed: u64 = number("SLUICE_KILL_SEED", 1);
    println!("SLUICE_KILLS={kills} SLUICE_KILL_SEED={seed}");
    let mut random = Random::new(seed);
    let mut installation = Installation::start();
    let shared = Arc::new(Shared {
        ledger: Ledger::default(),
        open: RwLock::new(()),
        answered: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let mut workers = Vec::new();
    for worker in 0..3 {
        let (shared, root) = (Arc::clone(&shared), installation.root_address());
        let random = random.fork();
        workers.push(thread::spawn(move || {
            orchestrator::work(&shared, root, worker, random);
        }));
    }
    for worker in 0..2 {
        let (shared, random) = (Arc::clone(&shared), random.fork());
        let (root, broker) = (installation.root_address(), installation.broker_address());
        workers.push(thread::spawn(move || {
            nodes::work(&shared, root, broker, worker, random);
        }));
    }
    let began = Instant::now();
    for kill in 1..=kills {
        let until = shared.answered.load(Ordering::Relaxed) + 1 + random.below(8);
        let deadline = Instant::now() + PATIENCE;
        while shared.answered.load(Ordering::Relaxed) < until {
            if let Some(ended) = workers.iter().position(thread::JoinHandle::is_finished) {
                // Only a broken promise ends a worker.
                resume_unwind(workers.swap_remove(ended).join().unwrap_err());
            }
            assert!(
                Instant::now() < deadline,
                "no answer since kill {} of seed {seed}\n{}",
                kill - 1,
                installation.logs()
            );
            installation.check();
            thread::sleep(Duration::from_millis(1));
        }
        // Somewhere in the middle of what comes next.
        thread::sleep(Duration::from_micros(random.below(10_000)));
        match random.below(5) {
            0 | 1 => installation.kill_root(),
            2 | 3 => installation.kill_cluster(),
            _ => installation.kill_both(),
        }
        if kill % COMPARE_EVERY == 0 || kill == kills {
            let _none_open = shared.open.write().unwrap();
            shared.ledger.compare(installation.root_address());
        }
    }
    shared.stop.store(true, Ordering::Relaxed);
    for worker in workers {
        if let Err(panic) = worker.join() {
            resume_unwind(panic);
        }
    }
    shared.ledger.compare(installation.root_address());
    let answered = shared.answered.load(Ordering::Relaxed);
    println!(
        "{kills} kills in {} s, {answered} operations, {}: none given twice, none lost",
        began.elapsed().as_secs(),
        shared.ledger.summary()
    );
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number"))
    })
}
