//! Where a key stands in a configuration text, and which known key an unknown one was meant to be.

use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// A key found in the text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    /// From 1.
    pub(super) line: usize,
    /// As written, quotes included.
    pub(super) value: String,
}

/// A key of the text that the table `known` does not have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Unknown {
    pub(super) line: usize,
    pub(super) key: String,
    pub(super) suggestion: Option<String>,
}

/// The line of a byte offset, from 1.
pub(super) fn line(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&b| b == b'\n').count() + 1
}

/// Where the dotted `key` stands in the text, if it does.
pub(super) fn find(text: &str, key: &str) -> Option<Place> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        let (name, value) = table.iter().find(|(name, _)| name.get_ref() == part)?;
        if parts.peek().is_none() {
            return Some(Place {
                line: line(text, name.span().start),
                value: text.get(value.span()).unwrap_or_default().to_owned(),
            });
        }
        let DeValue::Table(inner) = value.get_ref() else {
            return None;
        };
        table = inner;
    }
    None
}

/// The dotted key whose value contains the byte range, with its place.
pub(super) fn key_at(text: &str, at: &Range<usize>) -> Option<(String, Place)> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut path: Vec<String> = Vec::new();
    let mut best = None;
    loop {
        let (name, value) = table.iter().find(|(name, value)| {
            let inside = |span: &Range<usize>| span.start <= at.start && at.start < span.end;
            inside(&name.span()) || inside(&value.span()) || covers(value.get_ref(), at.start)
        })?;
        path.push(name.get_ref().to_string());
        let place = Place {
            line: line(text, name.span().start),
            value: text.get(value.span()).unwrap_or_default().to_owned(),
        };
        best = Some((path.join("."), place)).or(best);
        let DeValue::Table(inner) = value.get_ref() else {
            return best;
        };
        if !covers(value.get_ref(), at.start) {
            return best;
        }
        table = inner;
    }
}

/// Whether some value below lies around `offset`: a table's own span is only its header.
fn covers(value: &DeValue<'_>, offset: usize) -> bool {
    let DeValue::Table(table) = value else {
        return false;
    };
    table.iter().any(|(name, value)| {
        name.span().contains(&offset)
            || value.span().contains(&offset)
            || covers(value.get_ref(), offset)
    })
}

/// The first key of the text, in line order, that `known` does not have.
pub(super) fn unknown(text: &str, known: &toml::Table) -> Option<Unknown> {
    let root = DeTable::parse(text).ok()?;
    let mut found = Vec::new();
    collect(text, root.get_ref(), known, "", known, &mut found);
    found.into_iter().min_by_key(|unknown| unknown.line)
}

fn collect(
    text: &str,
    table: &DeTable<'_>,
    known: &toml::Table,
    prefix: &str,
    all: &toml::Table,
    found: &mut Vec<Unknown>,
) {
    for (name, value) in table {
        let key = format!("{prefix}{}", name.get_ref());
        match (known.get(name.get_ref().as_ref()), value.get_ref()) {
            (None, _) => found.push(Unknown {
                line: line(text, name.span().start),
                suggestion: suggestion(&key, all),
                key,
            }),
            (Some(toml::Value::Table(inner)), DeValue::Table(table)) => {
                collect(text, table, inner, &format!("{key}."), all, found);
            }
            // A wrong type is the deserializer's to name.
            _ => {}
        }
    }
}

/// The known key nearest to `key`: the same name in another section, or few typing errors away.
fn suggestion(key: &str, all: &toml::Table) -> Option<String> {
    let mut keys = Vec::new();
    flatten(all, "", &mut keys);
    let name = last_part(key);
    if let Some(moved) = keys.iter().find(|known| last_part(known) == name) {
        return Some(moved.clone());
    }
    keys.into_iter()
        .map(|known| {
            let whole = distance(&known, key);
            // A key written in the wrong section is as near as its name.
            (whole.min(distance(last_part(&known), name) + 1), known)
        })
        .filter(|(distance, _)| *distance <= 1 + name.len() / 3)
        .min()
        .map(|(_, known)| known)
}

fn last_part(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// All dotted keys of a table, its sections included.
pub(super) fn flatten(table: &toml::Table, prefix: &str, keys: &mut Vec<String>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        if let toml::Value::Table(inner) = value {
            flatten(inner, &format!("{key}."), keys);
        }
        keys.push(key);
    }
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_typing_errors() {
        for (a, b, expected) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("kitten", "sitting", 3),
            ("flows_max", "flow_max", 1),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn keys_are_found_in_headers_dotted_keys_and_inline_tables() {
        for text in [
            "[cluster]\nid = \"a\"\n[cluster.broker]\nmode = \"x\"\n",
            "\n\n[cluster]\nbroker.mode = \"x\"\n",
            "\n\n\ncluster = { id = \"a\", broker = { mode = \"x\" } }\n",
        ] {
            let place = find(text, "cluster.broker.mode").unwrap();
            assert_eq!((place.line, place.value.as_str()), (4, "\"x\""), "{text}");
            let at = text.find("\"x\"").unwrap();
            let (key, _) = key_at(text, &(at..at + 3)).unwrap();
            assert_eq!(key, "cluster.broker.mode", "{text}");
        }
        assert!(find("[cluster]\n", "cluster.id").is_none());
    }
}
