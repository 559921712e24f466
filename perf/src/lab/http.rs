//! A small HTTP/1.1 client for admin sockets and probes: one request, one connection.

use super::error::LabError;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Asks over a unix socket. `body` is JSON.
///
/// # Errors
/// When the socket cannot be reached or the answer is not HTTP.
pub fn request(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&str>,
    limit: Duration,
) -> Result<Answer, LabError> {
    let what = || format!("{method} {path} on {}", socket.display());
    let mut stream = UnixStream::connect(socket).map_err(LabError::socket(what()))?;
    stream
        .set_read_timeout(Some(limit))
        .map_err(LabError::socket(what()))?;
    let body = body.unwrap_or_default();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream
        .write_all(text.as_bytes())
        .map_err(LabError::socket(what()))?;
    let mut bytes = Vec::new();
    stream
        .read_to_end(&mut bytes)
        .map_err(LabError::socket(what()))?;
    parse(&bytes).ok_or_else(|| LabError::Reply {
        what: what(),
        text: String::from_utf8_lossy(&bytes).chars().take(200).collect(),
    })
}

/// Asks for a JSON document that must be there.
///
/// # Errors
/// As [`request`], and when the status is not 200 or the body is not JSON.
pub fn json(socket: &Path, path: &str) -> Result<serde_json::Value, LabError> {
    let answer = request(socket, "GET", path, None, Duration::from_secs(5))?;
    let what = format!("GET {path} on {}", socket.display());
    if answer.status != 200 {
        return Err(LabError::Http {
            what,
            status: answer.status,
            body: answer.body,
        });
    }
    serde_json::from_str(&answer.body).map_err(|_| LabError::Reply {
        what,
        text: answer.body,
    })
}

/// Splits a whole response into status and body, undoing chunked coding.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(bytes.get(..end)?).into_owned();
    let rest = bytes.get(end + 4..)?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    let chunked = head
        .lines()
        .any(|line| line.to_ascii_lowercase().replace(' ', "") == "transfer-encoding:chunked");
    let body = if chunked {
        unchunk(rest)?
    } else {
        rest.to_vec()
    };
    Some(Answer {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(rest.get(..line)?).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(line + 2..line + 2 + size)?);
        rest = rest.get(line + 2 + size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_plain_or_in_chunks() {
        let plain = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        assert_eq!((plain.status, plain.body.as_str()), (200, "ok"));
        let chunked = parse(
            b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        )
        .unwrap();
        assert_eq!((chunked.status, chunked.body.as_str()), (404, "abcde"));
        assert!(parse(b"").is_none());
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc").is_none());
    }
}
