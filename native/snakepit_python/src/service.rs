//! The RPCs of `proto/snakepit.proto`.

use crate::{
    call::{Answer, Call},
    journal::{Journal, Lane},
    worker::Worker,
};
use bytes::Bytes;
use h2::SendStream;
use prost::Message;
use rustix::time::{ClockId, clock_gettime};
use snakepit_proto::{
    CallFrame, CallHeader, EndSessionRequest, EndSessionResponse, ExecuteRequest, HealthRequest,
    HealthResponse, InfoRequest, InfoResponse, SessionRequest, WorkerStats, call_frame::Act,
};
use snakepit_server::{
    Chunks, Failure, GATHERED_FOR, Outcome, SECRET, Service, failed_chunk, response,
    rpc::{self, Gone, Status},
};
use snakepit_wire::{Deframer, FRAME_OVERHEAD, Outlet};
use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::{Duration, Instant},
};

const SERVICE: &str = "/snakepit.SnakepitBridge/";
const REQUEST_ID: &str = "x-request-id";
/// How long before its own deadline a Health that awaits a call answers.
const HEALTH_MARGIN: Duration = Duration::from_millis(50);

impl Service for Worker {
    async fn serve(self: Arc<Self>, rpc: rpc::Rpc) {
        Rpc { rpc, worker: self }.serve().await;
    }
}

struct Rpc {
    rpc: rpc::Rpc,
    worker: Arc<Worker>,
}

impl Rpc {
    async fn serve(mut self) {
        let path = self.rpc.head.uri.path().to_owned();
        let served = match path.strip_prefix(SERVICE).unwrap_or_default() {
            "Calls" => self.calls().await,
            "Execute" => self.execute::<ExecuteRequest>().await,
            "ExecuteInSession" => self.execute::<SessionRequest>().await,
            "ExecuteStream" => self.stream::<ExecuteRequest>().await,
            "ExecuteInSessionStream" => self.stream::<SessionRequest>().await,
            "Health" => self.health().await,
            "GetInfo" => self.info().await,
            "EndSession" => self.end_session().await,
            _ => Err(Status::new(
                rpc::UNIMPLEMENTED,
                format!("there is no method {path}"),
            )),
        };
        if let Err(status) = served {
            rpc::fail(&mut self.rpc.respond, &status);
        }
    }

    async fn request<M: Message + Default>(&mut self) -> Result<M, Status> {
        rpc::message(&mut self.rpc.body, self.worker.settings.max_message_size).await
    }

    async fn call_request<M>(&mut self) -> Result<(CallHeader, Deadline), Status>
    where
        M: Message + Default + Into<CallHeader>,
    {
        let mut header: CallHeader = self.request::<M>().await?.into();
        let deadline = match (rpc::deadline(&self.rpc.head), header.deadline()) {
            (Some(at), _) => Deadline::Grpc(at),
            (None, Some(at)) => Deadline::Field(at),
            (None, None) => Deadline::None,
        };
        header.set_deadline(deadline.at());
        header.set_metadata(rpc::metadata(&self.rpc.head, &SECRET));
        if header.request_id().is_empty()
            && let Some(id) = header.metadata().get(REQUEST_ID)
        {
            header.set_request_id(id.clone());
        }
        Ok((header, deadline))
    }

    async fn execute<M: Message + Default + Into<CallHeader>>(&mut self) -> Result<(), Status> {
        let (header, deadline) = self.call_request::<M>().await?;
        let request_id = header.request_id().to_owned();
        let (answer, outcome) = Answer::unary();
        let call = self.worker.call(header, answer);
        self.worker.scheduler.submit(call.clone());
        let result = tokio::select! {
            outcome = outcome => outcome.map_or_else(
                |_| Err(Failure::new("internal_error", "the call was lost in its worker")),
                |Outcome { result, .. }| result,
            ),
            () = rpc::reset(&mut self.rpc.respond) => {
                self.cancel(call.as_ref());
                return Ok(());
            }
            () = deadline.passed() => {
                self.cancel(call.as_ref());
                Err(deadline.failure()?)
            }
        };
        rpc::answer(&mut self.rpc.respond, &response(request_id, result));
        Ok(())
    }

    async fn stream<M: Message + Default + Into<CallHeader>>(&mut self) -> Result<(), Status> {
        let (header, deadline) = self.call_request::<M>().await?;
        let request_id = header.request_id().to_owned();
        let chunks = Arc::new(Chunks::default());
        let call = self.worker.call(header, Answer::Stream(chunks.clone()));
        self.worker.scheduler.submit(call.clone());
        let Ok(mut stream) = rpc::begin(&mut self.rpc.respond) else {
            self.cancel(call.as_ref());
            return Ok(());
        };
        let sent = {
            let mut sending = std::pin::pin!(pass_on(&mut stream, &chunks));
            tokio::select! {
                sent = &mut sending => sent.map(|()| None),
                () = deadline.passed() => {
                    self.cancel(call.as_ref());
                    match deadline.failure() {
                        // A message may be half sent: what there is to say comes after it.
                        Ok(failure) => {
                            chunks.end_with(&failed_chunk(&request_id, 0, failure));
                            sending.await.map(|()| None)
                        }
                        Err(status) => Ok(Some(status)),
                    }
                }
            }
        };
        match sent {
            Ok(status) => rpc::end(&mut stream, status.as_ref()),
            Err(Gone) => self.cancel(call.as_ref()),
        }
        Ok(())
    }

    fn cancel(&self, call: Option<&Arc<Call>>) {
        if let Some(call) = call {
            self.worker
                .cancel(|one| std::ptr::eq(one, Arc::as_ptr(call)));
        }
    }

    async fn calls(&mut self) -> Result<(), Status> {
        let Ok(stream) = rpc::begin(&mut self.rpc.respond) else {
            return Ok(());
        };
        let lane = Arc::new(Lane::new(Outlet::new(self.rpc.driven.clone(), stream)));
        if self.worker.has_journal() {
            lane.offer_journal();
        }
        let of_lane =
            |call: &Call| matches!(&call.answer, Answer::Frame(one) if Arc::ptr_eq(one, &lane));
        let limit = self
            .worker
            .settings
            .max_message_size
            .saturating_add(FRAME_OVERHEAD);
        let mut deframer = Deframer::new(limit);
        // A client that breaks the protocol loses its calls, as one does that is gone.
        loop {
            let received = poll_fn(|cx| {
                lane.outlet.drain(cx.waker());
                self.rpc.body.poll_data(cx)
            });
            let data = tokio::select! {
                biased;
                data = received => data,
                () = self.rpc.end.cancelled() => None,
            };
            let Some(Ok(data)) = data else {
                break;
            };
            let _ = self.rpc.body.flow_control().release_capacity(data.len());
            deframer.push(data);
            let mut calls = Vec::new();
            let read = self.read_frames(&mut deframer, &lane, &of_lane, &mut calls);
            self.worker.scheduler.submit(calls);
            if let Err(status) = read {
                lane.outlet.end(&status);
                break;
            }
        }
        self.worker.cancel(of_lane);
        Ok(())
    }

    fn read_frames(
        &self,
        deframer: &mut Deframer,
        lane: &Arc<Lane>,
        of_lane: &impl Fn(&Call) -> bool,
        calls: &mut Vec<Arc<Call>>,
    ) -> Result<(), http::HeaderMap> {
        while let Some(message) = deframer
            .next()
            .map_err(|error| rpc::unreadable(&error).trailers())?
        {
            let frame = CallFrame::decode(message).map_err(|error| {
                Status::new(rpc::INVALID_ARGUMENT, format!("no frame: {error}")).trailers()
            })?;
            if frame.act() == Act::Call {
                calls.extend(self.worker.call(frame.into(), Answer::Frame(lane.clone())));
            } else {
                self.worker.scheduler.submit(calls.drain(..));
                self.act(&frame, lane, of_lane);
            }
        }
        Ok(())
    }

    fn act(&self, frame: &CallFrame, lane: &Lane, of_lane: &impl Fn(&Call) -> bool) {
        let which = |call: &Call| call.header.call_id() == frame.call_id && of_lane(call);
        match frame.act() {
            Act::Cancel => self.worker.cancel(which),
            Act::Recall => self.worker.give_back(which),
            Act::StartJournal => {
                if let Some(journal) = self.worker.take_journal() {
                    lane.use_journal(Journal::new(journal));
                }
            }
            Act::Call => {}
        }
    }

    async fn health(&mut self) -> Result<(), Status> {
        let request: HealthRequest = self.request().await?;
        let worker = self.worker.clone();
        let id = request.await_call_id;
        if id != 0 {
            let until =
                rpc::deadline(&self.rpc.head).map(|at| at.checked_sub(HEALTH_MARGIN).unwrap_or(at));
            tokio::select! {
                () = worker.wait_gone(|call| call.header.call_id() == id) => {}
                () = sleep_until(until) => {}
                () = rpc::reset(&mut self.rpc.respond) => return Ok(()),
            }
        }
        let mut health = HealthResponse {
            healthy: worker.scheduler.has_threads(),
            worker_id: worker.settings.worker_id.clone(),
            uptime_ms: millis(worker.started.elapsed()),
            total_requests: worker.handled.load(Ordering::Relaxed),
            total_errors: worker.failed.load(Ordering::Relaxed),
            version: worker.settings.version.clone(),
            running_call_ids: worker
                .scheduler
                .running(|call| Some(call.header.call_id()).filter(|id| *id != 0)),
            in_flight: worker.scheduler.count(),
            python_stuck_ms: millis(worker.control.unresponsive()),
            ..HealthResponse::default()
        };
        health.set_exit(worker.exit(id));
        rpc::answer(&mut self.rpc.respond, &health);
        Ok(())
    }

    async fn end_session(&mut self) -> Result<(), Status> {
        let session = self.request::<EndSessionRequest>().await?.into();
        let ended = self.worker.control.end_session(session).await;
        rpc::answer(&mut self.rpc.respond, &EndSessionResponse { ended });
        Ok(())
    }

    async fn info(&mut self) -> Result<(), Status> {
        let request: InfoRequest = self.request().await?;
        let worker = &self.worker;
        let commands = || {
            let names = worker.commands.names.iter();
            names.filter_map(|name| worker.commands.get(name))
        };
        let helps = || {
            commands()
                .map(|command| (command.name.clone(), command.help.clone()))
                .collect()
        };
        let info = InfoResponse {
            worker_type: "python".into(),
            version: worker.settings.version.clone(),
            supported_commands: worker.commands.names.clone(),
            capabilities: if request.include_capabilities {
                helps()
            } else {
                Default::default()
            },
            stats: if request.include_stats {
                Some(stats(worker).await)
            } else {
                None
            },
            system_info: worker.settings.system_info.iter().cloned().collect(),
            commands: if request.include_commands {
                commands().map(|command| command.info.clone()).collect()
            } else {
                Vec::new()
            },
        };
        rpc::answer(&mut self.rpc.respond, &info);
        Ok(())
    }
}

/// Sends a stream's chunks as they come.
async fn pass_on(stream: &mut SendStream<Bytes>, chunks: &Chunks) -> Result<(), Gone> {
    let mut gathered = pin!(tokio::time::sleep(GATHERED_FOR));
    while let Some(bytes) = poll_fn(|cx| match stream.poll_reset(cx) {
        Poll::Ready(_) => Poll::Ready(Err(Gone)),
        Poll::Pending => chunks
            .poll_take(cx, |cx| gathered.as_mut().poll(cx))
            .map(Ok),
    })
    .await?
    {
        rpc::send(stream, bytes).await?;
        gathered
            .as_mut()
            .reset((Instant::now() + GATHERED_FOR).into());
    }
    Ok(())
}

/// When an RPC's time is up, and by what: that says how the client is told.
enum Deadline {
    None,
    Grpc(Instant),
    Field(Instant),
}

impl Deadline {
    fn at(&self) -> Option<Instant> {
        match self {
            Self::None => None,
            Self::Grpc(at) | Self::Field(at) => Some(*at),
        }
    }

    async fn passed(&self) {
        sleep_until(self.at()).await;
    }

    fn failure(&self) -> Result<Failure, Status> {
        match self {
            Self::Grpc(_) => Err(Status::new(
                rpc::DEADLINE_EXCEEDED,
                "the deadline has passed",
            )),
            _ => Ok(Failure::new(
                "timeout",
                "no result within the request's timeout_ms",
            )),
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn stats(worker: &Worker) -> WorkerStats {
    let uptime = worker.started.elapsed();
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    WorkerStats {
        requests_handled: worker.handled.load(Ordering::Relaxed),
        requests_failed: worker.failed.load(Ordering::Relaxed),
        uptime_ms: millis(uptime),
        memory_usage_bytes: memory(),
        cpu_usage_percent: (1000.0 * cpu / uptime.as_secs_f64().max(0.001)).round() / 10.0,
        active_sessions: worker.active_sessions().await,
        // To count the sessions was to ask Python.
        python_stuck_ms: millis(worker.control.unresponsive()),
    }
}

/// The resident memory of this process.
fn memory() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<i64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let page = i64::try_from(rustix::param::page_size()).unwrap_or(4096);
    pages.unwrap_or_default() * page
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
