//! Rules about the kernel.

use crate::config::LinkKind;
use crate::doctor::facts::Facts;
use crate::doctor::finding::{Change, Verdict};

pub(super) fn version(facts: &Facts) -> Vec<Verdict> {
    let release = &facts.kernel.release;
    let Some(version) = facts.kernel.version() else {
        return vec![
            Verdict::note("/proc/sys/kernel/osrelease", release)
                .costs("nobody knows what this kernel can do")
                .fix("compare with the versions in the README"),
        ];
    };
    vec![if version < (5, 4) {
        Verdict::error("kernel", release)
            .costs("no UDP receive offload and no bridge port isolation as the gateway uses it")
            .fix("boot a kernel of 5.15 or newer")
    } else if version < (5, 18) && facts.config.fastpath.link != LinkKind::Tun {
        Verdict::new(facts.without_af_xdp(), "kernel", release)
            .costs("AF_XDP needs 5.18: without it, workers have TUN only")
            .fix("boot a kernel of 5.18 or newer, or set fastpath.link = \"tun\"")
    } else if version < (6, 2) {
        Verdict::note("kernel", release)
            .costs("UDP super-frames are cut before the TUN device (USO comes with 6.2)")
            .fix("boot a kernel of 6.2 or newer")
    } else {
        Verdict::ok("kernel", release)
    }]
}

/// An option, whether the gateway stops without it (or only AF_XDP and offloads do), and what it is for.
const OPTIONS: [(&str, bool, &str); 11] = [
    ("CONFIG_TUN", true, "the service-side device"),
    ("CONFIG_VETH", true, "the cable of every instance"),
    ("CONFIG_BRIDGE", true, "joins the instances"),
    ("CONFIG_NF_TABLES", true, "guards the instances' ports"),
    ("CONFIG_NFT_CT", true, "connections out of the site"),
    ("CONFIG_NFT_MASQ", true, "connections out of the site"),
    ("CONFIG_NFT_NAT", true, "published ports"),
    ("CONFIG_BPF_SYSCALL", false, "XDP and the offload of flows"),
    ("CONFIG_XDP_SOCKETS", false, "AF_XDP links"),
    (
        "CONFIG_NET_CLS_BPF",
        false,
        "the offload of flows on the service side",
    ),
    (
        "CONFIG_NET_SCH_INGRESS",
        false,
        "the offload of flows on the service side",
    ),
];

pub(super) fn options(facts: &Facts) -> Vec<Verdict> {
    let Some(options) = &facts.kernel.options else {
        return vec![
            Verdict::note("/proc/config.gz, /boot/config-*", "not there")
                .costs("what this kernel lacks shows only when it is used")
                .fix("modprobe configs, or compare the build with the README"),
        ];
    };
    let lacking = |(option, needed, purpose): &(&str, bool, &str)| {
        if matches!(options.get(*option).map(String::as_str), Some("y" | "m")) {
            return None;
        }
        let verdict = if *needed {
            Verdict::error(*option, "is not set")
                .costs(format!("the gateway does not work: {purpose}"))
        } else {
            Verdict::new(facts.without_af_xdp(), *option, "is not set")
                .costs(format!("TUN only, without {purpose}"))
        };
        Some(verdict.fix(format!("boot a kernel built with {option}=y or m")))
    };
    let found: Vec<Verdict> = OPTIONS.iter().filter_map(lacking).collect();
    if found.is_empty() {
        vec![Verdict::ok(
            "kernel options",
            format!("all {} are there", OPTIONS.len()),
        )]
    } else {
        found
    }
}

pub(super) fn tun_device(facts: &Facts) -> Vec<Verdict> {
    if facts.config.fastpath.link == LinkKind::AfXdp {
        return Vec::new();
    }
    vec![match &facts.kernel.tun_refused {
        None => Verdict::ok("/dev/net/tun", "can be opened"),
        Some(why) => Verdict::error("/dev/net/tun", why)
            .costs("the gateway cannot make its service-side device and does not start")
            .fix(
                "modprobe tun; in a container: --device /dev/net/tun; in a unit: \
                 DeviceAllow=/dev/net/tun rw",
            ),
    }]
}

pub(super) fn bpf_jit(facts: &Facts) -> Vec<Verdict> {
    const KEY: &str = "net/core/bpf_jit_enable";
    match facts.settings.number(KEY) {
        // Namespaces other than the first do not show it.
        None => Vec::new(),
        Some(0) => vec![
            Verdict::warning(KEY, "0")
                .costs("XDP and tc programs are interpreted: several times the CPU per packet")
                .fix_by(Change::setting(KEY, "1")),
        ],
        Some(value) => vec![Verdict::ok(KEY, value.to_string())],
    }
}

pub(super) fn bpf_file_system(facts: &Facts) -> Vec<Verdict> {
    vec![if facts.kernel.bpf_file_system {
        Verdict::ok("/sys/fs/bpf", "mounted")
    } else {
        Verdict::note("/sys/fs/bpf", "not mounted")
            .costs(
                "BPF maps and programs end with the process: offloaded flows pause \
                 while it restarts",
            )
            .fix("mount -t bpf bpf /sys/fs/bpf")
    }]
}
