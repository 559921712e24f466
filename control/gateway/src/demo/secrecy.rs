//! What an eavesdropper sees of a transfer: tcpdump listens on the wire between the nodes, and beside the client.

use super::sites::Demo;
use super::transfer::fetch;
use super::{DemoError, Family};
use sluice_perf::lab::{LabError, NetNs, Process, Program, tools};
use sluice_perf::report::{Goal, Report, Row};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pieces of the file that are looked for, from all over it, and their length in bytes. Of random bytes no other place has them.
const PIECES: usize = 1_000;
const PIECE_LEN: usize = 16;

/// How long tcpdump may take to begin, and to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Fetches the file while both are listened to. The client's side shows that the file would be found.
pub(super) fn wire(demo: &Demo, family: Family, report: &mut Report) -> Result<(), DemoError> {
    let Some(switch) = &demo.sites.wire else {
        return Ok(());
    };
    let wire = Tap::new(demo, switch.namespace(), "switch", "wire")?;
    let client = Tap::new(demo, &demo.client.namespace, "any", "client")?;
    let right = fetch(demo, family)? == demo.files.sha256;
    let pieces = pieces(&demo.files.path())?;
    let [by_client, by_wire] = [client, wire].map(|tap| tap.end(&pieces));
    let share = |found: usize| 100.0 * found as f64 / PIECES as f64;
    let (by_client, by_wire) = (by_client?, by_wire?);
    // A transfer that failed shows nothing.
    let by_client = if right { by_client } else { 0 };
    report.push(
        Row::single(&family.row("plain_text_at_client"), share(by_client), "%")
            .with_goal(Goal::ValueAtLeast(90.0)),
    );
    report.push(
        Row::single(&family.row("plain_text_on_wire"), share(by_wire), "%")
            .with_goal(Goal::ValueIs(0.0)),
    );
    Ok(())
}

/// A tcpdump that writes everything down.
struct Tap {
    process: Process,
    capture: PathBuf,
}

impl Tap {
    fn new(demo: &Demo, namespace: &NetNs, device: &str, name: &str) -> Result<Self, LabError> {
        let directory = demo.sites.scratch.path();
        let capture = directory.join(format!("{name}.pcap"));
        // `-Z root`: the file is the demo's, not of a user of its own.
        let program = Program::new(tools::find("tcpdump")?)
            .args([
                "-Z", "root", "-n", "-U", "-s", "0", "-B", "65536", "-i", device, "-w",
            ])
            .arg(&capture);
        let log = directory.join(format!("{name}-tcpdump.log"));
        let mut process = namespace.start(&program, &log)?;
        let begin = sluice_perf::lab::clock::now();
        while !process.said().contains("listening on") {
            process.alive()?;
            if begin.elapsed() > PATIENCE {
                return Err(LabError::Reply {
                    what: program.to_string(),
                    text: process.said(),
                });
            }
            sluice_perf::lab::clock::pause(Duration::from_millis(5));
        }
        Ok(Self { process, capture })
    }

    /// How many of the pieces it saw.
    fn end(mut self, pieces: &HashSet<[u8; PIECE_LEN]>) -> Result<usize, LabError> {
        self.process.stop(PATIENCE);
        let found = File::open(&self.capture)
            .and_then(|capture| found(capture, pieces))
            .map_err(LabError::file(&self.capture));
        // 100 MB each.
        fs::remove_file(&self.capture).map_err(LabError::file(&self.capture))?;
        found
    }
}

/// Pieces of the file, evenly from all over it.
fn pieces(path: &Path) -> Result<HashSet<[u8; PIECE_LEN]>, LabError> {
    let file = fs::read(path).map_err(LabError::file(path))?;
    let step = file.len() / PIECES;
    let pieces = (0..PIECES).filter_map(|piece| file.get(piece * step..)?.first_chunk().copied());
    Ok(pieces.collect())
}

/// How many of the pieces are somewhere in what is read.
fn found(source: impl Read, pieces: &HashSet<[u8; PIECE_LEN]>) -> std::io::Result<usize> {
    // What most places fail by: the first two bytes.
    let mut begins = vec![false; 1 << 16];
    let begin = |piece: &[u8; PIECE_LEN]| usize::from(u16::from_be_bytes([piece[0], piece[1]]));
    for piece in pieces {
        begins[begin(piece)] = true;
    }
    let mut seen = HashSet::new();
    let mut source = BufReader::new(source);
    let mut buffer = Vec::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        let len = match source.read(&mut chunk) {
            Ok(0) => return Ok(seen.len()),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        buffer.extend_from_slice(&chunk[..len]);
        for window in buffer.windows(PIECE_LEN) {
            if let Some(window) = window.first_chunk()
                && begins[begin(window)]
                && pieces.contains(window)
            {
                seen.insert(*window);
            }
        }
        // A piece may be cut between two reads.
        buffer.drain(..buffer.len().saturating_sub(PIECE_LEN - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_wherever_they_are_and_others_are_not() {
        let [one, two, other] = [
            *b"the first piece.",
            *b"another piece ..",
            *b"none of the two.",
        ];
        let pieces = HashSet::from([one, two]);
        // One lies across the end of a read of the longest length.
        let mut text = vec![0; (1 << 20) - 5];
        text.extend(one);
        text.extend(&two[..PIECE_LEN - 1]);
        text.extend(other);
        assert_eq!(found(&text[..], &pieces).unwrap(), 1);
        text.extend(two);
        text.extend(one);
        assert_eq!(found(&text[..], &pieces).unwrap(), 2);
        assert_eq!(found(&text[1..], &HashSet::new()).unwrap(), 0);
    }
}
