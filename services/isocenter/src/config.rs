//! Process settings: file, environment and flags, all from one definition. Sites, readers, pools, destinations and AI
//! services live in the registry, the policy in the store.

mod help;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Arg, ArgMatches, Command, FromArgMatches};
use isocenter_domain::id::{CellId, TenantId};
use isocenter_runtime::{
    config::{Period, Size, load_yaml},
    server, telemetry, tls,
};
use isocenter_store::{Access, Login, TlsFiles};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::help::help;
use crate::output::Usage;

/// What one process runs, and where its data lies.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Roles to run; `all` is every one.
    #[serde(deserialize_with = "one_or_more")]
    pub roles: Vec<Role>,
    /// `embedded:FOLDER` (one process, locked) or `etcd://host:port,…`.
    pub store: String,
    /// `sqlite:FILE`, or `postgres://user@host/database`.
    pub records: String,
    /// A folder; in a cluster one that every node shares.
    pub blobs: PathBuf,
    /// This node's own folder; must survive its restart.
    pub spool: PathBuf,
    /// The cell that the store is.
    pub cell: String,
    /// The tenant of callers on loopback, who have no other identity.
    pub tenant: String,
    /// DICOM.
    pub dicom: isocenter_ingestion::Dicom,
    /// gRPC and `/metrics`.
    pub listen: SocketAddr,
    /// `grpc.health.v1` and `/healthz`, plaintext, for probes.
    pub health: SocketAddr,
    /// What other roles and vendors dial, `host:port`; the bound address where empty.
    pub advertise: String,
    /// TLS on `listen`, with certificates of both sides; without it `listen` must be a loopback address.
    pub tls: tls::Files,
    /// How much `listen` takes on from whom.
    pub limits: server::Limits,
    /// With what this process shows etcd who it is.
    pub etcd: Etcd,
    /// How studies are assembled, where their site says nothing.
    pub study: isocenter_ingestion::Assembly,
    /// 32 bytes, the same on all nodes; generated where absent.
    pub secret_file: PathBuf,
    /// Offers and presence.
    pub read: isocenter_reader_assignment::Config,
    /// AI dispatch.
    pub ai: isocenter_ai_dispatch::Config,
    /// Report delivery.
    pub delivery: isocenter_report_delivery::Config,
    /// Journaling, closing, and what counts as overdue.
    pub archive: isocenter_archive::Config,
    /// Logs and traces.
    pub telemetry: Telemetry,
    /// Ending.
    pub shutdown: Shutdown,
}

/// A role, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Every role.
    All,
    /// DICOM in, assembly.
    Ingestion,
    /// Policy and registry.
    Routing,
    /// Vendors' services.
    AiDispatch,
    /// The queue.
    ReaderAssignment,
    /// Reports out.
    ReportDelivery,
    /// History.
    Archive,
}

impl Role {
    /// Every single role, in the order in which a study meets them.
    pub const EACH: [Self; 6] = [
        Self::Ingestion,
        Self::Routing,
        Self::AiDispatch,
        Self::ReaderAssignment,
        Self::ReportDelivery,
        Self::Archive,
    ];

    /// The role as settings, keys and messages spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Ingestion => "ingestion",
            Self::Routing => "routing",
            Self::AiDispatch => "ai-dispatch",
            Self::ReaderAssignment => "reader-assignment",
            Self::ReportDelivery => "report-delivery",
            Self::Archive => "archive",
        }
    }

    /// The services of `isocenter.v1` that the role serves.
    #[must_use]
    pub const fn services(self) -> &'static [&'static str] {
        match self {
            Self::All => &[],
            Self::Ingestion => &["Ingestion"],
            Self::Routing => &["Routing", "Registry"],
            Self::AiDispatch => &["AiDispatch"],
            Self::ReaderAssignment => &["ReaderAssignment"],
            Self::ReportDelivery => &["ReportDelivery"],
            Self::Archive => &["Archive"],
        }
    }
}

/// How etcd is reached, besides its address. Empty paths and names are absent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Etcd {
    /// The authority of the members' certificates; with it the connections are TLS.
    pub ca: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// A user of etcd.
    pub user: String,
    /// A file with the user's password.
    pub password_file: PathBuf,
    /// The members' `--quota-backend-bytes`.
    pub quota: Size,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            ca: PathBuf::new(),
            cert: PathBuf::new(),
            key: PathBuf::new(),
            user: String::new(),
            password_file: PathBuf::new(),
            quota: Size(2 << 30),
        }
    }
}

impl Etcd {
    /// For [`isocenter_store::open_with`].
    pub fn access(&self) -> Access {
        let given = |path: &PathBuf| !path.as_os_str().is_empty();
        let identity = given(&self.cert).then(|| (self.cert.clone(), self.key.clone()));
        let tls = given(&self.ca).then(|| TlsFiles { ca: self.ca.clone(), identity });
        let password_file = self.password_file.clone();
        let login = (!self.user.is_empty()).then(|| Login { user: self.user.clone(), password_file });
        Access { tls, login, quota_bytes: Some(self.quota.0) }
    }
}

/// Logs and traces.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// `json` or `text`, to stderr.
    pub logs: Logs,
    /// A filter such as `info` or `info,isocenter_ingestion=debug`.
    pub level: String,
    /// An OpenTelemetry collector, `http://host:4317`; none where empty.
    pub otlp: String,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Logs {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Ending.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long work under way may take to finish.
    pub drain: Period,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            roles: vec![Role::All],
            store: "embedded:/var/lib/isocenter/store".into(),
            records: "sqlite:/var/lib/isocenter/records.db".into(),
            blobs: "/var/lib/isocenter/blobs".into(),
            spool: "/var/lib/isocenter/spool".into(),
            cell: "cell".into(),
            tenant: "default".into(),
            dicom: isocenter_ingestion::Dicom::default(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            health: SocketAddr::from(([127, 0, 0, 1], 8081)),
            advertise: String::new(),
            tls: tls::Files::default(),
            limits: server::Limits::default(),
            etcd: Etcd::default(),
            study: isocenter_ingestion::Assembly::default(),
            secret_file: "/var/lib/isocenter/network.key".into(),
            read: isocenter_reader_assignment::Config::default(),
            delivery: isocenter_report_delivery::Config::default(),
            ai: isocenter_ai_dispatch::Config::default(),
            archive: isocenter_archive::Config::default(),
            telemetry: Telemetry::default(),
            shutdown: Shutdown::default(),
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { logs: Logs::Json, level: "info".into(), otlp: String::new() }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain: Period(Duration::from_secs(25)) }
    }
}

impl Config {
    /// The settings of a file, or the defaults, with what flags and environment say on top.
    pub fn load(file: Option<&PathBuf>, settings: &Settings) -> Result<Self> {
        let config = file.map(|path| load_yaml::<Self>(path)).transpose()?.unwrap_or_default();
        let mut tree = serde_json::to_value(config).context("settings cannot be written as JSON")?;
        for (path, text) in &settings.0 {
            let wrong = || Usage(format!("--{path}: {text} is not a value"));
            let place = tree.pointer_mut(&format!("/{}", path.replace('.', "/"))).ok_or_else(wrong)?;
            *place = if path == "roles" { roles(text) } else { scalar(text, place) };
            // One at a time, so that an error is about this flag.
            serde_json::from_value::<Self>(tree.clone()).map_err(|e| Usage(format!("--{path}: {e}")))?;
        }
        let config: Self = serde_json::from_value(tree)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        self.tenant_id()?;
        self.cell_id()?;
        if self.store.starts_with("embedded:") && !self.roles.contains(&Role::All) {
            return Err(Usage(
                "the embedded store is locked by one process, which therefore runs every role: use --roles all"
                    .into(),
            )
            .into());
        }
        if !self.store.starts_with("embedded:")
            && self.listen.ip().is_unspecified()
            && self.advertise.is_empty()
        {
            return Err(Usage(format!(
                "listen {}: other processes cannot dial that; set advertise to the host:port that they reach this one at",
                self.listen
            ))
            .into());
        }
        Ok(())
    }

    /// The tenant of callers on loopback.
    pub fn tenant_id(&self) -> Result<TenantId> {
        self.tenant.parse().map_err(|e| Usage(format!("tenant: {e}")).into())
    }

    /// The cell.
    pub fn cell_id(&self) -> Result<CellId> {
        self.cell.parse().map_err(|e| Usage(format!("cell: {e}")).into())
    }

    /// Whether this process runs `role`.
    pub fn runs(&self, role: Role) -> bool {
        self.roles.iter().any(|r| *r == Role::All || *r == role)
    }
}

impl Telemetry {
    /// For [`telemetry::init`].
    pub fn options(&self) -> telemetry::Options {
        telemetry::Options {
            format: match self.logs {
                Logs::Json => telemetry::Format::Json,
                Logs::Text => telemetry::Format::Text,
            },
            level: self.level.clone(),
            otlp: Some(self.otlp.clone()).filter(|otlp| !otlp.is_empty()),
            service: "isocenter".into(),
        }
    }
}

/// What flags and environment set: one flag `--a.b` and one variable `ISOCENTER_A_B` for every setting there is, derived
/// from [`Config`] itself.
#[derive(Clone, Debug, Default)]
pub struct Settings(BTreeMap<String, String>);

impl clap::Args for Settings {
    fn augment_args(command: Command) -> Command {
        leaves().into_iter().fold(command, |command, (path, default)| {
            let variable = format!("ISOCENTER_{}", path.to_uppercase().replace('.', "_"));
            let help = format!("{} [default: {default}]", help(&path));
            let mut arg =
                Arg::new(path.clone()).long(path.clone()).env(variable).help(help).value_name("VALUE");
            arg = match path.as_str() {
                "roles" => arg.visible_alias("role"),
                "dicom.listen" => arg.visible_alias("dicom"),
                _ => arg,
            };
            command.arg(arg.help_heading("Settings").hide_env_values(true))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |(path, _): (String, String)| {
            matches.get_one::<String>(&path).map(|value| (path.clone(), value.clone()))
        };
        Ok(Self(leaves().into_iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Every setting with its default, by its path.
fn leaves() -> Vec<(String, String)> {
    fn walk(value: &Value, path: &str, leaves: &mut Vec<(String, String)>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(value, &path, leaves);
                }
            }
            Value::String(text) => leaves.push((path.into(), text.clone())),
            Value::Array(items) => {
                let items: Vec<_> = items.iter().filter_map(Value::as_str).collect();
                leaves.push((path.into(), items.join(",")));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => leaves.push((path.into(), value.to_string())),
        }
    }
    let tree = serde_json::to_value(Config::default()).expect("settings are plain data");
    let mut found = Vec::new();
    walk(&tree, "", &mut found);
    found
}

/// The text as a value of the kind that the default is.
fn scalar(text: &str, default: &Value) -> Value {
    match default {
        Value::Number(_) => text.parse::<u64>().map_or_else(|_| text.into(), Value::from),
        Value::Bool(_) => text.parse::<bool>().map_or_else(|_| text.into(), Value::Bool),
        Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_) => text.into(),
    }
}

/// One role, or a list of them.
fn one_or_more<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Role>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        One(String),
        More(Vec<String>),
    }
    let names = match Names::deserialize(deserializer)? {
        Names::One(name) => vec![name],
        Names::More(names) => names,
    };
    let role = |name: String| {
        let parsed = Role::deserialize(serde::de::value::StrDeserializer::<D::Error>::new(&name));
        parsed.map_err(|_| serde::de::Error::custom(format!("{name} is not a role; {}", help("roles"))))
    };
    names.into_iter().map(role).collect()
}

fn roles(text: &str) -> Value {
    text.split(',').map(|role| Value::from(role.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn flags_go_over_the_file_and_the_file_over_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, "roles: all\ntenant: moscow\ncell: a\nread: {offer: 30s}\n").unwrap();
        let config =
            Config::load(Some(&file), &settings(&[("cell", "b"), ("study.quiet_period", "3s")])).unwrap();
        assert_eq!((config.tenant.as_str(), config.cell.as_str()), ("moscow", "b"));
        assert_eq!(config.study.quiet_period.0, Duration::from_secs(3));
        assert_eq!(config.read.offer.0, Duration::from_secs(30));
        assert_eq!(config.read.presence.0, Duration::from_secs(30));
    }

    #[test]
    fn every_setting_is_explained() {
        let silent: Vec<_> = leaves().into_iter().filter(|(path, _)| help(path).is_empty()).collect();
        assert!(silent.is_empty(), "{silent:?}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |pairs: &[(&str, &str)]| Config::load(None, &settings(pairs)).unwrap_err().to_string();
        assert!(wrong(&[("study.quiet_period", "soon")]).starts_with("--study.quiet_period: "));
        assert!(
            wrong(&[("roles", "cook")])
                .starts_with("--roles: cook is not a role; Roles to run: all, or some of ")
        );
        assert!(wrong(&[("roles", "routing")]).starts_with("the embedded store is locked by one process"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, "cell: a\nquite: 3\n").unwrap();
        let e = Config::load(Some(&file), &Settings::default()).unwrap_err();
        let told = format!("{e:#}");
        assert!(told.contains("config.yaml") && told.contains('2'), "{told}");
    }
}
