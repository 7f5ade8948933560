//! The process that serves the asks of a two-way call.

use crate::{
    atoms, codec, conversation::ConversationResource, reply::off_scheduler, terms::AskTerm,
};
use rustler::{Encoder, Env, LocalPid, OwnedEnv, ResourceArc, Term};
use snakepit_client::{error::Failure, offload::offload};
use snakepit_proto::{ErrorDetail, Fields, ToolAnswer, ToolAsk};
use std::sync::Arc;

/// The reason of each failed answer.
const TOOL_ERROR: &str = "tool_error";

/// When this is dropped, the process is told that the call has ended.
pub(crate) struct Asker {
    pid: LocalPid,
    conversation: ResourceArc<ConversationResource>,
}

impl Asker {
    pub(crate) fn new(pid: LocalPid, conversation: ResourceArc<ConversationResource>) -> Self {
        Self { pid, conversation }
    }

    /// Passes on what the server asks, and what it no longer asks. Must not be called on a scheduler's thread, like all
    /// functions here that send.
    pub(crate) async fn pass_on(
        self: &Arc<Self>,
        asks: Vec<ToolAsk>,
        withdrawn: Vec<u64>,
    ) -> Result<(), Failure> {
        let conversation = &self.conversation.conversation;
        // Those may have made room for new ones, which may be withdrawn at once.
        let (before, new): (Vec<u64>, Vec<u64>) = withdrawn
            .into_iter()
            .partition(|id| conversation.withdrawn(*id));
        self.withdraw(before);
        if asks.is_empty() {
            return Ok(());
        }
        for ask in &asks {
            conversation.asked(ask.ask_id).map_err(Failure::from)?;
        }
        let size = asks.iter().flat_map(|ask| &ask.args);
        let size = size.map(|field| field.value.len()).sum();
        let to = self.clone();
        let sent = offload(size, move || to.ask(asks)).await;
        sent.ok_or(Failure::Dropped)?;
        self.withdraw(
            new.into_iter()
                .filter(|id| conversation.withdrawn(*id))
                .collect(),
        );
        Ok(())
    }

    /// `{:snakepit_asks, conversation, asks}`.
    fn ask(&self, asks: Vec<ToolAsk>) {
        let refused = self.send(|env| {
            let (mut terms, mut refused) = (Vec::new(), Vec::new());
            for ask in asks {
                let id = ask.ask_id;
                match term(env, ask) {
                    Ok(term) => terms.push(term),
                    Err(message) => refused.push(answer_failed(id, "invalid_args", message)),
                }
            }
            let resource = self.conversation.encode(env);
            (
                (atoms::snakepit_asks(), resource, terms).encode(env),
                refused,
            )
        });
        for answer in refused {
            self.conversation.conversation.answer(answer);
        }
    }

    /// `{:snakepit_asks_withdrawn, conversation, ask_ids}`.
    fn withdraw(&self, ids: Vec<u64>) {
        if !ids.is_empty() {
            self.send(|env| {
                let resource = self.conversation.encode(env);
                let message = (atoms::snakepit_asks_withdrawn(), resource, ids);
                (message.encode(env), ())
            });
        }
    }

    fn send<T>(&self, build: impl for<'a> FnOnce(Env<'a>) -> (Term<'a>, T)) -> T {
        OwnedEnv::new().run(|env| {
            let (message, also) = build(env);
            // If the process has exited, the call is cancelled.
            let _ = env.send(&self.pid, message);
            also
        })
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let pid = self.pid;
        off_scheduler(move || {
            let _ =
                OwnedEnv::new().send_and_clear(&pid, |env| atoms::snakepit_asks_end().to_term(env));
        });
    }
}

fn term<'a>(env: Env<'a>, ask: ToolAsk) -> Result<Term<'a>, String> {
    let fields = Fields::received(ask.args, ask.arg_kinds);
    let args = codec::decode_fields(env, &fields, None).map_err(|failure| failure.to_string())?;
    let term = AskTerm {
        id: ask.ask_id,
        tool: ask.tool,
        args,
        timeout_us: ask.timeout_us,
    };
    Ok(term.encode(env))
}

/// The answer of a tool that has failed.
pub(crate) fn answer_failed(ask_id: u64, code: &str, message: String) -> ToolAnswer {
    let detail = ErrorDetail {
        code: code.into(),
        message,
        ..ErrorDetail::default()
    };
    failed(ask_id, detail)
}

pub(crate) fn failed(ask_id: u64, detail: ErrorDetail) -> ToolAnswer {
    let detail = ErrorDetail {
        reason: TOOL_ERROR.into(),
        ..detail
    };
    ToolAnswer {
        ask_id,
        error: Some(Box::new(detail)),
        ..ToolAnswer::default()
    }
}
