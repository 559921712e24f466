//! Texts in, the resolved configuration or the whole error message out.

use super::*;

/// Every wrong file says where, which key, which value and what was expected.
#[test]
fn errors_name_line_key_value_and_the_way_out() {
    for (text, expected) in [
        (
            "[gateway]\n\nnod_id = \"\"\n",
            "f.toml:3: `gateway.nod_id` is not a known key; did you mean `gateway.node_id`?",
        ),
        (
            "[gatway]\n",
            "f.toml:1: `gatway` is not a known key; did you mean `gateway`?",
        ),
        (
            "[gateway]\nworkers = 2\n",
            "f.toml:2: `gateway.workers` is not a known key; did you mean `fastpath.workers`?",
        ),
        (
            "[gateway]\nunicorns = 2\n",
            "f.toml:2: `gateway.unicorns` is not a known key; `sluice.example.toml` lists all keys",
        ),
        (
            "cluster = { broker = { mod = \"external\" } }",
            "f.toml:1: `cluster.broker.mod` is not a known key; did you mean `cluster.broker.mode`?",
        ),
        (
            "[fastpath]\nworkers = \"two\"\n",
            "f.toml:2: `fastpath.workers` = \"two\": expected a whole number",
        ),
        (
            "[fastpath]\nudp_gso = 1\n",
            "f.toml:2: `fastpath.udp_gso` = 1: expected true or false",
        ),
        (
            "[fastpath]\ncores = 1\n",
            "f.toml:2: `fastpath.cores` = 1: expected a list in brackets",
        ),
        (
            "[root]\nlisten = 1\n",
            "f.toml:2: `root.listen` = 1: expected a text in quotes",
        ),
        (
            "[fastpath]\n# comment\nworkers = 0\n",
            "f.toml:3: `fastpath.workers` = 0: expected a number from 1 to 64",
        ),
        (
            "[root]\nsubnet_rest_s = 139\n",
            "f.toml:2: `root.subnet_rest_s` = 139: expected a number from 140 to 31536000: for up to 140 s a gateway may go by the route to the former owner",
        ),
        (
            "[gateway]\nkey_file = \"node.key\"\n",
            "f.toml:2: `gateway.key_file` = \"node.key\": expected an absolute path",
        ),
        (
            "[gateway]\ncluster_key = \"short\"\n",
            "f.toml:2: `gateway.cluster_key` = \"short\": expected 44 characters, base64 of 32 bytes, as `sluice status` of the cluster manager shows its `signing_key`, or \"\" to ask the cluster manager",
        ),
        (
            "[gateway]\nbroker_silence_ms = 100\n",
            "f.toml:2: `gateway.broker_silence_ms` = 100: expected a number from 200 to 30000",
        ),
        (
            "[gateway]\nmoved_sent_on_s = 121\n",
            "f.toml:2: `gateway.moved_sent_on_s` = 121: expected a number from 0 to 120",
        ),
        (
            "[gateway]\nns_ip_rest_s = 0\n",
            "f.toml:2: `gateway.ns_ip_rest_s` = 0: expected a number from 140 to 31536000: for up to 140 s a gateway may go by the route to the former owner",
        ),
        (
            "[tunnel]\nplain_peers = [\"192.0.2.1/24\"]\n",
            "f.toml:2: `tunnel.plain_peers` = \"192.0.2.1/24\": expected a list of network prefixes: 192.0.2.1/24 has host bits set; the network is 192.0.2.0/24",
        ),
        (
            "[tunnel]\nencrypt = false\nplain_peers = [\"192.0.2.0/24\"]\n",
            "f.toml:3: `tunnel.plain_peers` = [\"192.0.2.0/24\"]: expected [] while `tunnel.encrypt` is false: then all nodes are spoken to in plain",
        ),
        (
            "[tunnel]\ndscp = 64\n",
            "f.toml:2: `tunnel.dscp` = 64: expected a number from 0 to 63",
        ),
        (
            "[tunnel]\ndscp = 46\ncopy_dscp = true\n",
            "f.toml:2: `tunnel.dscp` = 46: expected 0 while `tunnel.copy_dscp` is true: then it is that of the packet inside",
        ),
        (
            "[fastpath]\nworkers = 2\ncores = [1]\n",
            "f.toml:3: `fastpath.cores` = [1]: expected one core for each of the 2 workers (`fastpath.workers`), or []",
        ),
        (
            "[hardware.set]\nrx_rings = 512\n",
            "f.toml:2: `hardware.set.rx_rings` is not a known key; did you mean `hardware.set.rx_ring`?",
        ),
        (
            "[hardware.set]\nrx_ring = 5\n",
            "f.toml:2: `hardware.set.rx_ring` = 5: expected a number from 16 to 32768",
        ),
        (
            "[hardware]\nkeep = [\"rx\"]\n",
            "f.toml:2: `hardware.keep` = \"rx\": expected names of settings, as in [hardware.set]; \
             `sluice.example.toml` lists them",
        ),
        (
            "[hardware]\nprofile = \"\"\n",
            "f.toml:2: `hardware.profile` = \"\": expected \"auto\", \"none\", or a name that `sluice profile list` shows",
        ),
        (
            "[plan]\npreset = \"oak\"\n",
            "f.toml:2: `plan.preset` = \"oak\": expected \"oakestra\", \"thesis\" or \"large\"",
        ),
        (
            "[plan]\nsemantic_v4 = \"10.0.0.0/8\"\n",
            "f.toml:2: `plan.semantic_v4` = \"10.0.0.0/8\": expected ranges that go together: \
             semantic range 10.0.0.0/8 overlaps node range 10.16.0.0/12",
        ),
        (
            "[plan]\nnodes_v4 = \"10.18.0.1/16\"\n",
            "f.toml:2: `plan.nodes_v4` = \"10.18.0.1/16\": expected an IPv4 prefix like \"10.30.0.0/16\", \"none\", \
             or \"\" for the preset's: 10.18.0.1/16 has host bits set; the network is 10.18.0.0/16",
        ),
        (
            "[plan]\nnodes_v6 = \"none\"\n",
            "f.toml:2: `plan.nodes_v6` = \"none\": expected both the semantic and the node range of v6, or \"none\" for both",
        ),
        (
            "[gateway]\nnode_id = \"12\"\n",
            "f.toml:2: `gateway.node_id` = \"12\": expected 24 hexadecimal digits, or \"\" to derive it from /etc/machine-id",
        ),
        (
            "[gateway]\nnode_address = \"0.0.0.0\"\n",
            "f.toml:2: `gateway.node_address` = \"0.0.0.0\": expected an IPv4 or IPv6 address of one host, or \"\" for the \
             source address of the default route",
        ),
        (
            "[gateway]\ntun = \"sluice0\"\n",
            "f.toml:2: `gateway.tun` = \"sluice0\": expected another name than `gateway.uplink` has",
        ),
        (
            "[fastpath]\nservice = \"lan0\"\n",
            "f.toml:2: `fastpath.service` = \"lan0\": expected \"bridge\", or `fastpath.link` = \"af_xdp\" beside the name of \
             a device",
        ),
        (
            "[log]\nlevel = \"loud\"\n",
            "f.toml:2: `log.level` = \"loud\": expected \"error\", \"warn\", \"info\", \"debug\", \"trace\", or pairs like \
             \"info,sluice_link=debug\"",
        ),
    ] {
        let error = Config::parse(text, "f.toml").unwrap_err();
        let shown = error.to_string();
        assert!(
            shown == expected,
            "\n{text}\nshows:    {shown}\nexpected: {expected}"
        );
    }
}

#[test]
fn broken_syntax_names_its_line() {
    let error = Config::parse("[root]\nlisten = \n", "f.toml").unwrap_err();
    assert!(error.to_string().starts_with("f.toml:2: "), "{error}");
}

#[test]
fn a_listener_that_others_reach_asks_for_a_token() {
    for section in ["root", "cluster", "cluster.broker"] {
        let open = format!("[{section}]\nlisten = \"0.0.0.0:1234\"\n");
        let error = Config::parse(&open, "f.toml").unwrap_err().to_string();
        assert!(error.contains("/dev/urandom"), "{error}");
        assert!(error.contains(&format!("{section}.token_file")), "{error}");
        let guarded = format!("{open}token_file = \"/etc/sluice/token\"\n");
        Config::parse(&guarded, "f.toml").unwrap();
    }
    let own = "[cluster.broker]\nlisten = \"0.0.0.0:1234\"\nnode_credentials = true\n";
    Config::parse(own, "f.toml").unwrap();
    let trusted = "[root]\nlisten = \"10.0.0.1:1\"\nallow_without_token = [\"10.0.0.0/8\"]\n";
    Config::parse(trusted, "f.toml").unwrap();
}

#[test]
fn a_free_plan_replaces_ranges_of_the_preset() {
    let config = Config::parse(
        "[plan]\npreset = \"large\"\nnodes_v4 = \"192.168.0.0/16\"\nnode_length_v4 = 24\nsemantic_v6 = \"none\"\nnodes_v6 = \"none\"\n",
        "f.toml",
    )
    .unwrap();
    assert_eq!(config.plan.semantic.v4.unwrap().to_string(), "10.0.0.0/9");
    assert_eq!(config.plan.nodes.v4.unwrap().to_string(), "192.168.0.0/16");
    assert_eq!(config.plan.node_length_v4, 24);
    assert_eq!(config.plan.semantic.v6, None);
}

#[test]
fn the_exposed_port_follows_the_bound_one_unless_set() {
    let ports = |text: &str| {
        let config = Config::parse(text, "f.toml").unwrap();
        (config.fastpath.tunnel_port, config.gateway.exposed_port)
    };
    assert_eq!(ports(""), (50103, 50103));
    assert_eq!(ports("[fastpath]\ntunnel_port = 6000\n"), (6000, 6000));
    assert_eq!(ports("[gateway]\nexposed_port = 6001\n"), (50103, 6001));
}

/// The example file documents every key once, commented out, with its default.
#[test]
fn the_example_file_is_complete_and_equals_the_defaults() {
    let example = include_str!("../../../../sluice.example.toml");
    let mut uncommented = String::new();
    for line in example.lines() {
        let key_line = line.strip_prefix("#").filter(|rest| {
            rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = ")
        });
        uncommented.push_str(key_line.unwrap_or(line));
        uncommented.push('\n');
    }
    let raw = parse_raw(&uncommented, "sluice.example.toml").unwrap();
    assert_eq!(raw, RawConfig::default());
    let written: toml::Table = toml::from_str(&uncommented).unwrap();
    let mut names = Vec::new();
    place::flatten(&written, "", &mut names);
    for key in keys() {
        assert!(
            names.contains(&key),
            "sluice.example.toml does not mention `{key}`"
        );
    }
    Config::parse(example, "sluice.example.toml").unwrap();
}

/// Settings have no default, so that the example shows them as text.
#[test]
fn the_example_file_names_every_hardware_setting() {
    let example = include_str!("../../../../sluice.example.toml");
    let section = example.split("\n[hardware.set]\n").nth(1).unwrap();
    for key in Key::ALL {
        assert!(
            section.contains(&format!("# {key} = ")),
            "sluice.example.toml does not mention `hardware.set.{key}`"
        );
    }
    // What it shows is valid.
    let shown: String = section
        .lines()
        .filter_map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")))
        .flat_map(|line| [line, "\n"])
        .collect();
    let config = Config::parse(&format!("[hardware.set]\n{shown}"), "f").unwrap();
    let set = config.hardware.set.entries().count();
    assert_eq!(set, Key::ALL.len());
}

#[test]
fn the_resolved_configuration_shows_every_key() {
    let shown: Vec<String> = rows(&Config::default())
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    for key in keys() {
        // The preset shows as its ranges; an embedded broker has no address.
        if ![
            "plan.preset",
            "cluster.broker.address",
            "cluster.broker.user",
        ]
        .contains(&key.as_str())
        {
            assert!(shown.contains(&key), "`{key}` is not shown");
        }
    }
}

#[test]
fn a_machine_has_a_stable_node_id_that_does_not_show_its_machine_id() {
    let id = node_id_of_machine("0123456789abcdef0123456789abcdef\n");
    assert_eq!(id.len(), 24);
    assert_eq!(id, node_id_of_machine("0123456789abcdef0123456789abcdef"));
    assert_ne!(id, node_id_of_machine("1123456789abcdef0123456789abcdef"));
    assert!(!"0123456789abcdef0123456789abcdef".contains(&id[..8]));
}

/// No text makes the parser panic.
#[test]
fn any_text_is_a_configuration_or_an_error() {
    bolero::check!().with_type::<String>().for_each(|text| {
        let _ = Config::parse(text, "f.toml");
    });
    for text in [
        "[",
        "a",
        "[plan",
        "a.b.c = {",
        "\u{0}",
        "[[plan]]",
        "plan = 1",
        "x = [[]]",
        "[log]\nlevel = ''",
    ] {
        assert!(Config::parse(text, "f.toml").is_err(), "{text}");
    }
}
