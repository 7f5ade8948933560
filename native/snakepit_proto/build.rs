use std::{env, error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let proto = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", proto.display());

    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .build_server(false)
        .build_transport(false)
        .compile_fds(protox::compile(["snakepit.proto"], [proto])?)?;
    Ok(())
}
