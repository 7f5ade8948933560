use crate::{
    error::ReadError,
    format::{ALIGNMENT, MAX_DEPTH, TAG},
    number::Number,
    tagged::{self, Tagged},
    tokenizer::{Form, Tokenizer},
};
use std::{borrow::Cow, ops::Range};

/// Makes the values that are read.
pub trait Builder {
    type Value;

    fn null(&mut self) -> Self::Value;
    fn bool(&mut self, value: bool) -> Self::Value;
    fn int(&mut self, value: i64) -> Self::Value;
    /// An integer that does not fit in 64 bits: its digits, with a sign.
    fn big(&mut self, digits: &str) -> Result<Self::Value, ReadError>;
    fn float(&mut self, value: f64) -> Self::Value;
    fn text(&mut self, text: &str) -> Self::Value;
    fn list(&mut self, items: &[Self::Value]) -> Result<Self::Value, ReadError>;
    /// `text` has made the keys.
    fn map(
        &mut self,
        keys: &[Self::Value],
        values: &[Self::Value],
    ) -> Result<Self::Value, ReadError>;
    /// The ranges of its bytes are in the tail.
    fn tagged(&mut self, value: Tagged<Range<usize>>) -> Result<Self::Value, ReadError>;
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

/// Reads the one value of a text.
pub fn read<B: Builder>(text: &str, form: Form, builder: &mut B) -> Result<B::Value, ReadError> {
    let mut reader = Reader {
        tokens: Tokenizer::new(text, form),
        keys: Vec::new(),
        values: Vec::new(),
        builder,
    };
    let value = reader.value(0)?;
    match reader.tokens.next() {
        None => Ok(value),
        Some(_) => Err(reader.tokens.wrong("expected the end after the value")),
    }
}

struct Reader<'a, B: Builder> {
    tokens: Tokenizer<'a>,
    /// Stacks of the keys and the values of the arrays and objects that are open.
    keys: Vec<B::Value>,
    values: Vec<B::Value>,
    builder: &'a mut B,
}

impl<'a, B: Builder> Reader<'a, B> {
    fn value(&mut self, depth: usize) -> Result<B::Value, ReadError> {
        match self.tokens.next() {
            Some(b'"') => {
                let text = self.tokens.string()?;
                Ok(self.text(text))
            }
            Some(b'[') => self.array(depth),
            Some(b'{') => self.object(depth),
            Some(b'-' | b'0'..=b'9') => match self.tokens.number()? {
                Number::Int(int) => Ok(self.builder.int(int)),
                Number::Float(float) => Ok(self.builder.float(float)),
                Number::Big(digits) => self.builder.big(digits),
            },
            Some(b'n') => {
                self.tokens.word("null")?;
                Ok(self.builder.null())
            }
            Some(b't') => {
                self.tokens.word("true")?;
                Ok(self.builder.bool(true))
            }
            Some(b'f') => {
                self.tokens.word("false")?;
                Ok(self.builder.bool(false))
            }
            Some(b'N') if self.tokens.is_extended() => {
                self.tokens.word("NaN")?;
                Ok(self.builder.float(f64::NAN))
            }
            Some(b'I') if self.tokens.is_extended() => {
                self.tokens.word("Infinity")?;
                Ok(self.builder.float(f64::INFINITY))
            }
            _ => Err(self.tokens.wrong("expected a value")),
        }
    }

    fn text(&mut self, text: Cow<'a, str>) -> B::Value {
        let value = self.builder.text(&text);
        self.tokens.reuse(text);
        value
    }

    fn array(&mut self, depth: usize) -> Result<B::Value, ReadError> {
        if depth == MAX_DEPTH {
            return Err(ReadError::TooDeep);
        }
        self.tokens.skip();
        let start = self.values.len();
        let mut first = true;
        while self.tokens.another(first, b']')? {
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
        self.tokens.skip();
        let (keys, values) = (self.keys.len(), self.values.len());
        while self.tokens.another(self.keys.len() == keys, b'}')? {
            if self.tokens.peek() != Some(b'"') {
                return Err(self.tokens.wrong("expected a key"));
            }
            let key = self.tokens.string()?;
            self.tokens.expect(b':', "expected a colon")?;
            if self.tokens.is_extended() && key == TAG {
                if self.keys.len() > keys {
                    return Err(self.tokens.wrong("the tag is not the only key"));
                }
                let tagged = self.tagged(depth)?;
                self.tokens.expect(b'}', "the tag is not the only key")?;
                return Ok(tagged);
            }
            let key = self.text(key);
            self.keys.push(key);
            let value = self.value(depth + 1)?;
            self.values.push(value);
        }
        self.map(keys, values)
    }

    /// A map of the keys and values on the stacks from these positions on.
    fn map(&mut self, keys: usize, values: usize) -> Result<B::Value, ReadError> {
        let map = self.builder.map(&self.keys[keys..], &self.values[values..]);
        self.keys.truncate(keys);
        self.values.truncate(values);
        map
    }

    /// The value of an object with a tag.
    fn tagged(&mut self, depth: usize) -> Result<B::Value, ReadError> {
        self.tokens
            .expect(b'[', "the tag's value is not an array")?;
        if self.tokens.next() != Some(b'"') {
            return Err(self.tokens.wrong("the tag has no name"));
        }
        let name = self.tokens.string()?;
        self.tokens.expect(b',', "expected a comma")?;
        let value = if name == "map" {
            self.pairs(depth)?
        } else {
            let value = tagged::read(&name, &mut self.tokens)?;
            self.builder.tagged(value)?
        };
        self.tokens.expect(b']', "the tag has further items")?;
        Ok(value)
    }

    /// A map that itself has the key of tags.
    fn pairs(&mut self, depth: usize) -> Result<B::Value, ReadError> {
        self.tokens.expect(b'[', "expected an array of pairs")?;
        let (keys, values) = (self.keys.len(), self.values.len());
        while self.tokens.another(self.keys.len() == keys, b']')? {
            self.tokens.expect(b'[', "expected a pair")?;
            if self.tokens.next() != Some(b'"') {
                return Err(self.tokens.wrong("expected a key"));
            }
            let key = self.tokens.string()?;
            let key = self.text(key);
            self.keys.push(key);
            self.tokens.expect(b',', "expected a comma")?;
            let value = self.value(depth + 1)?;
            self.values.push(value);
            self.tokens.expect(b']', "expected a pair")?;
        }
        self.map(keys, values)
    }
}
