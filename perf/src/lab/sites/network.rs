//! What joins the roles: the management network, perhaps with a delay, and the wire between the sites.

use super::super::delay::{DelayLine, End, Settings};
use super::super::error::LabError;
use super::super::netns::NetNs;
use super::super::process::Program;
use super::super::tools;
use super::super::wire::{Switch, mtu_frames, offload, veth};
use super::Cable;
use super::role::Gateway;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

#[derive(Debug)]
pub(super) enum Management {
    Switch { _switch: Switch },
    Delayed { _line: DelayLine },
}

pub(super) fn manage(
    hosts: &[(NetNs, Ipv4Addr)],
    away: Option<Duration>,
) -> Result<Management, LabError> {
    if let Some(round_trip) = away {
        let ends: Vec<End> = hosts
            .iter()
            .map(|(namespace, address)| End {
                namespace: namespace.clone(),
                device: "mgmt0".to_owned(),
                addresses: vec![((*address).into(), 24)],
            })
            .collect();
        let settings = Settings {
            one_way: round_trip / 2,
            jitter: Duration::ZERO,
            lost_per_mille: 0,
            seed: 1,
        };
        let line = DelayLine::new(&ends, settings)?;
        calibrate(&line, hosts, round_trip)?;
        return Ok(Management::Delayed { _line: line });
    }
    let mut switch = Switch::new("management")?;
    for (namespace, address) in hosts {
        switch.join(namespace, "mgmt0", 1500)?;
        namespace.ip(&format!("address add {address}/24 dev mgmt0"))?;
    }
    Ok(Management::Switch { _switch: switch })
}

/// The line's thread needs a moment for every packet; the wait is shortened by what the fastest of many pings sees of
/// it, so that nothing arrives before its time.
fn calibrate(
    line: &DelayLine,
    hosts: &[(NetNs, Ipv4Addr)],
    round_trip: Duration,
) -> Result<(), LabError> {
    let (Some((_, to)), Some((from, _))) = (hosts.first(), hosts.last()) else {
        return Ok(());
    };
    let over = ping(from, (*to).into())?[0].saturating_sub(round_trip);
    line.set_one_way((round_trip.saturating_sub(over)) / 2);
    Ok(())
}

/// The mean round trip that ping sees.
///
/// # Errors
/// When nothing answers.
pub fn ping_round_trip(from: &NetNs, to: IpAddr) -> Result<Duration, LabError> {
    ping(from, to).map(|[_, mean]| mean)
}

/// The shortest and the mean round trip.
fn ping(from: &NetNs, to: IpAddr) -> Result<[Duration; 2], LabError> {
    let program = Program::new(tools::find("ping")?)
        .args(["-q", "-i", "0.01", "-c", "40"])
        .arg(to.to_string());
    let text = from.succeed(&program)?;
    // "rtt min/avg/max/mdev = 1.066/1.097/1.2/0.03 ms"
    let figures: Vec<Duration> = text
        .rsplit_once("= ")
        .map_or("", |(_, figures)| figures)
        .split('/')
        .filter_map(|figure| figure.parse::<f64>().ok())
        .map(|ms| Duration::from_secs_f64(ms / 1e3))
        .collect();
    match figures[..] {
        [shortest, mean, ..] => Ok([shortest, mean]),
        _ => Err(LabError::Reply {
            what: program.to_string(),
            text,
        }),
    }
}

/// The wire between the gateways: a switch or a delay line, where it is not one cable.
pub(super) fn lay(
    gateways: &[Gateway],
    cable: Cable,
) -> Result<(Option<Switch>, Option<DelayLine>), LabError> {
    let wire = match (cable, gateways) {
        (Cable::Line { one_way }, _) => return Ok((None, Some(stretch(gateways, one_way)?))),
        (Cable::Pair, [a, b]) => {
            let ends = [a, b].map(Gateway::namespace);
            veth((ends[0], "eth0"), (ends[1], "eth0"), 1500)?;
            for end in ends {
                mtu_frames(end, "eth0")?;
                offload(end, "eth0", &["gro", "on"])?;
            }
            None
        }
        _ => {
            let mut switch = Switch::new("wire")?;
            for gateway in gateways {
                switch.join(gateway.namespace(), "eth0", 1500)?;
            }
            Some(switch)
        }
    };
    for gateway in gateways {
        gateway.namespace().ip(&format!(
            "address add {}/24 dev eth0\naddress add {}/64 dev eth0 nodad",
            gateway.address[0], gateway.address[1]
        ))?;
    }
    Ok((wire, None))
}

/// The delay line, whose devices have the gateways' addresses.
fn stretch(gateways: &[Gateway], one_way: Duration) -> Result<DelayLine, LabError> {
    let ends: Vec<End> = gateways
        .iter()
        .map(|gateway| End {
            namespace: gateway.namespace().clone(),
            device: "eth0".to_owned(),
            addresses: vec![(gateway.address[0], 24), (gateway.address[1], 64)],
        })
        .collect();
    let settings = Settings {
        one_way,
        jitter: Duration::ZERO,
        lost_per_mille: 0,
        seed: 1,
    };
    DelayLine::new(&ends, settings)
}
