//! What people and programs see: stdout is data, stderr is for people; exit codes 0 done, 1 refused or differs, 2 usage,
//! 3 unreachable.

use std::{io::Write as _, process::ExitCode};

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Refused, or the comparison found differences.
pub const REFUSED: u8 = 1;
/// Wrong usage; clap uses the same.
pub const USAGE: u8 = 2;
/// The server cannot be reached.
pub const UNREACHABLE: u8 = 3;

/// Wrong usage that clap cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// A line of data.
pub fn line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// Text as it is, without a line break of ours.
pub fn text(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// A line for people.
pub fn note(text: &str) {
    // Nobody to tell if stderr is closed.
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// One value: as JSON, or as `key: value` lines of the same.
pub fn one<T: Serialize>(value: &T, json: bool) -> Result<()> {
    if json {
        return line(&serde_json::to_string(value)?);
    }
    let serde_json::Value::Object(fields) = serde_json::to_value(value)? else {
        return line(&serde_json::to_string_pretty(value)?);
    };
    for (name, value) in fields {
        line(&format!("{name}: {}", plain(&value)))?;
    }
    Ok(())
}

/// Many values: as one JSON array, or as a table of the named fields.
pub fn many<T: Serialize>(values: &[T], fields: &[&str], json: bool) -> Result<()> {
    if json {
        return line(&serde_json::to_string(values)?);
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(fields);
    for value in values {
        let value = serde_json::to_value(value)?;
        table.add_row(fields.iter().map(|field| value.get(*field).map(plain).unwrap_or_default()));
    }
    line(&table.to_string())
}

/// A value as people read it.
fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => constant(text).unwrap_or_else(|| text.clone()),
        serde_json::Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) | serde_json::Value::Object(_) => {
            value.to_string()
        }
    }
}

/// A constant of an enum of the proto as people write it: `STUDY_STAGE_NOTHING_TO_READ` is nothing-to-read.
pub fn constant(text: &str) -> Option<String> {
    const ENUMS: [&str; 7] = [
        "STUDY_STAGE_",
        "READ_STATE_",
        "READ_KIND_",
        "DELIVERY_STATE_",
        "DESTINATION_PROTOCOL_",
        "AI_RECEIVES_",
        "AI_SERVICE_STATE_",
    ];
    let name = ENUMS.iter().find_map(|prefix| text.strip_prefix(prefix))?;
    Some(name.to_lowercase().replace('_', "-"))
}

/// Says what went wrong, with its causes, and which exit code that is.
pub fn refused(error: &anyhow::Error) -> ExitCode {
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        match status.message() {
            "" => note(&format!("isocenter: {}", status.code())),
            message => note(&format!("isocenter: {message}")),
        }
        for violation in violations(status).into_iter().filter(|violation| violation != status.message()) {
            note(&format!("  {violation}"));
        }
        let unreachable = status.code() == tonic::Code::Unavailable;
        return ExitCode::from(if unreachable { UNREACHABLE } else { REFUSED });
    }
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    note(&format!("isocenter: {}", causes.join(": ")));
    let code = if error.downcast_ref::<Usage>().is_some() {
        USAGE
    } else if error.downcast_ref::<tonic::transport::Error>().is_some() {
        UNREACHABLE
    } else {
        REFUSED
    };
    ExitCode::from(code)
}

fn violations(status: &tonic::Status) -> Vec<String> {
    use tonic_types::StatusExt as _;
    let details = status.get_details_bad_request();
    let violations = details.map(|d| d.field_violations).unwrap_or_default();
    violations.into_iter().map(|v| format!("{}: {}", v.field, v.description)).collect()
}
