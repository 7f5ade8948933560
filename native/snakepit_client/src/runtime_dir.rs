//! The directory in which a pool's workers have their Unix sockets. It is locked and has a bound socket,
//! `owner`, for as long as it is in use: a directory with neither is left of a pool whose BEAM was
//! killed, and `sweep` removes it. Nothing here follows a symbolic link or walks into a directory.

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
/// A directory with more entries is none of a pool.
const MOST_ENTRIES: usize = 10_000;

pub struct RuntimeDir {
    path: PathBuf,
    /// Holds the lock.
    dir: OwnedFd,
    /// A datagram socket is reachable as soon as it is bound: there is no moment before `listen`, and
    /// no backlog to fill.
    _owner: UnixDatagram,
    identity: Stat,
    owner_identity: Stat,
}

impl RuntimeDir {
    pub fn create(path: &Path) -> io::Result<Self> {
        // A umask takes permissions away and gives none.
        mkdir(path, Mode::RWXU)?;
        Self::own(path).inspect_err(|_| {
            let _ = rmdir(path);
        })
    }

    fn own(path: &Path) -> io::Result<Self> {
        let dir = open(path)?;
        // Before `owner` is there, without which nobody sweeps. systemd-tmpfiles leaves what is locked
        // alone. A file system without locks has none to sweep by either.
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

    /// Whether it is still there, and its owner in it.
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

/// Removes the directories of this user in `parent` that no pool has any more.
pub fn sweep(parent: &Path) -> io::Result<()> {
    for entry in Dir::new(open(parent)?)? {
        let entry = entry?;
        let maybe_dir = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
        if maybe_dir && is_name(entry.file_name().to_bytes()) {
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            // What cannot be removed stays.
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

/// Removes `dir`, which is at `path`, unless there is something in it that no pool has put there.
fn remove(path: &Path, dir: &OwnedFd) -> io::Result<()> {
    let Some(names) = entries(dir)? else {
        return Ok(());
    };
    // The owner last: a directory without one would stay for ever.
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
        // A worker has put its socket there meanwhile. The next sweep needs an owner that refuses.
        UnixDatagram::bind(path.join(OWNER))?;
    }
    Ok(())
}

/// What is in it, if all of that is a pool's.
fn entries(dir: &OwnedFd) -> io::Result<Option<Vec<CString>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if names.len() == MOST_ENTRIES || !is_known(name.to_bytes()) || !is_socket(dir, name) {
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

/// Whether what has that name is the file of `identity`.
fn is_at(dir: impl AsFd, name: impl Arg, identity: &Stat) -> bool {
    inside(dir, name)
        .is_ok_and(|found| (found.st_dev, found.st_ino) == (identity.st_dev, identity.st_ino))
}

fn is_socket(dir: &OwnedFd, name: impl Arg) -> bool {
    inside(dir, name).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
}

/// Nobody else can have put anything into it.
fn is_own(stat: &Stat) -> bool {
    let all = Mode::RWXU | Mode::RWXG | Mode::RWXO;
    stat.st_uid == geteuid().as_raw() && Mode::from_raw_mode(stat.st_mode) & all == Mode::RWXU
}

/// A datagram socket connects, or does not, at once.
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

/// `owner`, or a worker's `1.sock`.
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

    /// A directory that goes with the test.
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

        /// One whose pool was killed.
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
        // For all tests of this process, which is why only this one looks at a mode.
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
        // The name under which the kernel knows it: systemd-tmpfiles reads it there.
        let address = kept._owner.local_addr().unwrap();
        assert_eq!(address.as_pathname(), Some(owner.as_path()));
    }

    #[test]
    fn what_cannot_be_made_says_why_and_leaves_nothing() {
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
    fn an_abandoned_one_is_swept_and_one_in_use_is_not() {
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
    fn one_that_has_no_owner_yet_stays_and_so_does_one_that_is_locked() {
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
    fn an_owner_that_takes_no_connection_blocks_nothing() {
        let parent = Parent::new();
        mkdir(parent.path(1), Mode::RWXU).unwrap();
        let _listener = UnixListener::bind(parent.path(1).join(OWNER)).unwrap();
        // With its backlog full a stream would wait for ever.
        let mut waiting = Vec::new();
        for _ in 0..3 {
            waiting.push(UnixStream::connect(parent.path(1).join(OWNER)).unwrap());
        }
        parent.sweep();
        assert!(parent.path(1).join(OWNER).exists());
    }

    #[test]
    fn directories_that_only_look_like_one_stay_whole() {
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
        // Another name, though all else is as it should be.
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
        // Something in it that no pool has put there.
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
    fn an_unknown_entry_keeps_all_the_others() {
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
    fn one_that_others_may_enter_or_that_is_another_users_stays() {
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
    fn a_symbolic_link_leads_nowhere() {
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
    fn a_directory_that_is_swapped_after_it_was_opened_saves_what_took_its_place() {
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
    fn one_that_was_taken_away_is_not_intact() {
        let parent = Parent::new();
        let dir = parent.create(1);
        assert!(dir.is_intact());
        fs::remove_dir_all(&dir.path).unwrap();
        assert!(!dir.is_intact());
        // Another one of that name is not it.
        let again = parent.create(1);
        assert!(again.is_intact() && !dir.is_intact());
        fs::remove_file(again.path.join(OWNER)).unwrap();
        assert!(!again.is_intact());
        socket(again.path.join(OWNER));
        assert!(!again.is_intact());
    }

    #[test]
    fn a_workers_socket_can_be_removed_and_nothing_else() {
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
    fn it_goes_with_the_sockets_in_it_and_stays_with_anything_else() {
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
    fn among_many_other_entries_it_is_found() {
        let parent = Parent::new();
        let abandoned = parent.abandoned(1);
        for number in 1_000..21_000 {
            fs::write(parent.path(number), "").unwrap();
        }
        parent.sweep();
        assert!(!abandoned.exists());
    }
}
