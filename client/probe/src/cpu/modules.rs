//! The code that is loaded, with what its files say about how to get from a frame to its caller.

use framehop::{ExplicitModuleSectionInfo, Module};
use object::read::ReadCache;
use object::{Object, ObjectSection, ObjectSegment, ReadRef};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// The page of code that the kernel lends every process; it is in no file.
const VDSO: &str = "[vdso]";

/// Where a file is mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mapped {
    range: Range<u64>,
    /// Where its first byte is.
    beginning: Option<u64>,
    has_code: bool,
}

/// What can be walked through. A file that cannot be read is left out: stacks end there.
pub(super) fn loaded() -> io::Result<Vec<Module<Vec<u8>>>> {
    let own = fs::read_link("/proc/self/exe").unwrap_or_default();
    let modules = mapped(&fs::read_to_string("/proc/self/maps")?).into_iter().filter(|(_, mapped)| mapped.has_code);
    let open = |(path, mapped): (String, Mapped)| {
        if path == VDSO {
            let mut bytes = vec![0; (mapped.range.end - mapped.range.start) as usize];
            File::open("/proc/self/mem").and_then(|memory| memory.read_exact_at(&mut bytes, mapped.range.start)).ok()?;
            return module(path, &mapped, bytes.as_slice());
        }
        // It may have been replaced since it was started.
        let file = if own.as_os_str() == path.as_str() { File::open("/proc/self/exe") } else { File::open(&path) };
        module(path, &mapped, &ReadCache::new(file.ok()?))
    };
    Ok(modules.filter_map(open).collect())
}

/// The files of `/proc/self/maps`.
fn mapped(maps: &str) -> BTreeMap<String, Mapped> {
    let mut files: BTreeMap<String, Mapped> = BTreeMap::new();
    for line in maps.lines() {
        // Range, rights, offset, device, inode, and the path, which may have blanks in it.
        let words: Vec<&str> = line.splitn(6, ' ').collect();
        let [range, rights, offset, _, _, path] = words[..] else { continue };
        let path = path.trim_start();
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let Some((Some(start), Some(end))) = range.split_once('-').map(|(start, end)| (hex(start), hex(end))) else { continue };
        if path != VDSO && !path.starts_with('/') {
            continue;
        }
        let file = files.entry(path.to_owned()).or_insert_with(|| Mapped { range: start..end, ..Mapped::default() });
        file.range = file.range.start.min(start)..file.range.end.max(end);
        file.has_code |= rights.contains('x');
        if hex(offset) == Some(0) && file.beginning.is_none() {
            file.beginning = Some(start);
        }
    }
    files
}

fn module<'a>(path: String, mapped: &Mapped, bytes: impl ReadRef<'a>) -> Option<Module<Vec<u8>>> {
    let file = object::File::parse(bytes).ok()?;
    let first = file.segments().find(|segment| segment.file_range().0 == 0)?;
    // What an address in the file has to be moved by.
    let bias = mapped.beginning?.wrapping_sub(first.address());
    let range = |name: &str| file.section_by_name(name).map(|section| section.address()..section.address() + section.size());
    let data = |name: &str| file.section_by_name(name).and_then(|section| Some(section.data().ok()?.to_vec()));
    let sections = ExplicitModuleSectionInfo {
        text_svma: range(".text"),
        got_svma: range(".got"),
        eh_frame_svma: range(".eh_frame"),
        eh_frame: data(".eh_frame"),
        eh_frame_hdr_svma: range(".eh_frame_hdr"),
        eh_frame_hdr: data(".eh_frame_hdr"),
        ..ExplicitModuleSectionInfo::default()
    };
    Some(Module::new(path, mapped.range.clone(), bias, sections))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_with_code_are_found() {
        let maps = "\
55d0c0000000-55d0c0010000 r--p 00000000 fe:00 12 /opt/a b/perilune
55d0c0010000-55d0c0050000 r-xp 00010000 fe:00 12 /opt/a b/perilune
55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000100000 rw-s 00000000 00:17 9 /dev/shm/segment
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0 [vdso]
";
        let found = mapped(maps);
        let whole = Mapped { range: 0x55d0_c000_0000..0x55d0_c005_0000, beginning: Some(0x55d0_c000_0000), has_code: true };
        assert_eq!(found["/opt/a b/perilune"], whole);
        assert!(found[VDSO].has_code && !found["/dev/shm/segment"].has_code);
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn this_process_has_modules() {
        assert!(loaded().unwrap().len() >= 2, "itself and the C library");
    }
}
