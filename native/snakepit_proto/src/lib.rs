//! The wire contract of `proto/snakepit.proto`, as prost types and a tonic client.

tonic::include_proto!("snakepit");
