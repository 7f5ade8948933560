//! Maps of encoded values, as messages carry them.

use crate::messages::Field;
use bytes::{Bytes, BytesMut};
use std::cell::RefCell;

/// In the order of their names.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    pub values: Vec<Field>,
    /// How each value is encoded. `None` if the peer does not say.
    pub kinds: Option<Bytes>,
}

impl Fields {
    /// Fields to send, with their kinds if the peer reads those.
    pub fn sent(mut found: Vec<(Field, u8)>, with_kinds: bool) -> Self {
        found.sort_unstable_by(|(one, _), (other, _)| one.key.cmp(&other.key));
        Self {
            kinds: with_kinds.then(|| gathered(found.iter().map(|(_, kind)| *kind))),
            values: found.into_iter().map(|(field, _)| field).collect(),
        }
    }

    /// Fields that were received, in any order. If a name occurs twice, the last value counts.
    pub fn received(mut values: Vec<Field>, kinds: Option<Bytes>) -> Self {
        if !values.is_sorted_by(|one, next| one.key < next.key) {
            values.reverse();
            values.sort_by(|one, other| one.key.cmp(&other.key));
            values.dedup_by(|later, first| later.key == first.key);
        }
        Self { values, kinds }
    }

    pub fn as_view(&self) -> FieldsRef<'_> {
        FieldsRef {
            values: &self.values,
            kinds: self.kinds.as_ref(),
        }
    }

    /// The number of bytes in names and values.
    pub fn size(&self) -> usize {
        self.as_view().size()
    }
}

/// Borrowed `Fields`.
#[derive(Clone, Copy, Debug)]
pub struct FieldsRef<'a> {
    pub values: &'a [Field],
    pub kinds: Option<&'a Bytes>,
}

impl FieldsRef<'_> {
    /// The number of bytes in names and values.
    pub fn size(&self) -> usize {
        self.values
            .iter()
            .map(|field| field.key.len() + field.value.len())
            .sum()
    }
}

/// Up to this size bytes are copied into shared memory.
const PACKED_UP_TO: usize = 2048;
const ROOM: usize = 16 * 1024;

thread_local! {
    static PACKED: RefCell<BytesMut> = RefCell::default();
}

/// Copies bytes. Small copies of a thread share an allocation: allocating and counting each would cost more
/// than copying.
pub fn copied(bytes: &[u8]) -> Bytes {
    if bytes.len() > PACKED_UP_TO {
        return Bytes::copy_from_slice(bytes);
    }
    in_room(bytes.len(), |room| room.extend_from_slice(bytes))
}

/// As `copied`, one byte after the other.
fn gathered(bytes: impl ExactSizeIterator<Item = u8>) -> Bytes {
    if bytes.len() > PACKED_UP_TO {
        return bytes.collect();
    }
    in_room(bytes.len(), |room| room.extend(bytes))
}

/// What `fill` writes, so many bytes, into the allocation that small copies of this thread share.
#[inline]
fn in_room(length: usize, fill: impl FnOnce(&mut BytesMut)) -> Bytes {
    PACKED.with_borrow_mut(|room| {
        if room.capacity() < length {
            room.reserve(ROOM);
        }
        fill(room);
        room.split().freeze()
    })
}

/// The bytes themselves, or a copy if they are few.
pub fn packed(bytes: Vec<u8>) -> Bytes {
    if bytes.len() > PACKED_UP_TO {
        bytes.into()
    } else {
        copied(&bytes)
    }
}

impl Field {
    pub fn new(name: impl AsRef<[u8]>, value: Bytes) -> Self {
        Self {
            key: copied(name.as_ref()),
            value,
        }
    }

    /// The name, or an error message.
    pub fn name(&self) -> Result<&str, String> {
        std::str::from_utf8(&self.key).map_err(|_| {
            let name = String::from_utf8_lossy(&self.key);
            format!("the name {name:?} is not valid UTF-8")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_values_with_the_same_name_counts() {
        let field = |name: &'static str, value: &'static str| Field::new(name, Bytes::from(value));
        let came = vec![field("b", "1"), field("a", "2"), field("b", "3")];
        let fields = Fields::received(came, None);
        assert_eq!(fields.values, [field("a", "2"), field("b", "3")]);
        assert_eq!(fields.size(), 4);
    }

    #[test]
    fn copied_bytes_stay_unchanged() {
        let sizes = [0, 1, 1000, PACKED_UP_TO, PACKED_UP_TO + 1, ROOM];
        let texts: Vec<Vec<u8>> = (0..100u8)
            .zip(sizes.into_iter().cycle())
            .map(|(byte, size)| vec![byte; size])
            .collect();
        let copies: Vec<Bytes> = texts.iter().map(|text| copied(text)).collect();
        assert_eq!(copies, texts);
    }
}
