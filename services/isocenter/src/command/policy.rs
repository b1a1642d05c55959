//! `isocenter policy`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use isocenter_wire::v1::{
    ApplyPolicyRequest, ExplainRequest, GetPolicyRequest, routing_client::RoutingClient,
};

use super::{connect, request_id};
use crate::{cli::Client, output};

/// The routing policy.
#[derive(Args, Debug)]
pub struct PolicyArgs {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a policy the active one.
    Apply {
        /// YAML; docs/policy.md.
        file: PathBuf,
    },
    /// Print the active policy.
    Show,
    /// Why a study was routed as it was.
    Explain {
        /// Study Instance UID.
        uid: String,
    },
}

/// Does what was asked.
pub async fn run(args: PolicyArgs) -> Result<ExitCode> {
    let json = args.client.json;
    match args.verb {
        Verb::Apply { file } => {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let mut client = RoutingClient::new(connect(&args.client).await?);
            let request = ApplyPolicyRequest { text, request_id: request_id() };
            let mut policy = client.apply_policy(request).await?.into_inner();
            policy.text.clear();
            output::one(&policy, json)?;
        }
        Verb::Show => {
            let mut client = RoutingClient::new(connect(&args.client).await?);
            let policy = client.get_policy(GetPolicyRequest {}).await?.into_inner();
            if json { output::one(&policy, true)? } else { output::text(&policy.text)? }
        }
        Verb::Explain { uid } => {
            let mut client = RoutingClient::new(connect(&args.client).await?);
            let request = ExplainRequest { study_instance_uid: uid };
            let why = client.explain(request).await?.into_inner();
            if json {
                output::one(&why, true)?;
            } else {
                output::line(&format!("policy {} on revision {}", why.policy_version, why.revision))?;
                output::many(&why.rules, &["rule", "outcome"], false)?;
                output::many(&why.decisions, &["field", "value", "rule"], false)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
