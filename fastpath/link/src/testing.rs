//! Packets for this crate's tests, built by another implementation.

use etherparse::PacketBuilder;

/// Bytes that differ from place to place.
pub(crate) fn payload(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(len)
    .collect()
}

/// A TCP packet with a complete checksum.
pub(crate) fn tcp(v6: bool, port: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let builder = if v6 {
        let (mut from, mut to) = ([0xfd; 16], [0xfd; 16]);
        (from[15], to[15]) = (1, 2);
        PacketBuilder::ipv6(from, to, 64)
    } else {
        PacketBuilder::ipv4([10, 18, 0, 2], [10, 30, 0, 1], 64)
    };
    let builder = builder.tcp(port, 80, sequence, 4096).ack(77);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, payload).unwrap();
    bytes
}

/// A UDP packet with a complete checksum.
pub(crate) fn udp(v6: bool, port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = if v6 {
        let (mut from, mut to) = ([0xfd; 16], [0xfd; 16]);
        (from[15], to[15]) = (1, 2);
        PacketBuilder::ipv6(from, to, 64)
    } else {
        PacketBuilder::ipv4([10, 18, 0, 2], [10, 30, 0, 1], 64)
    };
    let mut bytes = Vec::new();
    builder.udp(port, 53).write(&mut bytes, payload).unwrap();
    bytes
}

/// A TCP super-frame as a TUN device hands it over: partial checksum, one header of 40 bytes.
pub(crate) fn tcp4_super_frame(payload_len: usize, segment_size: usize) -> Vec<u8> {
    assert!(segment_size < payload_len);
    let mut bytes = tcp(false, 4000, 1, &payload(payload_len));
    let parsed = sluice_wire::parse(&bytes).unwrap();
    sluice_wire::checksum::partial_l4(&mut bytes, &parsed);
    bytes
}
