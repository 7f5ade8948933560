//! Encodes BEAM terms to bytes of the wire.

use super::{
    binary::is_text,
    rules::{EncodeError, Rules},
    structs,
};
use crate::atoms;
use bytes::Bytes;
use rustler::{BigInt, Binary, ListIterator, MapIterator, Term, TermType, types::tuple};
use snakepit_proto::{Field, Fields, packed};
use snakepit_values::{Kind, MAX_DEPTH, MAX_DIGITS, Tagged, Writer};
use std::{borrow::Cow, collections::HashSet, str};

/// The cost of an element besides its bytes, in the unit of copying a byte.
const ELEMENT_COST: usize = 32;
/// log2(10) times 1000, rounded down: the least number of bits, in thousandths, that a digit takes.
const MILLIBITS_PER_DIGIT: u64 = 3321;

/// Encodes a map or keyword list of arguments. `budget` limits the work, to about that of copying as many bytes.
pub(crate) fn encode_args(
    args: Term<'_>,
    rules: Rules,
    budget: usize,
) -> Result<Fields, EncodeError> {
    let pairs = pairs(args)
        .ok_or_else(|| EncodeError::invalid("args must be a map with atom or string keys"))?;
    let mut found = Vec::with_capacity(pairs.len());
    let mut spent = 0;
    for (key, value) in pairs {
        let name = key_text(key).map_err(|e| e.under("args"))?;
        let (kind, bytes) = encode_value(value, rules, budget.saturating_sub(spent))
            .map_err(|e| e.under(format_args!("args.{name}")))?;
        spent += bytes.len() + name.len() + ELEMENT_COST;
        found.push((Field::new(&*name, bytes), kind as u8));
    }
    let fields = Fields::sent(found, rules == Rules::Kinds);
    if fields
        .values
        .windows(2)
        .any(|pair| pair[0].key == pair[1].key)
    {
        return Err(EncodeError::invalid("has two keys with the same text").under("args"));
    }
    Ok(fields)
}

/// Encodes a value as extended JSON, also if plain JSON would do.
pub(crate) fn encode_extended(value: Term<'_>) -> Result<Vec<u8>, EncodeError> {
    Ok(write(value, Rules::Kinds, usize::MAX)?.1)
}

/// Encodes a value that travels by itself, with its kind.
pub(crate) fn encode_value(
    value: Term<'_>,
    rules: Rules,
    budget: usize,
) -> Result<(Kind, Bytes), EncodeError> {
    if let Ok(binary) = value.decode::<Binary<'_>>() {
        let kind = |bytes: &[u8]| match is_text(bytes) {
            true => Kind::Text,
            false => Kind::Bytes,
        };
        return copied(&binary, budget).map(|bytes| (kind(&bytes), bytes));
    }
    if let Some(binary) = structs::forced_bytes(value) {
        return copied(&binary, budget).map(|bytes| (Kind::Bytes, bytes));
    }
    let (kind, bytes) = write(value, rules, budget)?;
    Ok((kind, packed(bytes)))
}

fn copied(binary: &Binary<'_>, budget: usize) -> Result<Bytes, EncodeError> {
    if binary.len() > budget {
        return Err(EncodeError::OverBudget);
    }
    Ok(snakepit_proto::copied(binary))
}

fn write(value: Term<'_>, rules: Rules, budget: usize) -> Result<(Kind, Vec<u8>), EncodeError> {
    let mut encoder = TermWriter {
        rules,
        budget,
        spent: 0,
    };
    let mut writer = Writer::default();
    encoder.value(&mut writer, value, 0)?;
    Ok(writer.finish())
}

/// `value` is recursive, and runs on the small stack of a dirty scheduler: a method that is inlined into it
/// takes space on every level.
struct TermWriter {
    rules: Rules,
    budget: usize,
    spent: usize,
}

type Done = Result<(), EncodeError>;

impl TermWriter {
    fn spend(&mut self, size: usize) -> Done {
        self.spent = self.spent.saturating_add(size + ELEMENT_COST);
        if self.spent > self.budget {
            return Err(EncodeError::OverBudget);
        }
        Ok(())
    }

    fn value<'a>(&mut self, out: &mut Writer<'a>, term: Term<'a>, depth: usize) -> Done {
        self.spend(0)?;
        match term.get_type() {
            TermType::Atom => self.atom(out, term),
            TermType::Binary => self.binary(out, term),
            TermType::Integer => integer(out, term),
            TermType::Float => {
                out.float(term.decode().unwrap_or_default());
                Ok(())
            }
            // A struct may be converted to a value that is not nested.
            _ if depth == MAX_DEPTH && structs::name(term).is_none() => Err(EncodeError::invalid(
                format!("is nested deeper than {MAX_DEPTH} levels"),
            )),
            TermType::List => self.list(out, term, depth),
            TermType::Tuple => {
                let items = tuple::get_tuple(term).unwrap_or_default();
                self.array(out, items.into_iter(), depth)
            }
            TermType::Map => match structs::name(term) {
                Some(name) => self.structure(out, term, name),
                None => self.map(out, term, depth),
            },
            other => Err(EncodeError::invalid(format!(
                "is a {}, which cannot be sent to Python",
                format!("{other:?}").to_lowercase()
            ))),
        }
    }

    #[inline(never)]
    fn atom<'a>(&mut self, out: &mut Writer<'a>, term: Term<'a>) -> Done {
        if atoms::nil() == term {
            out.null();
        } else if let Ok(value) = term.decode() {
            out.bool(value);
        } else if let Some(float) = self.special_float(term) {
            out.float(float);
        } else {
            out.text(&term.atom_to_string().unwrap_or_default());
        }
        Ok(())
    }

    /// Erlang lacks these floats: atoms represent them, as in Nx.
    fn special_float(&self, atom: Term<'_>) -> Option<f64> {
        if self.rules == Rules::Plain {
            return None;
        }
        [
            (atoms::nan(), f64::NAN),
            (atoms::infinity(), f64::INFINITY),
            (atoms::neg_infinity(), f64::NEG_INFINITY),
        ]
        .into_iter()
        .find_map(|(name, float)| (name == atom).then_some(float))
    }

    #[inline(never)]
    fn binary<'a>(&mut self, out: &mut Writer<'a>, term: Term<'a>) -> Done {
        let binary: Binary<'a> = term
            .decode()
            .map_err(|_| EncodeError::invalid("is a bitstring, which cannot be sent to Python"))?;
        self.spend(binary.len())?;
        match str::from_utf8(binary.as_slice()) {
            Ok(text) => out.text(text),
            Err(_) => {
                self.rules.check_extended("a binary that is not UTF-8")?;
                out.tagged(Tagged::Bytes(binary.as_slice()));
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn list<'a>(&mut self, out: &mut Writer<'a>, term: Term<'a>, depth: usize) -> Done {
        if term.list_length().is_err() {
            return Err(EncodeError::invalid("is an improper list"));
        }
        if let Some(pairs) = keyword_pairs(term) {
            self.object(out, &pairs, depth, true)
        } else {
            match term.decode::<ListIterator<'a>>() {
                Ok(items) => self.array(out, items, depth),
                Err(_) => Err(EncodeError::invalid("is not a list")),
            }
        }
    }

    #[inline(never)]
    fn array<'a>(
        &mut self,
        out: &mut Writer<'a>,
        items: impl Iterator<Item = Term<'a>>,
        depth: usize,
    ) -> Done {
        out.array(items, |out, index, item| {
            self.value(out, item, depth + 1)
                .map_err(|e| e.under(format_args!("[{index}]")))
        })
    }

    #[inline(never)]
    fn map<'a>(&mut self, out: &mut Writer<'a>, term: Term<'a>, depth: usize) -> Done {
        self.spend(term.map_size().unwrap_or_default() * ELEMENT_COST)?;
        let entries = map_entries(term);
        self.object(out, &entries, depth, false)
    }

    /// Writes the entries of a map, or of a keyword list, which may have duplicate keys.
    #[inline(never)]
    fn object<'a>(
        &mut self,
        out: &mut Writer<'a>,
        entries: &[(Term<'a>, Term<'a>)],
        depth: usize,
        is_keyword: bool,
    ) -> Done {
        // If all keys of a map have the same type, no two have the same text.
        let mixed = is_keyword
            || entries
                .windows(2)
                .any(|pair| pair[0].0.get_type() != pair[1].0.get_type());
        if mixed {
            refuse_duplicate_keys(entries)?;
        }
        let name = |key: &Term<'a>| key_text(*key);
        out.object(entries, name, |out, name, value| {
            self.value(out, *value, depth + 1)
                .map_err(|e| e.under(format_args!(".{name}")))
        })
    }

    #[inline(never)]
    fn structure<'a>(&mut self, out: &mut Writer<'a>, term: Term<'a>, name: Term<'a>) -> Done {
        let Some(value) = structs::encode(term, name, self.rules)? else {
            let name = name.atom_to_string().unwrap_or_default();
            return Err(EncodeError::Struct {
                path: String::new(),
                name: name.trim_start_matches("Elixir.").into(),
            });
        };
        let before = out.size();
        out.tagged(value);
        self.spend(out.size() - before)
    }
}

fn integer(out: &mut Writer<'_>, term: Term<'_>) -> Done {
    if let Ok(small) = term.decode::<i64>() {
        out.int(small);
        return Ok(());
    }
    let big: BigInt = term
        .decode()
        .map_err(|_| EncodeError::invalid("is an integer too large to be sent"))?;
    if big.bits() * 1000 > MAX_DIGITS as u64 * MILLIBITS_PER_DIGIT {
        return Err(EncodeError::invalid(format!(
            "is an integer of more than {MAX_DIGITS} digits"
        )));
    }
    out.int(big);
    Ok(())
}

/// Collects them, because the iterator takes too much of the stack to be there on every level.
#[inline(never)]
fn map_entries(term: Term<'_>) -> Vec<(Term<'_>, Term<'_>)> {
    MapIterator::new(term).into_iter().flatten().collect()
}

fn pairs(term: Term<'_>) -> Option<Vec<(Term<'_>, Term<'_>)>> {
    match term.get_type() {
        TermType::Map if structs::name(term).is_none() => {
            MapIterator::new(term).map(Iterator::collect)
        }
        TermType::List if term.is_empty_list() => Some(Vec::new()),
        // The iterator panics at the end of an improper list.
        TermType::List if term.list_length().is_ok() => keyword_pairs(term),
        _ => None,
    }
}

/// The pairs of a keyword list. `None` for anything else, also for the empty list.
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

fn key_text(key: Term<'_>) -> Result<Cow<'_, str>, EncodeError> {
    match key.get_type() {
        TermType::Atom => key.atom_to_string().ok().map(Cow::Owned),
        TermType::Binary => key.decode().ok().map(Cow::Borrowed),
        TermType::Integer => key
            .decode::<BigInt>()
            .ok()
            .map(|number| Cow::Owned(number.to_string())),
        _ => None,
    }
    .ok_or_else(|| {
        EncodeError::invalid(format!(
            " has the key {key:?}; keys are atoms, UTF-8 strings or integers"
        ))
    })
}

fn refuse_duplicate_keys(entries: &[(Term<'_>, Term<'_>)]) -> Done {
    let mut names = HashSet::new();
    for (key, _) in entries {
        if let Some(name) = names.replace(key_text(*key)?) {
            return Err(EncodeError::invalid(format!(
                "has two keys with the text {name:?}"
            )));
        }
    }
    Ok(())
}
