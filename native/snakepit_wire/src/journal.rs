//! The start journal: memory in which a server notes the calls that it has started. The client creates it when it
//! starts the server, so it outlives the server.

use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, open},
    io::pread,
};
use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

/// A page of 64-bit numbers, one for each thread that runs commands. Threads beyond these share the last one.
pub const JOURNAL_BYTES: usize = 4096;

/// A file without a name, whose size cannot be changed.
pub struct StartJournal(OwnedFd);

impl StartJournal {
    #[cfg(target_os = "linux")]
    pub fn create() -> io::Result<Self> {
        use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("snakepit-start-journal", flags)?;
        ftruncate(&file, JOURNAL_BYTES as u64)?;
        fcntl_add_seals(&file, sealed())?;
        Ok(Self(file))
    }

    /// Other systems have no path to a file without a name.
    #[cfg(not(target_os = "linux"))]
    pub fn create() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The path by which another process of the same user opens it while this process has it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Opens the journal at a path from another process. In another namespace that path may be any file: only a
    /// file that `create` has made is accepted.
    pub fn open(path: &str) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let journal = Self(open(path, flags, Mode::empty())?);
        if journal.is_genuine()? {
            Ok(journal)
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    #[cfg(target_os = "linux")]
    fn is_genuine(&self) -> io::Result<bool> {
        use rustix::fs::{FileType, fstat};
        let found = fstat(&self.0)?;
        let seals = rustix::fs::fcntl_get_seals(&self.0)?;
        Ok(
            FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
                && usize::try_from(found.st_size) == Ok(JOURNAL_BYTES)
                && seals.contains(sealed()),
        )
    }

    #[cfg(not(target_os = "linux"))]
    fn is_genuine(&self) -> io::Result<bool> {
        Ok(false)
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// The largest number in it. If it cannot be read, every call may have started.
    pub fn last_started(&self) -> u64 {
        let mut bytes = [0; JOURNAL_BYTES];
        if pread(&self.0, &mut bytes[..], 0) != Ok(JOURNAL_BYTES) {
            return u64::MAX;
        }
        let numbers = bytes.as_chunks().0.iter();
        numbers
            .map(|bytes| u64::from_le_bytes(*bytes))
            .max()
            .unwrap_or(0)
    }
}

#[cfg(target_os = "linux")]
fn sealed() -> rustix::fs::SealFlags {
    use rustix::fs::SealFlags;
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::{fs::ftruncate, io::pwrite};

    #[test]
    fn a_number_that_one_process_notes_is_read_by_another() {
        let journal = StartJournal::create().unwrap();
        assert_eq!(journal.last_started(), 0);
        let opened = StartJournal::open(&journal.path()).unwrap();
        for (place, number) in [(0, 7_u64), (1, 9), (511, 8)] {
            pwrite(&opened.0, &number.to_le_bytes(), place * 8).unwrap();
        }
        assert_eq!(journal.last_started(), 9);
    }

    #[test]
    fn its_size_cannot_be_changed() {
        let journal = StartJournal::create().unwrap();
        let opened = StartJournal::open(&journal.path()).unwrap();
        for size in [0, 1, 1 << 40] {
            assert!(ftruncate(&opened.0, size).is_err());
        }
        assert_eq!(journal.last_started(), 0);
    }

    #[test]
    fn any_other_file_at_its_path_is_refused() {
        let file = std::env::temp_dir().join(format!("snakepit-journal-{}", std::process::id()));
        std::fs::write(&file, [0; JOURNAL_BYTES]).unwrap();
        for path in [
            file.to_str().unwrap(),
            "/dev/zero",
            "/tmp",
            "/proc/self/fd/999",
            "",
        ] {
            assert!(StartJournal::open(path).is_err(), "{path}");
        }
        std::fs::remove_file(file).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        for end in [reader.as_raw_fd(), writer.as_raw_fd()] {
            let path = format!("/proc/self/fd/{end}");
            assert!(StartJournal::open(&path).is_err());
        }
    }
}
