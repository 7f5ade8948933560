//! The directory for the Unix sockets of a pool, for `Snakepit.Pool.RuntimeDir`.

use rustler::{Atom, Binary, Encoder, Env, Resource, ResourceArc, Term};
use snakepit_client::runtime_dir::{self, RuntimeDir};
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

struct RuntimeDirResource(RuntimeDir);

#[rustler::resource_impl]
impl Resource for RuntimeDirResource {}

fn path<'a>(bytes: &'a Binary<'_>) -> &'a Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// `{:ok, dir}`, which is in use while there is a reference to it, or `{:error, why}`.
#[rustler::nif(schedule = "DirtyIo")]
fn runtime_dir_create<'a>(env: Env<'a>, new: Binary<'a>) -> Term<'a> {
    match RuntimeDir::create(path(&new)) {
        Ok(dir) => (
            crate::atoms::ok(),
            ResourceArc::new(RuntimeDirResource(dir)),
        )
            .encode(env),
        Err(error) => env.error_tuple(error.to_string()),
    }
}

#[rustler::nif(schedule = "DirtyIo")]
fn runtime_dir_intact(dir: ResourceArc<RuntimeDirResource>) -> bool {
    dir.0.is_intact()
}

#[rustler::nif(schedule = "DirtyIo")]
fn runtime_dir_unlink(dir: ResourceArc<RuntimeDirResource>, name: &str) -> Atom {
    dir.0.unlink(name);
    crate::atoms::ok()
}

#[rustler::nif(schedule = "DirtyIo")]
fn runtime_dir_remove(dir: ResourceArc<RuntimeDirResource>) -> Atom {
    dir.0.remove();
    crate::atoms::ok()
}

/// Directories that cannot be read or removed stay.
#[rustler::nif(schedule = "DirtyIo")]
fn runtime_dir_sweep(parent: Binary<'_>) -> Atom {
    let _ = runtime_dir::sweep(path(&parent));
    crate::atoms::ok()
}
