//! Values between BEAM terms and the bytes of the wire, by the plain rules: a binary is sent as it
//! is, anything else as JSON; received bytes are read as JSON if they parse, else as a binary.

use crate::{atoms, failure::Failure};
use bytes::Bytes;
use rustler::{
    BigInt, Binary, Encoder, Env, ListIterator, MapIterator, NewBinary, Resource, ResourceArc,
    Term, TermType, types::tuple,
};
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use std::{collections::BTreeMap, fmt, io::Write};

pub(crate) type Fields = BTreeMap<String, Bytes>;

const MAX_DEPTH: usize = 128;
/// Parsing an integer takes time that grows with the square of its length.
const MAX_DIGITS: usize = 100_000;
/// From here on a received binary is shared with the message it came in, not copied.
const SHARED_FROM: usize = 4096;
/// What an element costs beside its bytes, in bytes copied.
const ELEMENT_COST: usize = 32;

#[derive(Debug)]
pub(crate) enum EncodeError {
    /// More work than the caller's budget allows; nothing is wrong.
    OverBudget,
    Invalid {
        path: String,
        message: String,
    },
}

impl EncodeError {
    fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid {
            path: String::new(),
            message: message.into(),
        }
    }

    /// Puts the step that led here in front of the path.
    fn under(self, step: impl fmt::Display) -> Self {
        match self {
            Self::Invalid { path, message } => Self::Invalid {
                path: format!("{step}{path}"),
                message,
            },
            over_budget => over_budget,
        }
    }
}

/// Encodes a map or keyword list of arguments, doing at most about `budget` bytes' worth of work.
pub(crate) fn encode_args(args: Term<'_>, budget: usize) -> Result<Fields, EncodeError> {
    let mut fields = Fields::new();
    let mut spent = 0;
    for (key, value) in
        pairs(args).ok_or_else(|| EncodeError::invalid("must be a map with atom or string keys"))?
    {
        let name = key_text(key).map_err(|e| e.under("args"))?;
        let bytes = encode_value(value, budget.saturating_sub(spent))
            .map_err(|e| e.under(format_args!("args.{name}")))?;
        spent += bytes.len() + name.len() + ELEMENT_COST;
        if let Some(_twin) = fields.insert(name, bytes) {
            return Err(EncodeError::invalid("two keys have the same text").under("args"));
        }
    }
    Ok(fields)
}

fn encode_value(value: Term<'_>, budget: usize) -> Result<Bytes, EncodeError> {
    if let Ok(binary) = value.decode::<Binary<'_>>() {
        if binary.len() > budget {
            return Err(EncodeError::OverBudget);
        }
        return Ok(Bytes::copy_from_slice(&binary));
    }
    let mut writer = JsonWriter {
        out: Vec::new(),
        budget,
        elements: 0,
    };
    writer.value(value, 0)?;
    Ok(writer.out.into())
}

struct JsonWriter {
    out: Vec<u8>,
    budget: usize,
    elements: usize,
}

impl JsonWriter {
    fn value(&mut self, term: Term<'_>, depth: usize) -> Result<(), EncodeError> {
        self.elements += 1;
        if self.out.len() + self.elements * ELEMENT_COST > self.budget {
            return Err(EncodeError::OverBudget);
        }
        if depth > MAX_DEPTH {
            return Err(EncodeError::invalid(format!(
                "is nested deeper than {MAX_DEPTH} levels"
            )));
        }
        match term.get_type() {
            TermType::Atom => self.atom(term),
            TermType::Binary => self.text(term),
            TermType::Integer => self.integer(term),
            TermType::Float => self.json(&term.decode::<f64>().unwrap_or_default()),
            TermType::List => self.list(term, depth),
            TermType::Tuple => {
                let items = tuple::get_tuple(term).unwrap_or_default();
                self.array(items.into_iter(), depth)
            }
            TermType::Map => self.map(term, depth),
            other => Err(EncodeError::invalid(format!(
                "is a {}, which Python cannot be sent",
                format!("{other:?}").to_lowercase()
            ))),
        }
    }

    fn json<T: serde::Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        serde_json::to_writer(&mut self.out, value).map_err(|e| EncodeError::invalid(e.to_string()))
    }

    fn atom(&mut self, term: Term<'_>) -> Result<(), EncodeError> {
        if atoms::nil() == term {
            self.out.extend_from_slice(b"null");
            return Ok(());
        }
        match term.decode::<bool>() {
            Ok(value) => self.json(&value),
            Err(_) => self.json(&term.atom_to_string().unwrap_or_default()),
        }
    }

    fn text(&mut self, term: Term<'_>) -> Result<(), EncodeError> {
        let binary: Binary<'_> = term
            .decode()
            .map_err(|_| EncodeError::invalid("is a bitstring, which Python cannot be sent"))?;
        let text = std::str::from_utf8(&binary).map_err(|_| {
            EncodeError::invalid(
                "is a binary that is not UTF-8, inside another value; pass it as an argument of its own",
            )
        })?;
        self.json(text)
    }

    fn integer(&mut self, term: Term<'_>) -> Result<(), EncodeError> {
        if let Ok(small) = term.decode::<i64>() {
            return self.json(&small);
        }
        let big: BigInt = term
            .decode()
            .map_err(|_| EncodeError::invalid("is an integer too large to be sent"))?;
        write!(self.out, "{big}").map_err(|e| EncodeError::invalid(e.to_string()))
    }

    fn list(&mut self, term: Term<'_>, depth: usize) -> Result<(), EncodeError> {
        if term.list_length().is_err() {
            return Err(EncodeError::invalid("is an improper list"));
        }
        if let Some(pairs) = keyword_pairs(term) {
            return self.object(pairs.into_iter(), depth);
        }
        match term.decode::<ListIterator<'_>>() {
            Ok(items) => self.array(items, depth),
            Err(_) => Err(EncodeError::invalid("is no list")),
        }
    }

    fn array<'a>(
        &mut self,
        items: impl Iterator<Item = Term<'a>>,
        depth: usize,
    ) -> Result<(), EncodeError> {
        self.out.push(b'[');
        for (index, item) in items.enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.value(item, depth + 1)
                .map_err(|e| e.under(format_args!("[{index}]")))?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn map(&mut self, term: Term<'_>, depth: usize) -> Result<(), EncodeError> {
        if let Ok(name) = term.map_get(atoms::__struct__()) {
            let name = name.atom_to_string().unwrap_or_default();
            return Err(EncodeError::invalid(format!(
                "is a %{}{{}}; turn it into a plain map or a string first",
                name.trim_start_matches("Elixir.")
            )));
        }
        match MapIterator::new(term) {
            Some(pairs) => self.object(pairs, depth),
            None => Err(EncodeError::invalid("is no map")),
        }
    }

    fn object<'a>(
        &mut self,
        pairs: impl Iterator<Item = (Term<'a>, Term<'a>)>,
        depth: usize,
    ) -> Result<(), EncodeError> {
        self.out.push(b'{');
        for (index, (key, value)) in pairs.enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            let name = key_text(key)?;
            self.json(&name)?;
            self.out.push(b':');
            self.value(value, depth + 1)
                .map_err(|e| e.under(format_args!(".{name}")))?;
        }
        self.out.push(b'}');
        Ok(())
    }
}

fn pairs(term: Term<'_>) -> Option<Vec<(Term<'_>, Term<'_>)>> {
    match term.get_type() {
        TermType::Map if term.map_get(atoms::__struct__()).is_err() => {
            MapIterator::new(term).map(Iterator::collect)
        }
        TermType::List if term.is_empty_list() => Some(Vec::new()),
        TermType::List => keyword_pairs(term),
        _ => None,
    }
}

/// The pairs of a keyword list; of anything else, the empty list too, nothing.
fn keyword_pairs(term: Term<'_>) -> Option<Vec<(Term<'_>, Term<'_>)>> {
    let mut pairs = Vec::new();
    for item in term.decode::<ListIterator<'_>>().ok()? {
        match item.decode::<(Term<'_>, Term<'_>)>() {
            Ok((key, value)) if key.is_atom() => pairs.push((key, value)),
            _ => return None,
        }
    }
    (!pairs.is_empty()).then_some(pairs)
}

fn key_text(key: Term<'_>) -> Result<String, EncodeError> {
    match key.get_type() {
        TermType::Atom => key.atom_to_string().ok(),
        TermType::Binary => key.decode().ok(),
        TermType::Integer => key.decode::<BigInt>().ok().map(|number| number.to_string()),
        _ => None,
    }
    .ok_or_else(|| {
        EncodeError::invalid(format!(
            " has the key {key:?}; keys are atoms, UTF-8 strings or integers"
        ))
    })
}

/// Decodes a result, or with `is_final` a chunk, into a map with string keys.
pub(crate) fn decode_fields<'a>(
    env: Env<'a>,
    fields: &Fields,
    is_final: Option<bool>,
) -> Result<Term<'a>, Failure> {
    let mut keys = Vec::with_capacity(fields.len() + 1);
    let mut values = Vec::with_capacity(fields.len() + 1);
    for (name, bytes) in fields {
        if is_final.is_some() && name == "is_final" {
            continue;
        }
        keys.push(name.encode(env));
        values.push(
            decode_value(env, bytes)
                .map_err(|problem| Failure::InvalidResult(format!("result.{name} {problem}")))?,
        );
    }
    if let Some(is_final) = is_final {
        keys.push("is_final".encode(env));
        values.push(is_final.encode(env));
    }
    build_map(env, &keys, &values)
        .map_err(|_| Failure::InvalidResult("the result cannot be built".into()))
}

fn decode_value<'a>(env: Env<'a>, bytes: &Bytes) -> Result<Term<'a>, &'static str> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = ValueSeed(env)
        .deserialize(&mut json)
        .and_then(|term| json.end().map(|()| term));
    match parsed {
        Ok(term) => Ok(term),
        Err(error) if error.to_string().starts_with("recursion limit") => {
            Err("is nested deeper than 128 levels")
        }
        Err(_) => Ok(binary(env, bytes)),
    }
}

/// The memory behind a binary that the BEAM was given without a copy.
pub(crate) struct SharedBytes(Bytes);

#[rustler::resource_impl]
impl Resource for SharedBytes {}

pub(crate) fn binary<'a>(env: Env<'a>, bytes: &Bytes) -> Term<'a> {
    if bytes.len() < SHARED_FROM {
        return copied(env, bytes);
    }
    ResourceArc::new(SharedBytes(bytes.clone()))
        .make_binary(env, |shared| &shared.0)
        .to_term(env)
}

pub(crate) fn copied<'a>(env: Env<'a>, bytes: &[u8]) -> Term<'a> {
    NewBinary::from_slice(env, bytes).into()
}

fn build_map<'a>(
    env: Env<'a>,
    keys: &[Term<'a>],
    values: &[Term<'a>],
) -> rustler::NifResult<Term<'a>> {
    Term::map_from_term_arrays(env, keys, values).or_else(|_| {
        // The same key twice: the last one counts.
        keys.iter()
            .zip(values)
            .try_fold(Term::map_new(env), |map, (key, value)| {
                map.map_put(key, value)
            })
    })
}

/// How serde_json hands out a number of which the text matters: a float, or an integer beyond 64
/// bits.
const NUMBER: &str = "$serde_json::private::Number";

#[derive(Clone, Copy)]
struct ValueSeed<'a>(Env<'a>);

impl<'a, 'de> DeserializeSeed<'de> for ValueSeed<'a> {
    type Value = Term<'a>;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Term<'a>, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'a, 'de> Visitor<'de> for ValueSeed<'a> {
    type Value = Term<'a>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Term<'a>, E> {
        Ok(atoms::nil().to_term(self.0))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Term<'a>, E> {
        Ok(value.encode(self.0))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Term<'a>, E> {
        Ok(value.encode(self.0))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Term<'a>, E> {
        Ok(value.encode(self.0))
    }

    fn visit_str<E>(self, value: &str) -> Result<Term<'a>, E> {
        Ok(copied(self.0, value.as_bytes()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Term<'a>, A::Error> {
        let mut terms: Vec<Term<'a>> = Vec::with_capacity(items.size_hint().unwrap_or(0));
        while let Some(term) = items.next_element_seed(self)? {
            terms.push(term);
        }
        Ok(terms.encode(self.0))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Term<'a>, A::Error> {
        let env = self.0;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        while let Some(key) = entries.next_key::<std::borrow::Cow<'de, str>>()? {
            if keys.is_empty() && key == NUMBER {
                return number(env, &entries.next_value::<String>()?).map_err(A::Error::custom);
            }
            keys.push(copied(env, key.as_bytes()));
            values.push(entries.next_value_seed(self)?);
        }
        build_map(env, &keys, &values).map_err(|_| A::Error::custom("no map"))
    }
}

fn number<'a>(env: Env<'a>, text: &str) -> Result<Term<'a>, &'static str> {
    if text.contains(['.', 'e', 'E']) {
        return match text.parse::<f64>() {
            Ok(float) if float.is_finite() => Ok(float.encode(env)),
            _ => Err("a number beyond the range of floats"),
        };
    }
    if text.len() > MAX_DIGITS {
        return Err("an integer of too many digits");
    }
    text.parse::<BigInt>()
        .map(|big| big.encode(env))
        .map_err(|_| "no number")
}
