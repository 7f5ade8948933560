//! The end of serving that a server without `Calls` announces with `grpc.health.v1`, as those of grpcio do: when they stop,
//! grpcio cancels calls that have just arrived.

use crate::channel::Channel;
use snakepit_proto::health::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tokio_util::sync::CancellationToken;

/// Closes the channel for further calls once its server says that it stops serving. Until then, or its `end`.
pub(crate) async fn close_at_end(channel: Channel, end: CancellationToken) {
    let closed = channel.closed.clone();
    tokio::select! {
        told = tells(channel) => if told { closed.cancel() },
        () = closed.cancelled() => {}
        () = end.cancelled() => {}
    }
}

/// Waits until the server says it; returns whether it has.
async fn tells(channel: Channel) -> bool {
    let mut client = HealthClient::with_origin(channel.connection, Channel::origin());
    let Ok(response) = client.watch(HealthCheckRequest::default()).await else {
        return false;
    };
    let mut statuses = response.into_inner();
    while let Ok(Some(response)) = statuses.message().await {
        if response.status() == ServingStatus::NotServing {
            return true;
        }
    }
    false
}
