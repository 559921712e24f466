//! Names, as real resolvers see them: getent, curl and dig in attached namespaces.
//!
//! ```text
//!  caller, stranger ── gateway 1 ── wire ── gateway 2 ── web
//!                         │
//!                      upstream: a resolver on the gateway's loopback
//! ```
//! `stranger` belongs to another tenant.

use crate::world::{CALLER, ECHO, ECHO_IP, Instance, PORT, World, cut, one_site};
use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::sites::{Layout, Microservice, Target, descriptor};
use sluice_perf::lab::{NetNs, Program, tools};
use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

const NAME: &str = "test.sluice.echo.prod.any.rr.local";
const STRANGER: &str = "test.sluice.stranger.other";
const UPSTREAM: &str = "127.0.0.1:5300";
/// What the upstream resolver says about every name.
const OUTSIDE: &str = "192.0.2.80";
/// Addresses of a name that begins with `long`: too many for any datagram.
const LONG: u16 = 200;

/// An instance with the resolv.conf that its user would write.
struct Resolving {
    instance: Instance,
    resolv_conf: PathBuf,
}

impl Resolving {
    fn new(world: &World, instance: Instance) -> Self {
        let name = instance.namespace.name().to_owned();
        let text = format!("nameserver {}\n", instance.attached.name_server[0]);
        let file = format!("{name}-resolv.conf");
        let resolv_conf = world.sites.scratch.file(&file, &text).unwrap();
        Self {
            instance,
            resolv_conf,
        }
    }

    /// Runs a program there; what it printed, and whether it succeeded.
    fn run(&self, name: &str, arguments: &[&str]) -> (String, bool) {
        let program = Program::new(tools::find(name).unwrap())
            .args(arguments)
            .resolving(&self.resolv_conf);
        let output = self.instance.namespace.output(&program).unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (said, output.status.success())
    }

    /// What dig says about a query, which it sends once and waits for a second.
    fn dig(&self, arguments: &[&str]) -> String {
        let all = [&["+tries=1", "+time=1", "+norecurse"], arguments].concat();
        self.run("dig", &all).0
    }

    /// The addresses that dig finds.
    fn addresses(&self, arguments: &[&str]) -> Vec<String> {
        let said = self.dig(&[arguments, &["+short"]].concat());
        said.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn expect(&self, arguments: &[&str], words: &[&str]) {
        let said = self.dig(arguments);
        for word in words {
            assert!(said.contains(word), "{arguments:?}: no {word:?} in\n{said}");
        }
    }
}

fn world(name: &str) -> World {
    let layout = Layout {
        fastpath: format!("\n[names]\nsuffix = \"svc.example\"\nupstream = [\"{UPSTREAM}\"]\n"),
        ..one_site()
    };
    World::laid(name, &layout)
}

fn caller(world: &World) -> Resolving {
    Resolving::new(world, world.attach(0, CALLER, "names-caller"))
}

/// An HTTP server that is an instance of the service; it answers `web`.
fn web(world: &World) -> Instance {
    let instance = world.attach(1, ECHO, "names-web");
    let listener = instance
        .namespace
        .run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                request.extend(byte);
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nweb\n";
            // A client that has gone needs no answer.
            let _ = stream.write_all(answer);
        }
    });
    instance
}

/// A resolver on the loopback of a gateway: every name has [`OUTSIDE`] as its A record, one that begins with `long` more
/// than fits a datagram, and `mute` gets no answer.
fn upstream(gateway: &NetNs) {
    let (udp, tcp) = gateway.run(|| {
        (
            UdpSocket::bind(UPSTREAM).unwrap(),
            TcpListener::bind(UPSTREAM).unwrap(),
        )
    });
    std::thread::spawn(move || {
        let mut room = [0; 4096];
        while let Ok((len, from)) = udp.recv_from(&mut room) {
            let query = &room[..len];
            if !query[12..].starts_with(b"\x04mute") {
                let _ = udp.send_to(&answered(query, is_long(query)), from);
            }
        }
    });
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            let mut len = [0; 2];
            stream.read_exact(&mut len).unwrap();
            let mut query = vec![0; u16::from_be_bytes(len).into()];
            stream.read_exact(&mut query).unwrap();
            let answer = answered(&query, false);
            let len = u16::try_from(answer.len()).unwrap().to_be_bytes();
            stream.write_all(&[&len[..], &answer].concat()).unwrap();
        }
    });
}

fn is_long(query: &[u8]) -> bool {
    query[12..].starts_with(b"\x04long")
}

/// The answer to a query, or only that it is too long.
fn answered(query: &[u8], cut_off: bool) -> Vec<u8> {
    let name = query[12..].iter().position(|byte| *byte == 0).unwrap();
    let question = &query[12..12 + name + 5];
    let count = match (cut_off, is_long(query)) {
        (true, _) => 0,
        (false, true) => LONG,
        (false, false) => 1,
    };
    let mut answer = query[..2].to_vec();
    answer.extend([if cut_off { 0x83 } else { 0x81 }, 0x80, 0, 1]);
    answer.extend(count.to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(question);
    for number in 0..count {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0]);
        let last = if count == 1 { 0x0250 } else { 0x0300 + number };
        answer.extend(last.to_be_bytes());
    }
    answer
}

#[test]
#[ignore = "needs root"]
fn getent_and_curl_call_by_name() {
    let world = world("names-curl");
    let (caller, web) = (caller(&world), web(&world));
    let url = |name: &str| format!("http://{name}:{PORT}/");
    for name in [NAME, "Test.SLUICE.echo.prod.any.rr.svc.example"] {
        for (database, expected) in [("ahostsv4", ECHO_IP[0]), ("ahostsv6", ECHO_IP[1])] {
            let (said, _) = caller.run("getent", &[database, name]);
            assert!(said.starts_with(expected), "{database} {name}: {said}");
        }
        assert!(caller.run("getent", &["hosts", name]).1);
        for family in ["-4", "-6"] {
            let arguments = ["--silent", "--max-time", "5", family, &url(name)];
            let (said, _) = caller.run("curl", &arguments);
            assert_eq!(said, "web\n", "{family} {name}");
        }
    }
    let instance = format!(
        "test.sluice.echo.prod.{}.none.local",
        web.attached.instance_number
    );
    for (kind, family) in [("A", 0), ("AAAA", 1)] {
        assert_eq!(
            caller.addresses(&[&instance, kind]),
            [web.ip(family).to_string()]
        );
    }
    let (said, _) = caller.run("curl", &["--silent", "--max-time", "5", &url(&instance)]);
    assert_eq!(said, "web\n");
    // The same over the name server's IPv6 address.
    let server = format!("@{}", caller.instance.attached.name_server[1]);
    assert_eq!(caller.addresses(&[&server, NAME, "A"]), [ECHO_IP[0]]);
    drop(caller);
    world.check();
}

#[test]
#[ignore = "needs root"]
fn dig_sees_a_correct_server() {
    let world = world("names-dig");
    let (caller, _web) = (caller(&world), web(&world));
    let aa = "flags: qr aa ra;";
    caller.expect(&[NAME, "A"], &["status: NOERROR", aa, ECHO_IP[0]]);
    caller.expect(
        &[NAME, "A", "+tcp"],
        &["status: NOERROR", aa, ECHO_IP[0], "(TCP)"],
    );
    caller.expect(&[NAME, "AAAA", "+noedns"], &["status: NOERROR", ECHO_IP[1]]);
    // Each letter as it was asked, in question and answer.
    let mixed = "tEsT.SLuice.echo.PROD.any.rr.LOCAL";
    let said = caller.dig(&[mixed, "A"]);
    assert_eq!(said.matches(&format!("{mixed}.")).count(), 2, "{said}");
    // No data: no policy has a text; an instance that is not there, and what the grammar does not know, do not exist.
    caller.expect(&[NAME, "TXT"], &["status: NOERROR", "ANSWER: 0", "SOA"]);
    for name in [
        "test.sluice.echo.prod.7.none.local",
        "test.sluice.echo.prod.0.rr.local",
        "test.sluice.nobody.prod.any.rr.local",
        "test.sluice.echo.prod.any.rr.x.svc.example",
        "printer.local",
    ] {
        caller.expect(&[name, "A"], &["status: NXDOMAIN", "SOA", aa]);
    }
    caller.expect(&[NAME, "CH", "A"], &["status: REFUSED"]);
    caller.expect(
        &[NAME, "A", "+edns=1", "+noednsnegotiation"],
        &["status: BADVERS"],
    );
    caller.expect(&[NAME, "+opcode=notify"], &["status: NOTIMP"]);
    drop(caller);
    world.check();
}

/// Somebody of another tenant, beside the caller.
fn stranger(world: &World) -> Resolving {
    let stranger = Microservice {
        name: "stranger",
        namespace: "other",
        rr_ip: None,
    };
    world
        .sites
        .apply(&descriptor("test", "sluice", &[stranger]))
        .unwrap();
    Resolving::new(world, world.attach(0, STRANGER, "names-stranger"))
}

/// What is asked about these names differs in nothing but the name and the id.
#[track_caller]
fn expect_alike(stranger: &Resolving, names: [&str; 2], status: &str) {
    let shape = |name: &str| -> Vec<String> {
        let said = stranger.dig(&[name, "A", "+time=3"]);
        let lines = said.lines().map(|line| line.replace(name, "NAME"));
        lines
            .filter(|line| {
                line.contains("status:") || line.contains("flags:") || line.contains("SOA")
            })
            .map(|line| line.split(", id:").next().unwrap_or_default().to_owned())
            .collect()
    };
    let [theirs, nobodys] = names.map(shape);
    assert_eq!(theirs, nobodys, "{names:?}");
    assert!(
        nobodys.first().is_some_and(|line| line.contains(status)),
        "{nobodys:?}"
    );
}

#[test]
#[ignore = "needs root"]
fn tenants_and_strangers_learn_nothing() {
    let world = world("names-tenants");
    let (caller, _web) = (caller(&world), web(&world));
    let stranger = stranger(&world);
    assert_eq!(caller.addresses(&[NAME, "A"]), [ECHO_IP[0]]);
    let nobody = "test.sluice.nobody.prod.any.rr.local";
    expect_alike(&stranger, [NAME, nobody], "NXDOMAIN");
    // The node itself is no instance, and the server no open resolver.
    let gateway = world.sites.gateways[0].namespace();
    let server = format!("@{}", caller.instance.attached.name_server[0]);
    for name in [NAME, "www.example"] {
        let dig = Program::new(tools::find("dig").unwrap()).args(["+tries=1", &server, name]);
        let said = gateway.succeed(&dig).unwrap();
        assert!(said.contains("status: REFUSED"), "{said}");
    }
    drop((caller, stranger));
    world.check();
}

#[test]
#[ignore = "needs root"]
fn other_names_go_upstream() {
    let world = world("names-upstream");
    let caller = caller(&world);
    // Nobody answers there yet.
    caller.expect(&["www.example", "A", "+time=5"], &["status: SERVFAIL"]);
    upstream(world.sites.gateways[0].namespace());
    for transport in ["+notcp", "+tcp"] {
        caller.expect(
            &["Www.Example", "A", transport],
            &["status: NOERROR", OUTSIDE, "Www.Example."],
        );
    }
    assert!(
        caller
            .run("getent", &["ahostsv4", "www.example"])
            .0
            .starts_with(OUTSIDE)
    );
    // Cut off upstream, fetched over TCP there, and too long for a datagram to the caller, which asks over TCP.
    assert_eq!(
        caller.addresses(&["long.example", "A"]).len(),
        usize::from(LONG)
    );
    caller.expect(
        &["long.example", "A", "+ignore"],
        &["flags: qr tc", "ANSWER: 0"],
    );
    // One that is silent takes no place from others.
    caller.expect(&["mute.example", "A"], &["timed out"]);
    caller.expect(&["www.example", "A"], &["status: NOERROR"]);
    let status = world.sites.gateways[0].role.ask("/v1/status").unwrap();
    assert_eq!(status["names"]["problem"], "", "{}", status["names"]);
    assert!(
        status["names"]["forwarded"].as_u64().unwrap() >= 5,
        "{}",
        status["names"]
    );
    drop(caller);
    world.check();
}

#[test]
#[ignore = "needs root"]
fn without_managers_known_names_resolve_and_others_fail_within_a_second() {
    let mut world = world("names-away");
    let (caller, _web) = (caller(&world), web(&world));
    assert_eq!(caller.addresses(&[NAME, "A"]), [ECHO_IP[0]]);
    world.sites.stop_managers();
    assert_eq!(caller.addresses(&[NAME, "A"]), [ECHO_IP[0]]);
    // dig waits no longer than a second.
    let unknown = "test.sluice.unknown.prod.any.rr.local";
    caller.expect(&[unknown, "A"], &["status: SERVFAIL"]);
    world.sites.start_managers().unwrap();
    wait_for("an answer of the managers", Duration::from_secs(10), || {
        let said = caller.dig(&[unknown, "A"]);
        if said.contains("status: NXDOMAIN") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .unwrap();
    drop(caller);
    world.check();
}

/// Nobody can say what exists: then a forbidden name, which the gateway knows, is answered as an invented one is.
fn a_stranger_learns_nothing_while(name: &str, away: impl FnOnce(&mut World)) {
    let mut world = world(name);
    let (caller, _web) = (caller(&world), web(&world));
    let stranger = stranger(&world);
    assert_eq!(caller.addresses(&[NAME, "A"]), [ECHO_IP[0]]);
    away(&mut world);
    let nobody = "test.sluice.nobody.prod.any.rr.local";
    // The first time, and when it was asked before.
    for _ in 0..2 {
        expect_alike(&stranger, [NAME, nobody], "SERVFAIL");
    }
    assert_eq!(caller.addresses(&[NAME, "A"]), [ECHO_IP[0]]);
    drop((caller, stranger));
    world.check();
}

#[test]
#[ignore = "needs root"]
fn strangers_learn_nothing_while_managers_are_gone() {
    a_stranger_learns_nothing_while("names-gone", |world| world.sites.stop_managers());
}

#[test]
#[ignore = "needs root"]
fn strangers_learn_nothing_while_managers_are_cut_off() {
    a_stranger_learns_nothing_while("names-cut", |world| {
        cut(world.sites.gateways[0].namespace(), &["mgmt0"]);
    });
}

/// One table query fills routes and names; what is deleted loses its name at once.
#[test]
#[ignore = "needs root"]
fn a_deleted_service_has_no_name() {
    let world = world("names-deleted");
    let caller = caller(&world);
    let web = NetNs::new("names-web").unwrap();
    world
        .sites
        .attach(1, ECHO, Target::Namespace(&web))
        .unwrap();
    assert_eq!(caller.addresses(&[NAME, "A"]), [ECHO_IP[0]]);
    let root = world.sites.root.admin.display().to_string();
    world
        .sites
        .sluice(["delete", ECHO, "--socket", &root])
        .unwrap();
    wait_for("its name to be gone", Duration::from_secs(5), || {
        let said = caller.dig(&[NAME, "A"]);
        if said.contains("status: NXDOMAIN") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .unwrap();
    drop(caller);
    world.check();
}
