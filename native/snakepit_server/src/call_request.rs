//! The request of a call that has an RPC of its own.

use crate::{failure::Failure, grpc::Rpc};
use prost::Message;
use snakepit_proto::CallHeader;
use std::time::Instant;
use tonic::Status;

const REQUEST_ID: &str = "x-request-id";

pub struct CallRequest {
    pub header: CallHeader,
    pub deadline: Deadline,
}

impl CallRequest {
    /// Reads a message `M`, and adds the RPC's metadata and deadline.
    pub async fn read<M>(rpc: &mut Rpc, limit: usize) -> Result<Self, Status>
    where
        M: Message + Default + Into<CallHeader>,
    {
        let header = rpc.message::<M>(limit).await?.into();
        Ok(Self::of(header, rpc))
    }

    /// Adds an RPC's metadata and deadline to the header of its call.
    pub fn of(mut header: CallHeader, rpc: &Rpc) -> Self {
        let deadline = match (rpc.deadline(), header.deadline()) {
            (Some(at), _) => Deadline::Grpc(at),
            (None, Some(at)) => Deadline::Field(at),
            (None, None) => Deadline::None,
        };
        header.set_deadline(deadline.at());
        let given = header.metadata().clone();
        header.set_metadata(rpc.metadata().chain(given));
        if header.request_id().is_empty()
            && let Some(id) = header.metadata().get(REQUEST_ID)
        {
            let id = id.clone();
            header.set_request_id(id);
        }
        Self { header, deadline }
    }
}

/// The deadline of an RPC, and where it was given: that decides what the client receives when it passes.
pub enum Deadline {
    None,
    /// In the header `grpc-timeout`.
    Grpc(Instant),
    /// In the field `timeout_ms` of the message.
    Field(Instant),
}

impl Deadline {
    fn at(&self) -> Option<Instant> {
        match self {
            Self::None => None,
            Self::Grpc(at) | Self::Field(at) => Some(*at),
        }
    }

    pub async fn passed(&self) {
        match self.at() {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }

    /// What the client receives once the deadline has passed: a failure in a response, or a status.
    pub fn failure(&self) -> Result<Failure, Status> {
        match self {
            Self::Grpc(_) => Err(Status::deadline_exceeded("the deadline has passed")),
            _ => Ok(Failure::new(
                "timeout",
                "no result within the request's timeout_ms",
            )),
        }
    }
}
