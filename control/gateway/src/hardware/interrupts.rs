//! The interrupts of a NIC's queues: which there are, and on which cores they arrive.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One interrupt of a queue.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Interrupt {
    pub(super) number: u32,
    /// The queue it is for.
    pub(super) queue: usize,
}

/// Handlers that serve no queue: the device's mailbox, its state.
const NOT_QUEUES: [&str; 7] = [
    "config", "async", "control", "mgmnt", "misc", "adminq", "-ctrl",
];

/// The interrupts of the queues of `interface`, in the order of their numbers. A virtual interface has none.
pub(super) fn of(sys: &Path, proc: &Path, interface: &str) -> Vec<Interrupt> {
    let device = sys.join("class/net").join(interface).join("device");
    if !device.exists() {
        // Names of handlers are the machine's: another namespace's NIC may be called the same.
        return Vec::new();
    }
    let message_signalled: Vec<u32> = [device.join("msi_irqs"), device.join("../msi_irqs")]
        .iter()
        .flat_map(|directory| numbers(directory))
        .collect();
    let mut found: Vec<(u32, String)> = numbers(&proc.join("irq"))
        .into_iter()
        .filter_map(|number| {
            let handlers = fs::read_dir(proc.join("irq").join(number.to_string())).ok()?;
            let name = handlers
                .flatten()
                .find(|entry| entry.path().is_dir())?
                .file_name();
            let name = name.to_string_lossy().into_owned();
            let ours = message_signalled.contains(&number)
                || name == interface
                || name.starts_with(&format!("{interface}-"));
            let queue = !NOT_QUEUES.iter().any(|part| name.contains(part));
            (ours && queue).then_some((number, name))
        })
        .collect();
    found.sort();
    found
        .into_iter()
        .enumerate()
        .map(|(index, (number, name))| Interrupt {
            number,
            queue: queue_of(&name).unwrap_or(index),
        })
        .collect()
}

/// The number at the end of a handler's name: `eth0-TxRx-3`, `virtio0-input.1`, `mlx5_comp7@pci:0000:3b:00.0`.
fn queue_of(name: &str) -> Option<usize> {
    let name = name.split('@').next().unwrap_or(name);
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    // `eth0` is an interface, not its queue 0.
    let (stem, number) = name.split_at(name.len() - digits);
    (stem.ends_with(['-', '.']) || stem.ends_with("comp") || stem.ends_with("blk"))
        .then(|| number.parse().ok())
        .flatten()
}

/// Each interrupt with the cores it may arrive on, as `sluice status` shows it: `24:0 25:1-3`.
pub(super) fn text(proc: &Path, interrupts: &[Interrupt]) -> io::Result<String> {
    let mut parts = Vec::new();
    for interrupt in interrupts {
        let cores = fs::read_to_string(affinity(proc, interrupt.number))?;
        parts.push(format!("{}:{}", interrupt.number, cores.trim()));
    }
    Ok(parts.join(" "))
}

/// The text for queues that go to `cores` in turn.
pub(super) fn in_turn(interrupts: &[Interrupt], cores: &[usize]) -> String {
    let parts: Vec<String> = interrupts
        .iter()
        .filter_map(|interrupt| {
            let core = cores.get(interrupt.queue % cores.len().max(1))?;
            Some(format!("{}:{core}", interrupt.number))
        })
        .collect();
    parts.join(" ")
}

/// Carries out such a text.
pub(super) fn set(proc: &Path, text: &str) -> io::Result<()> {
    for part in text.split_whitespace() {
        let (number, cores) = part
            .split_once(':')
            .and_then(|(number, cores)| Some((number.parse().ok()?, cores)))
            .ok_or(io::ErrorKind::InvalidInput)?;
        fs::write(affinity(proc, number), cores)?;
    }
    Ok(())
}

fn affinity(proc: &Path, number: u32) -> PathBuf {
    proc.join("irq")
        .join(number.to_string())
        .join("smp_affinity_list")
}

fn numbers(directory: &Path) -> Vec<u32> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with these handlers; the first ones are message-signalled interrupts of `eth0`.
    fn machine(name: &str, handlers: &[(u32, &str)], signalled: usize) -> PathBuf {
        let root = std::env::temp_dir().join(format!("sluice-irq-{name}-{}", std::process::id()));
        let device = root.join("sys/class/net/eth0/device");
        fs::create_dir_all(device.join("msi_irqs")).unwrap();
        for (index, (number, handler)) in handlers.iter().enumerate() {
            let irq = root.join("proc/irq").join(number.to_string());
            fs::create_dir_all(irq.join(handler)).unwrap();
            fs::write(irq.join("smp_affinity_list"), "0-3\n").unwrap();
            if index < signalled {
                fs::write(device.join("msi_irqs").join(number.to_string()), "msix").unwrap();
            }
        }
        root
    }

    #[test]
    fn queues_go_to_cores_in_turn_and_other_interrupts_stay() {
        let root = machine(
            "virtio",
            &[
                (24, "virtio0-config"),
                (25, "virtio0-input.0"),
                (26, "virtio0-output.0"),
                (27, "virtio0-input.1"),
                (28, "virtio0-output.1"),
                (29, "ahci"),
            ],
            5,
        );
        let (sys, proc) = (root.join("sys"), root.join("proc"));
        let found = of(&sys, &proc, "eth0");
        // Both directions of a queue arrive on one core.
        let wanted = in_turn(&found, &[2, 3]);
        assert_eq!(wanted, "25:2 26:2 27:3 28:3");
        set(&proc, &wanted).unwrap();
        assert_eq!(text(&proc, &found).unwrap(), wanted);
        let other = fs::read_to_string(proc.join("irq/29/smp_affinity_list")).unwrap();
        assert_eq!(other, "0-3\n");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn handlers_named_after_the_interface_are_found_without_a_list() {
        let root = machine("board", &[(40, "eth0"), (41, "eth0"), (42, "eth01")], 0);
        let found = of(&root.join("sys"), &root.join("proc"), "eth0");
        assert_eq!(in_turn(&found, &[0, 1]), "40:0 41:1");
        // Another namespace's interface of that name has no device here.
        assert!(of(&root.join("nothing"), &root.join("proc"), "eth0").is_empty());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn queue_numbers_are_read_from_handler_names() {
        for (name, queue) in [
            ("eth0-TxRx-3", Some(3)),
            ("mlx5_comp7@pci:0000:3b:00.0", Some(7)),
            ("gve-ntfy-blk2@pci:0000:00:04.0", Some(2)),
            ("ens5-Tx-Rx-1", Some(1)),
            ("virtio0-input.12", Some(12)),
            ("eth0", None),
        ] {
            assert_eq!(queue_of(name), queue, "{name}");
        }
    }
}
