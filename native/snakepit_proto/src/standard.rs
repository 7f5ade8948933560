//! The messages of the services that all gRPC servers have in common, generated from `proto/grpc`.

/// `grpc.health.v1`
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// `grpc.reflection.v1`
#[allow(clippy::doc_lazy_continuation)]
pub mod reflection {
    tonic::include_proto!("grpc.reflection.v1");
}

/// A `FileDescriptorSet` of all files in `proto`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
