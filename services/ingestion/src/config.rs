//! What an ingestion node is told: plain data, as the configuration file has it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use isocenter_domain::id::AeTitle;
use isocenter_runtime::config::{Period, Size};
use serde::{Deserialize, Serialize};

use crate::Error;

/// An ingestion node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of instances that are acknowledged and not yet in blobs: this node's own, on a disk that survives its
    /// restart. Where it lies on the file system of blobs, moving an instance there is a link and not a copy.
    pub spool: PathBuf,
    /// The DICOM listener.
    pub dicom: Dicom,
    /// When a study is whole, where its site's entry does not say.
    pub study: Assembly,
    /// How long the end may take once the process drains: running associations may go on for all of it but the last seconds
    /// (at least half), which what they brought has to reach blobs; then they are aborted.
    pub drain: Period,
}

/// The DICOM listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dicom {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where to listen with TLS besides, such as `0.0.0.0:2762`, with the certificates of the process; nowhere where absent.
    /// `listen` may then be a loopback address.
    pub tls_listen: Option<SocketAddr>,
    /// The AE title that peers call; `*`: any.
    pub ae_title: String,
    /// The longest PDU accepted.
    pub max_pdu: Size,
    /// Associations at once.
    pub max_associations: usize,
    /// From connection to association.
    pub artim: Period,
    /// The longest silence within an association.
    pub idle: Period,
    /// Free space on the spool's disk below which instances are refused (A700); `0B`: not looked at.
    pub min_free: Size,
    /// Instances acknowledged and not yet in blobs beyond which further ones are refused (A700): some 600 bytes of memory
    /// each, which a store or blobs that are away for long would otherwise take without bound.
    pub max_pending: usize,
    /// What a success stands for.
    pub ack: Ack,
}

/// What has become durable when C-STORE is answered with success. Either way the instance is listed in this node's segment,
/// and the study's record counts it, within seconds where blobs and the store can be reached, and once they can be otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// The file and its name in this node's spool: it survives the process and the machine, not the loss of that disk.
    Spool,
    /// The object in blobs besides, under the hash of its content: it survives the loss of the node with its spool. Where the
    /// node is lost before it lists the instance, the study's completion past its bound, or its release, finds it in blobs.
    /// While blobs cannot be written instances are refused (A700).
    Blobs,
}

/// When a study is whole.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Assembly {
    /// How long no image may have arrived, and no association that carries the study been open.
    pub quiet_period: Period,
    /// The bound on assembly, from the first image on: then the study is complete with what is there.
    pub max_assembly: Period,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            spool: PathBuf::from("/var/lib/isocenter/spool"),
            dicom: Dicom::default(),
            study: Assembly::default(),
            drain: Period(Duration::from_secs(25)),
        }
    }
}

impl Default for Dicom {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 11112)),
            tls_listen: None,
            ae_title: "ISOCENTER".to_owned(),
            max_pdu: Size(128 << 10),
            max_associations: 512,
            artim: Period(Duration::from_secs(30)),
            idle: Period(Duration::from_secs(60)),
            min_free: Size(5 << 30),
            max_pending: 1_000_000,
            ack: Ack::Spool,
        }
    }
}

impl Default for Assembly {
    fn default() -> Self {
        Self {
            quiet_period: Period(Duration::from_secs(10)),
            max_assembly: Period(Duration::from_secs(30 * 60)),
        }
    }
}

impl Dicom {
    /// The AE title to be called by; `None`: any.
    pub(crate) fn called(&self) -> Result<Option<AeTitle>, Error> {
        if self.ae_title == "*" {
            return Ok(None);
        }
        let title = AeTitle::new(&self.ae_title).map_err(|e| Error::Config {
            key: "dicom.ae_title",
            why: format!("{e}; write an AE title, or * for any"),
        })?;
        Ok(Some(title))
    }

    /// The listener's own configuration.
    pub(crate) fn listener(&self, drain: Period) -> Result<isocenter_dimse::scp::Config, Error> {
        let max_pdu = u32::try_from(self.max_pdu.0).map_err(|_| Error::Config {
            key: "dicom.max_pdu",
            why: "is above 4 GiB; 128KiB is usual".to_owned(),
        })?;
        Ok(isocenter_dimse::scp::Config {
            bind: self.listen,
            // The called title is judged at admission, so that its rejections are counted with the others.
            ae_titles: Vec::new(),
            max_pdu,
            max_associations: self.max_associations,
            artim: self.artim.0,
            idle: self.idle.0,
            drain: drain.0,
            tls: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(yaml: &str) -> Result<Config, isocenter_runtime::config::ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, yaml).unwrap();
        isocenter_runtime::config::load_yaml(&path)
    }

    #[test]
    fn a_configuration_is_what_is_written_and_the_defaults() {
        let config = parsed("spool: /s\ndicom: {listen: \"127.0.0.1:104\", ae_title: \"*\", min_free: 1GiB, ack: blobs}\nstudy: {quiet_period: 5s}\n").unwrap();
        assert_eq!(
            (config.dicom.min_free, config.study.quiet_period),
            (Size(1 << 30), Period(Duration::from_secs(5)))
        );
        assert_eq!((config.dicom.called().unwrap(), config.dicom.ack), (None, Ack::Blobs));
        let defaults = parsed("").unwrap();
        assert_eq!(defaults.dicom.ack, Ack::Spool);
        assert_eq!(defaults.dicom.called().unwrap(), Some("ISOCENTER".parse().unwrap()));
        let listener = defaults.dicom.listener(defaults.drain).unwrap();
        assert_eq!((listener.max_pdu, listener.max_associations), (131_072, 512));
        assert!(parsed("dicom: {title: X}").is_err());
        let wrong = Dicom { ae_title: "SEVENTEEN CHARACTERS".into(), ..Dicom::default() };
        assert!(wrong.called().unwrap_err().to_string().starts_with("dicom.ae_title"));
    }
}
