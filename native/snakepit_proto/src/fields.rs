//! Maps of values as they travel.

use crate::Field;
use bytes::Bytes;

/// In the order of their names.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    pub values: Vec<Field>,
    /// How each was encoded; from a peer that does not say, nothing.
    pub kinds: Option<Bytes>,
}

impl Fields {
    /// As they came: in any order, and of values with the same name the last counts.
    pub fn received(mut values: Vec<Field>, kinds: Option<Bytes>) -> Self {
        if !values.is_sorted_by(|one, next| one.key < next.key) {
            values.reverse();
            values.sort_by(|one, other| one.key.cmp(&other.key));
            values.dedup_by(|later, first| later.key == first.key);
        }
        Self { values, kinds }
    }

    /// The bytes of the names and the values.
    pub fn size(&self) -> usize {
        self.values
            .iter()
            .map(|field| field.key.len() + field.value.len())
            .sum()
    }
}

impl Field {
    pub fn new(name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            key: name.into(),
            value: value.into(),
        }
    }

    /// Its name, if that is the UTF-8 that it must be.
    pub fn name(&self) -> Option<&str> {
        std::str::from_utf8(&self.key).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_values_with_the_same_name_the_last_counts() {
        let field = |name: &'static str, value: &'static str| Field::new(name, value);
        let came = vec![field("b", "1"), field("a", "2"), field("b", "3")];
        let fields = Fields::received(came, None);
        assert_eq!(fields.values, [field("a", "2"), field("b", "3")]);
        assert_eq!(fields.size(), 4);
    }
}
