//! `trace`: follows packets through the gateway's stages.

use super::{CliError, Where};
use crate::admin_api::{TraceBody, TraceFilter, TraceRecord};
use crate::client::{Call, Role};
use crate::config::Config;
use crate::output::{self, Format};
use clap::Args;
use sluice_wire::Ip;

/// `sluice trace`
#[derive(Debug, Args)]
pub(super) struct Trace {
    /// Source address, as the packet enters the gateway; replies to it match too
    #[arg(long, value_name = "IP")]
    src: Option<Ip>,
    /// Destination address, as the packet enters the gateway; replies from it match too
    #[arg(long, value_name = "IP")]
    dst: Option<Ip>,
    /// Either port
    #[arg(long)]
    port: Option<u16>,
    /// tcp, udp, icmp, icmp6 or a number
    #[arg(long, value_parser = protocol)]
    proto: Option<u8>,
    /// Packets to follow
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// json prints one object per line
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    gateway: Where,
}

/// IANA protocol numbers by name.
fn protocol(text: &str) -> Result<u8, String> {
    match text.to_ascii_lowercase().as_str() {
        "icmp" => Ok(1),
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "icmp6" | "icmpv6" => Ok(58),
        number => number
            .parse()
            .map_err(|_| "expected tcp, udp, icmp, icmp6 or a number up to 255".to_owned()),
    }
}

impl Trace {
    pub(super) async fn run(&self, config: &Config) -> Result<(), CliError> {
        let body = TraceBody {
            filter: TraceFilter {
                src: self.src,
                dst: self.dst,
                port: self.port,
                protocol: self.proto,
            },
            count: self.count,
        };
        let client = self.gateway.client(Role::Gateway, config);
        let mut packet = 0;
        client
            .lines(Call::post("/v1/trace", &body), |line| {
                match self.output {
                    Format::Json => output::print(&format!("{}\n", String::from_utf8_lossy(line))),
                    Format::Table => {
                        if let Ok(record) = serde_json::from_slice(line) {
                            output::print(&stage(&record, &mut packet));
                        }
                    }
                }
                true
            })
            .await?;
        Ok(())
    }
}

/// One line per stage, with a heading where another packet begins.
fn stage(record: &TraceRecord, packet: &mut u64) -> String {
    let heading = if *packet == record.packet {
        String::new()
    } else {
        *packet = record.packet;
        format!("packet {}  {}\n", record.packet, record.direction)
    };
    format!("{heading}  {:<10}  {}\n", record.stage, record.decided)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_begins_each_packet() {
        let record = |packet, stage: &str| TraceRecord {
            packet,
            at_ns: 0,
            direction: "outbound".into(),
            stage: stage.into(),
            decided: "ok".into(),
            last: false,
        };
        let mut packet = 0;
        let text: String = [record(1, "parse"), record(1, "flow"), record(2, "parse")]
            .iter()
            .map(|record| stage(record, &mut packet))
            .collect();
        assert_eq!(
            text,
            "packet 1  outbound\n  parse       ok\n  flow        ok\npacket 2  outbound\n  parse       ok\n"
        );
    }

    #[test]
    fn protocols_have_names() {
        assert_eq!(protocol("TCP"), Ok(6));
        assert_eq!(protocol("132"), Ok(132));
        assert!(protocol("256").is_err());
    }
}
