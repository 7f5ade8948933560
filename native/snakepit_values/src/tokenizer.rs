use crate::{
    error::ReadError,
    format::MAX_DIGITS,
    number::{Decimal, Number},
    text::plain_run,
};
use std::{borrow::Cow, mem, ops::Range};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    /// Extended JSON with a tail of that size.
    Extended {
        tail: usize,
    },
}

/// A place in a JSON text, and the rest of its tail.
///
/// A reader is generic and compiled in the crate of its builder: with `inline`, the methods that it calls for
/// each value can become a part of it there.
pub(crate) struct Tokenizer<'a> {
    text: &'a str,
    at: usize,
    /// The rest of the tail, if the text is extended JSON.
    tail: Option<Range<usize>>,
    /// Memory for the next string with escapes.
    scratch: String,
}

impl<'a> Tokenizer<'a> {
    pub(crate) fn new(text: &'a str, form: Form) -> Self {
        Self {
            text,
            at: 0,
            tail: match form {
                Form::Json => None,
                Form::Extended { tail } => Some(0..tail),
            },
            scratch: String::new(),
        }
    }

    #[inline]
    pub(crate) fn is_extended(&self) -> bool {
        self.tail.is_some()
    }

    #[inline]
    pub(crate) fn skip(&mut self) {
        self.at += 1;
    }

    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// The next byte that is not a space.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<u8> {
        self.skip_space();
        self.peek()
    }

    pub(crate) fn wrong(&self, what: &'static str) -> ReadError {
        ReadError::Syntax { what, at: self.at }
    }

    #[inline]
    pub(crate) fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), ReadError> {
        if self.next() != Some(byte) {
            return Err(self.wrong(what));
        }
        self.at += 1;
        Ok(())
    }

    /// Whether another item follows. Consumes the comma before it, or the closing `end`.
    #[inline]
    pub(crate) fn another(&mut self, first: bool, end: u8) -> Result<bool, ReadError> {
        match self.next() {
            Some(byte) if byte == end => {
                self.at += 1;
                Ok(false)
            }
            Some(b',') if !first => {
                self.at += 1;
                if self.next() == Some(end) {
                    return Err(self.wrong("expected a value"));
                }
                Ok(true)
            }
            Some(_) if first => Ok(true),
            _ => Err(self.wrong("expected a comma or the end")),
        }
    }

    #[inline]
    pub(crate) fn word(&mut self, word: &str) -> Result<(), ReadError> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.wrong("expected a value"));
        }
        self.at += word.len();
        Ok(())
    }

    /// The number that starts here.
    #[inline]
    pub(crate) fn number(&mut self) -> Result<Number<'a>, ReadError> {
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        if negative {
            self.at += 1;
            if self.is_extended() && self.peek() == Some(b'I') {
                self.word("Infinity")?;
                return Ok(Number::Float(f64::NEG_INFINITY));
            }
        }
        let mut decimal = Decimal::default();
        let first = self.peek();
        let whole = self.number_digits(&mut decimal);
        if whole == 0 || (whole > 1 && first == Some(b'0')) {
            return Err(self.wrong("expected a number"));
        }
        let mut is_float = false;
        if self.peek() == Some(b'.') {
            is_float = true;
            self.at += 1;
            let fraction = self.number_digits(&mut decimal);
            if fraction == 0 {
                return Err(self.wrong("expected a digit"));
            }
            decimal.fraction = fraction;
        }
        if let Some(b'e' | b'E') = self.peek() {
            is_float = true;
            decimal.has_exponent = true;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.some_digits()?;
        }
        let number = &self.text[start..self.at];
        if is_float {
            if let Some(float) = decimal.float(negative) {
                return Ok(Number::Float(float));
            }
            return match number.parse::<f64>() {
                Ok(float) if float.is_finite() => Ok(Number::Float(float)),
                _ => Err(self.wrong("the number is out of the range of floats")),
            };
        }
        if let Some(int) = decimal.int(negative) {
            return Ok(Number::Int(int));
        }
        if whole > MAX_DIGITS {
            return Err(ReadError::TooManyDigits);
        }
        Ok(Number::Big(number))
    }

    /// Consumes the digits that start here; returns their number.
    #[inline]
    fn number_digits(&mut self, decimal: &mut Decimal) -> usize {
        let count = decimal.extend(&self.text.as_bytes()[self.at..]);
        self.at += count;
        count
    }

    fn some_digits(&mut self) -> Result<(), ReadError> {
        if self.digits().is_empty() {
            return Err(self.wrong("expected a digit"));
        }
        Ok(())
    }

    fn digits(&mut self) -> &'a str {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    pub(crate) fn count(&mut self) -> Result<usize, ReadError> {
        self.skip_space();
        let digits = self.digits();
        digits.parse().map_err(|_| self.wrong("expected a count"))
    }

    /// An offset and a length. Ranges are in the tail in the order of the text, and do not overlap.
    pub(crate) fn range(&mut self, alignment: usize) -> Result<Range<usize>, ReadError> {
        let offset = self.count()?;
        self.expect(b',', "expected a comma")?;
        let size = self.count()?;
        let left = self.tail.clone().unwrap_or_default();
        match offset.checked_add(size) {
            Some(end)
                if offset >= left.start && end <= left.end && offset.is_multiple_of(alignment) =>
            {
                self.tail = Some(end..left.end);
                Ok(offset..end)
            }
            _ => Err(self.wrong("the tail has no such range")),
        }
    }

    /// The string that starts here.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, ReadError> {
        self.at += 1;
        let start = self.at;
        self.at += plain_run(&self.text.as_bytes()[start..]);
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(&self.text[start..self.at - 1]));
        }
        self.string_with_escapes(start).map(Cow::Owned)
    }

    fn string_with_escapes(&mut self, start: usize) -> Result<String, ReadError> {
        let mut unescaped = mem::take(&mut self.scratch);
        unescaped.clear();
        unescaped.push_str(&self.text[start..self.at]);
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(unescaped);
                }
                Some(b'\\') => {
                    self.at += 1;
                    unescaped.push(self.escaped()?);
                }
                Some(_) => return Err(self.wrong("a string has a control character")),
                None => return Err(self.wrong("a string is not terminated")),
            }
            let run = self.at;
            self.at += plain_run(&self.text.as_bytes()[run..]);
            unescaped.push_str(&self.text[run..self.at]);
        }
    }

    /// Takes back the memory of a string that `string` has returned, for the next one.
    #[inline]
    pub(crate) fn reuse(&mut self, text: Cow<'a, str>) {
        if let Cow::Owned(unescaped) = text {
            self.scratch = unescaped;
        }
    }

    fn escaped(&mut self) -> Result<char, ReadError> {
        let escape = self.peek();
        self.at += 1;
        Ok(match escape {
            Some(plain @ (b'"' | b'\\' | b'/')) => char::from(plain),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => {
                self.at -= 1;
                return Err(self.wrong("unknown escape"));
            }
        })
    }

    fn unicode(&mut self) -> Result<char, ReadError> {
        let mut code = self.hex()?;
        if (0xD800..0xDC00).contains(&code) && self.text.as_bytes()[self.at..].starts_with(br"\u") {
            self.at += 2;
            let low = self.hex()?;
            if (0xDC00..0xE000).contains(&low) {
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
            }
        }
        char::from_u32(code).ok_or_else(|| self.wrong("lone surrogate"))
    }

    fn hex(&mut self) -> Result<u32, ReadError> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let code = digits.and_then(|digits| {
            digits.iter().try_fold(0, |code, digit| {
                Some(code * 16 + char::from(*digit).to_digit(16)?)
            })
        });
        self.at += 4;
        code.ok_or(ReadError::Syntax {
            what: "expected four hexadecimal digits",
            at: self.at - 4,
        })
    }
}
