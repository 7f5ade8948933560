//! A bare tonic client, to measure what the NIF adds: echoes 1 KiB over a Unix socket, from one
//! caller and from many, and prints the median in microseconds and the calls per second.
//!
//! `bare_client SOCKET CALLS CONCURRENT_CALLS CALLERS`

use http::{Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use snakepit_proto::{ExecuteRequest, Field, snakepit_bridge_client::SnakepitBridgeClient};
use std::{
    error::Error,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::net::UnixStream;
use tonic::body::Body;
use tower_service::Service;

type Failure = Box<dyn Error + Send + Sync>;
type Client = SnakepitBridgeClient<Connection>;

#[derive(Clone)]
struct Connection(http2::SendRequest<Body>);

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let [socket, calls, concurrent, callers] =
        <[String; 4]>::try_from(std::env::args().skip(1).collect::<Vec<_>>())
            .map_err(|_| "usage: bare_client SOCKET CALLS CONCURRENT_CALLS CALLERS")?;
    let (calls, concurrent): (usize, usize) = (calls.parse()?, concurrent.parse()?);
    let callers: usize = callers.parse()?;

    let stream = TokioIo::new(UnixStream::connect(socket).await?);
    let (sender, driver) = http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::spawn(driver);
    let mut client =
        SnakepitBridgeClient::with_origin(Connection(sender), Uri::from_static("http://localhost"));

    times(&mut client, calls / 10 + 1).await?;
    let mut taken = times(&mut client, calls).await?;
    taken.sort();
    let median = taken[taken.len() / 2].as_nanos() as f64 / 1000.0;

    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { times(&mut client, concurrent / callers).await })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let rate = (concurrent / callers * callers) as f64 / started.elapsed().as_secs_f64();
    println!("{median:.1} {rate:.1}");
    Ok(())
}

async fn times(client: &mut Client, calls: usize) -> Result<Vec<Duration>, Failure> {
    let mut taken = Vec::with_capacity(calls);
    for _ in 0..calls {
        let request = ExecuteRequest {
            command: "echo".into(),
            args: vec![Field::new("text", vec![b'x'; 1024].into())],
            ..ExecuteRequest::default()
        };
        let started = Instant::now();
        let response = client.execute(request).await?;
        taken.push(started.elapsed());
        if !response.get_ref().success {
            return Err(response.into_inner().error.into());
        }
    }
    Ok(taken)
}
