//! The header of a call: its command, arguments with their kinds, session with its generation, request id
//! with metadata, and deadline. Both ends convert it to and from all messages that carry a call.

use crate::{
    fields::{Fields, FieldsRef},
    messages::{CallFrame, EndSessionRequest, ExecuteRequest, SessionRequest},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The header of a call. It is stored as the message with all fields of a call, so that a frame is sent from
/// a borrow, as often as necessary.
#[derive(Clone, Debug, Default)]
pub struct CallHeader {
    frame: CallFrame,
    /// The id of a session may be empty in a request, but not in a frame.
    in_session: bool,
    deadline: Option<Instant>,
}

/// A session, whose it is, and its generation; 0 if they are not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionKey<Id = String> {
    pub id: Id,
    pub client_id: u64,
    pub generation: u64,
}

impl From<String> for SessionKey {
    fn from(id: String) -> Self {
        Self {
            id,
            client_id: 0,
            generation: 0,
        }
    }
}

impl CallHeader {
    pub fn new(command: String, args: Fields) -> Self {
        let frame = CallFrame {
            command,
            args: args.values,
            arg_kinds: args.kinds,
            ..CallFrame::default()
        };
        Self {
            frame,
            ..Self::default()
        }
    }

    /// Identifies the call on its connection.
    #[inline]
    pub fn call_id(&self) -> u64 {
        self.frame.call_id
    }

    #[inline]
    pub fn command(&self) -> &str {
        &self.frame.command
    }

    /// Takes the request id out of a header that is not sent again.
    pub fn take_request_id(&mut self) -> String {
        std::mem::take(&mut self.frame.request_id)
    }

    /// Takes the command out of a header that is not sent again.
    pub fn take_command(&mut self) -> String {
        std::mem::take(&mut self.frame.command)
    }

    #[inline]
    pub fn args(&self) -> FieldsRef<'_> {
        FieldsRef {
            values: &self.frame.args,
            kinds: self.frame.arg_kinds.as_ref(),
        }
    }

    #[inline]
    pub fn session(&self) -> Option<SessionKey<&str>> {
        self.in_session.then_some(SessionKey {
            id: self.frame.session_id.as_str(),
            client_id: self.frame.client_id,
            generation: self.frame.session_generation,
        })
    }

    pub fn set_session(&mut self, session: SessionKey) {
        self.in_session = true;
        self.frame.session_id = session.id;
        self.frame.client_id = session.client_id;
        self.frame.session_generation = session.generation;
    }

    /// Sets whose session it is, and its generation, once the call has a worker. Does nothing without a session.
    #[inline]
    pub fn set_generation(&mut self, client_id: u64, generation: u64) {
        if self.in_session {
            self.frame.client_id = client_id;
            self.frame.session_generation = generation;
        }
    }

    #[inline]
    pub fn request_id(&self) -> &str {
        &self.frame.request_id
    }

    pub fn set_request_id(&mut self, request_id: String) {
        self.frame.request_id = request_id;
    }

    #[inline]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.frame.metadata
    }

    /// If a name occurs twice, the last value counts.
    pub fn set_metadata(&mut self, metadata: impl IntoIterator<Item = (String, String)>) {
        self.frame.metadata = metadata.into_iter().collect();
    }

    /// Adds metadata that the call does not have itself.
    #[inline]
    pub fn add_metadata(&mut self, metadata: &[(String, String)]) {
        for (name, value) in metadata {
            if !self.frame.metadata.contains_key(name) {
                self.frame.metadata.insert(name.clone(), value.clone());
            }
        }
    }

    /// The events of the call that the client takes: a sum of `TAKES_TELEMETRY` and `TAKES_PROGRESS`.
    #[inline]
    pub fn takes_events(&self) -> u32 {
        self.frame.takes_events
    }

    pub fn set_takes_events(&mut self, events: u32) {
        self.frame.takes_events = events;
    }

    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// The time left until the deadline. `None` without one.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The call as a frame that is sent now.
    pub fn frame(&mut self, call_id: u64, now: Instant) -> &mut CallFrame {
        self.frame.call_id = call_id;
        // 0 stands for no deadline.
        self.frame.timeout_us = self.deadline.map_or(0, |deadline| {
            let left = deadline.saturating_duration_since(now);
            u64::try_from(left.as_micros()).unwrap_or(u64::MAX).max(1)
        });
        &mut self.frame
    }

    /// The call as an RPC of its own, without a session.
    pub fn execute_request(&self, call_id: u64) -> ExecuteRequest {
        ExecuteRequest {
            command: self.frame.command.clone(),
            args: self.frame.args.clone(),
            timeout_ms: self.timeout_ms(),
            request_id: self.frame.request_id.clone(),
            call_id,
            arg_kinds: self.frame.arg_kinds.clone(),
            takes_events: self.frame.takes_events,
        }
    }

    /// The call as an RPC of its own, in its session.
    pub fn session_request(&self, call_id: u64) -> SessionRequest {
        let plain = self.execute_request(call_id);
        SessionRequest {
            session_id: self.frame.session_id.clone(),
            client_id: self.frame.client_id,
            session_generation: self.frame.session_generation,
            command: plain.command,
            args: plain.args,
            timeout_ms: plain.timeout_ms,
            request_id: plain.request_id,
            call_id: plain.call_id,
            arg_kinds: plain.arg_kinds,
            takes_events: plain.takes_events,
        }
    }

    fn timeout_ms(&self) -> i32 {
        self.remaining().map_or(0, |left| {
            i32::try_from(left.as_millis()).unwrap_or(i32::MAX)
        })
    }
}

impl From<CallFrame> for CallHeader {
    fn from(mut frame: CallFrame) -> Self {
        let args = Fields::received(std::mem::take(&mut frame.args), frame.arg_kinds.take());
        (frame.args, frame.arg_kinds) = (args.values, args.kinds);
        let timeout = Some(Duration::from_micros(frame.timeout_us));
        Self {
            in_session: !frame.session_id.is_empty(),
            deadline: after(timeout.filter(|timeout| !timeout.is_zero())),
            frame,
        }
    }
}

impl From<ExecuteRequest> for CallHeader {
    fn from(request: ExecuteRequest) -> Self {
        let args = Fields::received(request.args, request.arg_kinds);
        let mut header = Self::new(request.command, args);
        header.frame.call_id = request.call_id;
        header.frame.takes_events = request.takes_events;
        header.set_request_id(request.request_id);
        let timeout = u64::try_from(request.timeout_ms).ok();
        let timeout = timeout.filter(|millis| *millis > 0);
        header.set_deadline(after(timeout.map(Duration::from_millis)));
        header
    }
}

impl From<SessionRequest> for CallHeader {
    fn from(request: SessionRequest) -> Self {
        let plain = ExecuteRequest {
            command: request.command,
            args: request.args,
            timeout_ms: request.timeout_ms,
            request_id: request.request_id,
            call_id: request.call_id,
            arg_kinds: request.arg_kinds,
            takes_events: request.takes_events,
        };
        let mut header = Self::from(plain);
        header.set_session(SessionKey {
            id: request.session_id,
            client_id: request.client_id,
            generation: request.session_generation,
        });
        header
    }
}

impl From<SessionKey> for EndSessionRequest {
    fn from(session: SessionKey) -> Self {
        Self {
            session_id: session.id,
            client_id: session.client_id,
            session_generation: session.generation,
        }
    }
}

impl From<EndSessionRequest> for SessionKey {
    fn from(request: EndSessionRequest) -> Self {
        Self {
            id: request.session_id,
            client_id: request.client_id,
            generation: request.session_generation,
        }
    }
}

/// `None` if the clock cannot represent the time.
fn after(timeout: Option<Duration>) -> Option<Instant> {
    Instant::now().checked_add(timeout?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Field, TAKES_PROGRESS, TAKES_TELEMETRY, call_frame::Act};
    use bytes::Bytes;

    fn fields() -> Fields {
        let args = vec![
            (Field::new("b", Bytes::from("2")), 3),
            (Field::new("a", Bytes::from("1")), 1),
        ];
        Fields::sent(args, true)
    }

    fn header() -> CallHeader {
        let mut header = CallHeader::new("echo".into(), fields());
        header.set_session(String::from("s").into());
        header.set_generation(u64::MAX, 7);
        header.set_takes_events(TAKES_TELEMETRY + TAKES_PROGRESS);
        header.set_request_id("r".into());
        header.set_metadata([("k", "1"), ("k", "2")].map(|(k, v)| (k.into(), v.into())));
        header.set_deadline(Instant::now().checked_add(Duration::from_secs(60)));
        header
    }

    fn assert_carried(header: &CallHeader, call_id: u64) {
        let expected = fields();
        assert_eq!((header.call_id(), header.command()), (call_id, "echo"));
        assert_eq!(header.args().values, expected.values);
        assert_eq!(header.args().kinds, expected.kinds.as_ref());
        assert_eq!(header.request_id(), "r");
        assert_eq!(header.takes_events(), 3);
        let left = header.remaining().unwrap();
        assert!(left > Duration::from_secs(30) && left <= Duration::from_secs(60));
    }

    const IN_SESSION: SessionKey<&str> = SessionKey {
        id: "s",
        client_id: u64::MAX,
        generation: 7,
    };

    #[test]
    fn a_frame_carries_a_complete_call() {
        let mut sent = header();
        let frame = sent.frame(3, Instant::now()).clone();
        assert_eq!(frame.act(), Act::Call);
        let received = CallHeader::from(frame);
        assert_carried(&received, 3);
        assert_eq!(received.session(), Some(IN_SESSION));
        assert_eq!(received.metadata()["k"], "2");
    }

    #[test]
    fn a_separate_request_carries_a_call_except_its_metadata() {
        let plain = CallHeader::from(header().execute_request(3));
        assert_carried(&plain, 3);
        assert_eq!(plain.session(), None);
        let in_session = CallHeader::from(header().session_request(3));
        assert_carried(&in_session, 3);
        assert_eq!(in_session.session(), Some(IN_SESSION));
    }

    #[test]
    fn metadata_is_added_that_the_call_does_not_have_itself() {
        let mut header = header();
        header.add_metadata(&[("k", "3"), ("l", "4")].map(|(k, v)| (k.into(), v.into())));
        let metadata = header.metadata();
        assert_eq!((&*metadata["k"], &*metadata["l"]), ("2", "4"));
    }

    #[test]
    fn a_call_without_a_deadline_says_so_and_an_expired_one_has_a_deadline() {
        let mut header = CallHeader::default();
        assert_eq!(header.frame(1, Instant::now()).timeout_us, 0);
        assert_eq!(header.execute_request(1).timeout_ms, 0);
        assert_eq!(
            CallHeader::from(header.frame(1, Instant::now()).clone()).deadline(),
            None
        );
        let request = header.execute_request(1);
        assert_eq!(CallHeader::from(request).deadline(), None);
        header.set_deadline(Some(Instant::now()));
        assert_eq!(header.frame(1, Instant::now()).timeout_us, 1);
    }

    #[test]
    fn a_timeout_below_zero_or_beyond_the_clock_means_no_deadline() {
        let request = ExecuteRequest {
            timeout_ms: -1,
            ..ExecuteRequest::default()
        };
        assert_eq!(CallHeader::from(request).deadline(), None);
        let frame = CallFrame {
            timeout_us: u64::MAX,
            ..CallFrame::default()
        };
        // Whether the clock can represent it depends on the system.
        let _ = CallHeader::from(frame).remaining();
    }

    #[test]
    fn arguments_are_put_in_order_and_of_duplicates_the_last_counts() {
        let field = |name: &'static str, value: &'static str| Field::new(name, Bytes::from(value));
        let frame = CallFrame {
            args: vec![field("b", "1"), field("a", "2"), field("b", "3")],
            ..CallFrame::default()
        };
        let header = CallHeader::from(frame);
        assert_eq!(header.args().values, [field("a", "2"), field("b", "3")]);
        assert_eq!(header.args().size(), 4);
    }

    #[test]
    fn an_empty_session_id_means_no_session_in_a_frame_and_a_session_in_a_request() {
        assert_eq!(CallHeader::from(CallFrame::default()).session(), None);
        let session = CallHeader::from(SessionRequest::default());
        assert_eq!(session.session().unwrap().id, "");
    }
}
