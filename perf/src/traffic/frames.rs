//! The frame generator: the kernel runs a small program on live frames of its own, which sends each out of a device.
//!
//! No socket, no packet of the stack, no system call per frame: several million frames a second from one core.

use super::stream::Stream;
use crate::lab::LabError;
use crate::lab::clock::now;
use aya::maps::Array;
use aya::programs::{ProgramError, TestRunAttrs, TestRunOptions, TestRunResult, Xdp};
use aya::{Ebpf, EbpfLoader, TestRun as _};
use std::time::Duration;

pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/traffic.o"));

const WHAT: &str = "generating frames";
/// Frames the kernel handles at a time.
const BATCH: u32 = 64;
/// Runs of the program in the first call. A call costs the kernel 20 ms beside the frames, so that the others are as long
/// as they can be.
const FIRST_CALL: u32 = 1 << 16;
/// In one call at most.
const CALL_MAX: u32 = 1 << 30;

/// Sends the frames of a stream out of a device.
#[derive(Debug)]
pub struct Generator {
    ebpf: Ebpf,
    frame: Vec<u8>,
}

impl Generator {
    /// `device` is the index of the device that the frames leave by; on veth its peer has them. They leave as fast as one
    /// core can send, or `rate` a second, evenly.
    ///
    /// # Errors
    /// For a stream there can be none of, and without the privilege to load programs.
    pub fn new(stream: &Stream, device: u32, rate: Option<u32>) -> Result<Self, LabError> {
        if let Some(wrong) = stream.wrong() {
            return Err(LabError::Request(wrong));
        }
        let frame = stream.frame();
        let (headers, _) = frame.split_at(super::stream::HEADERS);
        let interval_ns = rate.map_or(0, |rate| 1_000_000_000 / rate.max(1));
        let numbers = [
            device,
            stream.first,
            stream.flows - 1,
            stream.sum(),
            interval_ns,
        ];
        let mut globals: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
        globals.extend(headers);
        // The structure ends on a multiple of four.
        globals.resize(globals.len().next_multiple_of(4), 0);
        let mut ebpf = EbpfLoader::new()
            .override_global("stream", globals.as_slice(), true)
            .load(OBJECT)
            .map_err(LabError::bpf(WHAT))?;
        program(&mut ebpf)?.load().map_err(LabError::bpf(WHAT))?;
        Ok(Self { ebpf, frame })
    }

    /// Sends for so long; returns how many.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn send_for(&mut self, duration: Duration) -> Result<u64, LabError> {
        let (begin, before) = (now(), self.sent()?);
        let mut repeat = FIRST_CALL;
        while begin.elapsed() < duration {
            let call = now();
            self.run(TestRunOptions {
                repeat,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            })?;
            let left = duration.saturating_sub(begin.elapsed());
            let more = f64::from(repeat) * left.as_secs_f64() / call.elapsed().as_secs_f64();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a cast of a float saturates"
            )]
            {
                repeat = (more as u32).clamp(FIRST_CALL, CALL_MAX);
            }
        }
        Ok(self.sent()? - before)
    }

    /// Frames sent so far.
    fn sent(&self) -> Result<u64, LabError> {
        let map = self
            .ebpf
            .map(".bss")
            .unwrap_or_else(|| unreachable!("bpf/traffic.c has variables"));
        let progress: Array<_, [u64; 2]> = Array::try_from(map).map_err(LabError::bpf(WHAT))?;
        let [sent, _due_ns] = progress.get(&0, 0).map_err(LabError::bpf(WHAT))?;
        Ok(sent)
    }

    /// The next frame as it would be sent, and what the program says about it; nothing is sent.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dry_run(&mut self) -> Result<(u32, Vec<u8>), LabError> {
        let mut out = vec![0; self.frame.len()];
        let result = self.run(TestRunOptions {
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        })?;
        Ok((result.return_value, out))
    }

    fn run(&mut self, options: TestRunOptions<'_>) -> Result<TestRunResult, LabError> {
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            ..options
        };
        program(&mut self.ebpf)?
            .test_run(options)
            .map_err(|error: ProgramError| LabError::bpf(WHAT)(error))
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, LabError> {
    let program = ebpf
        .program_mut("generate")
        .unwrap_or_else(|| unreachable!("bpf/traffic.c has it"));
    program.try_into().map_err(LabError::bpf(WHAT))
}
