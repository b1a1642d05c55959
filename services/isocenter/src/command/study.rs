//! `isocenter study`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use isocenter_wire::v1::{
    ArchivedStudy, Event, GetStudyRequest, ListEventsRequest, ListPriorsRequest, ListStudiesRequest,
    ReleaseStudyRequest, SearchStudiesRequest, Study, StudyStage, WatchStudiesRequest,
    archive_client::ArchiveClient, ingestion_client::IngestionClient,
};
use tonic::transport::Channel;

use super::{connect, pages, request_id};
use crate::{cli::Client, output};

const FIELDS: [&str; 7] =
    ["studyInstanceUid", "stage", "siteId", "modalities", "bodyPart", "instanceCount", "completeAt"];
const EVENTS: [&str; 5] = ["at", "event", "actor", "reason", "key"];
const ARCHIVED: [&str; 6] = ["studyInstanceUid", "siteId", "modalities", "studyDate", "closed", "reportIds"];

/// Studies.
#[derive(Args, Debug)]
pub struct StudyArgs {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Live studies.
    List {
        /// Only in this stage, e.g. waiting-for-reader.
        #[arg(long, value_parser = parse_stage)]
        stage: Option<StudyStage>,
    },
    /// One study and what happened to it.
    Show {
        /// Study Instance UID.
        uid: String,
    },
    /// What happened to a study and everything about it, oldest first.
    Events {
        /// Study Instance UID.
        uid: String,
    },
    /// Every change, as it happens.
    Watch,
    /// Live and closed studies, newest first.
    Search {
        /// Modality (0008,0060).
        #[arg(long)]
        modality: Option<String>,
    },
    /// Wait no longer for what nodes still have of a study: it is complete now with what is in blobs.
    Release {
        /// Study Instance UID.
        uid: String,
        /// Why; kept in the event.
        #[arg(long)]
        reason: String,
    },
    /// Earlier studies of the same patient.
    Priors {
        /// Study Instance UID.
        uid: String,
    },
}

/// Does what was asked.
pub async fn run(args: StudyArgs) -> Result<ExitCode> {
    let channel = connect(&args.client).await?;
    let json = args.client.json;
    match args.verb {
        Verb::List { stage } => {
            let stage = stage.unwrap_or_default();
            output::many(&all(IngestionClient::new(channel), stage).await?, &FIELDS, json)?;
        }
        Verb::Show { uid } => {
            let study_instance_uid = uid;
            let request = GetStudyRequest { study_instance_uid: study_instance_uid.clone() };
            let study = IngestionClient::new(channel.clone()).get_study(request).await?.into_inner();
            let events = events(ArchiveClient::new(channel), study_instance_uid).await?;
            if json {
                output::one(&serde_json::json!({ "study": study, "events": events }), true)?;
            } else {
                output::one(&study, false)?;
                output::many(&events, &EVENTS, false)?;
            }
        }
        Verb::Events { uid } => {
            output::many(&events(ArchiveClient::new(channel), uid).await?, &EVENTS, json)?;
        }
        Verb::Watch => watch(IngestionClient::new(channel), json).await?,
        Verb::Search { modality } => {
            let found = search(ArchiveClient::new(channel), modality.unwrap_or_default()).await?;
            output::many(&found, &ARCHIVED, json)?;
        }
        Verb::Release { uid, reason } => {
            let request = ReleaseStudyRequest { study_instance_uid: uid, reason, request_id: request_id() };
            let released = IngestionClient::new(channel).release_study(request).await?.into_inner();
            output::one(&released.study.unwrap_or_default(), json)?;
        }
        Verb::Priors { uid } => {
            let request = ListPriorsRequest { study_instance_uid: uid };
            let found = ArchiveClient::new(channel).list_priors(request).await?.into_inner();
            output::many(&found.studies, &ARCHIVED, json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn all(client: IngestionClient<Channel>, stage: StudyStage) -> Result<Vec<Study>> {
    pages(|page_token| {
        let mut client = client.clone();
        async move {
            let request = ListStudiesRequest { stage: stage.into(), page_size: 1000, page_token };
            let page = client.list_studies(request).await?.into_inner();
            Ok((page.studies, page.next_page_token))
        }
    })
    .await
}

async fn search(client: ArchiveClient<Channel>, modality: String) -> Result<Vec<ArchivedStudy>> {
    pages(|page_token| {
        let (mut client, modality) = (client.clone(), modality.clone());
        async move {
            let request =
                SearchStudiesRequest { modality, page_size: 1000, page_token, ..Default::default() };
            let page = client.search_studies(request).await?.into_inner();
            Ok((page.studies, page.next_page_token))
        }
    })
    .await
}

async fn events(client: ArchiveClient<Channel>, study_instance_uid: String) -> Result<Vec<Event>> {
    pages(|page_token| {
        let (mut client, study_instance_uid) = (client.clone(), study_instance_uid.clone());
        async move {
            let request = ListEventsRequest { study_instance_uid, page_size: 1000, page_token };
            let page = client.list_events(request).await?.into_inner();
            Ok((page.events, page.next_page_token))
        }
    })
    .await
}

async fn watch(mut client: IngestionClient<Channel>, json: bool) -> Result<()> {
    let mut changes = client.watch_studies(WatchStudiesRequest {}).await?.into_inner();
    while let Some(change) = changes.message().await? {
        let Some(study) = change.study else { continue };
        if json {
            output::one(&study, true)?;
        } else {
            output::line(&format!("{} {}", study.study_instance_uid, stage_name(study.stage())))?;
        }
    }
    Ok(())
}

/// A stage as people write it.
pub fn stage_name(stage: StudyStage) -> String {
    output::constant(stage.as_str_name()).unwrap_or_default()
}

fn parse_stage(text: &str) -> Result<StudyStage, String> {
    let name = format!("STUDY_STAGE_{}", text.to_uppercase().replace('-', "_"));
    StudyStage::from_str_name(&name).filter(|stage| *stage != StudyStage::Unspecified).ok_or_else(|| {
        let known: Vec<_> = isocenter_domain::stage::Stage::ALL.iter().map(|stage| stage.name()).collect();
        format!("stages are {}", known.join(", "))
    })
}
