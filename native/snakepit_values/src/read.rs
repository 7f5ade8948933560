use crate::{
    dtype::Dtype,
    error::ReadError,
    format::{ALIGNMENT, MARK, MAX_DEPTH, MAX_DIGITS},
    text::plain_run,
};
use std::{borrow::Cow, mem, ops::Range};

/// Makes values of what is read.
pub trait Builder {
    type Value;

    fn null(&mut self) -> Self::Value;
    fn bool(&mut self, value: bool) -> Self::Value;
    fn int(&mut self, value: i64) -> Self::Value;
    /// An integer that 64 bits do not hold, as its digits with a sign.
    fn big(&mut self, digits: &str) -> Result<Self::Value, ReadError>;
    fn float(&mut self, value: f64) -> Self::Value;
    fn text(&mut self, text: &str) -> Self::Value;
    fn list(&mut self, items: &[Self::Value]) -> Result<Self::Value, ReadError>;
    /// The keys are what `text` has made of them.
    fn map(
        &mut self,
        keys: &[Self::Value],
        values: &[Self::Value],
    ) -> Result<Self::Value, ReadError>;
    /// Bytes of the tail.
    fn bytes(&mut self, range: Range<usize>) -> Result<Self::Value, ReadError>;
    fn tensor(
        &mut self,
        dtype: Dtype,
        shape: &[usize],
        range: Range<usize>,
    ) -> Result<Self::Value, ReadError>;
    /// An Arrow IPC stream, which is as it is.
    fn arrow(&mut self, range: Range<usize>) -> Result<Self::Value, ReadError>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    /// Extended JSON, its tail being of that size.
    Extended {
        tail: usize,
    },
}

/// Splits extended JSON into its text and its tail.
pub fn split_tail(bytes: &[u8]) -> (&[u8], Range<usize>) {
    match bytes.iter().position(|byte| *byte == 0) {
        None => (bytes, bytes.len()..bytes.len()),
        Some(end) => {
            let start = (end + 1).next_multiple_of(ALIGNMENT).min(bytes.len());
            (&bytes[..end], start..bytes.len())
        }
    }
}

/// Reads one value, which is the whole text.
pub fn read<B: Builder>(text: &str, form: Form, builder: &mut B) -> Result<B::Value, ReadError> {
    let mut reader = Reader {
        text,
        at: 0,
        tail: match form {
            Form::Json => None,
            Form::Extended { tail } => Some(0..tail),
        },
        keys: Vec::new(),
        values: Vec::new(),
        scratch: String::new(),
        builder,
    };
    let value = reader.value(0)?;
    reader.skip_space();
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.wrong("expected the end after the value")),
    }
}

/// The digits of a number as long as they are few, which most are: those are a number without being
/// read again.
#[derive(Default)]
struct Decimal {
    digits: u64,
    count: usize,
    /// How many of the digits come after the point.
    fraction: usize,
    has_exponent: bool,
}

/// As many digits always fit in 64 bits.
const FEW_DIGITS: usize = 19;
/// The powers of ten that are floats exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

impl Decimal {
    /// Takes the digits at the start of `bytes`, and says how many they are.
    fn extend(&mut self, bytes: &[u8]) -> usize {
        let mut digits = self.digits;
        let mut count = 0;
        for byte in bytes {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            digits = digits.wrapping_mul(10).wrapping_add(digit.into());
            count += 1;
        }
        self.digits = digits;
        self.count += count;
        count
    }

    fn int(&self, negative: bool) -> Option<i64> {
        if self.count > FEW_DIGITS {
            return None;
        }
        if negative {
            0i64.checked_sub_unsigned(self.digits)
        } else {
            self.digits.try_into().ok()
        }
    }

    /// One division of two exact floats gives the float that is nearest.
    fn float(&self, negative: bool) -> Option<f64> {
        const MOST: u64 = 1 << f64::MANTISSA_DIGITS;
        if self.has_exponent || self.count > FEW_DIGITS || self.digits > MOST {
            return None;
        }
        let float = self.digits as f64 / POWERS[self.fraction];
        Some(if negative { -float } else { float })
    }
}

struct Reader<'a, B: Builder> {
    text: &'a str,
    at: usize,
    /// What of the tail is left, if the text is extended JSON.
    tail: Option<Range<usize>>,
    keys: Vec<B::Value>,
    values: Vec<B::Value>,
    /// What the last string with escapes was unescaped into.
    scratch: String,
    builder: &'a mut B,
}

impl<'a, B: Builder> Reader<'a, B> {
    fn wrong(&self, what: &'static str) -> ReadError {
        ReadError::Syntax { what, at: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// The next byte that is no space.
    fn next(&mut self) -> Option<u8> {
        self.skip_space();
        self.peek()
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), ReadError> {
        if self.next() != Some(byte) {
            return Err(self.wrong(what));
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &str, value: B::Value) -> Result<B::Value, ReadError> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.wrong("expected a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn value(&mut self, depth: usize) -> Result<B::Value, ReadError> {
        match self.next() {
            Some(b'"') => {
                let text = self.string()?;
                Ok(self.text(text))
            }
            Some(b'[') => self.array(depth),
            Some(b'{') => self.object(depth),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'n') => {
                let null = self.builder.null();
                self.word("null", null)
            }
            Some(b't') => {
                let value = self.builder.bool(true);
                self.word("true", value)
            }
            Some(b'f') => {
                let value = self.builder.bool(false);
                self.word("false", value)
            }
            Some(b'N') if self.tail.is_some() => {
                let nan = self.builder.float(f64::NAN);
                self.word("NaN", nan)
            }
            Some(b'I') if self.tail.is_some() => {
                let infinity = self.builder.float(f64::INFINITY);
                self.word("Infinity", infinity)
            }
            _ => Err(self.wrong("expected a value")),
        }
    }

    fn text(&mut self, text: Cow<'_, str>) -> B::Value {
        let value = self.builder.text(&text);
        if let Cow::Owned(unescaped) = text {
            self.scratch = unescaped;
        }
        value
    }

    /// Whether another item follows; takes the comma before it, or the closing `end`.
    fn another(&mut self, first: bool, end: u8) -> Result<bool, ReadError> {
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

    fn array(&mut self, depth: usize) -> Result<B::Value, ReadError> {
        if depth == MAX_DEPTH {
            return Err(ReadError::TooDeep);
        }
        self.at += 1;
        let start = self.values.len();
        let mut first = true;
        while self.another(first, b']')? {
            first = false;
            let item = self.value(depth + 1)?;
            self.values.push(item);
        }
        let list = self.builder.list(&self.values[start..]);
        self.values.truncate(start);
        list
    }

    fn object(&mut self, depth: usize) -> Result<B::Value, ReadError> {
        if depth == MAX_DEPTH {
            return Err(ReadError::TooDeep);
        }
        self.at += 1;
        let (keys, values) = (self.keys.len(), self.values.len());
        while self.another(self.keys.len() == keys, b'}')? {
            if self.peek() != Some(b'"') {
                return Err(self.wrong("expected a key"));
            }
            let key = self.string()?;
            self.expect(b':', "expected a colon")?;
            if self.tail.is_some() && key == MARK {
                if self.keys.len() > keys {
                    return Err(self.wrong("the tag is not the only key"));
                }
                let marked = self.marked(depth)?;
                self.expect(b'}', "the tag is not the only key")?;
                return Ok(marked);
            }
            let key = self.text(key);
            self.keys.push(key);
            let value = self.value(depth + 1)?;
            self.values.push(value);
        }
        self.map(keys, values)
    }

    /// A map of the keys and values that were read from there on.
    fn map(&mut self, keys: usize, values: usize) -> Result<B::Value, ReadError> {
        let map = self.builder.map(&self.keys[keys..], &self.values[values..]);
        self.keys.truncate(keys);
        self.values.truncate(values);
        map
    }

    /// What stands under the mark.
    fn marked(&mut self, depth: usize) -> Result<B::Value, ReadError> {
        self.expect(b'[', "the tag's value is not an array")?;
        if self.next() != Some(b'"') {
            return Err(self.wrong("the tag has no name"));
        }
        let name = self.string()?;
        self.expect(b',', "expected a comma")?;
        let value = match &*name {
            "map" => self.pairs(depth)?,
            "bytes" => {
                let range = self.range(1)?;
                self.builder.bytes(range)?
            }
            "tensor" => self.tensor()?,
            "arrow" => {
                let range = self.range(ALIGNMENT)?;
                self.builder.arrow(range)?
            }
            _ => return Err(self.wrong("the tag has an unknown name")),
        };
        self.expect(b']', "the tag has further items")?;
        Ok(value)
    }

    fn pairs(&mut self, depth: usize) -> Result<B::Value, ReadError> {
        self.expect(b'[', "expected an array of pairs")?;
        let (keys, values) = (self.keys.len(), self.values.len());
        while self.another(self.keys.len() == keys, b']')? {
            self.expect(b'[', "expected a pair")?;
            if self.next() != Some(b'"') {
                return Err(self.wrong("expected a key"));
            }
            let key = self.string()?;
            let key = self.text(key);
            self.keys.push(key);
            self.expect(b',', "expected a comma")?;
            let value = self.value(depth + 1)?;
            self.values.push(value);
            self.expect(b']', "expected a pair")?;
        }
        self.map(keys, values)
    }

    fn tensor(&mut self) -> Result<B::Value, ReadError> {
        if self.next() != Some(b'"') {
            return Err(self.wrong("expected a dtype"));
        }
        let name = self.string()?;
        let dtype = Dtype::of(&name).ok_or_else(|| self.wrong("the dtype is unknown"))?;
        self.expect(b',', "expected a comma")?;
        self.expect(b'[', "expected a shape")?;
        let mut shape = Vec::new();
        while self.another(shape.is_empty(), b']')? {
            shape.push(self.count()?);
        }
        self.expect(b',', "expected a comma")?;
        let range = self.range(ALIGNMENT)?;
        if dtype.bytes(&shape) != Some(range.len()) {
            return Err(self.wrong("the tensor's length does not match its shape"));
        }
        self.builder.tensor(dtype, &shape, range)
    }

    /// An offset and a length: they stand in the tail in the order of the text, none over another.
    fn range(&mut self, alignment: usize) -> Result<Range<usize>, ReadError> {
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

    fn count(&mut self) -> Result<usize, ReadError> {
        self.skip_space();
        let digits = self.digits();
        digits.parse().map_err(|_| self.wrong("expected a count"))
    }

    fn digits(&mut self) -> &'a str {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn number(&mut self) -> Result<B::Value, ReadError> {
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        if negative {
            self.at += 1;
            if self.tail.is_some() && self.peek() == Some(b'I') {
                let infinity = self.builder.float(f64::NEG_INFINITY);
                return self.word("Infinity", infinity);
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
                return Ok(self.builder.float(float));
            }
            return match number.parse::<f64>() {
                Ok(float) if float.is_finite() => Ok(self.builder.float(float)),
                _ => Err(self.wrong("the number is out of the range of floats")),
            };
        }
        if let Some(int) = decimal.int(negative) {
            return Ok(self.builder.int(int));
        }
        if whole > MAX_DIGITS {
            return Err(ReadError::TooManyDigits);
        }
        self.builder.big(number)
    }

    /// Takes the digits that come here, and says how many they are.
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

    /// The string that starts here.
    fn string(&mut self) -> Result<Cow<'a, str>, ReadError> {
        self.at += 1;
        let start = self.at;
        self.at += plain_run(&self.text.as_bytes()[start..]);
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(&self.text[start..self.at - 1]));
        }
        let mut unescaped = mem::take(&mut self.scratch);
        unescaped.clear();
        unescaped.push_str(&self.text[start..self.at]);
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(unescaped));
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
