//! Starts a worker's program: reads from standard input what to run, sends what that writes to the
//! pipes that the BEAM reads, and becomes the program. A BEAM's port can do neither: its environment
//! and arguments are text in the locale's encoding, and it reads output without a bound.
//!
//! `snakepit_launcher STDOUT STDERR [STDIN]`, the paths of pipes; without the last the program has the launcher's standard
//! input. That begins with two lengths of 4 bytes, big-endian: of the BEAM's packet, in which the program's first input may
//! follow the request, and of the request. The request is entries that end with NUL: `x` and the executable, `a` and an
//! argument, `s` and `NAME=VALUE` to set, `u` and `NAME` to unset; `c` and a core on which the program may run, `n` and its
//! nice value, `m` and the bytes that it may map.

mod limits;

use limits::Limits;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use std::{
    convert::Infallible,
    env,
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Command, ExitCode},
};

/// What a shell exits with when it cannot run a command.
const CANNOT_RUN: u8 = 127;

fn main() -> ExitCode {
    let Err(message) = launch();
    eprintln!("snakepit: {message}");
    ExitCode::from(CANNOT_RUN)
}

fn launch() -> Result<Infallible, String> {
    let mut args = env::args_os().skip(1);
    let (Some(stdout), Some(stderr)) = (args.next(), args.next()) else {
        return Err("usage: snakepit_launcher STDOUT STDERR [STDIN]; the BEAM starts it".into());
    };
    let mut write = OpenOptions::new();
    write.write(true);
    dup2_stderr(open(&stderr, &write)?).map_err(|error| format!("cannot set stderr: {error}"))?;
    dup2_stdout(open(&stdout, &write)?).map_err(|error| format!("cannot set stdout: {error}"))?;
    let request = read_request(io::stdin().as_fd())
        .map_err(|error| format!("cannot read what to run: {error}"))?;
    if let Some(stdin) = args.next() {
        let stdin = open(&stdin, OpenOptions::new().read(true))?;
        dup2_stdin(stdin).map_err(|error| format!("cannot set stdin: {error}"))?;
    }
    let (mut command, limits) = parse(&request)?;
    limits.set()?;
    let error = command.exec();
    Err(explain(command.get_program(), &error))
}

fn open(pipe: &OsStr, options: &OpenOptions) -> Result<File, String> {
    let opened = options.open(pipe);
    opened.map_err(|error| format!("cannot open {}: {error}", pipe.display()))
}

/// Not a byte more: the rest of the input is the program's.
fn read_request(stdin: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut stdin = File::from(stdin.try_clone_to_owned()?);
    let (mut packet, mut length) = ([0; 4], [0; 4]);
    stdin.read_exact(&mut packet)?;
    stdin.read_exact(&mut length)?;
    let mut request = Vec::new();
    let length = u64::from(u32::from_be_bytes(length));
    if stdin.take(length).read_to_end(&mut request)? as u64 != length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(request)
}

fn parse(request: &[u8]) -> Result<(Command, Limits), String> {
    let mut entries = request
        .split(|byte| *byte == 0)
        .filter_map(<[u8]>::split_first);
    let Some((b'x', executable)) = entries.next() else {
        return Err("the request names no executable".into());
    };
    let mut command = Command::new(OsStr::from_bytes(executable));
    let mut limits = Limits::default();
    for (kind, value) in entries {
        if let Ok(value) = str::from_utf8(value)
            && limits.add(*kind, value)?
        {
            continue;
        }
        let value = OsString::from_vec(value.to_vec());
        match kind {
            b'a' => {
                command.arg(value);
            }
            b'u' => {
                command.env_remove(value);
            }
            b's' => {
                let bytes = value.as_bytes();
                let end = bytes.iter().position(|byte| *byte == b'=');
                let (name, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                let value = rest.get(1..).unwrap_or_default();
                command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
            }
            _ => return Err("the request has an entry of an unknown kind".into()),
        }
    }
    Ok((command, limits))
}

fn explain(program: &OsStr, error: &io::Error) -> String {
    let why = match error.kind() {
        ErrorKind::NotFound if Path::new(program).exists() => {
            ": the interpreter named in its first line does not exist"
        }
        ErrorKind::PermissionDenied => ": it is not executable for this user",
        ErrorKind::ArgumentListTooLong => {
            ": its arguments and environment are larger than the system allows"
        }
        // ENOEXEC has no kind of its own.
        _ if error.raw_os_error() == Some(8) => {
            ": it is neither a program of this system nor a script whose first line names an interpreter"
        }
        _ => "",
    };
    format!("cannot execute {}: {error}{why}", program.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_byte_by_byte() -> Result<(), String> {
        let (command, _limits) = parse(b"x/bin/\xff\0a-u\0a\0sA=b=c\0sEMPTY=\0uGONE\0")?;
        assert_eq!(command.get_program().as_bytes(), b"/bin/\xff");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["-u", ""]);
        let variables: Vec<_> = command.get_envs().collect();
        let set = |value: &'static str| Some(OsStr::new(value));
        assert!(variables.contains(&(OsStr::new("A"), set("b=c"))));
        assert!(variables.contains(&(OsStr::new("EMPTY"), set(""))));
        assert!(variables.contains(&(OsStr::new("GONE"), None)));
        Ok(())
    }

    #[test]
    fn a_request_without_an_executable_is_refused() {
        assert!(parse(b"").is_err());
        assert!(parse(b"a-u\0").is_err());
        assert!(parse(b"x/bin/true\0?\0").is_err());
    }

    #[test]
    fn a_failed_execution_is_explained() {
        let error = Command::new("/nowhere").exec();
        let text = explain(OsStr::new("/nowhere"), &error);
        assert!(
            text.contains("/nowhere") && text.contains("No such file"),
            "{text}"
        );
        let error = Command::new("/etc/passwd").exec();
        assert!(explain(OsStr::new("/etc/passwd"), &error).contains("not executable"));
    }
}
