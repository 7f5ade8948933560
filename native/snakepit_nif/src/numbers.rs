//! What the calls of a pool took and how they ended, with the reasons of errors as atoms.

pub(crate) type Numbers = snakepit_client::numbers::Numbers<rustler::Atom>;
