//! The request of a call that comes by an RPC of its own.

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
    /// Reads `M`, and what the RPC's own metadata adds to it.
    pub async fn read<M>(rpc: &mut Rpc, limit: usize) -> Result<Self, Status>
    where
        M: Message + Default + Into<CallHeader>,
    {
        let mut header: CallHeader = rpc.message::<M>(limit).await?.into();
        let deadline = match (rpc.deadline(), header.deadline()) {
            (Some(at), _) => Deadline::Grpc(at),
            (None, Some(at)) => Deadline::Field(at),
            (None, None) => Deadline::None,
        };
        header.set_deadline(deadline.at());
        header.set_metadata(rpc.metadata());
        if header.request_id().is_empty()
            && let Some(id) = header.metadata().get(REQUEST_ID)
        {
            let id = id.clone();
            header.set_request_id(id);
        }
        Ok(Self { header, deadline })
    }
}

/// When an RPC's time is up, and who says so: that decides how the client is told.
pub enum Deadline {
    None,
    /// The RPC's own deadline.
    Grpc(Instant),
    /// The field `timeout_ms` of its message.
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

    /// How the client is told that it has passed.
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
