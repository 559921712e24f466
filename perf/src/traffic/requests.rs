//! Request latency: one small request at a time over one TCP connection, at a low rate.

use crate::lab::clock::{now, pause};
use crate::lab::{LabError, NetNs};
use crate::report::quantile;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Bytes of a request and of an answer.
const SIZE: usize = 64;

/// Answers every request on `port` of `namespace`, until the process ends.
///
/// # Errors
/// When the port is taken.
pub fn answer(namespace: &NetNs, port: u16) -> Result<(), LabError> {
    let listener = namespace
        .run(move || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))
        .map_err(LabError::socket(format!("TCP port {port}")))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || echo(stream));
        }
    });
    Ok(())
}

fn echo(mut stream: TcpStream) {
    let mut bytes = [0; SIZE];
    if stream.set_nodelay(true).is_err() {
        return;
    }
    while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
}

/// Latency in microseconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Latency {
    pub p50_us: f64,
    pub p99_us: f64,
}

/// Sends `count` requests, each `gap` after the answer to the one before, and measures each.
///
/// # Errors
/// When the connection fails.
pub fn measure(
    namespace: &NetNs,
    to: SocketAddr,
    count: usize,
    gap: Duration,
) -> Result<Latency, LabError> {
    let what = format!("requests to {to}");
    let mut stream = namespace
        .run(move || TcpStream::connect_timeout(&to, Duration::from_secs(3)))
        .map_err(LabError::socket(&what))?;
    let samples = std::thread::spawn(move || {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        let mut bytes = [0; SIZE];
        let mut samples = Vec::with_capacity(count);
        // The first tenth warms caches and is not counted.
        for number in 0..count + count / 10 {
            let begin = now();
            stream.write_all(&bytes)?;
            stream.read_exact(&mut bytes)?;
            if number >= count / 10 {
                samples.push(begin.elapsed().as_secs_f64() * 1e6);
            }
            pause(gap);
        }
        Ok(samples)
    })
    .join()
    .unwrap_or_else(|_| Err(std::io::Error::other("the measuring thread panicked")))
    .map_err(LabError::socket(what))?;
    Ok(Latency {
        p50_us: quantile(&samples, 0.5),
        p99_us: quantile(&samples, 0.99),
    })
}
