//! The tests of the modules that need no Python. They are built in here because the library itself
//! links only inside of an interpreter.
#![allow(dead_code)]

#[path = "../src/chunks.rs"]
mod chunks;
#[path = "../src/scheduler.rs"]
mod scheduler;
