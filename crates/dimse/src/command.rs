//! DIMSE command sets (PS3.7 §6.3.1, Annex E): group 0000, always Implicit VR Little Endian.
//!
//! Read and written here rather than by the object library: a command set is flat, while a general parser follows
//! nested sequences, and a peer could nest them until the stack ends.

/// The longest command set accepted, in bytes. Real ones are below 1 KiB.
pub(crate) const MAX_COMMAND: usize = 64 * 1024;

/// Command Data Set Type (0000,0800): no data set follows.
const NO_DATA_SET: u16 = 0x0101;

/// Command Field (0000,0100) of what this crate sends or serves.
pub(crate) mod field {
    pub(crate) const C_STORE_RQ: u16 = 0x0001;
    pub(crate) const C_STORE_RSP: u16 = 0x8001;
    pub(crate) const C_ECHO_RQ: u16 = 0x0030;
    pub(crate) const C_ECHO_RSP: u16 = 0x8030;
    pub(crate) const C_CANCEL_RQ: u16 = 0x0FFF;
    /// Set in every response.
    pub(crate) const RESPONSE: u16 = 0x8000;
}

/// Status (0000,0900): unrecognized operation (PS3.7 Annex C.5.23).
pub(crate) const UNRECOGNIZED_OPERATION: u16 = 0x0211;

/// A command set, as far as this crate uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Command {
    /// Command Field (0000,0100).
    pub field: u16,
    /// Message ID (0000,0110).
    pub message_id: Option<u16>,
    /// Message ID Being Responded To (0000,0120).
    pub responded_to: Option<u16>,
    /// Whether a data set follows (0000,0800).
    pub data_set: bool,
    /// Affected SOP Class UID (0000,0002), not checked.
    pub sop_class: Option<String>,
    /// Affected SOP Instance UID (0000,1000), not checked.
    pub sop_instance: Option<String>,
    /// Status (0000,0900).
    pub status: Option<u16>,
    /// Error Comment (0000,0902); written only, for a peer's may repeat patient identity.
    pub comment: &'static str,
}

/// Bytes that are not a command set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("the command set ends within an element")]
    Truncated,
    #[error("the command set has an element of group {0:04X}")]
    Group(u16),
    #[error("element (0000,{0:04X}) of the command set is not two bytes long")]
    Length(u16),
    #[error("the command set has no element (0000,{0:04X})")]
    Missing(u16),
}

impl Command {
    /// Reads a command set. Elements this crate does not use are passed over, whatever they hold.
    pub(crate) fn parse(mut bytes: &[u8]) -> Result<Self, CommandError> {
        let mut command = Self::default();
        let (mut field, mut data_set) = (None, None);
        while !bytes.is_empty() {
            let (element, value, rest) = next_element(bytes)?;
            bytes = rest;
            match element {
                0x0002 => command.sop_class = text(value),
                0x0100 => field = Some(us(element, value)?),
                0x0110 => command.message_id = Some(us(element, value)?),
                0x0120 => command.responded_to = Some(us(element, value)?),
                0x0800 => data_set = Some(us(element, value)? != NO_DATA_SET),
                0x0900 => command.status = Some(us(element, value)?),
                0x1000 => command.sop_instance = text(value),
                _ => {}
            }
        }
        command.field = field.ok_or(CommandError::Missing(0x0100))?;
        command.data_set = data_set.ok_or(CommandError::Missing(0x0800))?;
        Ok(command)
    }

    /// The command set with its group length, elements in ascending order.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(256);
        if let Some(uid) = &self.sop_class {
            put(&mut body, 0x0002, uid.as_bytes(), 0);
        }
        put(&mut body, 0x0100, &self.field.to_le_bytes(), 0);
        if let Some(id) = self.message_id {
            put(&mut body, 0x0110, &id.to_le_bytes(), 0);
        }
        if let Some(id) = self.responded_to {
            put(&mut body, 0x0120, &id.to_le_bytes(), 0);
        }
        if self.field == field::C_STORE_RQ {
            // Priority: medium. It is required of requests and means nothing to most receivers.
            put(&mut body, 0x0700, &0u16.to_le_bytes(), 0);
        }
        let data_set = if self.data_set { 0x0001 } else { NO_DATA_SET };
        put(&mut body, 0x0800, &data_set.to_le_bytes(), 0);
        if let Some(status) = self.status {
            put(&mut body, 0x0900, &status.to_le_bytes(), 0);
        }
        if !self.comment.is_empty() {
            put(&mut body, 0x0902, self.comment.as_bytes(), b' ');
        }
        if let Some(uid) = &self.sop_instance {
            put(&mut body, 0x1000, uid.as_bytes(), 0);
        }
        let length = u32::try_from(body.len()).expect("a command set is made of a few short elements");
        let mut bytes = Vec::with_capacity(12 + body.len());
        put(&mut bytes, 0x0000, &length.to_le_bytes(), 0);
        bytes.extend_from_slice(&body);
        bytes
    }
}

/// The first element of `bytes`, and what comes after it.
fn next_element(bytes: &[u8]) -> Result<(u16, &[u8], &[u8]), CommandError> {
    let (head, rest) = bytes.split_first_chunk::<8>().ok_or(CommandError::Truncated)?;
    let group = u16::from_le_bytes([head[0], head[1]]);
    if group != 0 {
        return Err(CommandError::Group(group));
    }
    let element = u16::from_le_bytes([head[2], head[3]]);
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let length = usize::try_from(length).map_err(|_| CommandError::Truncated)?;
    let (value, rest) = rest.split_at_checked(length).ok_or(CommandError::Truncated)?;
    Ok((element, value, rest))
}

fn us(element: u16, value: &[u8]) -> Result<u16, CommandError> {
    Ok(u16::from_le_bytes(value.try_into().map_err(|_| CommandError::Length(element))?))
}

/// A UID's text without its padding: NUL by the standard, a space from some devices.
fn text(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    Some(text.trim_matches(|c: char| c == '\0' || c == ' ').to_owned())
}

fn put(out: &mut Vec<u8>, element: u16, value: &[u8], pad: u8) {
    let length = u32::try_from(value.len() + value.len() % 2).expect("values written here are short");
    out.extend_from_slice(&0u16.to_le_bytes());
    out.extend_from_slice(&element.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(value);
    if value.len() % 2 == 1 {
        out.push(pad);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_command_is_read_back_as_written() {
        let command = Command {
            field: field::C_STORE_RQ,
            message_id: Some(7),
            data_set: true,
            sop_class: Some("1.2.840.10008.5.1.4.1.1.2".into()),
            sop_instance: Some("1.2.3".into()),
            ..Command::default()
        };
        let bytes = command.to_bytes();
        assert_eq!(Command::parse(&bytes), Ok(command));
        assert_eq!(u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize, bytes.len() - 12);
    }

    #[test]
    fn what_is_not_a_command_set_is_named() {
        assert_eq!(Command::parse(&[]), Err(CommandError::Missing(0x0100)));
        assert_eq!(Command::parse(&[0; 5]), Err(CommandError::Truncated));
        assert_eq!(Command::parse(&[8, 0, 5, 0, 0, 0, 0, 0]), Err(CommandError::Group(8)));
        assert_eq!(Command::parse(&[0, 0, 0, 1, 1, 0, 0, 0, 9]), Err(CommandError::Length(0x0100)));
        assert_eq!(Command::parse(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 9]), Err(CommandError::Truncated));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            drop(Command::parse(&bytes));
        }
    }
}
