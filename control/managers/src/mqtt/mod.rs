//! The MQTT client: one connection to a broker that is made again within half a second of the way's healing, as a stream of
//! events.
//!
//! Why not the client of `rumqttc`, whose packets these are: it counts in whole seconds, makes one attempt to connect at a
//! time, and does not show its socket, so that a connection that a cut has silenced for a minute stays silent for as long
//! again after it, by TCP's back-off. Here the kernel gives up what is not acknowledged ([`MqttConfig::silence`]), and
//! [`Keeper`] says when to ask the broker for a word and when to try again.

mod reach;
mod session;
pub(crate) mod wire;

use crate::access::Token;
use crate::clock::Clock;
use reach::Reach;
use session::{End, KEEP_ALIVE_S, Session};
use sluice_proto::connection::{Keeper, Settings, Step};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Delays between attempts to connect: doubled from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(400);
/// The last, after the broker refused us: it is there, but somebody has to do something.
const REFUSED_MAX: Duration = Duration::from_secs(2);
/// A connection that ends sooner is taken for a refusal.
const LASTING: Duration = Duration::from_secs(1);
/// A broker that was reached has at first this long for its answer to CONNECT, since the way may be cut again; each time
/// that it has none it gets twice as long, because it may have a thousand to let in.
const PATIENCE_FIRST: Duration = Duration::from_millis(500);
const PATIENCE_MAX: Duration = Duration::from_secs(8);
/// Requests that may wait for the connection; above it, publishing fails and the protocol asks again later. A change that a
/// thousand nodes are told fits.
const QUEUE_MAX: usize = 4096;

/// Where the broker is, and as whom to speak.
#[derive(Clone, Debug)]
pub struct MqttConfig {
    /// A gateway's is its worker id (it must not collide with the node engine's `<id>-ne`).
    pub client_id: String,
    /// User and password, for a broker that asks for them; a gateway's user is its worker id.
    pub login: Option<(String, Token)>,
    pub host: String,
    pub port: u16,
    /// A connection on which the broker's machine acknowledges nothing for about so long is given up.
    pub silence: Duration,
}

/// What happened.
#[derive(Debug)]
pub enum MqttEvent {
    /// A fresh session: nothing is subscribed.
    Connected,
    /// The session's first subscription stands, or was refused.
    Subscribed,
    /// The connection failed or ended; it is being retried.
    Disconnected(String),
    Message {
        topic: String,
        payload: Vec<u8>,
    },
}

/// What the broker is asked for. Everything is QoS 1, not retained.
#[derive(Debug)]
enum Request {
    Publish { topic: String, payload: Vec<u8> },
    Subscribe(String),
    Unsubscribe(String),
}

/// The connection. Dropping it ends it.
#[derive(Debug)]
pub struct Mqtt {
    requests: mpsc::Sender<Request>,
    task: JoinHandle<()>,
}

impl Mqtt {
    /// Starts connecting; what happens arrives on `events`. Inside a tokio runtime.
    #[must_use]
    pub fn start(config: MqttConfig, events: mpsc::Sender<MqttEvent>) -> Self {
        let settings = Settings {
            pause_first: PAUSE_FIRST,
            pause_max: PAUSE_MAX,
            refused_max: REFUSED_MAX,
            lasting: LASTING,
            ask_after: config.silence / 2,
            // As the broker does it with us (MQTT 3.1.1 section 3.1.2.10).
            silence_max: Duration::from_millis(u64::from(KEEP_ALIVE_S) * 1500),
        };
        let clock = Clock::start();
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        let client = Client {
            // The standard library's keys come from the operating system.
            keeper: Keeper::new(settings, RandomState::new().hash_one(0), clock.now()),
            reach: Reach::new(&config.host, config.port),
            patience: PATIENCE_FIRST,
            clock,
            config,
            requests: queue,
            events,
        };
        Self {
            requests,
            task: tokio::spawn(client.run()),
        }
    }

    /// Queues a message; false when the queue is full, which the protocol above treats like a lost message. What is queued
    /// without a connection is lost, too.
    pub fn publish(&self, topic: &str, payload: Vec<u8>) -> bool {
        self.ask(Request::Publish {
            topic: topic.to_owned(),
            payload,
        })
    }

    /// Queues a subscription; false when the queue is full.
    pub fn subscribe(&self, filter: &str) -> bool {
        self.ask(Request::Subscribe(filter.to_owned()))
    }

    /// Queues the end of a subscription; false when the queue is full.
    pub fn unsubscribe(&self, filter: &str) -> bool {
        self.ask(Request::Unsubscribe(filter.to_owned()))
    }

    /// Whether the queue takes another request.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.requests.capacity() > 0
    }

    fn ask(&self, request: Request) -> bool {
        self.requests.try_send(request).is_ok()
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Client {
    config: MqttConfig,
    clock: Clock,
    keeper: Keeper,
    reach: Reach,
    /// How long the broker has for its answer to CONNECT.
    patience: Duration,
    requests: mpsc::Receiver<Request>,
    events: mpsc::Sender<MqttEvent>,
}

impl Client {
    /// Until nobody takes the events any more.
    async fn run(mut self) {
        let mut said = String::new();
        loop {
            let outcome = tokio::select! {
                outcome = self.reach.reached() => outcome,
                () = self.clock.reaches(Some(self.keeper.poll_timeout())) => {
                    self.keeper.handle_timeout(self.clock.now());
                    if self.keeper.poll_step() == Some(Step::Connect) {
                        self.reach.begin();
                    }
                    continue;
                }
            };
            let why = match outcome {
                // The next attempt has its time already.
                Err(error) => End::Io(error),
                Ok(stream) => {
                    self.reach.stop();
                    match Session::open(stream, &self.config, self.patience).await {
                        Ok(session) => {
                            said.clear();
                            let end = self.serve(session).await;
                            self.keeper.handle_down(self.clock.now());
                            end
                        }
                        Err(end) => self.not_let_in(end),
                    }
                }
            };
            if matches!(why, End::Unheard) {
                return;
            }
            let why = why.to_string();
            if why == said {
                continue;
            }
            said.clone_from(&why);
            if self
                .events
                .send(MqttEvent::Disconnected(why))
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// The broker was reached, but no session came of it.
    fn not_let_in(&mut self, end: End) -> End {
        if end.is_refusal() {
            self.keeper.handle_refused(self.clock.now());
        } else {
            self.keeper.handle_down(self.clock.now());
        }
        if matches!(end, End::NoAnswer(_)) {
            self.patience = (self.patience * 2).min(PATIENCE_MAX);
        }
        end
    }

    /// Serves an open connection to its end.
    async fn serve(&mut self, mut session: Session) -> End {
        self.patience = PATIENCE_FIRST;
        // What was queued before belongs to a session that is gone; the protocol asks again.
        while self.requests.try_recv().is_ok() {}
        self.keeper.handle_up(self.clock.now());
        if self.events.send(MqttEvent::Connected).await.is_err() {
            return End::Unheard;
        }
        let time = (&mut self.keeper, self.clock);
        let Err(end) = session.talk(time, &mut self.requests, &self.events).await;
        end
    }
}

#[cfg(test)]
mod tests;
