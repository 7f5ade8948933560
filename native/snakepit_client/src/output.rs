//! The output of a worker: its standard error, and its standard output if that carries no protocol, are a pipe
//! that is read here. A port of the BEAM would put each line into a mailbox.
//!
//! The pipe is read as fast as the worker writes, so that a worker never waits for Logger. Lines wait in a bounded
//! queue for a process that takes and logs them; lines that do not fit are counted.

use crate::pipe::OtherEnd;
use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;
use std::{collections::VecDeque, os::fd::AsFd, time::Duration};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver, time::Instant};
use tokio_util::sync::CancellationToken;

/// Longer lines are cut.
const MAX_LINE_BYTES: usize = 8192;
/// How long an unfinished line waits for its end before it is logged as it is. Progress bars, which rewrite one
/// line, are logged that often.
const UNFINISHED_AFTER: Duration = Duration::from_millis(250);
/// The limits of the queue.
const MAX_LINES: usize = 10_000;
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// How often dropped lines are reported while more are dropped.
const DROPPED_EVERY: Duration = Duration::from_secs(1);
/// How much is taken out of the queue at once.
const TAKEN_LINES: usize = 64;
const TAKEN_BYTES: usize = 64 * 1024;
/// How many of the last lines are kept to explain why a worker ended.
const TAIL_LINES: usize = 30;
/// How much is still read once the worker has ended: more than a pipe holds.
const REST_BYTES: usize = 1024 * 1024;
/// syslog's level for information.
const INFO: u8 = 6;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// As in syslog: 3 is an error, 7 is for debugging.
    pub level: u8,
    pub request_id: Option<String>,
    pub text: String,
}

/// Lines taken out of the queue.
#[derive(Default)]
pub struct Taken {
    pub lines: Vec<Line>,
    /// How many lines were dropped since the last report of that.
    pub dropped: usize,
    /// The output has ended, and the queue is empty.
    pub ended: bool,
}

/// The queue, and the writing end of the pipe until the worker has opened its own.
pub struct Output {
    queue: Mutex<Queue>,
    writer: OtherEnd,
    finished: CancellationToken,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Line>,
    bytes: usize,
    dropped: usize,
    /// When dropped lines were last reported.
    reported: Option<Instant>,
    /// Whether the logger found nothing, and is to be notified of the next line.
    waits: bool,
    ended: bool,
}

impl Queue {
    fn push(&mut self, line: Line) {
        if self.lines.len() < MAX_LINES && self.bytes + line.text.len() <= MAX_BYTES {
            self.bytes += line.text.len();
            self.lines.push_back(line);
        } else {
            self.dropped += 1;
        }
    }

    fn take(&mut self) -> Taken {
        let mut taken = Taken::default();
        let mut bytes = 0;
        while taken.lines.len() < TAKEN_LINES
            && bytes < TAKEN_BYTES
            && let Some(line) = self.lines.pop_front()
        {
            bytes += line.text.len();
            taken.lines.push(line);
        }
        self.bytes -= bytes;
        if self.lines.is_empty() || self.reported.is_none_or(|at| at.elapsed() >= DROPPED_EVERY) {
            taken.dropped = std::mem::take(&mut self.dropped);
        }
        if taken.dropped > 0 {
            self.reported = Some(Instant::now());
        }
        taken.ended = self.ended && self.lines.is_empty();
        self.waits = taken.lines.is_empty() && taken.dropped == 0;
        taken
    }

    fn has_news(&mut self) -> bool {
        let news = !self.lines.is_empty() || self.dropped > 0 || self.ended;
        news && std::mem::take(&mut self.waits)
    }
}

/// Receives what a reader finds.
pub trait Listener {
    /// The rest of a line that begins with the token and a space.
    fn announced(&mut self, text: &str);
    /// There are lines to take again.
    fn news(&mut self);
}

impl Output {
    pub fn new(writer: OtherEnd) -> Self {
        Self {
            queue: Mutex::default(),
            writer,
            finished: CancellationToken::new(),
        }
    }

    pub fn take(&self) -> Taken {
        self.queue().take()
    }

    /// The worker has ended. Only what is in the pipe is still read, because processes that it has started may keep
    /// the pipe open forever.
    pub fn finish(&self) {
        self.writer.release();
        self.finished.cancel();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Reads until the output ends. Returns its last lines, the oldest first.
    pub async fn read(
        &self,
        mut receiver: Receiver,
        token: Option<String>,
        listener: &mut impl Listener,
    ) -> Vec<String> {
        let mut lines = Lines::new(token);
        let mut buffer = vec![0; MAX_LINE_BYTES * 4];
        while !self.finished.is_cancelled() {
            let size = tokio::select! {
                biased;
                () = self.finished.cancelled() => break,
                size = receiver.read(&mut buffer) => size,
                () = sleep_until(lines.unfinished) => {
                    lines.log_unfinished();
                    self.hand_over(&mut lines, listener);
                    continue;
                }
            };
            // A pipe that cannot be read has ended.
            let Ok(size @ 1..) = size else { break };
            lines.feed(buffer.get(..size).unwrap_or_default());
            self.hand_over(&mut lines, listener);
        }
        if self.finished.is_cancelled() {
            read_rest(&receiver, &mut buffer, &mut lines);
        }
        lines.end();
        self.queue().ended = true;
        self.hand_over(&mut lines, listener);
        lines.tail.into()
    }

    fn hand_over(&self, lines: &mut Lines, listener: &mut impl Listener) {
        for text in lines.announced.drain(..) {
            listener.announced(&text);
        }
        let mut queue = self.queue();
        for line in lines.complete.drain(..) {
            queue.push(line);
        }
        let news = queue.has_news();
        drop(queue);
        if news {
            listener.news();
        }
    }
}

fn read_rest(receiver: &Receiver, buffer: &mut [u8], lines: &mut Lines) {
    let mut read = 0;
    // The pipe does not block. tokio's knowledge of it may be older than its last bytes.
    while read < REST_BYTES {
        match rustix::io::read(receiver.as_fd(), &mut *buffer) {
            Ok(size @ 1..) => {
                read += size;
                lines.feed(buffer.get(..size).unwrap_or_default());
            }
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Cuts arriving bytes into lines of text.
struct Lines {
    token: Option<Vec<u8>>,
    /// The line that has not ended yet.
    buffer: Vec<u8>,
    /// Whether the last byte was a carriage return: a line feed after it ends the same line.
    returned: bool,
    /// When that line is logged as it is.
    unfinished: Option<Instant>,
    /// The prefix of a line that was cut or logged in parts.
    prefix: Option<(u8, Option<String>)>,
    complete: Vec<Line>,
    announced: Vec<String>,
    tail: VecDeque<String>,
}

impl Lines {
    fn new(token: Option<String>) -> Self {
        Self {
            token: token.map(|token| format!("{token} ").into_bytes()),
            buffer: Vec::new(),
            returned: false,
            unfinished: None,
            prefix: None,
            complete: Vec::new(),
            announced: Vec::new(),
            tail: VecDeque::new(),
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let (text, end) = match part.split_last() {
                Some((end @ (b'\n' | b'\r'), text)) => (text, Some(*end)),
                _ => (part, None),
            };
            if self.returned && !(text.is_empty() && end == Some(b'\n')) {
                // The line so far is about to be overwritten.
                self.buffer.clear();
            }
            self.returned = end == Some(b'\r');
            self.append(text);
            if end == Some(b'\n') {
                self.end_line();
            }
        }
        if self.buffer.is_empty() {
            self.unfinished = None;
        } else if self.unfinished.is_none() {
            self.unfinished = Some(Instant::now() + UNFINISHED_AFTER);
        }
    }

    fn append(&mut self, text: &[u8]) {
        self.buffer.extend_from_slice(text);
        while self.buffer.len() > MAX_LINE_BYTES {
            let rest = self.buffer.split_off(char_boundary(&self.buffer));
            let first = std::mem::replace(&mut self.buffer, rest);
            self.add(&first);
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.buffer);
        match &self.token {
            Some(token) if line.starts_with(token) => {
                let rest = line.get(token.len()..).unwrap_or_default();
                self.announced
                    .push(String::from_utf8_lossy(rest).into_owned());
            }
            _ if line.is_empty() => {}
            _ => self.add(&line),
        }
        self.prefix = None;
    }

    /// No part of the token's line is ever logged.
    fn log_unfinished(&mut self) {
        self.unfinished = None;
        let line = std::mem::take(&mut self.buffer);
        let begins_token = self.token.as_ref().is_some_and(|token| {
            line.starts_with(token) || (!line.is_empty() && token.starts_with(&line))
        });
        if begins_token {
            self.buffer = line;
        } else {
            self.add(&line);
        }
    }

    fn end(&mut self) {
        if !self.buffer.is_empty() {
            self.end_line();
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        let (prefix, text) = match (self.prefix.take(), prefix(bytes)) {
            (_, Some((level, request_id, text))) => ((level, request_id), text),
            (Some(before), None) => (before, bytes),
            (None, None) => ((INFO, None), bytes),
        };
        let text = show(text);
        if text.is_empty() {
            return;
        }
        self.prefix = Some(prefix.clone());
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(text.clone());
        let (level, request_id) = prefix;
        self.complete.push(Line {
            level,
            request_id,
            text,
        });
    }
}

/// `<6>` as in sd-daemon(3); the bridge writes the request id between two unit separators after it.
fn prefix(bytes: &[u8]) -> Option<(u8, Option<String>, &[u8])> {
    let [b'<', level @ b'0'..=b'7', b'>', rest @ ..] = bytes else {
        return None;
    };
    let level = level - b'0';
    if let Some((b'\x1f', marked)) = rest.split_first()
        && let Some(end) = marked.iter().position(|byte| *byte == b'\x1f')
        && let (id, text) = marked.split_at(end)
        && let Ok(id) = std::str::from_utf8(id)
    {
        return Some((level, Some(id.into()), text.get(1..).unwrap_or_default()));
    }
    Some((level, None, rest))
}

/// Where a line of too many bytes is cut, between two characters.
fn char_boundary(bytes: &[u8]) -> usize {
    (MAX_LINE_BYTES - 3..=MAX_LINE_BYTES)
        .rev()
        .find(|at| bytes.get(*at).is_some_and(|byte| byte & 0xC0 != 0x80))
        .unwrap_or(MAX_LINE_BYTES)
}

/// Text for a terminal: invalid UTF-8 is replaced, control characters are escaped.
fn show(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if !text.contains(is_hidden) {
        return text.into_owned();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for one in text.chars() {
        if is_hidden(one) {
            shown.extend(one.escape_default());
        } else {
            shown.push(one);
        }
    }
    shown
}

/// Control characters, line separators, and characters that change the direction of text.
fn is_hidden(one: char) -> bool {
    one.is_control() && one != '\t'
        || matches!(one, '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parts: &[&[u8]]) -> (Vec<Line>, Lines) {
        let mut lines = Lines::new(Some("token".into()));
        for part in parts {
            lines.feed(part);
        }
        lines.end();
        (std::mem::take(&mut lines.complete), lines)
    }

    fn texts(parts: &[&str]) -> Vec<String> {
        let parts: Vec<_> = parts.iter().map(|part| part.as_bytes()).collect();
        read(&parts).0.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn lines_are_whole_however_the_bytes_arrive() {
        assert_eq!(texts(&["a\nb", "c\n\n", "d"]), ["a", "bc", "d"]);
        assert_eq!(texts(&[]), Vec::<String>::new());
    }

    #[test]
    fn a_carriage_return_and_a_line_feed_end_one_line() {
        assert_eq!(texts(&["a\r\nb\r", "\nc"]), ["a", "b", "c"]);
    }

    #[test]
    fn a_line_that_is_overwritten_is_logged_in_its_last_state() {
        assert_eq!(
            texts(&["\r10%", "\r20%\r30%", "\r100%\nend"]),
            ["100%", "end"]
        );
        assert_eq!(texts(&["10%\r20%\r"]), ["20%"]);
    }

    #[test]
    fn an_unfinished_line_is_logged_and_continued() {
        let mut lines = Lines::new(None);
        lines.feed(b"<4>Continue? ");
        assert!(lines.unfinished.is_some());
        lines.log_unfinished();
        lines.feed(b"yes\nnext\n");
        let shown = |text: &str, level| Line {
            level,
            request_id: None,
            text: text.into(),
        };
        assert_eq!(
            lines.complete,
            [shown("Continue? ", 4), shown("yes", 4), shown("next", INFO)]
        );
    }

    #[test]
    fn a_long_line_is_cut_between_characters_and_keeps_its_level() {
        let long = format!("<3>x{}", "ä".repeat(MAX_LINE_BYTES));
        let (lines, _) = read(&[long.as_bytes(), b"\nnext"]);
        assert!(lines.len() > 2);
        let parts = &lines[..lines.len() - 1];
        let last = lines.last().map(|line| (line.level, line.text.as_str()));
        assert_eq!(last, Some((INFO, "next")));
        assert!(parts.iter().all(|part| part.level == 3));
        let whole: String = parts.iter().map(|part| part.text.as_str()).collect();
        assert_eq!(format!("<3>{whole}"), long);
    }

    #[test]
    fn a_line_names_its_request() {
        let (lines, _) = read(&[b"<4>\x1freq-1\x1fa\n<7>b\n<9>c\n"]);
        let seen: Vec<_> = lines
            .iter()
            .map(|line| (line.level, line.request_id.as_deref(), line.text.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                (4, Some("req-1"), "a"),
                (7, None, "b"),
                (INFO, None, "<9>c")
            ]
        );
    }

    #[test]
    fn bytes_become_text_that_is_safe_on_a_terminal() {
        let (lines, _) = read(&[b"\xfc\t\x1b[31mred\x00", "\u{202e}\n".as_bytes()]);
        assert_eq!(lines[0].text, "\u{fffd}\t\\u{1b}[31mred\\u{0}\\u{202e}");
    }

    #[test]
    fn the_line_with_the_token_is_announced_and_not_logged() {
        let mut lines = Lines::new(Some("token".into()));
        lines.feed(b"before\ntoken unix:/a b");
        lines.log_unfinished();
        lines.feed(b".sock\nafter\n");
        assert_eq!(lines.announced, ["unix:/a b.sock"]);
        let texts: Vec<_> = lines.complete.iter().map(|line| &line.text).collect();
        assert_eq!(texts, ["before", "after"]);
    }

    #[test]
    fn the_tail_has_the_last_lines() {
        let many: String = (0..100).map(|n| format!("{n}\n")).collect();
        let (_, lines) = read(&[many.as_bytes()]);
        assert_eq!(lines.tail.len(), TAIL_LINES);
        assert_eq!(lines.tail.back().map(String::as_str), Some("99"));
    }

    #[test]
    fn lines_that_do_not_fit_are_counted() {
        let mut queue = Queue::default();
        let line = Line {
            level: INFO,
            request_id: None,
            text: "x".into(),
        };
        for _ in 0..MAX_LINES + 5 {
            queue.push(line.clone());
        }
        let first = queue.take();
        assert_eq!((first.lines.len(), first.dropped), (TAKEN_LINES, 5));
        let mut taken = first.lines.len();
        while taken < MAX_LINES {
            let part = queue.take();
            taken += part.lines.len();
            assert_eq!(part.dropped, 0);
        }
        assert!(!queue.has_news());
        assert!(queue.take().lines.is_empty());
        queue.push(line);
        assert!(queue.has_news());
        assert!(!queue.has_news());
    }
}
