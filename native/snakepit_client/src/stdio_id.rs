//! Finds the id of a response from a worker over stdin and stdout, by which the response is given to its caller, who
//! decodes it. serde_json skips what comes before the id without building values.

use serde::{
    Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use std::{cell::Cell, fmt};

/// The `id` of a response. Nothing after it is read, and it comes first as a rule.
pub fn response_id(message: &[u8]) -> Option<u64> {
    let found = Cell::new(None);
    let mut json = serde_json::Deserializer::from_slice(message);
    // That the rest is not read is an error to serde_json, which does not matter here.
    let _ = json.deserialize_map(FindId(&found));
    found.get()
}

struct FindId<'a>(&'a Cell<Option<u64>>);

impl<'de> Visitor<'de> for FindId<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a response")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key::<std::borrow::Cow<'de, str>>()? {
            if key == "id" {
                self.0.set(Some(entries.next_value()?));
                break;
            }
            entries.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::response_id;

    #[test]
    fn the_id_is_found_at_any_position() {
        assert_eq!(response_id(br#"{"id":7,"result":{"id":8}}"#), Some(7));
        assert_eq!(response_id(br#"{"result":{"id":8},"id" : 7}"#), Some(7));
    }

    #[test]
    fn other_messages_have_no_id() {
        for message in ["", "[]", "{}", r#"{"id":"7"}"#, r#"{"id":-1}"#, "hello"] {
            assert_eq!(response_id(message.as_bytes()), None, "{message}");
        }
    }
}
