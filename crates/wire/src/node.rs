//! A process's presence, converted.

use isocenter_domain::Time;
use prost::Message;

use crate::{error::Undecodable, record::json, stored};

/// What a process says of itself for each role that it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where its services are reached: `host:port`, or a URL.
    pub address: String,
    /// The highest level of records that its build knows.
    pub level: u32,
    /// Its build, as it calls itself.
    pub version: String,
    /// When it started, by its own clock.
    pub started_at: Time,
}

impl Node {
    /// The bytes to keep.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.stored().encode_to_vec()
    }

    fn stored(&self) -> stored::Node {
        stored::Node {
            address: self.address.clone(),
            level: self.level,
            version: self.version.clone(),
            started_at: self.started_at.0,
        }
    }

    /// The node as JSON, for people who look into a store.
    ///
    /// # Errors
    /// [`Undecodable::Damaged`] where the node cannot be written as JSON.
    pub fn json(&self) -> Result<String, Undecodable> {
        json(&self.stored())
    }

    /// The node in `bytes`. Fields that a newer build has added are passed over.
    ///
    /// # Errors
    /// [`Undecodable::Damaged`] where the bytes are no such message.
    pub fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let node = stored::Node::decode(bytes).map_err(|e| Undecodable::Damaged(e.to_string()))?;
        let stored::Node { address, level, version, started_at } = node;
        Ok(Self { address, level, version, started_at: Time(started_at) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_reads_back_and_nonsense_does_not() {
        let node =
            Node { address: "10.0.0.7:8443".into(), level: 2, version: "0.1.0".into(), started_at: Time(7) };
        assert_eq!(Node::decode(&node.encode()), Ok(node));
        assert!(matches!(Node::decode(b"\xff"), Err(Undecodable::Damaged(_))));
    }
}
