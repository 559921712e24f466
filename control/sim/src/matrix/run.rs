//! One cell of the fault table: a world, a fault in it, and what it costs.

use super::cell::{Cell, Direction, Fault, Part, When, Where};
use super::outcome::{Outcome, ms};
use crate::manager::RootShell;
use crate::network::{Party, Weather};
use crate::probes::Failover;
use crate::traffic::{Call, Dialled, PATIENCE};
use crate::truth::Identity;
use crate::world::{Shape, World};
use sluice_proto::ServiceName;
use sluice_proto::message::InstanceEntry;
use sluice_proto::table_query::{Key, Row};
use sluice_wire::Ip;
use std::collections::BTreeMap;
use std::time::Duration;

/// From the fault to its end.
const HEALED: Duration = Duration::from_secs(20);
/// When the called service gets a further instance.
const CHANGED: Duration = Duration::from_secs(10);
const END: Duration = Duration::from_secs(40);
/// A slow part takes so much longer for everything.
const SLOW: Duration = Duration::from_secs(10);
/// A flapping part is away for so long, and then there for as long.
const FLAP: Duration = Duration::from_secs(1);
/// Between two requests of a flow, and between two new flows.
const PAUSE: Duration = Duration::from_millis(100);
/// How long flows are under way when the fault strikes after consistency.
const WARM: Duration = Duration::from_secs(5);
const FLOWS: usize = 4;
const HOP: Duration = Duration::from_millis(1);

/// The observed node and its cluster.
const NODE: usize = 0;
const CLUSTER: usize = 0;

/// Who plays which part: nodes with an even number are in the observed node's cluster.
struct Cast {
    caller: usize,
    called: [usize; 2],
    /// Gets an instance while the fault is there.
    late: usize,
}

const fn cast(place: Where, direction: Direction) -> Cast {
    let (caller, called, late) = match (direction, place) {
        (Direction::Out, Where::Same) => (NODE, [2, 4], 6),
        (Direction::Out, Where::Other) => (NODE, [1, 3], 5),
        (Direction::In, Where::Same) => (6, [NODE, 2], 4),
        (Direction::In, Where::Other) => (1, [NODE, 2], 4),
    };
    Cast {
        caller,
        called,
        late,
    }
}

struct Run {
    world: World,
    cell: Cell,
    cast: Cast,
    struck: Duration,
    /// The root as it was before it lost its store.
    root: Option<RootShell>,
    /// Who calls; another one when a node was wiped.
    calling: Option<Identity>,
    /// Numbers of the flows that go on.
    flows: Vec<usize>,
    /// When each new flow began, and its number; none if nobody was there to call.
    new: Vec<(Duration, Option<usize>)>,
}

/// When the fault strikes, beside all the clocks and counters that go on by themselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// So much later than in the file.
    pub later: Duration,
    /// The other called node is the first that round robin chooses.
    pub is_other_first: bool,
}

/// Runs a cell.
///
/// # Panics
/// When something happens that must not happen whatever fails, as in the runs from seeds.
#[must_use]
pub fn run(cell: Cell, failover: Failover, moment: Moment) -> Outcome {
    let shape = Shape {
        nodes_per_cluster: 4,
        failover,
        ..Shape::default()
    };
    let mut world = World::new(1, &shape, Weather::calm(HOP));
    let cast = cast(cell.place, cell.direction);
    world.run_for(Duration::from_secs(1));
    world.apply_service();
    world.apply_service();
    // Of two services of one tenant, the first calls the second.
    world.attach(cast.caller, 0);
    let [first, second] = cast.called;
    if moment.is_other_first {
        world.attach(second, 1);
        world.run_for(Duration::from_millis(500));
        world.attach(first, 1);
    } else {
        world.attach(first, 1);
        world.attach(second, 1);
    }
    world.run_for(Duration::from_secs(3) + moment.later);
    let mut run = Run {
        struck: world.now,
        world,
        cell,
        cast,
        root: None,
        calling: None,
        flows: Vec::new(),
        new: Vec::new(),
    };
    run.live();
    run.outcome()
}

impl Run {
    fn live(&mut self) {
        if self.cell.when == When::After {
            self.struck = self.world.now + WARM;
            self.talk_until(self.struck);
        }
        self.strike();
        if self.cell.fault == Fault::Flapping {
            let mut at = self.struck;
            while at < self.struck + HEALED {
                self.talk_until(at + FLAP);
                self.start();
                at += 2 * FLAP;
                self.change_before(at);
                self.talk_until(at);
                if at < self.struck + HEALED {
                    self.stop();
                }
            }
        } else {
            if self.cell.fault == Fault::Wiped {
                self.talk_until(self.struck + FLAP);
                self.start_empty();
            }
            self.talk_until(self.struck + CHANGED);
            self.world.attach(self.cast.late, 1);
            self.talk_until(self.struck + HEALED);
        }
        self.heal();
    }

    fn change_before(&mut self, at: Duration) {
        if at == self.struck + CHANGED {
            self.world.attach(self.cast.late, 1);
        }
    }

    /// Lets the caller call and the world go on.
    fn talk_until(&mut self, until: Duration) {
        while self.world.now < until {
            let caller = self.caller();
            if caller.is_some() && caller != self.calling {
                self.calling.clone_from(&caller);
                let left = self.struck + END - self.world.now;
                let requests = u32::try_from(left.as_millis() / PAUSE.as_millis()).unwrap_or(0);
                for _ in 0..FLOWS {
                    let id = self.call(requests);
                    self.flows.extend(id);
                }
            }
            let id = self.call(1);
            self.new.push((self.world.now, id));
            self.world.run_for(PAUSE);
        }
    }

    fn caller(&self) -> Option<Identity> {
        let job = &self.world.services[0];
        let mut living = self.world.truth.living.keys();
        living.find(|(service, _, _)| service == job).cloned()
    }

    fn call(&mut self, requests_max: u32) -> Option<usize> {
        let caller = self.caller()?;
        let job = self.world.services[1].clone();
        let address = self.service_ip(&job)?;
        let call = Call {
            caller,
            node: self.cast.caller,
            job,
            dialled: Dialled::Service,
            address,
            is_tcp: false,
            pause: PAUSE,
            requests_max,
        };
        Some(self.world.call(call))
    }

    fn service_ip(&self, job: &ServiceName) -> Option<Ip> {
        let root = self.root.as_ref().unwrap_or(&self.world.root);
        let key = Key::Name(job.clone());
        root.root.job(&key)?.service_ip_list.first()?.address
    }

    fn strike(&mut self) {
        match self.cell.fault {
            Fault::Killed | Fault::Flapping | Fault::Wiped => self.stop(),
            Fault::Partitioned => self.cut(),
            Fault::Slow => self.slow_down(),
        }
    }

    fn stop(&mut self) {
        match self.cell.part {
            Part::Root => self.world.stop_root(),
            Part::Cluster => self.world.stop_cluster(CLUSTER),
            Part::Broker => self.world.stop_broker(CLUSTER),
            Part::Node => self.world.stop_node(NODE),
        }
    }

    fn start(&mut self) {
        match self.cell.part {
            Part::Root => self.world.start_root(),
            Part::Cluster => self.world.start_cluster(CLUSTER),
            Part::Broker => self.world.start_broker(CLUSTER),
            Part::Node => self.world.restart_node(NODE),
        }
    }

    fn start_empty(&mut self) {
        match self.cell.part {
            Part::Root => self.root = Some(self.world.wipe_root()),
            Part::Cluster => self.world.start_cluster_empty(CLUSTER),
            // Sessions are clean: a broker has no state.
            Part::Broker => self.world.start_broker(CLUSTER),
            Part::Node => self.world.start_node_empty(NODE),
        }
    }

    fn nodes_of_the_cluster(&self) -> Vec<usize> {
        let nodes = self.world.nodes.iter();
        let nodes = nodes.filter(|node| node.cluster == CLUSTER);
        nodes.map(|node| node.index).collect()
    }

    fn cut(&mut self) {
        match self.cell.part {
            Part::Root => {
                for index in 0..self.world.clusters.len() {
                    self.world.cut_cluster(index);
                }
            }
            Part::Cluster => {
                self.world.cut_cluster(CLUSTER);
                self.cut_broker();
            }
            Part::Broker => self.cut_broker(),
            Part::Node => {
                self.world.cut_node(NODE);
                for other in 0..self.world.nodes.len() {
                    self.world.cut_tunnel(NODE, other);
                }
            }
        }
    }

    fn cut_broker(&mut self) {
        for node in self.nodes_of_the_cluster() {
            self.world.cut_node(node);
        }
    }

    fn slow_down(&mut self) {
        match self.cell.part {
            Part::Root => self.world.slow_down(Party::Root, SLOW),
            Part::Cluster => self.world.slow_down(Party::Cluster(CLUSTER), SLOW),
            Part::Broker => {
                for node in self.nodes_of_the_cluster() {
                    let network = &mut self.world.network;
                    network.slow_between(Party::Node(node), Party::Cluster(CLUSTER), SLOW);
                }
            }
            Part::Node => self.world.slow_down(Party::Node(NODE), SLOW),
        }
    }

    fn heal(&mut self) {
        match (self.cell.fault, self.cell.part) {
            (Fault::Killed, _) => self.start(),
            (Fault::Partitioned, _) => {
                self.world.network.join_all();
                self.reconnect();
            }
            (Fault::Slow, part) => {
                self.world.network.speed_up(self.world.now);
                if part != Part::Root {
                    // What was under way is lost with the sessions.
                    for node in self.nodes_of_the_cluster() {
                        self.world.connect(node, false);
                    }
                    self.reconnect();
                }
            }
            (Fault::Wiped, Part::Root) => {
                if let Some(kept) = self.root.take() {
                    self.world.bring_back_root(kept);
                }
            }
            (Fault::Wiped, Part::Node) => {
                let service = usize::from(self.cell.direction == Direction::In);
                self.world.attach(NODE, service);
            }
            (Fault::Wiped | Fault::Flapping, _) => {}
        }
    }

    fn reconnect(&mut self) {
        for node in 0..self.world.nodes.len() {
            self.world.connect(node, true);
        }
    }

    fn outcome(mut self) -> Outcome {
        let healed = self.world.now;
        let end = self.struck + END;
        let mut unequal_at = None;
        while self.world.now < end {
            if !self.everybody_agrees() {
                unequal_at = Some(self.world.now);
            }
            self.talk_until(self.world.now + PAUSE);
        }
        // Who was asked last may still answer.
        self.world.run_for(PATIENCE);
        let since = |at: Option<Duration>, from: Duration| match at.map(|at| at + PAUSE) {
            None => Some(0),
            Some(at) if at >= end => None,
            Some(at) => Some(ms(at - from)),
        };
        let answered = |id: &usize| self.world.traffic.flows[*id].in_time;
        let got: u32 = self.flows.iter().map(answered).sum();
        let wanted = self.new.len() * FLOWS;
        let lost = |id: &Option<usize>| id.as_ref().map_or(0, answered) == 0;
        let lost: Vec<Duration> = self
            .new
            .iter()
            .filter(|(_, id)| lost(id))
            .map(|(at, _)| *at)
            .collect();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Outcome {
            flows_lost: number(wanted).saturating_sub(got),
            new_lost: number(lost.len()),
            new_ms: since(lost.last().copied(), self.struck),
            equal_ms: since(unequal_at, healed),
        }
    }

    /// Nothing waits to be attached, and the root, the clusters and the caller's gateway know who runs where.
    fn everybody_agrees(&self) -> bool {
        let world = &self.world;
        let job = &world.services[1];
        let waits = world.nodes.iter().any(|node| !node.attaching.is_empty());
        let place = |entry: &InstanceEntry| {
            let identity = (job.clone(), entry.instance_number, entry.epoch);
            (identity, entry.worker_id.clone())
        };
        let living = world.truth.living.iter();
        let truth: BTreeMap<_, _> = living
            .filter(|((service, _, _), _)| service == job)
            .map(|(identity, node)| (identity.clone(), Some(world.nodes[*node].id.to_string())))
            .collect();
        let is_true = |entries: &[InstanceEntry]| {
            entries.iter().map(place).collect::<BTreeMap<_, _>>() == truth
        };
        let root = world.root.root.job(&Key::Name(job.clone()));
        let caller = &world.nodes[self.cast.caller];
        let mut views = world
            .clusters
            .iter()
            .filter_map(|cluster| cluster.answerer.view(job, &caller.id));
        let answerer = &world.clusters[caller.cluster].answerer;
        let rows = answerer.view(job, &caller.id).map(|view| {
            let rows = view.instance_list.iter().filter_map(Row::of_entry);
            rows.collect::<Vec<_>>()
        });
        let have = caller
            .asker
            .routes(job)
            .map(|routes| routes.instances.clone());
        !waits
            && root.is_some_and(|root| is_true(&root.instance_list))
            && views.all(|view| is_true(&view.instance_list))
            && have.is_some()
            && have == rows
    }
}
