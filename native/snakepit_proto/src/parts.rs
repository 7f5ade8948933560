//! Encodes messages with large values in parts, of which each such value is one and is not copied.

use crate::messages::{CallFrame, ExecuteResponse, Field, ReplyFrame};
use bytes::{Bytes, BytesMut};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use std::mem::{replace, take};

/// From this size on a value is a part of its own. To copy fewer bytes costs less than a further part.
const SHARED_FROM: usize = 32 * 1024;
/// The number of the value in a `Field`.
const FIELD_VALUE: u32 = 2;

/// A message that carries values.
pub trait CarriesValues: Message {
    /// The number of the field with the values.
    const VALUES: u32;

    fn values_mut(&mut self) -> &mut Vec<Field>;

    /// Appends the message to `rest`, or to `parts` and `rest` if it has large values.
    fn encode_in_parts(&mut self, parts: &mut Vec<Bytes>, rest: &mut BytesMut)
    where
        Self: Sized,
    {
        let is_large = |field: &Field| field.value.len() >= SHARED_FROM;
        if !self.values_mut().iter().any(is_large) {
            append(self, rest);
            return;
        }
        let mut values = take(self.values_mut());
        append(self, rest);
        for field in &mut values {
            encode_key(Self::VALUES, WireType::LengthDelimited, rest);
            encode_varint(field.encoded_len() as u64, rest);
            if !is_large(field) {
                append(field, rest);
                continue;
            }
            let value = replace(&mut field.value, Bytes::new());
            append(field, rest);
            encode_key(FIELD_VALUE, WireType::LengthDelimited, rest);
            encode_varint(value.len() as u64, rest);
            parts.push(rest.split().freeze());
            parts.push(value.clone());
            field.value = value;
        }
        *self.values_mut() = values;
    }
}

fn append(message: &impl Message, out: &mut BytesMut) {
    // This cannot fail: the buffer grows.
    let _ = message.encode(out);
}

impl CarriesValues for CallFrame {
    const VALUES: u32 = 4;

    fn values_mut(&mut self) -> &mut Vec<Field> {
        &mut self.args
    }
}

impl CarriesValues for ReplyFrame {
    const VALUES: u32 = 3;

    fn values_mut(&mut self) -> &mut Vec<Field> {
        &mut self.result
    }
}

impl CarriesValues for ExecuteResponse {
    const VALUES: u32 = 2;

    fn values_mut(&mut self) -> &mut Vec<Field> {
        &mut self.result
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fmt::Debug;

    fn values(sizes: &[usize]) -> Vec<Field> {
        let field = |(index, size): (usize, &usize)| {
            let name = ["", "b", "c"][index];
            Field::new(name, vec![index as u8; *size].into())
        };
        sizes.iter().enumerate().map(field).collect()
    }

    /// The number of parts in which a message arrives as it was sent.
    fn parts<M: CarriesValues + Clone + Debug + Default + PartialEq>(mut message: M) -> usize {
        let before = message.clone();
        let (mut parts, mut rest) = (Vec::new(), BytesMut::new());
        message.encode_in_parts(&mut parts, &mut rest);
        assert!(message == before);
        let bytes = [&parts.concat()[..], &rest].concat();
        assert_eq!(bytes.len(), message.encoded_len());
        assert!(M::decode(&bytes[..]).unwrap() == message);
        parts.len()
    }

    #[test]
    fn every_message_with_values_arrives_in_parts_as_in_one() {
        let (small, large) = (SHARED_FROM - 1, SHARED_FROM);
        let sizes: [&[usize]; 6] = [
            &[],
            &[small],
            &[large],
            &[large, 0],
            &[0, large, 5],
            &[large, 3, large + 1],
        ];
        for (sizes, expected) in sizes.into_iter().zip([0, 0, 2, 2, 2, 4]) {
            let call = CallFrame {
                call_id: 7,
                command: "echo".into(),
                args: values(sizes),
                arg_kinds: Some(Bytes::from_static(&[2; 3])),
                request_id: "r".into(),
                ..CallFrame::default()
            };
            assert_eq!(parts(call), expected);
            let reply = ReplyFrame {
                call_id: 7,
                success: true,
                result: values(sizes),
                handler_ns: 12,
                ..ReplyFrame::default()
            };
            assert_eq!(parts(reply), expected);
            let response = ExecuteResponse {
                success: true,
                result: values(sizes),
                request_id: "r".into(),
                ..ExecuteResponse::default()
            };
            assert_eq!(parts(response), expected);
        }
    }

    #[test]
    fn a_large_value_is_not_copied() {
        let mut call = CallFrame {
            args: values(&[SHARED_FROM]),
            ..CallFrame::default()
        };
        let (mut parts, mut rest) = (Vec::new(), BytesMut::new());
        call.encode_in_parts(&mut parts, &mut rest);
        assert_eq!(parts[1].as_ptr(), call.args[0].value.as_ptr());
        assert!(rest.is_empty());
    }
}
