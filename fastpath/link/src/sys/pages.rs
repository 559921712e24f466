//! How large the pages behind a mapping are, by the kernel's word.

use std::io;

/// Bytes of a page at `address` of this process (`/proc/self/smaps`).
///
/// # Errors
/// When /proc is not there, or nothing is mapped at the address.
pub fn page_bytes(address: usize) -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps")?;
    page_bytes_in(&text, address).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("/proc/self/smaps has no mapping at {address:#x}"),
        )
    })
}

fn page_bytes_in(smaps: &str, address: usize) -> Option<u64> {
    let is_here = |line: &str| {
        let range = line.split_ascii_whitespace().next()?;
        let (begin, end) = range.split_once('-')?;
        let begin = usize::from_str_radix(begin, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        Some((begin..end).contains(&address))
    };
    let mut lines = smaps.lines();
    lines.find(|line| is_here(line) == Some(true))?;
    let size = lines.find_map(|line| line.strip_prefix("KernelPageSize:"))?;
    let kib: u64 = size.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_size_of_the_mapping_around_an_address_is_read() {
        let smaps = "\
7f0000000000-7f0000200000 rw-p 00000000 00:0f 1  /anon_hugepage (deleted)
Size:               2048 kB
KernelPageSize:     2048 kB
MMUPageSize:        2048 kB
7f0000200000-7f0000201000 rw-p 00000000 00:00 0
Size:                  4 kB
KernelPageSize:        4 kB
";
        assert_eq!(page_bytes_in(smaps, 0x7f00_0010_0000), Some(2 << 20));
        assert_eq!(page_bytes_in(smaps, 0x7f00_0020_0000), Some(4096));
        assert_eq!(page_bytes_in(smaps, 0x7f00_0020_1000), None);
        let here = Box::new(0_u8);
        assert!(page_bytes(std::ptr::from_ref(&*here).addr()).unwrap() >= 4096);
    }
}
