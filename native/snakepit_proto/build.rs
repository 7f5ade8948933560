use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};
use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let proto = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", proto.display());

    let mut files = protox::compile(["snakepit.proto"], [&proto])?;
    let mut standard = protox::compile(STANDARD, [&proto])?;
    let out = Path::new(&env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(out, descriptors([&files, &standard]).encode_to_vec())?;
    files.file.iter_mut().for_each(maps_as_lists);
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        // Large, and hardly ever there.
        .boxed(".snakepit.ExecuteResponse.error_detail")
        .boxed(".snakepit.StreamResponse.error_detail")
        .boxed(".snakepit.ReplyFrame.error_detail")
        .boxed(".snakepit.ReplyFrame.event")
        .boxed(".snakepit.StreamResponse.event")
        .boxed(".snakepit.ConverseUp.call")
        .boxed(".snakepit.ConverseDown.reply")
        .boxed(".snakepit.ToolAnswer.error")
        .boxed(".snakepit.InputEnd.error")
        .build_server(false)
        .build_transport(false)
        .compile_fds(files)?;
    standard.file.iter_mut().for_each(without_source);
    tonic_prost_build::configure()
        .bytes(".")
        .build_server(false)
        .build_transport(false)
        .compile_fds(standard)?;
    Ok(())
}

/// The services that all gRPC servers have in common.
const STANDARD: [&str; 2] = [
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
];

/// All files, for clients that ask the server for them.
fn descriptors(sets: [&FileDescriptorSet; 2]) -> FileDescriptorSet {
    let files = sets.into_iter().flat_map(|set| set.file.iter().cloned());
    let mut all = FileDescriptorSet {
        file: files.collect(),
    };
    all.file.iter_mut().for_each(without_source);
    all
}

fn without_source(file: &mut FileDescriptorProto) {
    file.source_code_info = None;
}

/// A `map<string, bytes>` travels as a list of messages of two fields. It is read and written as that,
/// a `Field` each: a tree and a string of its own for every name would cost more than all the rest of
/// a small message.
fn maps_as_lists(file: &mut FileDescriptorProto) {
    let package = file.package().to_owned();
    let mut entry = None;
    for message in &mut file.message_type {
        let outer = message.name().to_owned();
        let is_map = |one: &prost_types::DescriptorProto| {
            one.options
                .as_ref()
                .is_some_and(|options| options.map_entry())
                && one.field.iter().any(|field| field.r#type() == Type::Bytes)
        };
        for map in message.nested_type.extract_if(.., |one| is_map(one)) {
            let type_name = format!(".{package}.{outer}.{}", map.name());
            for field in &mut message.field {
                if field.type_name() == type_name {
                    field.type_name = Some(format!(".{package}.Field"));
                }
            }
            entry = Some(map);
        }
    }
    if let Some(mut field) = entry {
        field.name = Some("Field".into());
        field.options = None;
        for one in &mut field.field {
            one.set_type(Type::Bytes);
        }
        file.message_type.push(field);
        // It has no place in the source, and every message is looked up there.
        file.source_code_info = None;
    }
}
