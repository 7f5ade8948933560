//! A server and the connections to it.

use crate::{
    channel::{CallsRpc, Channel, ClientConnection, Target},
    failure::Failure,
    multiplexer::{Calls, Job},
};
use parking_lot::Mutex;
use snakepit_wire::FRAME_OVERHEAD;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

/// How often a call that has not started is sent to a server at most.
pub const MOST_ATTEMPTS: u32 = 8;

/// A server's connections.
pub struct Link<J: Job> {
    pub channel: Channel,
    /// For unary calls, where the server has it.
    pub calls: Option<Arc<Calls<ClientConnection, J>>>,
    /// Why the worker behind it ended, once its owner knows.
    ended: watch::Sender<Option<String>>,
    /// Ends `calls` with the last that holds the link.
    _end: DropGuard,
}

impl<J: Job> Link<J> {
    pub async fn connect(target: &Target) -> Result<Arc<Self>, Failure> {
        let channel = Channel::connect(target).await?;
        let end = CancellationToken::new();
        let max_frame = target.max_message_size.saturating_add(FRAME_OVERHEAD);
        let calls = CallsRpc::open(target).await?.map(|rpc| {
            let calls = Calls::new(
                rpc.driven,
                rpc.outlet,
                target.journal.clone(),
                channel.closed.clone(),
            );
            let driving = calls.clone().drive(rpc.body, max_frame, end.clone());
            tokio::spawn(driving);
            calls
        });
        Ok(Arc::new(Self {
            channel,
            calls,
            ended: watch::Sender::new(None),
            _end: end.drop_guard(),
        }))
    }

    /// The worker behind it has ended, or ends its calls. The first cause counts.
    pub fn set_ended(&self, why: String) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(why);
            }
            first
        });
    }

    /// Why the worker ended, or `otherwise` if nobody tells.
    pub async fn cause(&self, otherwise: String, within: Duration) -> String {
        let mut ended = self.ended.subscribe();
        let told = tokio::time::timeout(within, ended.wait_for(Option::is_some)).await;
        match told {
            Ok(Ok(why)) => why.clone().unwrap_or(otherwise),
            _ => otherwise,
        }
    }
}

/// A server and the present connections to it.
pub struct Endpoint<J: Job> {
    link: Mutex<Arc<Link<J>>>,
    /// How to connect again; nothing where somebody else sees to that.
    target: Option<(Target, Duration)>,
    connecting: tokio::sync::Mutex<()>,
}

impl<J: Job> Endpoint<J> {
    pub fn new(link: Arc<Link<J>>, target: Option<(Target, Duration)>) -> Arc<Self> {
        Arc::new(Self {
            link: Mutex::new(link),
            target,
            connecting: tokio::sync::Mutex::default(),
        })
    }

    pub fn link(&self) -> Arc<Link<J>> {
        self.link.lock().clone()
    }

    pub fn open_link(&self) -> Option<Arc<Link<J>>> {
        let link = self.link();
        (self.target.is_none() || !link.channel.closed.is_cancelled()).then_some(link)
    }

    /// The connections there are; others if these take no more calls.
    pub async fn connected(&self) -> Result<Arc<Link<J>>, Failure> {
        if let Some(link) = self.open_link() {
            return Ok(link);
        }
        let _connecting = self.connecting.lock().await;
        match (self.open_link(), &self.target) {
            (Some(link), _) => Ok(link),
            (None, None) => Ok(self.link()),
            (None, Some((target, timeout))) => {
                let target = Target {
                    deadline: Instant::now() + *timeout,
                    ..target.clone()
                };
                let link = Link::connect(&target).await?;
                *self.link.lock() = link.clone();
                Ok(link)
            }
        }
    }

    /// Runs one of the server's own RPCs; on another connection where it has not started on this one.
    pub async fn ask<T, F>(&self, rpc: impl Fn(Channel) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut attempt = 0;
        loop {
            let channel = self.connected().await?.channel.clone();
            let (limit, closed) = (channel.max_message_size, channel.closed.clone());
            let failure = match rpc(channel).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => Failure::from_unanswered(&status, limit, false),
            };
            attempt += 1;
            match failure {
                Failure::NotStarted { refused, .. }
                    if self.target.is_some() && attempt < MOST_ATTEMPTS =>
                {
                    if !refused {
                        closed.cancel();
                    }
                }
                failure => return Err(failure),
            }
        }
    }
}
