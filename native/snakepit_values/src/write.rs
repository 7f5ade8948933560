use crate::{
    format::{ALIGNMENT, Kind, TAG},
    text::plain_run,
};
use std::{fmt::Display, io::Write as _};

/// Writes one value as JSON, or as extended JSON if it needs that.
#[derive(Default)]
pub struct Writer<'a> {
    pub(crate) out: Vec<u8>,
    tail: Vec<(usize, &'a [u8])>,
    tail_size: usize,
    pub(crate) extended: bool,
}

impl<'a> Writer<'a> {
    /// The number of bytes written so far.
    pub fn size(&self) -> usize {
        self.out.len() + self.tail_size
    }

    pub fn finish(mut self) -> (Kind, Vec<u8>) {
        if !self.tail.is_empty() {
            let start = (self.out.len() + 1).next_multiple_of(ALIGNMENT);
            self.out
                .reserve_exact(start + self.tail_size - self.out.len());
            for (offset, binary) in self.tail {
                self.out.resize(start + offset, 0);
                self.out.extend_from_slice(binary);
            }
        }
        let kind = if self.extended {
            Kind::Extended
        } else {
            Kind::Json
        };
        (kind, self.out)
    }

    pub fn null(&mut self) {
        self.out.extend_from_slice(b"null");
    }

    pub fn bool(&mut self, value: bool) {
        self.out
            .extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// `value` is an integer of any type: only those are displayed as in JSON.
    pub fn int(&mut self, value: impl Display) {
        // Writing to a vector never fails.
        let _ = write!(self.out, "{value}");
    }

    pub fn float(&mut self, value: f64) {
        if value.is_finite() {
            let mut buffer = zmij::Buffer::new();
            let text = buffer.format_finite(value);
            self.out.extend_from_slice(text.as_bytes());
            return;
        }
        self.extended = true;
        let name: &[u8] = if value.is_nan() {
            b"NaN"
        } else if value > 0.0 {
            b"Infinity"
        } else {
            b"-Infinity"
        };
        self.out.extend_from_slice(name);
    }

    pub fn text(&mut self, text: &str) {
        let mut rest = text.as_bytes();
        self.out.push(b'"');
        loop {
            let (run, special) = rest.split_at(plain_run(rest));
            self.out.extend_from_slice(run);
            let Some((byte, after)) = special.split_first() else {
                break;
            };
            self.escape(*byte);
            rest = after;
        }
        self.out.push(b'"');
    }

    fn escape(&mut self, byte: u8) {
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            _ => {
                let _ = write!(self.out, "\\u{byte:04x}");
                return;
            }
        };
        self.out.extend_from_slice(&[b'\\', short]);
    }

    /// Appends bytes to the tail; returns their offset and size.
    pub(crate) fn put(&mut self, bytes: &'a [u8], alignment: usize) -> (usize, usize) {
        let offset = self.tail_size.next_multiple_of(alignment);
        let size = bytes.len();
        self.tail_size = offset + size;
        self.tail.push((offset, bytes));
        (offset, size)
    }

    /// An array. `write` writes an item, and is given its index.
    pub fn array<T, E>(
        &mut self,
        items: impl Iterator<Item = T>,
        mut write: impl FnMut(&mut Self, usize, T) -> Result<(), E>,
    ) -> Result<(), E> {
        self.out.push(b'[');
        for (index, item) in items.enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            write(self, index, item)?;
        }
        self.out.push(b']');
        Ok(())
    }

    /// An object. `write` writes a value, and is given its key.
    pub fn object<K, V, N: AsRef<str>, E>(
        &mut self,
        entries: &[(K, V)],
        name: impl Fn(&K) -> Result<N, E>,
        write: impl FnMut(&mut Self, &str, &V) -> Result<(), E>,
    ) -> Result<(), E> {
        let names: Vec<N> = entries
            .iter()
            .map(|(key, _)| name(key))
            .collect::<Result<_, E>>()?;
        if names.iter().any(|name| name.as_ref() == TAG) {
            self.extended = true;
            let _ = write!(self.out, r#"{{"{TAG}":["map",["#);
            self.entries(&names, entries, ["[", ",", "]"], write)?;
            self.out.extend_from_slice(b"]]}");
        } else {
            self.out.push(b'{');
            self.entries(&names, entries, ["", ":", ""], write)?;
            self.out.push(b'}');
        }
        Ok(())
    }

    fn entries<K, V, N: AsRef<str>, E>(
        &mut self,
        names: &[N],
        entries: &[(K, V)],
        [before, between, after]: [&str; 3],
        mut write: impl FnMut(&mut Self, &str, &V) -> Result<(), E>,
    ) -> Result<(), E> {
        for (index, (name, (_, value))) in names.iter().zip(entries).enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.out.extend_from_slice(before.as_bytes());
            self.text(name.as_ref());
            self.out.extend_from_slice(between.as_bytes());
            write(self, name.as_ref(), value)?;
            self.out.extend_from_slice(after.as_bytes());
        }
        Ok(())
    }
}
