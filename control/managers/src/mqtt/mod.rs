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
/// Requests that may wait for the connection; above it, publishing fails and the protocol asks again later.
const QUEUE_MAX: usize = 1024;

/// Where the broker is, and as whom to speak.
#[derive(Clone, Debug)]
pub struct MqttConfig {
    /// The worker id; also the client id (it must not collide with the node engine's `<id>-ne`).
    pub node_id: String,
    pub host: String,
    pub port: u16,
    /// Password for a broker that asks for one; the user is the node id.
    pub token: Option<String>,
    /// A connection on which the broker's machine acknowledges nothing for about so long is given up.
    pub silence: Duration,
}

/// What happened.
#[derive(Debug)]
pub enum MqttEvent {
    /// A fresh session: nothing is subscribed.
    Connected,
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
                    match Session::open(stream, &self.config).await {
                        Ok(session) => {
                            said.clear();
                            let end = self.serve(session).await;
                            self.keeper.handle_down(self.clock.now());
                            end
                        }
                        Err(end) => {
                            self.keeper.handle_refused(self.clock.now());
                            end
                        }
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

    /// Serves an open connection to its end.
    async fn serve(&mut self, mut session: Session) -> End {
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
