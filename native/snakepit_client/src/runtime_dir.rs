//! The directory for the Unix sockets of a pool's workers. While it is in use it is locked and has a bound socket,
//! `owner`. A directory without these was left by a BEAM that was killed, and `sweep` removes it. Nothing here
//! follows a symbolic link or enters a subdirectory.

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{
        AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, mkdir,
        openat, rmdir, statat, unlinkat,
    },
    io::{Errno, retry_on_intr},
    path::Arg,
    process::geteuid,
};
use std::{
    ffi::{CStr, CString, OsStr},
    io::{self, ErrorKind},
    os::unix::{ffi::OsStrExt, net::UnixDatagram},
    path::{Path, PathBuf},
};

const PREFIX: &[u8] = b"snakepit-";
const OWNER: &str = "owner";
/// A directory with more entries is not a pool's.
const MAX_ENTRIES: usize = 10_000;

pub struct RuntimeDir {
    path: PathBuf,
    /// Holds the lock.
    dir: OwnedFd,
    /// A datagram socket is reachable as soon as it is bound: it has no `listen`, and no backlog that fills.
    _owner: UnixDatagram,
    identity: Stat,
    owner_identity: Stat,
}

impl RuntimeDir {
    pub fn create(path: &Path) -> io::Result<Self> {
        // A umask only takes permissions away.
        mkdir(path, Mode::RWXU)?;
        Self::own(path).inspect_err(|_| {
            let _ = rmdir(path);
        })
    }

    fn own(path: &Path) -> io::Result<Self> {
        let dir = open(path)?;
        // Before `owner` exists, because a directory without it is not swept. systemd-tmpfiles skips locked
        // directories. On a file system without locks `sweep` gets none either.
        let _ = retry_on_intr(|| flock(&dir, FlockOperation::LockExclusive));
        let owner = UnixDatagram::bind(path.join(OWNER))?;
        Ok(Self {
            path: path.into(),
            identity: fstat(&dir)?,
            owner_identity: inside(&dir, OWNER)?,
            dir,
            _owner: owner,
        })
    }

    /// Whether the directory and its `owner` still exist.
    pub fn is_intact(&self) -> bool {
        is_at(CWD, &self.path, &self.identity) && is_at(&self.dir, OWNER, &self.owner_identity)
    }

    /// Removes a worker's socket.
    pub fn unlink(&self, name: &str) {
        if is_known(name.as_bytes()) && is_socket(&self.dir, name) {
            let _ = unlinkat(&self.dir, name, AtFlags::empty());
        }
    }

    pub fn remove(&self) {
        let _ = remove(&self.path, &self.dir);
    }
}

/// Removes this user's directories in `parent` that no pool uses any more.
pub fn sweep(parent: &Path) -> io::Result<()> {
    for entry in Dir::new(open(parent)?)? {
        let entry = entry?;
        let maybe_dir = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
        if maybe_dir && is_name(entry.file_name().to_bytes()) {
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            // A directory that cannot be removed stays.
            let _ = sweep_one(&parent.join(name));
        }
    }
    Ok(())
}

fn sweep_one(path: &Path) -> io::Result<()> {
    let dir = open(path)?;
    if is_own(&fstat(&dir)?)
        && is_socket(&dir, OWNER)
        && flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok()
        && is_refused(&path.join(OWNER))
    {
        remove(path, &dir)?;
    }
    Ok(())
}

/// Removes `dir`, which is at `path`, unless it has an entry that is not a pool's.
fn remove(path: &Path, dir: &OwnedFd) -> io::Result<()> {
    let Some(names) = entries(dir)? else {
        return Ok(());
    };
    // `owner` last: a directory without it would stay forever.
    let (owner, sockets): (Vec<_>, Vec<_>) = names
        .iter()
        .map(CString::as_c_str)
        .partition(|name| name.to_bytes() == OWNER.as_bytes());
    for name in sockets.into_iter().chain(owner) {
        unlinkat(dir, name, AtFlags::empty())?;
    }
    if is_at(CWD, path, &fstat(dir)?)
        && let Err(Errno::NOTEMPTY | Errno::EXIST) = rmdir(path)
    {
        // A worker has bound its socket there meanwhile. The next sweep needs an `owner` that refuses connections.
        UnixDatagram::bind(path.join(OWNER))?;
    }
    Ok(())
}

/// The entries, if all are a pool's.
fn entries(dir: &OwnedFd) -> io::Result<Option<Vec<CString>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if names.len() == MAX_ENTRIES || !is_known(name.to_bytes()) || !is_socket(dir, name) {
            return Ok(None);
        }
        names.push(name.to_owned());
    }
    Ok(Some(names))
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(retry_on_intr(|| openat(CWD, path, flags, Mode::empty()))?)
}

fn inside(dir: impl AsFd, name: impl Arg) -> Result<Stat, Errno> {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Whether the file of that name is the one of `identity`.
fn is_at(dir: impl AsFd, name: impl Arg, identity: &Stat) -> bool {
    inside(dir, name)
        .is_ok_and(|found| (found.st_dev, found.st_ino) == (identity.st_dev, identity.st_ino))
}

fn is_socket(dir: &OwnedFd, name: impl Arg) -> bool {
    inside(dir, name).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
}

/// Whether only this user can have created files in it.
fn is_own(stat: &Stat) -> bool {
    let all = Mode::RWXU | Mode::RWXG | Mode::RWXO;
    stat.st_uid == geteuid().as_raw() && Mode::from_raw_mode(stat.st_mode) & all == Mode::RWXU
}

/// A datagram socket connects or fails at once.
fn is_refused(socket: &Path) -> bool {
    let connected = UnixDatagram::unbound().and_then(|from| from.connect(socket));
    connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn is_name(name: &[u8]) -> bool {
    let digits = name.strip_prefix(PREFIX).unwrap_or_default();
    digits.len() == 16
        && digits
            .iter()
            .all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// `owner`, or a worker's socket such as `1.sock`.
fn is_known(name: &[u8]) -> bool {
    let number = name.strip_suffix(b".sock").unwrap_or_default();
    name == OWNER.as_bytes() || !number.is_empty() && number.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use rustix::{fs::chown, process::Uid};
    use std::{
        fs,
        os::unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
            net::{UnixListener, UnixStream},
        },
        process,
        sync::atomic::{AtomicU32, Ordering},
    };

    /// A directory that is removed after the test.
    struct Parent(PathBuf);

    impl Parent {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = format!("/tmp/sp-rust-{}-{count}", process::id());
            fs::create_dir(&path).unwrap();
            Self(path.into())
        }

        fn path(&self, number: u64) -> PathBuf {
            self.0.join(format!("snakepit-{number:016x}"))
        }

        fn create(&self, number: u64) -> RuntimeDir {
            RuntimeDir::create(&self.path(number)).unwrap()
        }

        /// A directory whose pool was killed.
        fn abandoned(&self, number: u64) -> PathBuf {
            drop(self.create(number));
            self.path(number)
        }

        fn sweep(&self) {
            sweep(&self.0).unwrap();
        }
    }

    impl Drop for Parent {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn socket(path: impl AsRef<Path>) {
        drop(UnixListener::bind(path).unwrap());
    }

    fn is_root() -> bool {
        geteuid().is_root()
    }

    #[test]
    fn it_is_private_from_the_start_and_its_owner_has_its_final_name() {
        let parent = Parent::new();
        // The umask is that of all tests of this process, so only this one checks a mode.
        let umask = rustix::process::umask(Mode::empty());
        mkdir(parent.path(0), Mode::RWXU).unwrap();
        let made_at_once = fs::metadata(parent.path(0)).unwrap().mode() & 0o777;
        let kept = parent.create(1);
        rustix::process::umask(umask);
        assert_eq!(made_at_once, 0o700);
        assert_eq!(fs::metadata(&kept.path).unwrap().mode() & 0o777, 0o700);
        let owner = kept.path.join(OWNER);
        assert!(
            fs::symlink_metadata(&owner)
                .unwrap()
                .file_type()
                .is_socket()
        );
        assert!(!is_refused(&owner));
        assert_eq!(entries(&kept.dir).unwrap().unwrap(), [c"owner".to_owned()]);
        // The kernel's name for it, which systemd-tmpfiles reads.
        let address = kept._owner.local_addr().unwrap();
        assert_eq!(address.as_pathname(), Some(owner.as_path()));
    }

    #[test]
    fn a_directory_that_cannot_be_created_says_why_and_leaves_nothing() {
        let parent = Parent::new();
        fs::write(parent.0.join("file"), "").unwrap();
        for (within, kind) in [
            ("file", ErrorKind::NotADirectory),
            ("none", ErrorKind::NotFound),
        ] {
            let path = parent.0.join(within).join("snakepit-0000000000000000");
            assert_eq!(
                RuntimeDir::create(&path).err().map(|e| e.kind()),
                Some(kind)
            );
        }
        let long = parent.0.join("x".repeat(100));
        assert!(RuntimeDir::create(&long).is_err());
        assert!(!long.exists());
    }

    #[test]
    fn an_abandoned_directory_is_swept_and_one_in_use_is_not() {
        let parent = Parent::new();
        let kept = parent.create(1);
        socket(kept.path.join("1.sock"));
        let abandoned = parent.abandoned(2);
        socket(abandoned.join("1.sock"));
        socket(abandoned.join("23.sock"));
        parent.sweep();
        assert!(kept.is_intact() && kept.path.join("1.sock").exists());
        assert!(!abandoned.exists());
    }

    #[test]
    fn a_directory_without_an_owner_stays_and_so_does_a_locked_one() {
        let parent = Parent::new();
        mkdir(parent.path(1), Mode::RWXU).unwrap();
        let locked = parent.abandoned(2);
        let dir = open(&locked).unwrap();
        flock(&dir, FlockOperation::LockExclusive).unwrap();
        parent.sweep();
        assert!(parent.path(1).exists() && locked.join(OWNER).exists());
        drop(dir);
        parent.sweep();
        assert!(!locked.exists());
    }

    #[test]
    fn an_owner_that_accepts_no_connection_does_not_block_the_sweep() {
        let parent = Parent::new();
        mkdir(parent.path(1), Mode::RWXU).unwrap();
        let _listener = UnixListener::bind(parent.path(1).join(OWNER)).unwrap();
        // With a full backlog a stream socket would wait forever.
        let mut waiting = Vec::new();
        for _ in 0..3 {
            waiting.push(UnixStream::connect(parent.path(1).join(OWNER)).unwrap());
        }
        parent.sweep();
        assert!(parent.path(1).join(OWNER).exists());
    }

    #[test]
    fn directories_that_are_not_a_pools_stay_whole() {
        let parent = Parent::new();
        let data = |dir: PathBuf| {
            fs::create_dir_all(dir.join("sub")).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
            fs::write(dir.join("thesis.txt"), "1").unwrap();
            fs::write(dir.join("sub/data"), "2").unwrap();
            dir
        };
        let mut kept = Vec::new();
        // `owner` is a file, a directory, a symbolic link to a socket that refuses.
        let file = data(parent.path(1));
        fs::write(file.join(OWNER), "me").unwrap();
        let directory = data(parent.path(2));
        fs::create_dir(directory.join(OWNER)).unwrap();
        let link = data(parent.path(3));
        socket(parent.0.join("refuses"));
        symlink(parent.0.join("refuses"), link.join(OWNER)).unwrap();
        // Only the name is different.
        for name in [
            "snakepit-my-results",
            "snakepit-000000000000000G",
            "snakepit-",
            "snakepit-0000aaaa",
        ] {
            let dir = data(parent.0.join(name));
            socket(dir.join(OWNER));
            kept.push(dir);
        }
        // An entry that is not a pool's.
        let unknown = data(parent.path(4));
        socket(unknown.join(OWNER));
        kept.extend([file, directory, link, unknown]);
        parent.sweep();
        for dir in kept {
            assert!(dir.join("thesis.txt").exists(), "{}", dir.display());
            assert!(dir.join("sub/data").exists(), "{}", dir.display());
            assert!(
                dir.join(OWNER).symlink_metadata().is_ok(),
                "{}",
                dir.display()
            );
        }
    }

    #[test]
    fn a_directory_with_an_unknown_entry_stays_whole() {
        let parent = Parent::new();
        let entries: [(u64, &str); 4] = [
            (1, "notes"),
            (2, "x1.sock"),
            (3, ".sock"),
            (4, "1.sock.old"),
        ];
        for (number, name) in entries {
            let dir = parent.abandoned(number);
            socket(dir.join("1.sock"));
            socket(dir.join(name));
        }
        // A known name of another kind: a file, a directory.
        let dir = parent.abandoned(5);
        fs::write(dir.join("1.sock"), "precious").unwrap();
        fs::create_dir(parent.abandoned(6).join("1.sock")).unwrap();
        parent.sweep();
        for (number, name) in entries {
            let dir = parent.path(number);
            assert!(dir.join(name).exists() && dir.join("1.sock").exists());
            assert!(dir.join(OWNER).exists());
        }
        assert_eq!(fs::read(dir.join("1.sock")).unwrap(), b"precious");
        assert!(parent.path(6).join("1.sock").is_dir());
    }

    #[test]
    fn a_directory_that_other_users_may_enter_or_own_stays() {
        let parent = Parent::new();
        let open_to_all = parent.abandoned(1);
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o755)).unwrap();
        let foreign = parent.abandoned(2);
        if is_root() {
            chown(&foreign, Some(Uid::from_raw(65534)), None).unwrap();
        }
        parent.sweep();
        assert!(open_to_all.join(OWNER).exists());
        assert_eq!(foreign.exists(), is_root());
    }

    #[test]
    fn symbolic_links_are_not_followed() {
        let (parent, elsewhere) = (Parent::new(), Parent::new());
        let target = elsewhere.abandoned(1);
        socket(target.join("1.sock"));
        symlink(&target, parent.path(1)).unwrap();
        let swapped = parent.abandoned(2);
        symlink(target.join("1.sock"), swapped.join("1.sock")).unwrap();
        parent.sweep();
        assert!(target.join("1.sock").exists() && target.join(OWNER).exists());
        assert!(parent.path(1).symlink_metadata().is_ok());
        assert!(swapped.exists());
    }

    #[test]
    fn a_directory_that_replaced_the_opened_one_stays() {
        let (parent, elsewhere) = (Parent::new(), Parent::new());
        let victim = elsewhere.abandoned(1);
        socket(victim.join("1.sock"));
        let dir = parent.create(1);
        socket(dir.path.join("1.sock"));
        let moved = parent.0.join("moved");
        fs::rename(&dir.path, &moved).unwrap();
        symlink(&victim, &dir.path).unwrap();
        assert!(!dir.is_intact());
        dir.unlink("1.sock");
        dir.remove();
        assert!(victim.join("1.sock").exists() && victim.join(OWNER).exists());
        assert!(!moved.join("1.sock").exists() && !moved.join(OWNER).exists());
    }

    #[test]
    fn a_directory_that_was_moved_away_is_not_intact() {
        let parent = Parent::new();
        let dir = parent.create(1);
        assert!(dir.is_intact());
        fs::remove_dir_all(&dir.path).unwrap();
        assert!(!dir.is_intact());
        // Another directory of that name is not the same.
        let again = parent.create(1);
        assert!(again.is_intact() && !dir.is_intact());
        fs::remove_file(again.path.join(OWNER)).unwrap();
        assert!(!again.is_intact());
        socket(again.path.join(OWNER));
        assert!(!again.is_intact());
    }

    #[test]
    fn only_a_workers_socket_can_be_removed() {
        let parent = Parent::new();
        let dir = parent.create(1);
        socket(dir.path.join("1.sock"));
        socket(parent.0.join("2.sock"));
        fs::write(dir.path.join("3.sock"), "").unwrap();
        for name in ["1.sock", "../2.sock", "3.sock", "none.sock", "4.sock"] {
            dir.unlink(name);
        }
        assert!(!dir.path.join("1.sock").exists());
        assert!(parent.0.join("2.sock").exists());
        assert!(dir.path.join("3.sock").exists());
    }

    #[test]
    fn it_is_removed_with_sockets_in_it_and_stays_with_other_files() {
        let parent = Parent::new();
        let dir = parent.create(1);
        socket(dir.path.join("1.sock"));
        fs::write(dir.path.join("notes"), "").unwrap();
        dir.remove();
        assert!(dir.path.join("1.sock").exists() && dir.is_intact());
        fs::remove_file(dir.path.join("notes")).unwrap();
        dir.remove();
        assert!(!dir.path.exists());
    }

    #[test]
    fn a_directory_is_found_among_many_other_entries() {
        let parent = Parent::new();
        let abandoned = parent.abandoned(1);
        for number in 1_000..21_000 {
            fs::write(parent.path(number), "").unwrap();
        }
        parent.sweep();
        assert!(!abandoned.exists());
    }
}
