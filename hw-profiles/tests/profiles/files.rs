//! What a profile's file may say.

use sluice_hw_profiles::{
    Catalog, IrqAffinity, Key, Power2, Profile, Queues, RssHash, RssTable, Settings, Within,
};
use std::fs;

const GOOD: &str = r#"name = "x"
title = "X"
verified = "docs"
source = ["https://docs.kernel.org/networking/af_xdp.html"]
[match]
drivers = ["x"]
[link]
recommended = "af_xdp"
xdp = "native"
zero_copy = "yes"
[limits]
queues_max = 4
ring_max = 1024
[set]
rx_ring = 512
"#;

#[test]
fn every_shipped_profile_parses_and_renders_to_itself() {
    let mut files: Vec<_> = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/profiles"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let shipped = Catalog::shipped();
    for path in &files {
        let text = fs::read_to_string(path).unwrap();
        let profile = Profile::parse(&text, &path.display().to_string())
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(path.file_stem().unwrap(), profile.name.as_str());
        assert_eq!(
            Profile::parse(&profile.render(), "rendered").unwrap(),
            profile
        );
        assert_eq!(
            shipped.named(profile.name.as_str()),
            Some(&profile),
            "in the binary"
        );
        assert!(profile.source.len() >= 2, "{path:?}");
    }
    assert_eq!(shipped.profiles().count(), files.len());
}

/// Every wrong file says which file, line, key and value, and what was expected.
#[test]
fn errors_name_file_key_value_and_the_way_out() {
    let change = |from: &str, to: &str| {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from} is there");
        text
    };
    for (text, expected) in [
        (
            change("rx_ring = 512", "rx_ring = 5"),
            "x.toml:15: `rx_ring = 5`: expected a number from 16 to 32768",
        ),
        (
            change("rx_ring = 512", "rx_ring = -1"),
            "x.toml:15: `rx_ring = -1`: expected a number from 16 to 32768",
        ),
        (
            change("rx_ring = 512", "rx_ring = \"many\""),
            "x.toml:15: `rx_ring = \"many\"`: invalid type: string \"many\", expected a number from 16 to 32768",
        ),
        (
            change("rx_ring = 512", "xsk_ring = 1000"),
            "x.toml:15: `xsk_ring = 1000`: expected a power of two from 64 to 32768",
        ),
        (
            change("rx_ring = 512", "queues = \"all\""),
            "x.toml:15: `queues = \"all\"`: invalid value: string \"all\", expected \"workers\" or a number from 1 to 256",
        ),
        (
            change("rx_ring = 512", "queues = 300"),
            "x.toml:15: `queues = 300`: invalid value: integer `300`, expected \"workers\" or a number from 1 to 256",
        ),
        (
            change("rx_ring = 512", "irq_affinity = \"left\""),
            "x.toml:15: `irq_affinity = \"left\"`: unknown variant `left`, expected `workers` or `spread`",
        ),
        (
            change("rx_ring = 512", "gro = 1"),
            "x.toml:15: `gro = 1`: invalid type: integer `1`, expected a boolean",
        ),
        (
            change("rx_ring = 512", "rx_ring = 2048"),
            "x.toml: `rx_ring` = 2048: set.rx_ring is above `limits.ring_max` = 1024",
        ),
        (
            change("rx_ring = 512", "queues = 8"),
            "x.toml: `queues` = 8: set.queues is above `limits.queues_max` = 4",
        ),
        (
            change(
                "drivers = [\"x\"]",
                "pci = [\n  \"8086:1592\",\n  \"8086\",\n]",
            ),
            "x.toml:6: `pci = [`: `8086`: expected a PCI vendor and device like \"8086:1592\" or \"8086:*\"",
        ),
        (
            change("drivers = [\"x\"]", "pci = [\n  \"8086:1592\",\n  5,\n]"),
            "x.toml:8: `pci = [`: invalid type: integer `5`, expected a string",
        ),
        (
            change("drivers = [\"x\"]", ""),
            "x.toml: `match` = {}: expected `drivers`, `pci`, `models`, `machines` or `memory_mib_max`; only the \
             profile \"generic\" is for every machine",
        ),
        (
            change("drivers = [\"x\"]", "drivers = [\"\"]"),
            "x.toml: `match.drivers` = [\"\"]: expected names that are not empty",
        ),
        (
            change("name = \"x\"", "name = \"Intel X\""),
            "x.toml:1: `name = \"Intel X\"`: expected 1 to 32 lower-case letters, digits or `-`",
        ),
        (
            change("title = \"X\"", "title = \" \""),
            "x.toml: `title` = \" \": expected the family's name in words",
        ),
        (
            change("https:", "ftp:"),
            "x.toml: `source` = \"ftp://docs.kernel.org/networking/af_xdp.html\": expected URLs that begin with \
             https://, or \"measured\"",
        ),
        (
            change("\"docs\"", "\"lab\""),
            "x.toml: `verified` = \"lab\": needs \"measured\" in `source`, or `verified` = \"docs\"",
        ),
        (
            change(
                "\"https://docs.kernel.org/networking/af_xdp.html\"",
                "\"measured\"",
            ),
            "x.toml: `verified` = \"docs\": needs the URL of the documentation in `source`",
        ),
        (
            change("\"native\"", "\"generic\""),
            "x.toml: `link.zero_copy` = \"yes\": needs `link.xdp` = \"native\": only a driver can give its memory away",
        ),
    ] {
        let error = Profile::parse(&text, "x.toml").unwrap_err().to_string();
        assert_eq!(error, expected);
    }
    for (text, part) in [
        (
            change("rx_ring", "rx_rings"),
            "unknown field `rx_rings`, expected one of `queues`, `rx_ring`",
        ),
        (
            change("[set]", "[sets]"),
            "unknown field `sets`, expected one of `name`",
        ),
        (change("title = \"X\"\n", ""), "missing field `title`"),
        (change("[link]", "[link"), "x.toml:7: `[link`"),
        (String::new(), "missing field `name`"),
    ] {
        let error = Profile::parse(&text, "x.toml").unwrap_err().to_string();
        assert!(
            error.contains(part) && error.starts_with("x.toml:"),
            "{error}"
        );
    }
}

/// No text makes the parser panic.
#[test]
fn any_text_is_a_profile_or_an_error() {
    bolero::check!().with_type::<String>().for_each(|text| {
        let _ = Profile::parse(text, "f");
    });
}

/// Rendering loses nothing, whatever the values are.
#[test]
fn what_is_rendered_is_parsed_to_the_same() {
    let base = Profile::parse(GOOD, "x.toml").unwrap();
    bolero::check!()
        .with_type::<(Vec<u32>, String, String)>()
        .for_each(|(numbers, note, title)| {
            let mut profile = base.clone();
            profile.limits = sluice_hw_profiles::Limits::default();
            profile.notes = vec![note.clone()];
            if !title.trim().is_empty() {
                profile.title.clone_from(title);
            }
            let mut numbers = numbers.iter().copied();
            profile.set = settings(&mut numbers);
            profile.set_af_xdp = settings(&mut numbers);
            profile.undo_at_stop = numbers.next().is_some_and(|number| number % 2 == 1);
            let text = profile.render();
            assert_eq!(Profile::parse(&text, "f").as_ref(), Ok(&profile), "{text}");
        });
}

/// Any settings: each number decides whether a value is set, and which.
fn settings(numbers: &mut impl Iterator<Item = u32>) -> Settings {
    let mut next = || {
        numbers
            .next()
            .filter(|number| number % 3 != 0)
            .map(|number| number / 3)
    };
    let switch = |number: u32| number.is_multiple_of(2);
    Settings {
        queues: next().map(|it| Within::new(it).map_or(Queues::Workers, Queues::Count)),
        rx_ring: next().and_then(Within::new),
        tx_ring: next().and_then(|it| Within::new(16 + it % 32000)),
        adaptive_rx: next().map(switch),
        rx_usecs: next().and_then(|it| Within::new(it % 10001)),
        gro: next().map(switch),
        rss_hash: next().map(|it| {
            if switch(it) {
                RssHash::Addresses
            } else {
                RssHash::AddressesAndPorts
            }
        }),
        rss_table: next().map(|_| RssTable::Equal),
        gro_flush_timeout_ns: next().and_then(Within::new),
        irq_affinity: next().map(|it| {
            if switch(it) {
                IrqAffinity::Workers
            } else {
                IrqAffinity::Spread
            }
        }),
        xsk_ring: next().and_then(|it| Power2::new(1 << (it % 20))),
        xsk_batch: next().and_then(|it| Within::new(it % 70)),
        prefer_busy_poll: next().map(switch),
        ..Settings::default()
    }
}

#[test]
fn the_operators_directory_adds_and_replaces() {
    let dir = std::env::temp_dir().join(format!("sluice-profiles-{}", std::process::id()));
    assert!(Catalog::with_directory(&dir).is_ok(), "none is no error");
    fs::create_dir_all(&dir).unwrap();
    let own = GOOD.replace("name = \"x\"", "name = \"veth\"");
    fs::write(dir.join("veth.toml"), &own).unwrap();
    fs::write(dir.join("x.toml"), GOOD).unwrap();
    fs::write(dir.join("README"), "not a profile").unwrap();
    let catalog = Catalog::with_directory(&dir).unwrap();
    assert_eq!(catalog.named("veth").unwrap().title, "X");
    assert_eq!(catalog.file("veth"), Some(dir.join("veth.toml").as_path()));
    assert_eq!(
        catalog.named("x").unwrap().set.text(Key::RxRing).as_deref(),
        Some("512")
    );
    assert_eq!(catalog.file("generic"), None);
    fs::write(dir.join("y.toml"), GOOD).unwrap();
    let error = Catalog::with_directory(&dir).unwrap_err().to_string();
    assert!(
        error.ends_with("y.toml: profile `x` must be in a file named x.toml"),
        "{error}"
    );
    fs::write(dir.join("y.toml"), "name = 1").unwrap();
    let error = Catalog::with_directory(&dir).unwrap_err().to_string();
    assert!(
        error.contains("y.toml:1: `name = 1`: invalid type"),
        "{error}"
    );
    fs::remove_dir_all(&dir).unwrap();
}
