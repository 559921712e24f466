//! Applications that call each other through the gateways, and what they may expect.
//!
//! Every instance echoes. A flow sends a request every second; whoever answers says who it is.

use crate::network::Party;
use crate::packet::{Content, ECHO_PORT, Packet};
use crate::plane::Left;
use crate::planted::Bug;
use crate::truth::Identity;
use crate::world::{Message, World};
use rand::Rng;
use sluice_proto::ServiceName;
use sluice_proto::table_query::Key;
use sluice_wire::{Dual, Ip};
use std::time::Duration;

/// A flow sends so often.
const PAUSE: Duration = Duration::from_secs(1);
/// What is answered later than this is lost to whoever asked.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// What a flow dials.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Dialled {
    Service,
    Instance(Identity),
}

/// A conversation of an instance with a service or an instance.
#[derive(Clone, Debug)]
pub struct Flow {
    pub caller: Identity,
    pub node: usize,
    pub job: ServiceName,
    pub dialled: Dialled,
    pub address: Ip,
    pub is_tcp: bool,
    port: u16,
    /// Requests sent, and the last one answered.
    pub sent: u32,
    pub answered: u32,
    pub answered_at: Option<Duration>,
    /// The last request before the caller's gateway started anew: it has forgotten what was dialled then.
    forgotten: u32,
    /// A TCP connection stands.
    is_open: bool,
    /// Who answered last, as long as no gateway on the way has started anew.
    pub instance: Option<Identity>,
    pub begun_at: Duration,
    /// Between two requests.
    pause: Duration,
    /// It ends after so many requests.
    requests_max: u32,
    /// Requests that were answered within [`PATIENCE`].
    pub in_time: u32,
    next_at: Duration,
    is_over: bool,
}

impl Flow {
    /// Requests that were not answered within [`PATIENCE`], or not yet.
    #[must_use]
    pub fn missed(&self) -> u32 {
        self.sent.saturating_sub(self.in_time)
    }
}

/// A flow that shall begin.
#[derive(Clone, Debug)]
pub struct Call {
    pub caller: Identity,
    pub node: usize,
    pub job: ServiceName,
    pub dialled: Dialled,
    pub address: Ip,
    pub is_tcp: bool,
    /// Between two requests.
    pub pause: Duration,
    pub requests_max: u32,
}

/// All flows of a run.
#[derive(Debug, Default)]
pub struct Traffic {
    pub flows: Vec<Flow>,
    /// Everybody who ever answered; replies name them by position.
    answerers: Vec<Identity>,
    ports: u16,
    /// Of the reply that came last; only [`Bug::WrongReverseKey`] asks.
    last_port: Option<u16>,
    /// When a request last came to a node where nobody has its address any more.
    pub misdirected_at: Option<Duration>,
}

impl Traffic {
    /// When the next flow wants to send.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let open = self.flows.iter().filter(|flow| !flow.is_over);
        open.map(|flow| flow.next_at).min()
    }

    /// Flows whose caller still runs, with their numbers.
    pub fn open(&self) -> impl Iterator<Item = (usize, &Flow)> {
        let flows = self.flows.iter().enumerate();
        flows.filter(|(_, flow)| !flow.is_over)
    }

    fn next_port(&mut self) -> u16 {
        self.ports = self.ports % 50_000 + 1;
        10_000 + self.ports
    }

    /// A gateway started anew and has forgotten its flows.
    pub fn forget_node(&mut self, node: usize, living: impl Fn(&Identity) -> Option<usize>) {
        for flow in &mut self.flows {
            if flow.node == node {
                flow.forgotten = flow.sent;
            }
            let answerer = flow.instance.as_ref();
            if flow.node == node || answerer.is_some_and(|it| living(it) == Some(node)) {
                flow.instance = None;
            }
        }
    }

    fn index_of(&mut self, identity: &Identity) -> u32 {
        let known = self.answerers.iter().position(|it| it == identity);
        let index = known.unwrap_or_else(|| {
            self.answerers.push(identity.clone());
            self.answerers.len() - 1
        });
        u32::try_from(index).unwrap_or(u32::MAX)
    }
}

fn of_family(ips: Dual<Ip>, v4: bool) -> Option<Ip> {
    if v4 { ips.v4 } else { ips.v6 }
}

impl World {
    /// An instance of a node begins to call a service, or one instance of it; now and then one that it may not call.
    pub fn open_flow(&mut self, node: usize, which: usize) {
        let locals = &self.nodes[node].locals;
        let Some(((job, number), local)) = locals.iter().nth(which % locals.len().max(1)) else {
            return;
        };
        let caller = (job.clone(), *number, local.epoch);
        let services: Vec<ServiceName> = self.services.clone();
        let Some(target) = services.get(self.random.random_range(0..services.len().max(1))) else {
            return;
        };
        if !self.truth.rules.allow(job, target) && self.random.random_range(0..3) != 0 {
            return;
        }
        let (v4, is_tcp, by_instance) = (
            self.random.random(),
            self.random.random(),
            self.random.random_range(0..4) == 0,
        );
        let Some(known) = self.root.root.job(&Key::Name(target.clone())) else {
            return;
        };
        let (dialled, address) = if by_instance {
            let Some(entry) = known.instance_list.last() else {
                return;
            };
            let ips = entry.instance_ips();
            let ips = Dual {
                v4: ips.v4.map(|ip| ip.ip()),
                v6: ips.v6.map(|ip| ip.ip()),
            };
            let identity = (target.clone(), entry.instance_number, entry.epoch);
            (Dialled::Instance(identity), of_family(ips, v4))
        } else {
            let entry = known.service_ip_list.first();
            (
                Dialled::Service,
                entry.and_then(|entry| of_family(entry.ips(), v4)),
            )
        };
        let Some(address) = address.filter(|ip| self.truth.is_given(*ip)) else {
            return;
        };
        let call = Call {
            caller,
            node,
            job: target.clone(),
            dialled,
            address,
            is_tcp,
            pause: PAUSE,
            requests_max: u32::MAX,
        };
        let id = self.traffic.flows.len();
        let text = format!("flow {id} from {:?} to {address} ({target})", call.caller);
        self.note(text);
        self.call(call);
    }

    /// Begins a flow, and gives its number.
    pub fn call(&mut self, call: Call) -> usize {
        let port = self.traffic.next_port();
        self.traffic.flows.push(Flow {
            caller: call.caller,
            node: call.node,
            job: call.job,
            dialled: call.dialled,
            address: call.address,
            is_tcp: call.is_tcp,
            port,
            sent: 0,
            answered: 0,
            answered_at: None,
            forgotten: 0,
            is_open: false,
            instance: None,
            begun_at: self.now,
            pause: call.pause,
            requests_max: call.requests_max,
            in_time: 0,
            next_at: self.now,
            is_over: false,
        });
        self.traffic.flows.len() - 1
    }

    /// Flows that are due send a request.
    pub(crate) fn send_requests(&mut self) {
        for id in 0..self.traffic.flows.len() {
            let flow = &self.traffic.flows[id];
            if !flow.is_over && flow.next_at <= self.now {
                self.send_request(id);
            }
        }
    }

    fn send_request(&mut self, id: usize) {
        let flow = &mut self.traffic.flows[id];
        let key = (flow.caller.0.clone(), flow.caller.1);
        let local = self.nodes[flow.node].locals.get(&key);
        let local = local.filter(|local| local.epoch == flow.caller.2);
        let from = local.and_then(|local| of_family(local.ns_ip, flow.address.is_v4()));
        let Some(from) = from else {
            flow.is_over = true;
            return;
        };
        flow.sent += 1;
        flow.next_at = self.now + flow.pause;
        flow.is_over = flow.sent >= flow.requests_max;
        let content = match (flow.is_tcp, flow.is_open) {
            (false, _) => Content::Udp,
            (true, true) => Content::Data,
            (true, false) => Content::Syn,
        };
        let packet = Packet {
            src: (from, flow.port),
            dst: (flow.address, ECHO_PORT),
            content,
            words: [u32::try_from(id).unwrap_or(u32::MAX), flow.sent, 0],
        };
        let node = flow.node;
        self.outbound(node, &packet);
    }

    fn outbound(&mut self, node: usize, packet: &Packet) {
        if !self.nodes[node].up {
            return;
        }
        let left = self.nodes[node].plane.outbound(&packet.build(), self.now);
        self.carry(node, left);
    }

    /// Moves what a gateway let go.
    pub(crate) fn carry(&mut self, node: usize, left: Vec<Left>) {
        if !self.nodes[node].up {
            return;
        }
        for left in left {
            match left {
                Left::Tunnel(to, bytes) => {
                    if let Some(peer) = self.nodes.iter().position(|it| it.own_ip() == to.ip) {
                        let message = Message::Packet(bytes);
                        self.network
                            .send(Party::Node(node), Party::Node(peer), message, self.now);
                    }
                }
                Left::Service(bytes) => self.delivered(node, &bytes),
            }
        }
    }

    /// A tunnelled packet arrives.
    pub(crate) fn inbound(&mut self, from: usize, to: usize, bytes: &[u8]) {
        let (sender, now) = (from, self.now);
        let from = self.nodes[sender].own_ip();
        if !self.nodes[to].up {
            let refusing = self.nodes[to].own_ip();
            self.nodes[sender].handle_refused(refusing, now);
            return;
        }
        if self.nodes[to].take_answer(from, bytes, now) {
            return;
        }
        if let Ok(Some(packet)) = Packet::read(bytes)
            && packet.dst.1 == ECHO_PORT
            && self.nodes[to].local_at(packet.dst.0).is_none()
        {
            self.traffic.misdirected_at = Some(now);
        }
        let left = self.nodes[to].plane.inbound(from, bytes, now);
        self.carry(to, left);
    }

    /// A packet reaches an application.
    ///
    /// # Panics
    /// When it is not what the application may expect.
    fn delivered(&mut self, node: usize, bytes: &[u8]) {
        let Ok(Some(packet)) = Packet::read(bytes) else {
            // An ICMP error.
            return;
        };
        let mut packet = packet;
        if self.bug == Some(Bug::WrongReverseKey) && packet.src.1 == ECHO_PORT {
            let before = self.traffic.last_port.replace(packet.dst.1);
            packet.dst.1 = before.unwrap_or(packet.dst.1);
        }
        let Some(receiver) = self.nodes[node].local_at(packet.dst.0) else {
            panic!("node{node} delivers to nobody: {packet:?}");
        };
        if packet.dst.1 == ECHO_PORT {
            self.answer(node, &receiver, &packet);
        } else {
            self.take_reply(node, &receiver, &packet);
        }
    }

    fn answer(&mut self, node: usize, receiver: &Identity, request: &Packet) {
        let id = request.words[0] as usize;
        let flow = &self.traffic.flows[id];
        let meant = match &flow.dialled {
            Dialled::Service => receiver.0 == flow.job,
            Dialled::Instance(identity) => receiver == identity,
        };
        assert!(
            meant,
            "flow {id} to {:?} {} is delivered to {receiver:?}",
            flow.dialled, flow.job
        );
        assert!(
            self.truth.rules.let_through(&flow.caller.0, &receiver.0),
            "{:?} reaches {receiver:?}, which no rule allows",
            flow.caller
        );
        let content = match request.content {
            Content::Udp => Content::Udp,
            Content::Syn => Content::SynAck,
            Content::Data => Content::Data,
            Content::SynAck | Content::Reset => return,
        };
        let [flow, sent, _] = request.words;
        let reply = Packet {
            src: request.dst,
            dst: request.src,
            content,
            words: [flow, sent, self.traffic.index_of(receiver)],
        };
        self.outbound(node, &reply);
    }

    fn take_reply(&mut self, node: usize, receiver: &Identity, reply: &Packet) {
        let found = self.traffic.flows.iter().position(|flow| {
            flow.port == reply.dst.1 && flow.node == node && flow.caller == *receiver
        });
        let Some(id) = found else {
            // A late one, to a connection that was given up.
            let late = self.traffic.flows.get(reply.words[0] as usize);
            assert!(
                reply.content == Content::Reset
                    || late.is_some_and(|flow| flow.caller == *receiver),
                "{receiver:?} gets a reply that it did not ask for: {reply:?}"
            );
            return;
        };
        let port = self.traffic.next_port();
        let flow = &mut self.traffic.flows[id];
        if reply.content == Content::Reset {
            // The connection is gone: the application makes another one.
            flow.is_open = false;
            flow.instance = None;
            flow.port = port;
            return;
        }
        assert_eq!(
            reply.words[0] as usize, id,
            "a reply to another flow: {reply:?}"
        );
        let was_cut = self.truth.rules.cut(&flow.caller.0, &flow.job);
        if reply.src != (flow.address, ECHO_PORT) {
            let late = reply.words[1] <= flow.forgotten || was_cut;
            assert!(
                late,
                "flow {id} dialled {} and has {:?}: {reply:?} of {:?}",
                flow.address, flow.instance, self.traffic.answerers[reply.words[2] as usize]
            );
            return;
        }
        let answerer = &self.traffic.answerers[reply.words[2] as usize];
        let lives = |identity: &Identity| self.truth.living.contains_key(identity);
        if let Some(before) = &flow.instance
            && before != answerer
            && !was_cut
            && lives(before)
            && lives(answerer)
        {
            panic!("flow {id} has {answerer:?} now, though {before:?} lives");
        }
        flow.is_open |= reply.content == Content::SynAck;
        flow.instance = Some(answerer.clone());
        let asked_at = flow.begun_at + flow.pause * (reply.words[1] - 1);
        flow.in_time += u32::from(self.now - asked_at <= PATIENCE);
        flow.answered = flow.answered.max(reply.words[1]);
        flow.answered_at = Some(self.now);
    }
}
