//! What is not TCP: ping, and a UDP datagram that must travel in fragments.

use super::sites::Demo;
use super::{DemoError, Family, check};
use sluice_perf::lab::{self, LabError};
use sluice_perf::report::{Goal, Report, Row};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Echo requests to the service.
const PINGS: u32 = 20;
/// Bytes of the large datagram.
const LARGE: usize = 60_000;
const PORT: u16 = 7;

/// Real ping by name.
pub(super) fn ping(demo: &Demo, family: Family, report: &mut Report) -> Result<(), DemoError> {
    let program = lab::ping::ping(PINGS)?.args([family.flag(), "-q", &Demo::web_name()]);
    let output = demo.client.output(&program)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let received: u32 = text
        .split(", ")
        .find_map(|part| part.strip_suffix(" received")?.parse().ok())
        .unwrap_or_default();
    report.push(
        Row::single(&family.row("ping_lost"), (PINGS - received).into(), "of 20")
            .with_goal(Goal::ValueIs(0.0)),
    );
    Ok(())
}

/// A datagram of 60,000 bytes there and back, five times.
pub(super) fn large(demo: &Demo, family: Family, report: &mut Report) -> Result<(), DemoError> {
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let echo = demo
        .bulk
        .run(move || UdpSocket::bind((any, PORT)))
        .map_err(LabError::socket("the echo server"))?;
    let to = SocketAddr::new(demo.bulk_service(family), PORT);
    let socket = demo
        .client
        .namespace
        .run(move || UdpSocket::bind((any, 0)))
        .map_err(LabError::socket("the echo client"))?;
    let limit = Some(Duration::from_secs(3));
    for end in [&echo, &socket] {
        end.set_read_timeout(limit)
            .map_err(LabError::socket("a receive time limit"))?;
    }
    let right = (0..5).all(|round: u8| {
        #[expect(clippy::cast_possible_truncation, reason = "any bytes will do")]
        let sent: Vec<u8> = (0..LARGE).map(|at| (at % 251) as u8 ^ round).collect();
        there_and_back(&socket, &echo, to, &sent).is_ok_and(|back| back == sent)
    });
    report.push(check("udp_60k_ok", family, right));
    Ok(())
}

fn there_and_back(
    socket: &UdpSocket,
    echo: &UdpSocket,
    to: SocketAddr,
    bytes: &[u8],
) -> std::io::Result<Vec<u8>> {
    let mut room = vec![0; 65_536];
    socket.send_to(bytes, to)?;
    let (len, from) = echo.recv_from(&mut room)?;
    echo.send_to(&room[..len], from)?;
    let (len, _) = socket.recv_from(&mut room)?;
    room.truncate(len);
    Ok(room)
}
