//! Netlink attributes as bytes: type, length, value, padded to four; nf_tables numbers are big-endian.

const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// A run of attributes being written.
#[derive(Clone, Debug, Default)]
pub(in crate::node) struct Attributes(Vec<u8>);

impl Attributes {
    pub(in crate::node) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(in crate::node) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// NUL-terminated text.
    pub(in crate::node) fn text(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.bytes(kind, &value)
    }

    pub(in crate::node) fn number(self, kind: u16, number: u32) -> Self {
        self.bytes(kind, &number.to_be_bytes())
    }

    pub(in crate::node) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    pub(in crate::node) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4)
            .unwrap_or_else(|_| unreachable!("an attribute of this encoder is below 64 KiB"));
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// The attributes in `bytes`, in order; stops at the first that does not fit.
pub(in crate::node) fn read(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, _) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// NUL-terminated text.
pub(in crate::node) fn text(value: &[u8]) -> Option<String> {
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    String::from_utf8(value.to_vec()).ok()
}

pub(super) fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Attributes::new().number(2, 7);
        let outer = Attributes::new()
            .text(1, "sluice")
            .nested(4, &inner)
            .bytes(7, &[1, 2, 3]);
        let found: Vec<_> = read(outer.as_bytes()).collect();
        assert_eq!(text(found[0].1).as_deref(), Some("sluice"));
        assert_eq!(found[1].0, 4);
        assert_eq!(
            read(found[1].1).next().map(|(_, value)| number(value)),
            Some(Some(7))
        );
        assert_eq!(found[2], (7, &[1, 2, 3][..]));
    }
}
