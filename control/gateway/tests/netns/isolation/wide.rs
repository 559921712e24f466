//! A rule for many services at once, and what its revocation does to all that it allowed.
//!
//! ```text
//!  shop: caller ── gateway 1 ── wire ── gateway 2 ── bank, teller
//!                                 └──── gateway 3 ── vault, guest (shop)
//! ```

use super::{BANK, TELLER, VAULT, is_refused, laid, rule, wait_for_call};
use crate::offload::ask_until_offloaded;
use crate::world::{
    ECHO, Instance, PORT, World, again, connect, cut, join, serve, tcp, udp_socket,
};
use sluice_perf::lab::clock::{now, pause, wait_for};
use sluice_perf::lab::sites::{Layout, PLAIN};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

pub(super) const FROM: &str = "*.sluice.*.prod";
pub(super) const TO: &str = "*.money.*.*";
/// From a revocation, or from healing, until everything is cut.
const AT_ONCE: Duration = Duration::from_secs(1);
/// A datagram that was on its way when its flow ended is lost.
const DATAGRAM_WAIT: Duration = Duration::from_millis(100);
/// Who is answered at all is answered by then.
const SILENCE: Duration = Duration::from_millis(500);

/// Somebody who goes on asking somebody of the bank.
pub(super) struct Talk {
    pub(super) name: String,
    over: Over,
}

enum Over {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Over {
    fn send(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(b"\n"),
            Self::Udp(socket) => socket.send(b"?").map(drop),
        }
    }

    /// What has come by now.
    fn hear(&mut self) -> io::Result<usize> {
        let mut room = [0; 200];
        match self {
            Self::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                stream.read(&mut room)
            }
            Self::Udp(socket) => {
                socket.set_nonblocking(true)?;
                socket.recv(&mut room)
            }
        }
    }
}

impl Talk {
    fn tcp(from: &Instance, to: &Instance, family: usize) -> Self {
        let stream = connect(&from.namespace, to.ip(family)).unwrap();
        Self {
            name: format!("TCP to {}", to.ip(family)),
            over: Over::Tcp(stream),
        }
    }

    fn udp(from: &Instance, to: &Instance, family: usize) -> Self {
        let socket = udp_socket(&from.namespace, family, 0);
        socket.connect((to.ip(family), PORT)).unwrap();
        socket.set_read_timeout(Some(DATAGRAM_WAIT)).unwrap();
        Self {
            name: format!("UDP to {}", to.ip(family)),
            over: Over::Udp(socket),
        }
    }

    pub(super) fn ask(&mut self) -> io::Result<()> {
        match &mut self.over {
            Over::Tcp(stream) => again(stream).map(drop),
            Over::Udp(socket) => {
                socket.send(b"?")?;
                socket.recv(&mut [0; 200]).map(drop)
            }
        }
    }

    /// Whether it is told that it may not go on.
    fn is_cut(&mut self) -> bool {
        let Err(error) = self.ask() else {
            return false;
        };
        match (&self.over, error.kind()) {
            (Over::Tcp(_), kind) => {
                assert_eq!(kind, ErrorKind::ConnectionReset, "{}", self.name);
                true
            }
            (Over::Udp(_), ErrorKind::WouldBlock) => false,
            (Over::Udp(_), _) => {
                assert!(is_refused(&Err(error)), "{}", self.name);
                true
            }
        }
    }
}

/// Opens conversations of both kinds in both families.
pub(super) fn talks(from: &Instance, to: &[Instance]) -> Vec<Talk> {
    let mut talks = Vec::new();
    for (to, family) in to.iter().flat_map(|to| [(to, 0), (to, 1)]) {
        wait_for_call(|| tcp(&from.namespace, to.ip(family)));
        let pair = [Talk::tcp(from, to, family), Talk::udp(from, to, family)];
        for mut talk in pair {
            talk.ask()
                .unwrap_or_else(|error| panic!("{}: {error}", talk.name));
            talks.push(talk);
        }
    }
    talks
}

/// All of them are told that they may not go on, within [`AT_ONCE`] of `since`.
pub(super) fn wait_until_cut(mut talks: Vec<Talk>, since: Instant) {
    let left = AT_ONCE.saturating_sub(since.elapsed());
    wait_for("everything to be cut", left, || {
        talks.retain_mut(|talk| !talk.is_cut());
        let names: Vec<&str> = talks.iter().map(|talk| talk.name.as_str()).collect();
        if names.is_empty() {
            Ok(())
        } else {
            Err(format!("these go on: {names:?}"))
        }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    // The last one may have waited for long until it was told.
    let took = since.elapsed();
    assert!(took <= AT_ONCE, "everything was cut after {took:?}");
}

/// Each asks once more, and nobody is answered.
fn expect_silence(talks: &mut [Talk]) {
    for talk in talks.iter_mut() {
        talk.over
            .send()
            .unwrap_or_else(|error| panic!("{}: {error}", talk.name));
    }
    pause(SILENCE);
    for talk in talks {
        let heard = talk.over.hear();
        let is_silent = matches!(&heard, Err(error) if error.kind() == ErrorKind::WouldBlock);
        assert!(is_silent, "{} goes on: {heard:?}", talk.name);
    }
}

pub(super) fn serving(world: &World, gateway: usize, service: &str, name: &str) -> Instance {
    let instance = world.attach(gateway, service, name);
    serve(&instance.namespace, name);
    instance
}

#[test]
#[ignore = "needs root"]
fn a_revoked_wide_rule_cuts_all_that_it_allowed() {
    // Offloaded ones, too.
    let layout = Layout {
        gateways: vec![0, 1, 1],
        tunnel: PLAIN.to_owned(),
        ..Layout::two_sites()
    };
    let world = laid("wide", "enforce", layout);
    rule(&world, "add", FROM, TO);
    let (caller, guest) = (world.caller(0), world.attach(2, ECHO, "guest"));
    let bank = [
        serving(&world, 1, BANK, "bank"),
        serving(&world, 1, TELLER, "teller"),
        serving(&world, 2, VAULT, "vault"),
    ];
    // One of the bank's own, which needs no rule.
    let friend = world.attach(0, TELLER, "friend");
    wait_for_call(|| tcp(&friend.namespace, bank[0].ip(0)));

    // In the kernel, too.
    wait_for_call(|| tcp(&caller.namespace, bank[0].ip(0)));
    let mut first = connect(&caller.namespace, bank[0].ip(0)).unwrap();
    ask_until_offloaded(&world, 1, || again(&mut first));
    let mut friendly = connect(&friend.namespace, bank[0].ip(0)).unwrap();
    let mut all = talks(&caller, &bank);
    all.extend(talks(&guest, &bank));
    all.push(Talk {
        name: "the offloaded one".to_owned(),
        over: Over::Tcp(first),
    });
    assert_eq!(all.len(), 25);
    rule(&world, "delete", FROM, TO);
    wait_until_cut(all, now());
    again(&mut friendly).unwrap();

    // Once more, while gateway 3 hears nothing from its cluster.
    rule(&world, "add", FROM, TO);
    let far = talks(&caller, &bank);
    // What the guest asks meanwhile TCP repeats, later each time; so others ask nothing until all is healed.
    let mut asking = talks(&guest, &bank[..2]);
    let silent = talks(&guest, &bank[..2]);
    let mut beside = talks(&guest, &bank[2..]);
    let unreachable = world.sites.gateways[2].namespace();
    cut(unreachable, &["mgmt0"]);
    rule(&world, "delete", FROM, TO);
    let revoked = now();
    wait_until_cut(far, revoked);
    pause(AT_ONCE.saturating_sub(revoked.elapsed()));
    // The callee's gateway has heard, and delivers nothing. Within gateway 3 nobody knows.
    expect_silence(&mut asking);
    for talk in &mut beside {
        talk.ask()
            .unwrap_or_else(|error| panic!("it has not heard: {}: {error}", talk.name));
    }
    join(unreachable);
    let healed = now();
    // First those whose every question is answered until then.
    wait_until_cut(beside, healed);
    wait_until_cut(silent, healed);
    println!("everything was over {:?} after healing", healed.elapsed());
    again(&mut friendly).unwrap();
    world.check();
}
