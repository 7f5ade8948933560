//! The service `grpc.reflection.v1`: clients such as grpcurl ask it for the server's services and messages.

use crate::grpc::{Gone, Rpc, end, send, unreadable};
use bytes::{Bytes, BytesMut};
use h2::SendStream;
use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use snakepit_proto::{
    DESCRIPTORS,
    reflection::{
        ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
        ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    },
};
use snakepit_wire::{Deframer, append};
use std::{collections::HashSet, sync::LazyLock};
use tonic::{Code, Status};

/// The messages of the older version are the same.
const PATHS: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// The largest request.
const LIMIT: usize = 4096;

static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
    files.file.into_iter().map(File::new).collect()
});

/// A file of `proto`.
struct File {
    name: String,
    services: Vec<String>,
    /// The full names of what it defines.
    symbols: HashSet<String>,
    encoded: Bytes,
}

pub(crate) fn serves(rpc: &Rpc) -> bool {
    PATHS.contains(&rpc.head.uri.path())
}

pub(crate) async fn serve(mut rpc: Rpc) {
    let Ok(mut stream) = rpc.begin() else {
        return;
    };
    let draining = rpc.draining.clone();
    let answering = answer_all(&mut rpc, &mut stream);
    let status = tokio::select! {
        answered = answering => match answered {
            Ok(status) => status,
            Err(Gone) => return,
        },
        () = draining.cancelled() => {
            Some(Status::unavailable("the client must leave this connection"))
        }
    };
    end(&mut stream, status.as_ref());
}

/// Answers each request, up to the last one or one that cannot be read.
async fn answer_all(rpc: &mut Rpc, stream: &mut SendStream<Bytes>) -> Result<Option<Status>, Gone> {
    let mut deframer = Deframer::new(LIMIT);
    while let Some(data) = rpc.body.data().await {
        let data = data.map_err(|_| Gone)?;
        let _ = rpc.body.flow_control().release_capacity(data.len());
        deframer.push(data);
        loop {
            match deframer.next::<ServerReflectionRequest>() {
                Ok(None) => break,
                Ok(Some(request)) => {
                    let mut out = BytesMut::new();
                    append(&mut out, &response(request));
                    send(stream, out.freeze()).await?;
                }
                Err(error) => return Ok(Some(unreadable(&error))),
            }
        }
    }
    Ok(None)
}

fn response(request: ServerReflectionRequest) -> ServerReflectionResponse {
    let found = match &request.message_request {
        Some(MessageRequest::ListServices(_)) => Some(services()),
        Some(MessageRequest::FileByFilename(name)) => file(|file| file.name == *name),
        Some(MessageRequest::FileContainingSymbol(name)) => {
            file(|file| file.symbols.contains(name))
        }
        Some(MessageRequest::AllExtensionNumbersOfType(name)) => {
            file(|file| file.symbols.contains(name)).map(|_| no_extensions(name))
        }
        Some(MessageRequest::FileContainingExtension(_)) | None => None,
    };
    ServerReflectionResponse {
        valid_host: request.host.clone(),
        original_request: Some(request),
        message_response: Some(found.unwrap_or_else(not_found)),
    }
}

fn services() -> MessageResponse {
    let names = FILES.iter().flat_map(|file| &file.services);
    let service = names
        .map(|name| ServiceResponse { name: name.clone() })
        .collect();
    MessageResponse::ListServicesResponse(ListServiceResponse { service })
}

fn file(which: impl Fn(&File) -> bool) -> Option<MessageResponse> {
    let file = FILES.iter().find(|file| which(file))?;
    let response = FileDescriptorResponse {
        file_descriptor_proto: vec![file.encoded.clone()],
    };
    Some(MessageResponse::FileDescriptorResponse(response))
}

fn no_extensions(name: &str) -> MessageResponse {
    MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
        base_type_name: name.to_owned(),
        extension_number: Vec::new(),
    })
}

fn not_found() -> MessageResponse {
    MessageResponse::ErrorResponse(ErrorResponse {
        error_code: Code::NotFound.into(),
        error_message: "the server knows no such file, symbol or extension".into(),
    })
}

impl File {
    fn new(file: FileDescriptorProto) -> Self {
        let package = file.package().to_owned();
        let mut symbols = HashSet::new();
        for message in &file.message_type {
            add_message(&mut symbols, &package, message);
        }
        for one in &file.enum_type {
            add_enum(&mut symbols, &package, one);
        }
        let mut services = Vec::new();
        for service in &file.service {
            let name = format!("{package}.{}", service.name());
            let methods = service.method.iter();
            symbols.extend(methods.map(|method| format!("{name}.{}", method.name())));
            symbols.insert(name.clone());
            services.push(name);
        }
        Self {
            name: file.name().to_owned(),
            encoded: file.encode_to_vec().into(),
            services,
            symbols,
        }
    }
}

fn add_message(symbols: &mut HashSet<String>, outer: &str, message: &DescriptorProto) {
    let name = format!("{outer}.{}", message.name());
    for nested in &message.nested_type {
        add_message(symbols, &name, nested);
    }
    for one in &message.enum_type {
        add_enum(symbols, &name, one);
    }
    let fields = message.field.iter();
    symbols.extend(fields.map(|field| format!("{name}.{}", field.name())));
    symbols.insert(name);
}

/// Its values belong to what it is in.
fn add_enum(symbols: &mut HashSet<String>, outer: &str, one: &EnumDescriptorProto) {
    let values = one.value.iter();
    symbols.extend(values.map(|value| format!("{outer}.{}", value.name())));
    symbols.insert(format!("{outer}.{}", one.name()));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked(request: MessageRequest) -> MessageResponse {
        let request = ServerReflectionRequest {
            message_request: Some(request),
            ..ServerReflectionRequest::default()
        };
        response(request).message_response.unwrap()
    }

    #[test]
    fn services_are_listed_and_each_is_found_with_its_messages_and_methods() {
        let MessageResponse::ListServicesResponse(list) =
            asked(MessageRequest::ListServices(String::new()))
        else {
            unreachable!();
        };
        let names: Vec<_> = list.service.into_iter().map(|one| one.name).collect();
        assert_eq!(
            names,
            [
                "snakepit.SnakepitBridge",
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
            ]
        );
        for symbol in [
            "snakepit.SnakepitBridge",
            "snakepit.SnakepitBridge.Execute",
            "snakepit.ExecuteRequest",
            "snakepit.ExecuteRequest.ArgsEntry",
            "snakepit.CallFrame.Act",
        ] {
            let found = asked(MessageRequest::FileContainingSymbol(symbol.into()));
            let MessageResponse::FileDescriptorResponse(found) = found else {
                unreachable!("{symbol}");
            };
            let [file] = &found.file_descriptor_proto[..] else {
                unreachable!();
            };
            let file = FileDescriptorProto::decode(file.clone()).unwrap();
            assert_eq!(file.name(), "snakepit.proto");
        }
    }

    #[test]
    fn what_there_is_not_is_an_error_in_the_response() {
        for request in [
            MessageRequest::FileContainingSymbol("snakepit.Missing".into()),
            MessageRequest::FileByFilename("missing.proto".into()),
        ] {
            let MessageResponse::ErrorResponse(error) = asked(request) else {
                unreachable!();
            };
            assert_eq!(error.error_code, i32::from(Code::NotFound));
        }
    }
}
