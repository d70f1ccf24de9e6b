//! Memory that can be lent: mappings of shared objects, and the buffers the devices may touch.

mod sys;
mod table;

pub use sys::copy;
pub(crate) use sys::{Mapping, transfer};
pub use table::Region;
pub(crate) use table::Table;

use crate::fault::{Failure, MemoryError};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::ftruncate;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// Pages are at least this large, and every offset into an object is a multiple of it.
pub(crate) const PAGE: u64 = 4096;
/// The user half of the address space.
const SIZE_MAX: u64 = 1 << 47;
/// The longest file name.
const NAME_MAX: usize = 255;

/// Which bytes a [`Memory`] shows: the same identity means the same object of the same boot, whoever mapped it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MemoryIdentity {
    /// The boot of the host; shared memory does not outlive it.
    pub host: String,
    /// The device number of the file system the object lives in.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
    /// The first byte shown, from the start of the object.
    pub offset: u64,
}

impl fmt::Display for MemoryIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.host, self.device, self.inode, self.offset)
    }
}

/// The boot id of this host: two processes that see the same one can share memory, if they can reach the same files.
pub fn host_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        text.trim().to_owned()
    })
}

/// A stretch of memory that can be lent: a mapping of a named `/dev/shm` object or of an unnamed one.
///
/// Unmapped when the last `Arc` drops. A named object stays until [`Memory::unlink`].
#[derive(Debug)]
pub struct Memory {
    mapping: Mapping,
    file: OwnedFd,
    offset: u64,
    /// The object cannot shrink.
    sealed: bool,
    identity: MemoryIdentity,
}

impl Memory {
    /// Makes `/dev/shm/<name>` of `size` bytes, zeroed, readable and writable by this user only. All of it is taken from `/dev/shm` at once,
    /// as who touches a byte that there is no room for is killed (SIGBUS).
    ///
    /// # Errors
    /// When the name is not one plain file name, the object exists, `/dev/shm` has no room for it, or the system refuses.
    pub fn create(name: &str, size: u64) -> Result<Arc<Self>, MemoryError> {
        let path = path_of(name)?;
        check_size(size)?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = open(path.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| open_error(name, size, e))?;
        let made = grow(&file, name, size).and_then(|()| reserve(&file, name, size)).and_then(|()| Self::map(file, name, 0, size));
        if made.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        made
    }

    /// Maps `size` bytes from `offset` of the existing object `/dev/shm/<name>`. Its contents are kept, and so are its holes: that there is
    /// room in `/dev/shm` for all of it is the duty of whoever made it (`fallocate`).
    ///
    /// # Errors
    /// When the name is not one plain file name, the object is missing, unreadable, or shorter than `offset + size`,
    /// the offset is not page-aligned, or the system refuses.
    pub fn open(name: &str, offset: u64, size: u64) -> Result<Arc<Self>, MemoryError> {
        let path = path_of(name)?;
        check_size(size)?;
        if !offset.is_multiple_of(PAGE) {
            return Err(MemoryError::BadOffset { offset, page: PAGE });
        }
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = open(path.as_str(), flags, Mode::empty()).map_err(|e| open_error(name, size, e))?;
        Self::map(file, name, offset, size)
    }

    /// Makes unnamed memory of `size` bytes, zeroed, that can still be shared by its descriptor and cannot shrink.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn anonymous(size: u64) -> Result<Arc<Self>, MemoryError> {
        check_size(size)?;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create("perilune", flags).map_err(|e| system("create", "", size, e))?;
        grow(&file, "", size)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(|e| system("seal", "", size, e))?;
        Self::map(file, "", 0, size)
    }

    /// Removes the name `/dev/shm/<name>`. Mappings of the object stay valid.
    ///
    /// # Errors
    /// When the name is not one plain file name, or there is no such object.
    pub fn unlink(name: &str) -> Result<(), MemoryError> {
        let path = path_of(name)?;
        nix::unistd::unlink(path.as_str()).map_err(|e| open_error(name, 0, e))
    }

    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "memory is never empty")]
    pub fn len(&self) -> u64 {
        self.mapping.len()
    }

    /// The address of the first byte in this process.
    pub fn base(&self) -> u64 {
        self.mapping.base()
    }

    /// Which bytes these are.
    pub fn identity(&self) -> &MemoryIdentity {
        &self.identity
    }

    /// Copies bytes from `offset` on into `into`, as they are at that moment; for checks and dumps.
    ///
    /// Returns false, and copies nothing, when the range leaves the memory.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> bool {
        self.mapping.read_at(offset, into)
    }

    /// Copies `from` to `offset`; as [`Memory::read_at`].
    pub fn write_at(&self, offset: u64, from: &[u8]) -> bool {
        self.mapping.write_at(offset, from)
    }

    /// Moves the bytes of `work`, whose extents were checked against this memory, until its deadline.
    pub(crate) fn transfer(&self, work: &crate::transport::Work) -> Result<(), Failure> {
        transfer(work, &self.mapping, || work.in_time())
    }

    /// Copies local bytes to `offset` here for a write, and from there for a read. Nothing, when the range leaves the memory.
    #[cfg(feature = "rdma")]
    pub(crate) fn stage(&self, offset: u64, op: crate::request::Op, local: crate::request::Held<'_>) {
        sys::stage(op, local, &self.mapping, offset);
    }

    /// Whether every byte still exists. A named object may be cut short by anybody who may write it; then its bytes must not be touched.
    pub fn intact(&self) -> bool {
        is_intact(self.file(), self.sealed, self.offset + self.len())
    }

    /// The descriptor of the object, to hand to a process that may map it.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where this memory starts in the object.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    fn map(file: OwnedFd, name: &str, offset: u64, size: u64) -> Result<Arc<Self>, MemoryError> {
        let stat = fstat(&file).map_err(|e| system("look at", name, size, e))?;
        let length = object_length(&stat).ok_or_else(|| MemoryError::NotAnObject(name.to_owned()))?;
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(MemoryError::TooShort { name: name.to_owned(), length, offset, size });
        }
        let mapping = Mapping::new(file.as_fd(), offset, size).map_err(|e| system("map", name, size, e))?;
        let identity = MemoryIdentity { host: host_id().to_owned(), device: stat.st_dev, inode: stat.st_ino, offset };
        let sealed = is_sealed(file.as_fd());
        Ok(Arc::new(Self { mapping, file, offset, sealed, identity }))
    }
}

/// The length of a plain file; anything else cannot be lent.
pub(crate) fn object_length(stat: &FileStat) -> Option<u64> {
    (stat.st_mode & libc::S_IFMT == libc::S_IFREG).then(|| u64::try_from(stat.st_size).unwrap_or(0))
}

/// Whether an object can never become shorter.
pub(crate) fn is_sealed(file: BorrowedFd<'_>) -> bool {
    let seals = fcntl(file, FcntlArg::F_GET_SEALS).unwrap_or(0);
    SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK)
}

/// Whether an object still has its first `end` bytes. One system call, none when it is sealed.
pub(crate) fn is_intact(file: BorrowedFd<'_>, sealed: bool, end: u64) -> bool {
    sealed || fstat(file).ok().and_then(|stat| object_length(&stat)).is_some_and(|length| length >= end)
}

fn check_size(size: u64) -> Result<(), MemoryError> {
    if size == 0 || size > SIZE_MAX { Err(MemoryError::BadSize(size)) } else { Ok(()) }
}

fn grow(file: &OwnedFd, name: &str, size: u64) -> Result<(), MemoryError> {
    let length = i64::try_from(size).map_err(|_| MemoryError::BadSize(size))?;
    ftruncate(file, length).map_err(|e| system("reserve", name, size, e))
}

/// Takes the room of a named object; one that is only as long as it should be gets its pages when they are first touched, if there are any left.
/// Unnamed memory needs none of this: no file system limits it.
fn reserve(file: &OwnedFd, name: &str, size: u64) -> Result<(), MemoryError> {
    let length = i64::try_from(size).map_err(|_| MemoryError::BadSize(size))?;
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, length) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(Errno::ENOSPC) => {
                let free = fstatvfs(file).map_or(0, |stat| stat.blocks_available() * stat.fragment_size());
                let hint = format!("/dev/shm has {free} bytes free: ask for less, remove objects there, or enlarge it");
                let cause = std::io::Error::new(std::io::ErrorKind::StorageFull, hint);
                return Err(MemoryError::System { what: "reserve", name: name.to_owned(), size, cause });
            }
            Err(e) => return Err(system("reserve", name, size, e)),
        }
    }
}

fn system(what: &'static str, name: &str, size: u64, cause: Errno) -> MemoryError {
    MemoryError::System { what, name: name.to_owned(), size, cause: cause.into() }
}

fn open_error(name: &str, size: u64, cause: Errno) -> MemoryError {
    match cause {
        Errno::ENOENT => MemoryError::Missing(name.to_owned()),
        Errno::EEXIST => MemoryError::Exists(name.to_owned()),
        Errno::EACCES | Errno::EPERM => MemoryError::Unreadable(name.to_owned()),
        Errno::EISDIR | Errno::ELOOP | Errno::ENXIO => MemoryError::NotAnObject(name.to_owned()),
        other => system("open", name, size, other),
    }
}

fn path_of(name: &str) -> Result<String, MemoryError> {
    let why = match name {
        "" => "it is empty",
        "." | ".." => "it must be one plain file name",
        _ if name.contains('/') => "it must not contain `/`",
        _ if name.contains('\0') => "it must not contain a zero byte",
        _ if name.len() > NAME_MAX => "it is longer than 255 bytes",
        _ => return Ok(format!("/dev/shm/{name}")),
    };
    Err(MemoryError::BadName { name: name.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(tag: &str) -> String {
        format!("perilune-test-{}-{tag}", std::process::id())
    }

    #[test]
    fn a_named_object_is_found_again_with_its_contents() {
        let name = name("again");
        let first = Memory::create(&name, 3 * PAGE).unwrap();
        assert!(first.write_at(PAGE + 7, b"kept"));
        let identity = first.identity().clone();
        assert!(matches!(Memory::create(&name, PAGE), Err(MemoryError::Exists(_))));
        drop(first);
        let again = Memory::open(&name, 0, 3 * PAGE).unwrap();
        assert_eq!(*again.identity(), identity);
        let tail = Memory::open(&name, PAGE, 2 * PAGE).unwrap();
        assert_ne!(*tail.identity(), identity);
        let mut bytes = [0; 4];
        assert!(tail.read_at(7, &mut bytes));
        assert_eq!(&bytes, b"kept");
        assert!(!tail.read_at(2 * PAGE - 3, &mut bytes));
        Memory::unlink(&name).unwrap();
        assert!(matches!(Memory::unlink(&name), Err(MemoryError::Missing(_))));
        assert!(matches!(Memory::open(&name, 0, PAGE), Err(MemoryError::Missing(_))));
        assert!(again.read_at(PAGE + 7, &mut bytes), "an unlinked object stays readable where it is mapped");
    }

    #[test]
    fn what_cannot_be_mapped_is_said() {
        let name = name("bad");
        let _object = Memory::create(&name, PAGE).unwrap();
        assert!(matches!(Memory::open(&name, 0, PAGE + 1), Err(MemoryError::TooShort { length: PAGE, .. })));
        assert!(matches!(Memory::open(&name, PAGE, 1), Err(MemoryError::TooShort { .. })));
        assert!(matches!(Memory::open(&name, 1, 1), Err(MemoryError::BadOffset { offset: 1, .. })));
        assert!(matches!(Memory::open(&name, 0, 0), Err(MemoryError::BadSize(0))));
        assert!(matches!(Memory::open(&name, !(PAGE - 1), u64::MAX), Err(MemoryError::BadSize(_))));
        assert!(matches!(Memory::open(&name, !(PAGE - 1), PAGE), Err(MemoryError::TooShort { .. })));
        Memory::unlink(&name).unwrap();
        for bad in ["", ".", "..", "../etc", "a/b", "/abs", "nul\0", &"x".repeat(256)] {
            assert!(matches!(Memory::open(bad, 0, 1), Err(MemoryError::BadName { .. })), "{bad:?}");
            assert!(matches!(Memory::create(bad, 1), Err(MemoryError::BadName { .. })), "{bad:?}");
            assert!(matches!(Memory::unlink(bad), Err(MemoryError::BadName { .. })), "{bad:?}");
        }
        std::fs::create_dir_all(format!("/dev/shm/{name}")).unwrap();
        assert!(matches!(Memory::open(&name, 0, 1), Err(MemoryError::NotAnObject(_))));
        std::fs::remove_dir(format!("/dev/shm/{name}")).unwrap();
    }

    #[test]
    fn what_dev_shm_has_no_room_for_is_refused_and_what_it_has_is_taken() {
        let total = nix::sys::statvfs::statvfs("/dev/shm").map(|stat| stat.blocks() * stat.fragment_size()).unwrap();
        let name = name("room");
        let _one = Memory::create(&name, 8 * PAGE).unwrap();
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(format!("/dev/shm/{name}")).unwrap());
        Memory::unlink(&name).unwrap();
        assert_eq!(blocks * 512, 8 * PAGE);
        let error = Memory::create(&name, total + PAGE).unwrap_err();
        assert!(matches!(&error, MemoryError::System { cause, .. } if cause.kind() == std::io::ErrorKind::StorageFull), "{error:?}");
        assert!(error.to_string().contains("bytes free"), "{error}");
        assert!(matches!(Memory::open(&name, 0, PAGE), Err(MemoryError::Missing(_))), "nothing of it stays");
    }

    #[test]
    fn unnamed_memory_cannot_shrink() {
        let memory = Memory::anonymous(PAGE).unwrap();
        assert_eq!(ftruncate(memory.file(), 0), Err(Errno::EPERM));
        assert_ne!(memory.identity(), Memory::anonymous(PAGE).unwrap().identity());
    }
}
