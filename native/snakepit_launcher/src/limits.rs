//! What a worker's program may use: processors, priority, memory. Set in this process, whose program becomes that of
//! the worker.

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, setpriority_process, setrlimit},
};
use std::{num::ParseIntError, str::FromStr};

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// All if empty.
    pub(crate) cores: Vec<usize>,
    pub(crate) nice: Option<i32>,
    /// The size of the address space in bytes.
    pub(crate) memory: Option<u64>,
}

impl Limits {
    /// Whether there is an entry of this kind.
    pub(crate) fn add(&mut self, kind: u8, value: &str) -> Result<bool, String> {
        match kind {
            b'c' => self.cores.push(number(value)?),
            b'n' => self.nice = Some(number(value)?),
            b'm' => self.memory = Some(number(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(crate) fn set(&self) -> Result<(), String> {
        if !self.cores.is_empty() {
            let failed = |error| format!("cannot set :cpu_affinity to {:?}: {error}", self.cores);
            set_cores(&self.cores).map_err(failed)?;
        }
        if let Some(nice) = self.nice {
            setpriority_process(None, nice)
                .map_err(|error| format!("cannot set :nice to {nice}: {error}"))?;
        }
        // The last, because everything else may need memory.
        if let Some(bytes) = self.memory {
            let limit = Rlimit {
                current: Some(bytes),
                maximum: Some(bytes),
            };
            setrlimit(Resource::As, limit)
                .map_err(|error| format!("cannot set :memory_limit to {bytes}: {error}"))?;
        }
        Ok(())
    }
}

fn number<N: FromStr<Err = ParseIntError>>(value: &str) -> Result<N, String> {
    let parsed = value.parse();
    parsed.map_err(|error| format!("the request has the limit {value:?}: {error}"))
}

#[cfg(target_os = "linux")]
fn set_cores(cores: &[usize]) -> Result<(), Errno> {
    use rustix::thread::{CpuSet, sched_setaffinity};

    let mut set = CpuSet::new();
    for core in cores {
        if *core >= CpuSet::MAX_CPU {
            return Err(Errno::INVAL);
        }
        set.set(*core);
    }
    sched_setaffinity(None, &set)
}

#[cfg(not(target_os = "linux"))]
fn set_cores(_cores: &[usize]) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_from_their_entries() -> Result<(), String> {
        let mut limits = Limits::default();
        for (kind, value) in [(b'c', "0"), (b'c', "3"), (b'n', "-5"), (b'm', "1048576")] {
            assert!(limits.add(kind, value)?);
        }
        assert!(!limits.add(b'?', "1")?);
        assert!(limits.add(b'n', "high").is_err());
        let wanted = Limits {
            cores: vec![0, 3],
            nice: Some(-5),
            memory: Some(1_048_576),
        };
        assert_eq!(limits, wanted);
        Ok(())
    }
}
