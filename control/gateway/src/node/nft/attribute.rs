//! Netlink attributes as bytes: type, length, value, padded to four. Numbers of nf_tables are big-endian
//! (`number`), those of generic netlink in the machine's order (`native`).

const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// A run of attributes being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// NUL-terminated text.
    pub(crate) fn text(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.bytes(kind, &value)
    }

    pub(crate) fn number(self, kind: u16, number: u32) -> Self {
        self.bytes(kind, &number.to_be_bytes())
    }

    pub(crate) fn native_u32(self, kind: u16, number: u32) -> Self {
        self.bytes(kind, &number.to_ne_bytes())
    }

    pub(crate) fn native_u8(self, kind: u16, number: u8) -> Self {
        self.bytes(kind, &[number])
    }

    pub(crate) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
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
pub(crate) fn read(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
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
pub(crate) fn text(value: &[u8]) -> Option<String> {
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    String::from_utf8(value.to_vec()).ok()
}

pub(super) fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// A whole number in the machine's order, of 1, 2, 4 or 8 bytes.
pub(crate) fn native(value: &[u8]) -> Option<u64> {
    match value.len() {
        1 => Some(u64::from(value[0])),
        2 => value.try_into().ok().map(u16::from_ne_bytes).map(u64::from),
        4 => value.try_into().ok().map(u32::from_ne_bytes).map(u64::from),
        8 => value.try_into().ok().map(u64::from_ne_bytes),
        _ => None,
    }
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
        let numbers = Attributes::new().native_u8(1, 5).native_u32(2, 70_000);
        let found: Vec<_> = read(numbers.as_bytes())
            .map(|(_, value)| native(value))
            .collect();
        assert_eq!(found, [Some(5), Some(70_000)]);
    }
}
