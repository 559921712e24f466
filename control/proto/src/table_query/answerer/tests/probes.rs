//! Whether a node's gateway answers probes goes where its placement goes.

use super::leave::say;
use super::*;

/// It is shown to other nodes, told to the root, and kept. Of a legacy gateway nothing is said, not even `false`.
#[test]
fn what_a_gateway_says_of_its_probes_is_passed_on_and_kept() {
    let legacy = r#"{"appname":"a.b.c.d","status":"DEPLOYED","instance_number":0,"nsip":"10.18.0.2","nsipv6":"<nil>","host_port":"50103","host_ip":"192.0.2.5"}"#;
    let ours = legacy.replace('}', r#","answers_probes":true}"#);
    for (deployed, answers) in [(legacy, false), (&ours, true)] {
        let mut answerer = knowing(vec![entry(0, "c1", false)]);
        say(&mut answerer, "n2", "service/deployed", deployed, s(1));
        let sent = drained(&mut answerer);
        let texts = sent.iter().map(|sent| match sent {
            Transmit::Root(report) => report.body.as_deref().unwrap_or_default(),
            Transmit::Publish { payload, .. } => payload,
        });
        let of_it: Vec<String> = texts
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .filter(|text| text.contains("10.18.0.2"))
            .collect();
        assert_eq!(of_it.len(), 2, "the answer to n1, and the report: {sent:?}");
        for text in of_it {
            assert_eq!(text.contains(r#""answers_probes":true"#), answers, "{text}");
            assert!(!text.contains("false,"), "{text}");
        }
        let again = restarted(&mut answerer, s(2));
        let view = again.view(&name(), &node("n1")).unwrap();
        assert_eq!(view.instance_list[0].answers_probes, answers);
    }
}
