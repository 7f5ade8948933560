//! Sends a call as an RPC of its own.

use super::{converse::TwoWay, destination::Destination, meta::BatchPart, request::Call};
use snakepit_client::{cancellable_body::ResetOn, channel::Channel, error::Failure};
use snakepit_proto::reply_frame::Act;
use snakepit_proto::{CallEvent, ConverseDown, ExecuteResponse, Fields, StreamResponse};
use std::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Request, Response, Status, Streaming, metadata::AsciiMetadataKey};

impl Call {
    /// The result, or the failure in the response, with the part of the call in a batch.
    pub(super) async fn execute(
        &self,
        destination: &Destination,
    ) -> Result<(Result<Fields, Failure>, BatchPart), Failure> {
        let channel = destination.channel();
        self.check_size(channel)?;
        if self.progress.is_some()
            && let Some(result) = self.execute_with_events(destination).await
        {
            return result;
        }
        let mut client = channel.client.clone();
        let sent = if self.header.session().is_none() {
            let request = self.request(self.header.execute_request(self.id));
            client.execute(request).await
        } else {
            let request = self.request(self.header.session_request(self.id));
            client.execute_in_session(request).await
        };
        match sent {
            Ok(response) => {
                let ExecuteResponse {
                    success,
                    result,
                    error,
                    error_detail,
                    result_kinds,
                    events,
                    batch_size: size,
                    batch_wait_us: wait_us,
                    ..
                } = response.into_inner();
                for event in events {
                    self.pass_on(destination, event);
                }
                let result = if success {
                    Ok(Fields::received(result, result_kinds))
                } else {
                    Err(Failure::from_reply(error, error_detail))
                };
                Ok((result, BatchPart { size, wait_us }))
            }
            Err(status) => Err(self.unanswered(&status, channel, false)),
        }
    }

    /// `None` if the server has no such RPC.
    async fn execute_with_events(
        &self,
        destination: &Destination,
    ) -> Option<Result<(Result<Fields, Failure>, BatchPart), Failure>> {
        let channel = destination.channel();
        let frame = self.header.clone().frame(self.id, Instant::now()).clone();
        let mut client = channel.client.clone();
        let mut frames = match client.call_with_events(self.request(frame)).await {
            Ok(response) => response.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => return None,
            Err(status) => return Some(Err(self.unanswered(&status, channel, false))),
        };
        loop {
            let frame = match frames.message().await {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    let broken = "the server ended the call without a reply".into();
                    return Some(Err(Failure::BrokenStream(broken)));
                }
                Err(status) => return Some(Err(self.unanswered(&status, channel, false))),
            };
            if frame.act() == Act::Event {
                self.pass_on(
                    destination,
                    frame.event.map(|event| *event).unwrap_or_default(),
                );
                continue;
            }
            let batch = BatchPart {
                size: frame.batch_size,
                wait_us: frame.batch_wait_us,
            };
            let result = if frame.success {
                Ok(Fields::received(frame.result, frame.result_kinds))
            } else {
                Err(Failure::from_reply(frame.error, frame.error_detail))
            };
            return Some(Ok((result, batch)));
        }
    }

    pub(super) fn pass_on(&self, destination: &Destination, event: CallEvent) {
        if let Some(report) = self.report(destination, event) {
            report();
        }
    }

    pub(super) async fn open_stream(
        &self,
        destination: &Destination,
    ) -> Result<Streaming<StreamResponse>, Failure> {
        let channel = destination.channel();
        self.check_size(channel)?;
        let mut client = channel.client.clone();
        let opened = if self.header.session().is_none() {
            let request = self.request(self.header.execute_request(self.id));
            client.execute_stream(request).await
        } else {
            let request = self.request(self.header.session_request(self.id));
            client.execute_in_session_stream(request).await
        };
        opened
            .map(Response::into_inner)
            .map_err(|status| self.unanswered(&status, channel, true))
    }

    /// The RPC is reset when the guard is dropped.
    pub(super) async fn converse(
        &self,
        destination: &Destination,
        two_way: &TwoWay,
    ) -> Result<(Streaming<ConverseDown>, DropGuard), Failure> {
        let channel = destination.channel();
        self.check_size(channel)?;
        two_way.resource.set_limit(channel.max_message_size);
        two_way.resource.set_place(destination.place(self.id));
        let reset = CancellationToken::new();
        let call = two_way.call(self);
        let mut request = self.request(two_way.resource.conversation.begin(call));
        request.extensions_mut().insert(ResetOn(reset.clone()));
        let guard = reset.drop_guard();
        let mut client = channel.client.clone();
        match client.converse(request).await {
            Ok(response) => Ok((response.into_inner(), guard)),
            Err(status) if status.code() == Code::Unimplemented => Err(Failure::NoConverse),
            Err(status) => Err(self.unanswered(&status, channel, two_way.shape.stream)),
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Channel::request(message, self.header.remaining());
        let request_id = ("x-request-id", self.header.request_id());
        let given = self.header.metadata().iter();
        let given = given.map(|(key, value)| (key.as_str(), value.as_str()));
        for (key, value) in std::iter::once(request_id).chain(given) {
            if let (Ok(key), Ok(value)) =
                (AsciiMetadataKey::from_bytes(key.as_bytes()), value.parse())
            {
                request.metadata_mut().insert(key, value);
            }
        }
        request
    }

    /// The failure of an RPC that got no response.
    fn unanswered(&self, status: &Status, channel: &Channel, stream: bool) -> Failure {
        self.own_timeout(status)
            .or_else(|| channel.lost_by_balancer(status))
            .unwrap_or_else(|| Failure::from_unanswered(status, channel.max_message_size, stream))
    }

    /// The failure of a stream that a status ended.
    pub(super) fn ended(&self, status: &Status, channel: &Channel, stream: bool) -> Failure {
        self.own_timeout(status)
            .or_else(|| channel.lost_by_balancer(status))
            .unwrap_or_else(|| Failure::from_status(status, channel.max_message_size, stream))
    }

    /// If the server notices first that the deadline has passed, it is the call's own deadline.
    fn own_timeout(&self, status: &Status) -> Option<Failure> {
        let own = status.code() == Code::DeadlineExceeded && self.timeout.is_some();
        own.then(|| self.timed_out())
    }
}
