//! Builds maps on any thread.
//!
//! rustler's own functions for that are not allowed elsewhere (`clippy.toml`): with more than 32 keys they crash
//! the BEAM on a thread that is not a scheduler's.

use rustler::{Encoder, Env, Term};

/// The BEAM keeps up to so many keys of a map sorted. To hash more of them at once it sorts them with a function that
/// takes random numbers from the scheduler, which crashes on any other thread.
const SORTED_ANYWHERE: usize = 32;

/// Up to so many keys are added one after the other, which costs less than the arrays for all at once.
const FEW: usize = 1;

/// The last of several values with the same key counts.
pub(crate) fn from_pairs<'a, K: Encoder, V: Encoder>(
    env: Env<'a>,
    pairs: impl IntoIterator<Item = (K, V)>,
) -> Term<'a> {
    let (keys, values): (Vec<_>, Vec<_>) = pairs
        .into_iter()
        .map(|(key, value)| (key.encode(env), value.encode(env)))
        .unzip();
    from_terms(env, &keys, &values)
}

/// As `from_pairs`.
pub(crate) fn from_terms<'a>(env: Env<'a>, keys: &[Term<'a>], values: &[Term<'a>]) -> Term<'a> {
    at_once(env, keys, values).unwrap_or_else(|| {
        keys.iter()
            .zip(values)
            .fold(Term::map_new(env), |map, (key, value)| {
                put(map, *key, *value)
            })
    })
}

/// Fails with the first duplicate key.
pub(crate) fn from_unique_terms<'a>(
    env: Env<'a>,
    keys: &[Term<'a>],
    values: &[Term<'a>],
) -> Result<Term<'a>, Term<'a>> {
    if let Some(map) = at_once(env, keys, values) {
        return Ok(map);
    }
    let pairs = &mut keys.iter().zip(values);
    pairs.try_fold(Term::map_new(env), |map, (key, value)| {
        match map.map_get(key) {
            Ok(_) => Err(*key),
            Err(_) => Ok(put(map, *key, *value)),
        }
    })
}

/// Nothing if there are duplicate keys, if only a scheduler could build the map, or for a few keys.
#[expect(clippy::disallowed_methods, reason = "it checks the thread")]
fn at_once<'a>(env: Env<'a>, keys: &[Term<'a>], values: &[Term<'a>]) -> Option<Term<'a>> {
    let allowed = keys.len() <= SORTED_ANYWHERE || rustler::thread::is_scheduler_thread();
    let worthwhile = keys.len() > FEW;
    (worthwhile && allowed)
        .then(|| Term::map_from_term_arrays(env, keys, values).ok())
        .flatten()
}

/// Adding one key after the other sorts nothing, so any thread may do it.
#[expect(
    clippy::disallowed_methods,
    reason = "it fails only if `map` is not a map"
)]
fn put<'a>(map: Term<'a>, key: Term<'a>, value: Term<'a>) -> Term<'a> {
    map.map_put(key, value).unwrap_or(map)
}
