//! A call as an RPC of its own: the messages that are sent, and what comes back.

use super::{Call, destination::Place};
use snakepit_client::{channel::Channel, failure::Failure, pool::Session};
use snakepit_proto::{ExecuteRequest, ExecuteResponse, Fields, SessionRequest, StreamResponse};
use tonic::{Status, Streaming, metadata::AsciiMetadataKey};

impl Call {
    /// A status as the caller is to see it: a deadline that the server noticed first is ours too.
    pub(super) fn failed(&self, status: &Status, channel: &Channel, stream: bool) -> Failure {
        self.failed_as(status, |status| {
            Failure::from_status(status, channel.max_message_size, stream)
        })
    }

    /// As `failed`, of an RPC that was not answered at all.
    pub(super) fn unanswered(&self, status: &Status, channel: &Channel, stream: bool) -> Failure {
        self.failed_as(status, |status| {
            Failure::from_unanswered(status, channel.max_message_size, stream)
        })
    }

    pub(super) fn failed_as(
        &self,
        status: &Status,
        failure: impl FnOnce(&Status) -> Failure,
    ) -> Failure {
        match status.code() {
            tonic::Code::DeadlineExceeded if self.timeout.is_some() => self.timed_out(),
            _ => failure(status),
        }
    }

    pub(super) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = Channel::request(message, self.remaining());
        let request_id = ("x-request-id", self.request_id.as_str());
        let given = self
            .metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        for (key, value) in std::iter::once(request_id).chain(given) {
            if let (Ok(key), Ok(value)) =
                (AsciiMetadataKey::from_bytes(key.as_bytes()), value.parse())
            {
                request.metadata_mut().insert(key, value);
            }
        }
        request
    }

    pub(super) fn execute_request(&self) -> ExecuteRequest {
        ExecuteRequest {
            command: self.command.clone(),
            args: self.args.values.clone(),
            timeout_ms: self.timeout_ms(),
            request_id: self.request_id.clone(),
            call_id: self.id,
            arg_kinds: self.args.kinds.clone(),
        }
    }

    pub(super) fn session_request(
        &self,
        session: &Session,
        session_generation: u64,
    ) -> SessionRequest {
        SessionRequest {
            session_id: session.id.as_ref().into(),
            session_generation,
            command: self.command.clone(),
            args: self.args.values.clone(),
            timeout_ms: self.timeout_ms(),
            request_id: self.request_id.clone(),
            call_id: self.id,
            arg_kinds: self.args.kinds.clone(),
        }
    }

    pub(super) fn timeout_ms(&self) -> i32 {
        self.remaining().map_or(0, |left| {
            i32::try_from(left.as_millis()).unwrap_or(i32::MAX)
        })
    }

    /// Refuses what the server would, before it is on its way.
    pub(crate) fn check_size(&self, channel: &Channel) -> Result<(), Failure> {
        let (size, limit) = (self.args.size(), channel.max_message_size);
        if size <= limit {
            return Ok(());
        }
        Err(Failure::TooLarge {
            what: "request",
            size,
            limit,
        })
    }

    pub(super) async fn unary_rpc(&self, place: &Place) -> Result<Fields, Failure> {
        let channel = place.channel();
        self.check_size(channel)?;
        let mut client = channel.client.clone();
        let sent = match &self.session {
            None => {
                let request = self.request(self.execute_request());
                client.execute(request).await
            }
            Some(session) => {
                let request =
                    self.request(self.session_request(session, place.session_generation()));
                client.execute_in_session(request).await
            }
        };
        match sent {
            Ok(response) => {
                let ExecuteResponse {
                    success,
                    result,
                    error,
                    error_detail,
                    result_kinds,
                    ..
                } = response.into_inner();
                if success {
                    Ok(Fields::received(result, result_kinds))
                } else {
                    Err(Failure::from_reply(error, error_detail))
                }
            }
            Err(status) => Err(self.unanswered(&status, channel, false)),
        }
    }

    pub(super) async fn open_stream(
        &self,
        place: &Place,
    ) -> Result<Streaming<StreamResponse>, Failure> {
        let channel = place.channel();
        self.check_size(channel)?;
        let mut client = channel.client.clone();
        match &self.session {
            None => {
                let request = self.request(self.execute_request());
                client.execute_stream(request).await
            }
            Some(session) => {
                let request =
                    self.request(self.session_request(session, place.session_generation()));
                client.execute_in_session_stream(request).await
            }
        }
        .map(tonic::Response::into_inner)
        .map_err(|status| self.unanswered(&status, channel, true))
    }
}
