use bytes::Bytes;
use rustler::{Env, NewBinary, Resource, ResourceArc, Term};

/// From this size on a received binary shares the memory of its message, and is not copied.
const SHARED_FROM: usize = 4096;

/// The memory of a binary that the BEAM was given without a copy.
pub(crate) struct SharedBytes(Bytes);

#[rustler::resource_impl]
impl Resource for SharedBytes {}

pub(crate) fn binary<'a>(env: Env<'a>, bytes: &Bytes) -> Term<'a> {
    if bytes.len() < SHARED_FROM {
        return copied(env, bytes);
    }
    ResourceArc::new(SharedBytes(bytes.clone()))
        .make_binary(env, |shared| &shared.0)
        .to_term(env)
}

pub(crate) fn copied<'a>(env: Env<'a>, bytes: &[u8]) -> Term<'a> {
    NewBinary::from_slice(env, bytes).into()
}

/// Whether bytes are UTF-8. Most text is ASCII, which is found four times as fast.
pub(crate) fn is_text(bytes: &[u8]) -> bool {
    bytes.is_ascii() || str::from_utf8(bytes).is_ok()
}
