//! Keeps reports as files. This is the file to replace, by whatever puts a report into your own system: it has to be
//! durable when it returns, and to know a report that it has already.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use isocenter_wire::v1::ReportMessage;

/// What became of a report here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is new, and durable.
    New,
    /// It was here before, and is durable.
    Before,
    /// Another content is here under its message id.
    Contradiction,
}

/// Keeps a report durably under its message id.
///
/// After a power cut at any moment either the whole file is there or none: it is written and synced under another name, then
/// renamed, and the folder that holds the name is synced last.
///
/// # Errors
/// Where the folder cannot be read or written.
pub fn keep(folder: &Path, message: &ReportMessage) -> io::Result<Kept> {
    let text = text_of(message)?;
    let path = folder.join(format!("{}.json", message.message_id));
    let known = match fs::read(&path) {
        Ok(found) if found == text => Kept::Before,
        Ok(_) => return Ok(Kept::Contradiction),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Kept::New,
        Err(e) => return Err(e),
    };
    if known == Kept::New {
        let draft = folder.join(format!(".{}.{}", message.message_id, std::process::id()));
        let mut file = File::create(&draft)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
    }
    // Also where the file was here: it may have been renamed by a process that was killed before it could do this.
    File::open(folder)?.sync_all()?;
    Ok(known)
}

/// The report as JSON, the same each time it comes: without what tells one time from another.
fn text_of(message: &ReportMessage) -> io::Result<Vec<u8>> {
    let kept = ReportMessage { attempt: 0, acknowledge_before: None, ..message.clone() };
    let mut text = serde_json::to_vec_pretty(&kept)?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_kept_once_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let message = ReportMessage { message_id: "ABC".into(), attempt: 1, ..ReportMessage::default() };
        assert_eq!(keep(folder.path(), &message).unwrap(), Kept::New);
        // It comes again, and only the count of its comings differs.
        let again = ReportMessage { attempt: 2, ..message.clone() };
        assert_eq!(keep(folder.path(), &again).unwrap(), Kept::Before);
        let other = ReportMessage { accession_number: "A2".into(), ..message };
        assert_eq!(keep(folder.path(), &other).unwrap(), Kept::Contradiction);
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["ABC.json"]);
    }
}
