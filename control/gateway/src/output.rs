//! What the commands print: aligned tables for people, JSON for machines.

use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// `-o`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

/// A column: its heading, and the keys whose values its cells show, joined by a blank.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub heading: &'static str,
    pub keys: &'static [&'static str],
}

/// Prints to standard output. A closed pipe (`sluice get flows | head`) ends the process quietly.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if written.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        std::process::exit(0);
    }
}

/// Prints an answer as JSON.
pub fn print_json(value: &Value) {
    print(&format!("{value:#}\n"));
}

/// The text in red, on a terminal; as it is elsewhere, and where `NO_COLOR` is set.
#[must_use]
pub fn red(text: &str) -> String {
    let is_wanted = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if is_wanted {
        format!("\x1b[31m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Rows under headings, columns two blanks apart, nothing after the last cell.
#[must_use]
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain([headings[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    let heading: Vec<String> = headings.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A list of JSON objects as a table: those of the columns that any row has, or the rows' own keys when there are none.
#[must_use]
pub fn json_table(columns: &[Column], rows: &[Value]) -> String {
    let known = |column: &&Column| {
        rows.is_empty()
            || column
                .keys
                .iter()
                .any(|key| rows.iter().any(|row| row.pointer(key).is_some()))
    };
    let columns: Vec<&Column> = columns.iter().filter(known).collect();
    if !columns.is_empty() {
        let headings: Vec<&str> = columns.iter().map(|column| column.heading).collect();
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| columns.iter().map(|column| cell(row, column)).collect())
            .collect();
        return table(&headings, &cells);
    }
    let keys: Vec<&str> = rows
        .first()
        .and_then(Value::as_object)
        .map(|row| row.keys().map(String::as_str).collect())
        .unwrap_or_default();
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| keys.iter().map(|key| plain(&row[key])).collect())
        .collect();
    table(&keys, &cells)
}

fn cell(row: &Value, column: &Column) -> String {
    let parts: Vec<String> = column
        .keys
        .iter()
        .filter_map(|key| row.pointer(key))
        .filter(|value| !value.is_null())
        .map(plain)
        .collect();
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join(" ")
    }
}

/// A JSON value as a cell: text without quotes, lists with commas.
#[must_use]
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Object(object) => object
            .iter()
            .map(|(key, value)| format!("{key}={}", plain(value)))
            .collect::<Vec<_>>()
            .join(" "),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_line_up_and_no_line_ends_in_blanks() {
        let text = table(
            &["NAME", "COUNT", "CAUSE"],
            &[
                vec!["a".into(), "100000".into(), String::new()],
                vec!["längerer".into(), "1".into(), "why".into()],
            ],
        );
        assert_eq!(
            text,
            "NAME      COUNT   CAUSE\na         100000\nlängerer  1       why\n"
        );
    }

    #[test]
    fn cells_come_from_json_and_missing_ones_are_dashes() {
        const COLUMNS: &[Column] = &[
            Column {
                heading: "IP",
                keys: &["/v4", "/v6"],
            },
            Column {
                heading: "N",
                keys: &["/n"],
            },
            Column {
                heading: "NEVER",
                keys: &["/never"],
            },
        ];
        let rows = [
            json!({"v4": "10.30.0.1", "v6": "fdff::1", "n": [1, 2]}),
            json!({"v4": null}),
        ];
        assert_eq!(
            json_table(COLUMNS, &rows),
            "IP                 N\n10.30.0.1 fdff::1  1,2\n-                  -\n"
        );
        assert_eq!(json_table(COLUMNS, &[]), "IP  N  NEVER\n");
        assert_eq!(
            json_table(COLUMNS, &[json!({"other": {"a": 1}})]),
            "other\na=1\n"
        );
    }
}
