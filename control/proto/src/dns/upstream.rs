//! One query's exchange with upstream resolvers: whom to ask when, and which answer to believe.
//!
//! Three attempts, each with the next resolver, over UDP; an answer that was cut off is asked for again over TCP. Only
//! an answer with the id and the question of the attempt counts; it comes to a socket of its own, whose port the kernel
//! chose at random.

use super::reply::{HEADER, RESPONSE_BIT, TRUNCATED_BIT};
use super::server::Transport;
use std::net::SocketAddr;
use std::time::Duration;

/// Attempts, and how long one over UDP and one over TCP may take. Together less than the 5 s after which a resolver
/// library asks again.
const ATTEMPTS: usize = 3;
const UDP_WAIT: Duration = Duration::from_millis(1_400);
const TCP_WAIT: Duration = Duration::from_millis(2_000);
const WHOLE_WAIT: Duration = Duration::from_millis(4_500);

/// What to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Send [`Exchange::query`] there from a fresh socket, and wait at most until then.
    Ask {
        server: SocketAddr,
        over: Transport,
        until: Duration,
    },
    /// It is over: the answer, if there is one.
    Done(Option<Vec<u8>>),
}

/// What an answer was worth.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is no answer to this query: wait on.
    Ignored,
    /// Go on with [`Exchange::poll_step`].
    Taken,
}

/// See the module.
#[derive(Debug)]
pub struct Exchange {
    query: Vec<u8>,
    /// Bytes of the question behind the header.
    question: usize,
    servers: Vec<SocketAddr>,
    attempts: usize,
    /// Who has more to say over TCP.
    cut_off: Option<SocketAddr>,
    asked: Option<SocketAddr>,
    /// An answer that another resolver may better.
    poor: Option<Vec<u8>>,
    good: Option<Vec<u8>>,
    until: Duration,
}

impl Exchange {
    pub(super) fn new(
        query: Vec<u8>,
        question: usize,
        servers: &[SocketAddr],
        now: Duration,
    ) -> Self {
        Self {
            query,
            question,
            servers: servers.to_vec(),
            attempts: 0,
            cut_off: None,
            asked: None,
            poor: None,
            good: None,
            until: now + WHOLE_WAIT,
        }
    }

    /// What is next; `id` is for the next attempt and must be unpredictable.
    #[must_use]
    pub fn poll_step(&mut self, id: u16, now: Duration) -> Step {
        if let Some(good) = self.good.take() {
            return Step::Done(Some(good));
        }
        if now < self.until
            && let Some(bytes) = self.query.first_chunk_mut()
        {
            *bytes = id.to_be_bytes();
            if let Some(server) = self.cut_off.take() {
                return self.ask(server, Transport::Tcp, now + TCP_WAIT);
            }
            if self.attempts < ATTEMPTS && !self.servers.is_empty() {
                let server = self.servers[self.attempts % self.servers.len()];
                self.attempts += 1;
                return self.ask(server, Transport::Udp, now + UDP_WAIT);
            }
        }
        Step::Done(self.poor.take())
    }

    fn ask(&mut self, server: SocketAddr, over: Transport, until: Duration) -> Step {
        self.asked = Some(server);
        Step::Ask {
            server,
            over,
            until: until.min(self.until),
        }
    }

    /// The message to send.
    #[must_use]
    pub fn query(&self) -> &[u8] {
        &self.query
    }

    /// Something came from the resolver that was asked.
    pub fn handle_answer(&mut self, bytes: &[u8], over: Transport) -> Verdict {
        let query = &self.query;
        let Some((header, rest)) = bytes.split_at_checked(HEADER) else {
            return Verdict::Ignored;
        };
        // Response, of the standard kind, to this id.
        if header[..2] != query[..2] || header[2] & (RESPONSE_BIT | 0x78) != RESPONSE_BIT {
            return Verdict::Ignored;
        }
        let code = header[3] & 0x0f;
        if header[4..6] == [0, 0] && code != 0 {
            // An error without a question, as some servers send it: worth nothing but the next attempt.
            return Verdict::Taken;
        }
        let asked = &query[HEADER..HEADER + self.question];
        if header[4..6] != [0, 1] || !rest.get(..self.question).is_some_and(|it| same(it, asked)) {
            return Verdict::Ignored;
        }
        match code {
            _ if header[2] & TRUNCATED_BIT != 0 && over == Transport::Udp => {
                self.cut_off = self.asked;
            }
            // No error, or no such name.
            0 | 3 => self.good = Some(bytes.to_vec()),
            _ => self.poor = Some(bytes.to_vec()),
        }
        Verdict::Taken
    }
}

/// Two questions are the same: name without regard to case, type and class exactly. Lengths of labels are below 64 and
/// so no letters.
fn same(one: &[u8], other: &[u8]) -> bool {
    let (name, rest) = one.split_at(one.len().saturating_sub(4));
    let (other_name, other_rest) = other.split_at(other.len().saturating_sub(4));
    name.eq_ignore_ascii_case(other_name) && rest == other_rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);
    const ID: u16 = 0x1234;

    /// `www.example. A IN`
    const QUESTION: &[u8] = b"\x03www\x07example\x00\x00\x01\x00\x01";

    fn message(id: u16, flags: u16, question: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [id, flags, 1, 0, 0, 0] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(question);
        bytes
    }

    fn servers() -> [SocketAddr; 2] {
        ["192.0.2.1:53", "192.0.2.2:53"].map(|text| text.parse().unwrap())
    }

    fn asked() -> Exchange {
        let query = message(0, 0x0100, QUESTION);
        let mut exchange = Exchange::new(query, QUESTION.len(), &servers(), NOW);
        assert!(
            matches!(exchange.poll_step(ID, NOW), Step::Ask { server, over: Transport::Udp, .. } if server == servers()[0])
        );
        exchange
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let shouted = QUESTION.to_ascii_uppercase();
        let mut other_type = QUESTION.to_vec();
        other_type[QUESTION.len() - 3] = 28;
        for (wrong, bytes) in [
            ("a stranger's id", message(ID + 1, 0x8180, QUESTION)),
            ("a query", message(ID, 0x0100, QUESTION)),
            ("another kind of response", message(ID, 0xa880, QUESTION)),
            (
                "another name",
                message(ID, 0x8180, b"\x03wwx\x07example\x00\x00\x01\x00\x01"),
            ),
            ("another type", message(ID, 0x8180, &other_type)),
            ("half a question", message(ID, 0x8180, &QUESTION[..9])),
            (
                "half a header",
                message(ID, 0x8180, QUESTION)[..11].to_vec(),
            ),
        ] {
            assert_eq!(
                asked().handle_answer(&bytes, Transport::Udp),
                Verdict::Ignored,
                "{wrong}"
            );
        }
        let mut exchange = asked();
        let answer = message(ID, 0x8180, &shouted);
        assert_eq!(
            exchange.handle_answer(&answer, Transport::Udp),
            Verdict::Taken
        );
        assert_eq!(exchange.poll_step(1, NOW), Step::Done(Some(answer)));
    }

    #[test]
    fn what_was_cut_off_is_asked_again_over_tcp() {
        let mut exchange = asked();
        exchange.handle_answer(&message(ID, 0x8380, QUESTION), Transport::Udp);
        let step = exchange.poll_step(7, NOW);
        assert!(
            matches!(step, Step::Ask { server, over: Transport::Tcp, .. } if server == servers()[0])
        );
        assert_eq!(exchange.query()[..2], 7_u16.to_be_bytes(), "a new id");
    }

    #[test]
    fn three_attempts_then_the_best_there_was() {
        let mut exchange = asked();
        let refused = message(ID, 0x8185, QUESTION);
        assert_eq!(
            exchange.handle_answer(&refused, Transport::Udp),
            Verdict::Taken
        );
        let next = |exchange: &mut Exchange| match exchange.poll_step(1, NOW) {
            Step::Ask { server, .. } => Some(server),
            Step::Done(_) => None,
        };
        assert_eq!(next(&mut exchange), Some(servers()[1]));
        assert_eq!(next(&mut exchange), Some(servers()[0]));
        assert_eq!(exchange.poll_step(1, NOW), Step::Done(Some(refused)));
    }

    #[test]
    fn it_ends_in_time() {
        let mut exchange = asked();
        let Step::Ask { until, .. } = exchange.poll_step(1, NOW + Duration::from_secs(4)) else {
            panic!("time is left");
        };
        assert_eq!(until, NOW + WHOLE_WAIT);
        assert_eq!(exchange.poll_step(1, until), Step::Done(None));
        let nobody =
            Exchange::new(message(0, 0x0100, QUESTION), QUESTION.len(), &[], NOW).poll_step(1, NOW);
        assert_eq!(nobody, Step::Done(None));
    }
}
