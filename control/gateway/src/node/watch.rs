//! Notices that an instance is gone: its process ended, or its namespace died and took the veth pair with it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::attach::Attachment;
use super::devices::Devices;
use super::namespace::Process;
use crate::command::InstanceName;

/// `RTMGRP_LINK`.
const LINK_GROUP: u32 = 1;
/// Enough for every instance of a large node to end at once.
const EVENTS: usize = 256;

/// Watches what it is told to; each instance is reported once, then forgotten.
#[derive(Debug)]
pub struct Watch {
    watched: Arc<Mutex<BTreeMap<InstanceName, Watched>>>,
    gone: mpsc::Sender<InstanceName>,
    links: JoinHandle<()>,
}

#[derive(Debug)]
struct Watched {
    link: u32,
    process: Option<JoinHandle<()>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(task) = &self.process {
            task.abort();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.links.abort();
    }
}

impl Watch {
    /// Starts watching; must be called inside a tokio runtime and in the gateway's network namespace. The receiver
    /// gets the instances that are gone.
    ///
    /// # Errors
    /// When the netlink socket cannot be opened.
    pub fn start() -> io::Result<(Self, mpsc::Receiver<InstanceName>)> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, LINK_GROUP))?;
        socket.set_non_blocking(true)?;
        // SAFETY: the socket owns its descriptor and never changes it.
        let socket = unsafe { AsyncFd::register(socket) }?;
        let watched = Arc::default();
        let (gone, events) = mpsc::channel(EVENTS);
        let links = tokio::spawn(watch_links(socket, Arc::clone(&watched), gone.clone()));
        Ok((
            Self {
                watched,
                gone,
                links,
            },
            events,
        ))
    }

    /// Watches an instance that was just attached or adopted. What ended before this call is reported too.
    pub fn add(&self, attachment: &Attachment) {
        let instance = attachment.instance.clone();
        let process = attachment.process.map(|known| {
            let gone = self.gone.clone();
            let watched = Arc::clone(&self.watched);
            let instance = instance.clone();
            tokio::spawn(async move {
                if let Ok(process) = Process::open(known.pid)
                    && process.started == known.started
                {
                    // SAFETY: an `OwnedFd` owns its descriptor and never changes it.
                    let handle = unsafe { AsyncFd::register(process.handle) };
                    if let Ok(handle) = handle {
                        // An error here means the descriptor is unusable, which is as good as the end.
                        let _ = handle.readable().await;
                    }
                }
                report(&watched, &gone, &instance).await;
            })
        });
        let link = attachment.host_index;
        lock(&self.watched).insert(instance.clone(), Watched { link, process });
        // The device may have gone between attaching and here; its notification then came too early.
        let there = Devices::open()
            .and_then(|mut devices| devices.links())
            .is_ok_and(|links| links.iter().any(|one| one.index == link));
        if !there {
            let (watched, gone) = (Arc::clone(&self.watched), self.gone.clone());
            tokio::spawn(async move { report(&watched, &gone, &instance).await });
        }
    }

    /// Stops watching an instance, before it is detached on purpose.
    pub fn remove(&self, instance: &InstanceName) {
        lock(&self.watched).remove(instance);
    }
}

type Shared = Mutex<BTreeMap<InstanceName, Watched>>;

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, BTreeMap<InstanceName, Watched>> {
    // The map is whole between any two statements: a panic elsewhere does not spoil it.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn report(watched: &Shared, gone: &mpsc::Sender<InstanceName>, instance: &InstanceName) {
    let known = lock(watched).remove(instance);
    if let Some(mut known) = known {
        // This may be that very task: dropping its handle must not abort the send below.
        known.process = None;
        let _ = gone.send(instance.clone()).await;
    }
}

async fn watch_links(
    socket: AsyncFd<Socket>,
    watched: Arc<Shared>,
    gone: mpsc::Sender<InstanceName>,
) {
    loop {
        let Ok(mut ready) = socket.readable().await else {
            return;
        };
        let ended = match ready.try_io(|socket| socket.get_ref().recv_from_full()) {
            Ok(Ok((datagram, _))) => deleted_links(&datagram),
            // The kernel had more to tell than the socket holds: look for ourselves.
            Ok(Err(_)) => missing_links(&watched),
            Err(_would_block) => continue,
        };
        for link in ended {
            let instances: Vec<InstanceName> = lock(&watched)
                .iter()
                .filter(|(_, known)| known.link == link)
                .map(|(instance, _)| instance.clone())
                .collect();
            for instance in instances {
                report(&watched, &gone, &instance).await;
            }
        }
    }
}

/// Interface indices of the links a notification says are deleted.
fn deleted_links(datagram: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    let mut rest = datagram;
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
        let (header, payload) = message.into_parts();
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) = payload {
            found.push(link.header.index);
        }
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn missing_links(watched: &Shared) -> Vec<u32> {
    let Ok(links) = Devices::open().and_then(|mut devices| devices.links()) else {
        return Vec::new();
    };
    lock(watched)
        .values()
        .map(|known| known.link)
        .filter(|index| !links.iter().any(|link| link.index == *index))
        .collect()
}
