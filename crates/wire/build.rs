//! Compiles the protos with protox: no protoc is needed for our own.

use std::{error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let proto = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", proto.display());
    let files = [
        "isocenter/v1/ai.proto",
        "isocenter/v1/archive.proto",
        "isocenter/v1/ingestion.proto",
        "isocenter/v1/operations.proto",
        "isocenter/v1/reader_assignment.proto",
        "isocenter/v1/report_delivery.proto",
        "isocenter/v1/routing.proto",
        "isocenter/store/v1/document.proto",
        "isocenter/store/v1/record.proto",
    ];
    let descriptors = protox::compile(files, [&proto])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // Server reflection tells the public contract, not how records are stored.
    let mut public = descriptors.clone();
    public.file.retain(|file| file.package() != "isocenter.store.v1");
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&public))?;
    // The proto's JSON form is what the command line prints: answers, and what the store holds.
    pbjson_build::Builder::new()
        .register_descriptors(&prost::Message::encode_to_vec(&descriptors))?
        .build(&[".isocenter.v1", ".isocenter.store.v1"])?;
    tonic_prost_build::configure()
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_well_known_types(true)
        .bytes(".isocenter.v1.FetchInstancesResponse.chunk")
        .compile_fds(descriptors)?;
    Ok(())
}
