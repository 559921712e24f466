//! Taking packets out of bytes, for both ends of an MQTT connection.

use bytes::BytesMut;
use rumqttc::mqttbytes::{Error, v4};

/// Takes the next whole packet of at most `size_max` bytes.
pub(crate) fn next_packet(
    input: &mut BytesMut,
    size_max: usize,
) -> Result<Option<v4::Packet>, Error> {
    match v4::Packet::read(input, size_max) {
        Ok(packet) => Ok(Some(packet)),
        Err(Error::InsufficientBytes(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
