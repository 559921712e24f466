//! Topic names and filters of MQTT 3.1.1 (section 4.7), and which of them a client may use.

/// The longest name or filter we accept; ours are below 200 bytes.
const LENGTH_MAX: usize = 1024;

/// Whether `topic` can be published to.
#[must_use]
pub fn is_name(topic: &str) -> bool {
    is_text(topic) && !topic.contains(['+', '#'])
}

/// Whether `filter` can be subscribed to: `+` fills a whole level, `#` the whole last one.
#[must_use]
pub fn is_filter(filter: &str) -> bool {
    if !is_text(filter) {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let valid = match level {
            "+" => true,
            "#" => levels.peek().is_none(),
            plain => !plain.contains(['+', '#']),
        };
        if !valid {
            return false;
        }
    }
    true
}

fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= LENGTH_MAX && !text.contains('\0')
}

/// Whether a valid `filter` has a `+` or `#`.
#[must_use]
pub fn has_wildcard(filter: &str) -> bool {
    filter.contains(['+', '#'])
}

/// Whether a valid `filter` takes a valid `topic`. A leading wildcard does not take names that begin with `$`.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == "+" || wanted == level => {}
            Some(_) | None => return false,
        }
    }
    levels.next().is_none()
}

/// What a client may do once it is let in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Grant {
    /// Managers and operators.
    All,
    /// A node speaks for itself only.
    Node(String),
}

impl Grant {
    /// A client id that looks like a node's (24 hexadecimal digits, also with Oakestra's `-ne` for its node engine)
    /// is held to that node's topics; any other belongs to a manager or a person.
    #[must_use]
    pub fn of_client(client_id: &str) -> Self {
        let node = client_id.strip_suffix("-ne").unwrap_or(client_id);
        if node.len() == 24 && node.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Self::Node(node.to_owned())
        } else {
            Self::All
        }
    }

    /// Whether a client with this grant may log in as `user`, which may be left out.
    #[must_use]
    pub fn admits_user(&self, user: Option<&str>) -> bool {
        match (self, user) {
            (Self::Node(node), Some(user)) => user.is_empty() || user == node,
            (Self::Node(_), None) | (Self::All, _) => true,
        }
    }

    #[must_use]
    pub fn may_publish(&self, topic: &str) -> bool {
        match self {
            Self::All => !topic.starts_with('$'),
            Self::Node(node) => own_topic(node, topic),
        }
    }

    #[must_use]
    pub fn may_subscribe(&self, filter: &str) -> bool {
        match self {
            Self::All => true,
            Self::Node(node) => own_topic(node, filter) || news_of_one_job(filter),
        }
    }
}

/// Who knows a job's name may hear when it changes; which jobs there are is not for every node to hear.
fn news_of_one_job(filter: &str) -> bool {
    filter
        .strip_prefix("jobs/")
        .and_then(|rest| rest.strip_suffix("/updates_available"))
        .is_some_and(|job| !job.is_empty() && !job.contains('/') && !has_wildcard(job))
}

fn own_topic(node: &str, topic: &str) -> bool {
    topic
        .strip_prefix("nodes/")
        .and_then(|rest| rest.strip_prefix(node))
        .is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_take_what_the_standard_says() {
        for (filter, topic, taken) in [
            ("a/b", "a/b", true),
            ("a/b", "a", false),
            ("a", "a/b", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/b/c", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("#", "a/b", true),
            ("+/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            (
                "nodes/+/net/#",
                "nodes/0123456789abcdef01234567/net/subnet",
                true,
            ),
            ("é/+", "é/b", true),
        ] {
            assert_eq!(matches(filter, topic), taken, "{filter} {topic}");
        }
    }

    #[test]
    fn names_and_filters_are_checked() {
        for filter in ["a", "a/+/b", "#", "+", "a/#", "/", "é"] {
            assert!(is_filter(filter), "{filter}");
        }
        for filter in ["", "a#", "#/a", "a+/b", "a\0b"] {
            assert!(!is_filter(filter), "{filter}");
        }
        assert!(is_name("a/b"));
        assert!(!is_name("a/+"));
        assert!(!is_name(""));
        assert!(!is_name(&"x".repeat(LENGTH_MAX + 1)));
    }

    #[test]
    fn a_node_speaks_only_for_itself() {
        let id = "0123456789abcdef01234567";
        for client in [id.to_owned(), format!("{id}-ne")] {
            let grant = Grant::of_client(&client);
            assert_eq!(grant, Grant::Node(id.to_owned()));
            assert!(grant.may_publish(&format!("nodes/{id}/net/subnet")));
            assert!(!grant.may_publish("nodes/0123456789abcdef0123456/net/subnet"));
            assert!(!grant.may_publish(&format!("nodes/{id}0/net/subnet")));
            assert!(!grant.may_publish("jobs/a.b.c.d/updates_available"));
            assert!(grant.may_subscribe("jobs/a.b.c.d/updates_available"));
            assert!(grant.may_subscribe(&format!("nodes/{id}/net/#")));
            assert!(!grant.may_subscribe("nodes/+/net/#"));
            assert!(!grant.may_subscribe("#"));
            for filter in [
                "jobs/#",
                "jobs/+/updates_available",
                "jobs//updates_available",
                "jobs/a.b.c.d/#",
                "jobs/a.b.c.d/e/updates_available",
                "jobs/updates_available",
            ] {
                assert!(!grant.may_subscribe(filter), "{filter}");
            }
        }
        assert_eq!(Grant::of_client("cluster-manager"), Grant::All);
        assert!(!Grant::All.may_publish("$SYS/x"));
    }
}
