//! What a worker prints where its standard output carries the protocol: its standard error is a named
//! pipe, of which this is the reading end. The BEAM's own ports cannot read one.

use std::{
    io,
    sync::{Mutex, PoisonError},
};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::{OpenOptions, Receiver, Sender},
};

/// Longer lines come in parts.
const LONGEST_LINE: usize = 8192;

/// Keeps the pipe from ending before the worker has opened it.
pub(crate) struct Guard(Mutex<Option<Sender>>);

impl Guard {
    /// From here on the pipe ends with the last process that holds it.
    pub(crate) fn release(&self) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(sender);
    }
}

/// Must be called within the runtime.
pub(crate) fn open(path: &str) -> io::Result<(Receiver, Guard)> {
    let receiver = OpenOptions::new().open_receiver(path)?;
    let sender = OpenOptions::new().open_sender(path)?;
    Ok((receiver, Guard(Mutex::new(Some(sender)))))
}

/// Hands each line to `line`, until the pipe ends.
pub(crate) async fn read_lines(mut receiver: Receiver, mut line: impl FnMut(&[u8])) {
    let mut lines = Lines::default();
    let mut buffer = vec![0; LONGEST_LINE];
    // A pipe that cannot be read has ended.
    while let Ok(size @ 1..) = receiver.read(&mut buffer).await {
        lines.feed(buffer.get(..size).unwrap_or_default(), &mut line);
    }
    lines.end(&mut line);
}

/// Bytes as they come, cut into lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn feed(&mut self, bytes: &[u8], line: &mut impl FnMut(&[u8])) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.0.extend_from_slice(part);
            if self.0.ends_with(b"\n") {
                self.0.pop();
                line(&std::mem::take(&mut self.0));
            } else if self.0.len() >= LONGEST_LINE {
                line(&std::mem::take(&mut self.0));
            }
        }
    }

    fn end(self, line: &mut impl FnMut(&[u8])) {
        if !self.0.is_empty() {
            line(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(parts: &[&str]) -> Vec<String> {
        let mut seen = Vec::new();
        let mut line = |bytes: &[u8]| seen.push(String::from_utf8_lossy(bytes).into_owned());
        let mut lines = Lines::default();
        for part in parts {
            lines.feed(part.as_bytes(), &mut line);
        }
        lines.end(&mut line);
        seen
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        assert_eq!(cut(&["a\nb", "c\n\n", "d"]), ["a", "bc", "", "d"]);
        assert_eq!(cut(&[]), Vec::<String>::new());
    }

    #[test]
    fn a_line_without_an_end_comes_in_parts() {
        let long = "x".repeat(LONGEST_LINE);
        assert_eq!(cut(&[&long, "y\n"]), [long.as_str(), "y"]);
    }
}
