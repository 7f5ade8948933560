//! The messages and the client, generated from `proto/snakepit.proto`.

tonic::include_proto!("snakepit");
