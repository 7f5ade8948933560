//! The wire contract of `proto/snakepit.proto`, as prost types and a tonic client.

mod fields;

pub use fields::{Fields, copied, packed};

tonic::include_proto!("snakepit");
