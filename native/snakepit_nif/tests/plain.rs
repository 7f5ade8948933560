//! The tests of the modules that need no BEAM. They are built in here because the library itself
//! links only inside of one: the functions of the NIF interface come from it.
#![allow(dead_code)]

#[path = "../src/aside.rs"]
mod aside;
#[path = "../src/calls.rs"]
mod calls;
#[path = "../src/channel.rs"]
mod channel;
#[path = "../src/chunk_order.rs"]
mod chunk_order;
#[path = "../src/credit.rs"]
mod credit;
#[path = "../src/dispatcher.rs"]
mod dispatcher;
#[path = "../src/failure.rs"]
mod failure;
#[path = "../src/output.rs"]
mod output;
#[path = "../src/overdue.rs"]
mod overdue;
#[path = "../src/pipe.rs"]
mod pipe;
#[path = "../src/runtime_dir.rs"]
mod runtime_dir;
#[path = "../src/sessions.rs"]
mod sessions;
#[path = "../src/wire.rs"]
mod wire;
