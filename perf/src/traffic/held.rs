//! Connections that stay open: which instance answers each of them, and how many bytes one carries meanwhile.

use crate::lab::{LabError, NetNs};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Every byte is answered by the instance's name.
const NAME_PORT: u16 = 7100;
/// Bytes are counted.
const BULK_PORT: u16 = 7101;
/// How long an answer may take: a lost segment is sent again after 200 ms, then after twice as long.
const PATIENCE: Duration = Duration::from_secs(10);

/// One instance, serving until the process ends.
#[derive(Debug)]
pub struct Instance {
    received: Arc<AtomicU64>,
}

impl Instance {
    /// Serves in `namespace` under a name of one byte.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn new(namespace: &NetNs, name: u8) -> Result<Self, LabError> {
        let received = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&received);
        accept(namespace, NAME_PORT, move |stream| say_name(stream, name))?;
        accept(namespace, BULK_PORT, move |stream| take(stream, &count))?;
        Ok(Self { received })
    }

    /// Bytes that bulk connections have brought so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

fn accept(
    namespace: &NetNs,
    port: u16,
    serve: impl Fn(TcpStream) + Clone + Send + 'static,
) -> Result<(), LabError> {
    let listener = namespace
        .run(move || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))
        .map_err(LabError::socket(format!("TCP port {port}")))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    Ok(())
}

fn say_name(mut stream: TcpStream, name: u8) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&[name]).is_ok() {}
}

fn take(mut stream: TcpStream, count: &AtomicU64) {
    let mut bytes = vec![0; 128 << 10];
    while let Ok(len @ 1..) = stream.read(&mut bytes) {
        count.fetch_add(len as u64, Ordering::Relaxed);
    }
}

fn connect(namespace: &NetNs, to: SocketAddr) -> Result<TcpStream, LabError> {
    namespace
        .run(move || TcpStream::connect_timeout(&to, PATIENCE))
        .map_err(LabError::socket(format!("a connection to {to}")))
}

/// Open connections and who answered each.
#[derive(Debug)]
pub struct Held(Vec<(TcpStream, u8)>);

impl Held {
    /// Opens `count` connections to a service.
    ///
    /// # Errors
    /// When one cannot be opened, or is not answered.
    pub fn open(namespace: &NetNs, service: IpAddr, count: usize) -> Result<Self, LabError> {
        let to = SocketAddr::new(service, NAME_PORT);
        let one = || {
            let mut stream = connect(namespace, to)?;
            let name = ask(&mut stream).map_err(LabError::socket(format!("an answer by {to}")))?;
            Ok((stream, name))
        };
        (0..count)
            .map(|_| one())
            .collect::<Result<_, LabError>>()
            .map(Self)
    }

    /// Asks on every connection again, and counts those that are broken or answered by another instance than before.
    pub fn lost(&mut self) -> usize {
        self.0
            .iter_mut()
            .map(|(stream, name)| ask(stream).is_ok_and(|answer| answer == *name))
            .filter(|kept| !kept)
            .count()
    }
}

fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
    let mut name = [0];
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[0])?;
    stream.read_exact(&mut name)?;
    Ok(name[0])
}

/// A connection that sends as fast as TCP lets it, until it is dropped.
#[derive(Debug)]
pub struct Bulk {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bulk {
    /// Connects to a service and begins.
    ///
    /// # Errors
    /// When nothing answers.
    pub fn start(namespace: &NetNs, service: IpAddr) -> Result<Self, LabError> {
        let mut stream = connect(namespace, SocketAddr::new(service, BULK_PORT))?;
        stream
            .set_write_timeout(Some(Duration::from_millis(100)))
            .map_err(LabError::socket("a send time limit"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let bytes = vec![0x55; 128 << 10];
            while !told.load(Ordering::Relaxed) {
                // A time limit that passed is a look at `told`; of a connection that broke nothing arrives any more.
                let _ = stream.write(&bytes);
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It holds nothing that a panic could leave behind.
            let _ = thread.join();
        }
    }
}
