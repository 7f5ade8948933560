//! cargo bench --locked -p snakepit_values
//!
//! How long this crate's reader takes beside jiter and serde_json, which drive the same builder over the
//! same bytes. The readers take turns, and the least time of each counts: compare figures of one run.

use jiter::{Jiter, Peek};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use snakepit_values::{Builder, Form, ReadError, Tagged};
use std::{
    fmt,
    hint::black_box,
    ops::Range,
    time::{Duration, Instant},
};

const ROUNDS: usize = 100;
/// How long a reader reads in a turn: shorter than the time for which the kernel lets it run.
const TURN: Duration = Duration::from_millis(1);

/// Folds what is read into a number, so that what is measured is reading and no allocation of values.
struct Sum;

fn mixed(sum: u64, next: u64) -> u64 {
    (sum.rotate_left(5) ^ next).wrapping_mul(0x517c_c1b7_2722_0a95)
}

impl Builder for Sum {
    type Value = u64;

    fn null(&mut self) -> u64 {
        1
    }
    fn bool(&mut self, value: bool) -> u64 {
        2 + u64::from(value)
    }
    fn int(&mut self, value: i64) -> u64 {
        value.cast_unsigned()
    }
    fn big(&mut self, digits: &str) -> Result<u64, ReadError> {
        Ok(self.text(digits))
    }
    fn float(&mut self, value: f64) -> u64 {
        value.to_bits()
    }
    fn text(&mut self, text: &str) -> u64 {
        let last = text.as_bytes().last().copied().unwrap_or_default();
        mixed(text.len() as u64, u64::from(last))
    }
    fn list(&mut self, items: &[u64]) -> Result<u64, ReadError> {
        Ok(items.iter().fold(5, |sum, item| mixed(sum, *item)))
    }
    fn map(&mut self, keys: &[u64], values: &[u64]) -> Result<u64, ReadError> {
        let pairs = keys.iter().zip(values);
        Ok(pairs.fold(7, |sum, (key, value)| mixed(mixed(sum, *key), *value)))
    }
    fn tagged(&mut self, _: Tagged<Range<usize>>) -> Result<u64, ReadError> {
        Ok(11)
    }
}

fn ours(json: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(json).ok()?;
    snakepit_values::read(text, Form::Json, &mut Sum).ok()
}

/// jiter, with the values of open arrays and objects on stacks as this crate's reader has them.
struct Jitered<'j> {
    jiter: Jiter<'j>,
    keys: Vec<u64>,
    values: Vec<u64>,
}

fn jitered(json: &[u8]) -> Option<u64> {
    let mut reader = Jitered {
        jiter: Jiter::new(json),
        keys: Vec::new(),
        values: Vec::new(),
    };
    let peek = reader.jiter.peek().ok()?;
    let value = reader.value(peek)?;
    reader.jiter.finish().ok()?;
    Some(value)
}

impl Jitered<'_> {
    fn value(&mut self, peek: Peek) -> Option<u64> {
        match peek {
            Peek::Null => self.jiter.known_null().ok().map(|()| Sum.null()),
            Peek::True | Peek::False => self.jiter.known_bool(peek).ok().map(|is| Sum.bool(is)),
            Peek::String => self.jiter.known_str().ok().map(|text| Sum.text(text)),
            Peek::Array => self.array(),
            Peek::Object => self.object(),
            _ => self.number(peek),
        }
    }

    fn number(&mut self, peek: Peek) -> Option<u64> {
        match self.jiter.known_number(peek).ok()? {
            jiter::NumberAny::Int(jiter::NumberInt::Int(int)) => Some(Sum.int(int)),
            jiter::NumberAny::Float(float) => Some(Sum.float(float)),
        }
    }

    fn array(&mut self) -> Option<u64> {
        let start = self.values.len();
        let mut next = self.jiter.known_array().ok()?;
        while let Some(peek) = next {
            let value = self.value(peek)?;
            self.values.push(value);
            next = self.jiter.array_step().ok()?;
        }
        let list = Sum.list(&self.values[start..]).ok();
        self.values.truncate(start);
        list
    }

    fn object(&mut self) -> Option<u64> {
        let (keys, values) = (self.keys.len(), self.values.len());
        let mut next = self.jiter.known_object().ok()?.map(|key| Sum.text(key));
        while let Some(key) = next {
            self.keys.push(key);
            let peek = self.jiter.peek().ok()?;
            let value = self.value(peek)?;
            self.values.push(value);
            next = self.jiter.next_key().ok()?.map(|key| Sum.text(key));
        }
        let map = Sum.map(&self.keys[keys..], &self.values[values..]).ok();
        self.keys.truncate(keys);
        self.values.truncate(values);
        map
    }
}

/// The stacks of `Jitered`, filled by serde_json.
#[derive(Default)]
struct Visited {
    keys: Vec<u64>,
    values: Vec<u64>,
}

fn visited(json: &[u8]) -> Option<u64> {
    let mut json = serde_json::Deserializer::from_slice(json);
    let value = Visited::default().deserialize(&mut json).ok()?;
    json.end().ok()?;
    Some(value)
}

impl<'de> DeserializeSeed<'de> for &mut Visited {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<u64, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> DeserializeSeed<'de> for Visited {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(mut self, json: D) -> Result<u64, D::Error> {
        json.deserialize_any(&mut self)
    }
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = KeyRead;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<KeyRead, D::Error> {
        json.deserialize_str(self)
    }
}

enum KeyRead {
    Text(u64),
    /// What serde_json has for a number whose digits it keeps, the feature `arbitrary_precision`.
    Number,
}

impl Visitor<'_> for Key {
    type Value = KeyRead;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a key")
    }
    fn visit_str<E>(self, key: &str) -> Result<KeyRead, E> {
        Ok(if key == "$serde_json::private::Number" {
            KeyRead::Number
        } else {
            KeyRead::Text(Sum.text(key))
        })
    }
}

impl<'de> Visitor<'de> for &mut Visited {
    type Value = u64;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<u64, E> {
        Ok(Sum.null())
    }
    fn visit_bool<E>(self, value: bool) -> Result<u64, E> {
        Ok(Sum.bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<u64, E> {
        Ok(Sum.int(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }
    fn visit_f64<E>(self, value: f64) -> Result<u64, E> {
        Ok(Sum.float(value))
    }
    fn visit_str<E>(self, text: &str) -> Result<u64, E> {
        Ok(Sum.text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<u64, A::Error> {
        let start = self.values.len();
        while let Some(item) = items.next_element_seed(&mut *self)? {
            self.values.push(item);
        }
        let list = Sum.list(&self.values[start..]).map_err(A::Error::custom);
        self.values.truncate(start);
        list
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<u64, A::Error> {
        let (keys, values) = (self.keys.len(), self.values.len());
        while let Some(key) = entries.next_key_seed(Key)? {
            match key {
                KeyRead::Number => return number(&entries.next_value::<String>()?),
                KeyRead::Text(key) => self.keys.push(key),
            }
            let value = entries.next_value_seed(&mut *self)?;
            self.values.push(value);
        }
        let map = Sum.map(&self.keys[keys..], &self.values[values..]);
        self.keys.truncate(keys);
        self.values.truncate(values);
        map.map_err(A::Error::custom)
    }
}

fn number<E: Error>(digits: &str) -> Result<u64, E> {
    match digits.parse() {
        Ok(int) => Ok(Sum.int(int)),
        Err(_) => digits
            .parse()
            .map(|float| Sum.float(float))
            .map_err(E::custom),
    }
}

/// An array of that size, of the items that `item` makes of numbers.
fn array(size: usize, item: impl Fn(u64) -> String) -> String {
    let mut json = String::from("[");
    for n in 0.. {
        json += &item(mixed(n, n));
        if json.len() > size {
            break;
        }
        json.push(',');
    }
    json + "]"
}

fn inputs() -> [(&'static str, String); 8] {
    let row = |n: u64| {
        format!(
            r#"{{"id":{},"name":"Grüße aus Köln","score":{},"tags":["a","b",null,true],"at":{{"x":1,"y":-2.5}}}}"#,
            n % 10_000,
            (n % 1_000_000) as f64 / 1e6
        )
    };
    [
        (
            "small arguments",
            r#"{"model":"small","temperature":0.7,"n":3,"stop":["a","b"],"user":null}"#.into(),
        ),
        ("nested rows", array(1 << 20, row)),
        (
            "integers",
            array(1 << 17, |n| (n as i64 >> (n % 50)).to_string()),
        ),
        ("floats", array(1 << 17, |n| (n as f64 / 1e20).to_string())),
        ("short strings", array(1 << 17, |n| format!("\"{n:x}\""))),
        (
            "strings with escapes",
            array(1 << 17, |n| {
                format!(r#""C:\\dir\\{n}\n\t\"quoted\" \u00e9 \ud83d\ude00""#)
            }),
        ),
        (
            "long ASCII",
            array(1 << 20, |_| {
                format!("\"{}\"", "The quick brown fox. ".repeat(3_000))
            }),
        ),
        (
            "long UTF-8",
            array(1 << 20, |_| {
                format!("\"{}\"", "Grüße aus Köln, 你好! ".repeat(3_000))
            }),
        ),
    ]
}

type Read = fn(&[u8]) -> Option<u64>;

const READERS: [(&str, Read); 3] = [
    ("snakepit", ours),
    ("jiter", jitered),
    ("serde_json", visited),
];

type Times = [f64; READERS.len()];

fn main() {
    let inputs = inputs().map(|(name, json)| (name, json.into_bytes()));
    for (name, json) in &inputs {
        let sums = READERS.map(|(_, read)| read(json));
        assert!(
            sums[0].is_some() && sums.iter().all(|sum| *sum == sums[0]),
            "{name}: {sums:?}"
        );
    }
    let mut least = [[f64::INFINITY; READERS.len()]; 8];
    for round in 0..ROUNDS {
        for ((_, json), least) in inputs.iter().zip(&mut least) {
            measure(json, round, least);
        }
    }
    println!("least ns per byte, and that in multiples of snakepit's");
    for ((name, json), least) in inputs.iter().zip(least) {
        print!("{name:21} {:8} B", json.len());
        for ((reader, _), nanos) in READERS.iter().zip(least) {
            let ratio = nanos / least[0];
            let per_byte = nanos / json.len() as f64;
            print!("   {reader} {per_byte:.3} ({ratio:.2})");
        }
        println!();
    }
}

/// Lets each reader have a turn, and keeps its time in nanoseconds if it is the least.
fn measure(json: &[u8], round: usize, least: &mut Times) {
    for turn in 0..READERS.len() {
        let reader = (round + turn) % READERS.len();
        let read = READERS[reader].1;
        let times = (TURN.as_nanos() as f64 / least[reader].min(1e9)).ceil();
        let start = Instant::now();
        for _ in 0..times as u32 {
            black_box(read(black_box(json)));
        }
        least[reader] = least[reader].min(start.elapsed().as_nanos() as f64 / times);
    }
}
