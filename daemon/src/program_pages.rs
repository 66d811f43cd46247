//! The pages of the program and its libraries that are mapped.
//!
//! A start goes through code that is not needed again soon: settings, migrations, the making of keys. The kernel keeps
//! mapped what was used once, and its neighbours (sixteen pages at a time), as long as it has memory to spare. It is most
//! of what the daemon seems to need.
#![allow(unsafe_code)]

use std::ops::Range;

use rustix::mm::{Advice, madvise};

/// Unmaps them; those that are used come back from the page cache, without a read. What it leaves is only more memory,
/// so that failures are of no interest.
pub(crate) fn release() {
    let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for Range { start, end } in unchanged(&smaps) {
        let start = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: the mapping is private, not writable, of a file, and holds no page that differs from the file. For
        // such a mapping MADV_DONTNEED changes no byte: the next access brings the file's page back (madvise(2)).
        // Nothing in this process makes such a mapping writable, or unmaps it, after the start: libraries are not
        // loaded or unloaded, and the dynamic linker has made its changes, which show as anonymous pages.
        let _ = unsafe { madvise(start, end - start.addr(), Advice::LinuxDontNeed) };
    }
}

/// The mappings of files that nobody can write through, and whose pages are all the file's (proc_pid_smaps(5)).
fn unchanged(smaps: &str) -> impl Iterator<Item = Range<usize>> {
    let mut mapping = None;
    smaps.lines().filter_map(move |line| {
        let mut words = line.split_ascii_whitespace();
        match words.next()? {
            "Anonymous:" if words.next() == Some("0") => mapping.take(),
            "Anonymous:" => {
                mapping = None;
                None
            }
            first => {
                // Every other line that describes the mapping has a word with a colon in front.
                if let Some(range) = addresses(first) {
                    let file = words.next().is_some_and(|access| access.starts_with("r-") && access.ends_with('p'))
                        // Offset, device, inode, path.
                        && words.nth(2).is_some_and(|inode| inode != "0")
                        && words.next().is_some_and(|path| path.starts_with('/'));
                    mapping = file.then_some(range);
                }
                None
            }
        }
    })
}

fn addresses(word: &str) -> Option<Range<usize>> {
    let (start, end) = word.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(line: &str, anonymous: u32) -> String {
        format!("{line}\nSize: 8 kB\nRss: 8 kB\nAnonymous: {anonymous} kB\nVmFlags: rd ex mr\n")
    }

    #[test]
    fn only_unchanged_pages_of_files_are_taken() {
        let smaps = [
            mapping("1000-3000 r-xp 00001000 fe:00 77      /usr/bin/jwtunneld", 0),
            mapping("3000-5000 r--p 00003000 fe:00 77      /usr/bin/jwtunneld", 4),
            mapping("5000-6000 rw-p 00005000 fe:00 77      /usr/bin/jwtunneld", 0),
            mapping("6000-7000 rw-p 00000000 00:00 0       [heap]", 0),
            mapping("7000-8000 r--s 00000000 fe:00 78      /var/lib/jwtunnel/db-shm", 0),
            mapping("8000-9000 r-xp 00000000 00:00 0       [vdso]", 0),
            mapping("a000-b000 r--p 00000000 fe:00 79      /a folder/lib.so (deleted)", 0),
            mapping("b000-c000 ---p 00000000 00:00 0", 0),
        ];
        let taken: Vec<_> = unchanged(&smaps.concat()).collect();
        assert_eq!(taken, [0x1000..0x3000, 0xa000..0xb000]);
        assert_eq!(unchanged("1000-3000 r-xp\nnothing\n\nAnonymous:\n").count(), 0);
    }

    #[test]
    fn the_program_goes_on_with_fewer_pages() {
        let pages = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
            line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let before = pages();
        release();
        let after = pages();
        assert!(after < before, "{before} kB, then {after} kB");
    }
}
