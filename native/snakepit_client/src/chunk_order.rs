//! Checks that a stream's chunks arrive in the order in which the server has numbered them.

use crate::error::Failure;
use snakepit_proto::StreamResponse;

/// The chunks so far. Servers number them from 0 or from 1, or not at all; after the largest number comes the smallest.
#[derive(Default)]
pub struct ChunkOrder {
    has_begun: bool,
    next: i32,
    has_ended: bool,
}

impl ChunkOrder {
    #[inline]
    pub fn check(&mut self, chunk: &StreamResponse) -> Result<(), Failure> {
        if self.has_ended {
            return Err(Failure::BrokenStream(
                "the server sent a chunk after the final one".into(),
            ));
        }
        let index = chunk.chunk_index;
        if !self.has_begun && index == 1 {
            self.next = 1;
        }
        let expected = self.next;
        // 0 also means that the server does not number chunks.
        if index != 0 && index != expected {
            return Err(Failure::BrokenStream(format!(
                "the server sent chunk {index} where {expected} was expected"
            )));
        }
        self.has_begun = true;
        self.next = expected.wrapping_add(1);
        self.has_ended = chunk.is_final;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;

    fn check(indices: &[i32]) -> Result<(), String> {
        let mut order = ChunkOrder::default();
        let mut check = |index: &i32| {
            order.check(&StreamResponse {
                chunk_index: *index,
                ..StreamResponse::default()
            })
        };
        indices.iter().try_for_each(|index| {
            check(index).map_err(|failure| {
                assert_eq!(failure.reason(), Reason::RpcError);
                failure.to_string()
            })
        })
    }

    #[test]
    fn an_endless_stream_goes_on_after_the_largest_number() {
        let mut order = ChunkOrder {
            has_begun: true,
            next: i32::MAX,
            has_ended: false,
        };
        for chunk_index in [i32::MAX, i32::MIN, i32::MIN + 1] {
            let chunk = StreamResponse {
                chunk_index,
                ..StreamResponse::default()
            };
            assert!(order.check(&chunk).is_ok(), "{chunk_index}");
        }
    }

    #[test]
    fn chunks_are_numbered_from_0_or_from_1_or_not_at_all() {
        for numbers in [&[0, 1, 2, 3][..], &[1, 2, 3, 4], &[0; 4], &[0, 1, 2, 0]] {
            assert_eq!(check(numbers), Ok(()));
        }
    }

    #[test]
    fn a_chunk_that_is_missing_repeated_or_out_of_order_is_named() {
        for (numbers, index, expected) in [
            (&[0, 1, 2, 5][..], 5, 3),
            (&[0, 1, 1], 1, 2),
            (&[0, 2, 1], 2, 1),
            (&[1, 3], 3, 2),
            (&[2], 2, 0),
            (&[-1], -1, 0),
            (&[0, i32::MAX], i32::MAX, 1),
        ] {
            let message = format!("the server sent chunk {index} where {expected} was expected");
            assert_eq!(check(numbers), Err(message));
        }
    }

    #[test]
    fn no_chunk_is_accepted_after_the_final_one() {
        let mut order = ChunkOrder::default();
        let last = StreamResponse {
            is_final: true,
            ..StreamResponse::default()
        };
        assert!(order.check(&last).is_ok());
        assert!(order.check(&last).is_err());
    }
}
