//! Studies without pixels, written as a receiving node writes them: the intake and the study, the segment, and the intake
//! again.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use isocenter_blobs::{Blobs, path};
use isocenter_domain::{
    Phi,
    document::{Images, Instance, Patient, Segment, Series},
    id::{CaseId, NodeId, StudyUid},
    key::{IntakeKey, StudyKey},
    record::{intake::Intake, study::Study},
    refs::Digest,
};
use isocenter_runtime::{random, telemetry::trace::new_trace};
use isocenter_store::table::{Cause, Tables};
use isocenter_wire::document::Stored as _;

/// The tenant of everything that the bench writes: that of callers on loopback.
pub const TENANT: &str = "default";
/// The site that sends, and the destination that its reports go to.
pub const SITE: &str = "bench";
/// Who sends.
pub const CALLING: &str = "BENCH";
/// The last image is said to be this old, so that a study is complete as soon as it is looked at.
const AGE: Duration = Duration::from_secs(3600);
/// CT Image Storage and Explicit VR Little Endian (PS3.6 §A).
const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
/// Images of a study.
const IMAGES: i64 = 4;

/// A node that receives.
#[derive(Clone, Debug)]
pub struct Feed {
    tables: Tables,
    blobs: Blobs,
    node: NodeId,
}

impl Feed {
    /// A node with an id of its own.
    pub fn new(tables: Tables, blobs: Blobs) -> Result<Self> {
        let node = random::uuid_v7().to_string().parse()?;
        Ok(Self { tables, blobs, node })
    }

    /// Receives one new study; returns its case.
    pub async fn receive(&self) -> Result<CaseId> {
        let study: StudyUid = format!("2.25.{}", random::uuid_v7().as_u128()).parse()?;
        let key = StudyKey { tenant: TENANT.parse()?, study: study.clone() };
        let intake = IntakeKey { tenant: key.tenant.clone(), study: study.clone(), node: self.node.clone() };
        let trace = new_trace();
        let mut change = self.tables.change(Cause::role("ingestion"));
        let last_at = change.now().minus(AGE);
        let first = Intake { pending: 4, open_associations: 1, last_at, ..Intake::default() };
        change.create(&intake, &first, "opened", &trace);
        let record = Study::receiving(SITE.parse()?, CALLING.parse()?, change.now());
        change.create(&key, &record, "received", &trace);
        change.commit().await?;
        let segment = self.segment(&study)?.encode();
        let digest = Digest::of(&segment);
        let at = path::segment(&key.tenant, &study, &self.node, &digest);
        self.blobs.put_new(&at, segment.into()).await?;
        let opened = self.tables.load::<Intake>(&intake).await?.context("the intake was created just now")?;
        let mut change = self.tables.change(Cause::role("ingestion"));
        let settled =
            Intake { stored: 4, bytes: 4 << 19, last_at, segment: Some(digest), ..Intake::default() };
        change.update(&opened, &settled, "counted");
        change.commit().await?;
        Ok(CaseId::of(&key.tenant, &study))
    }

    fn segment(&self, study: &StudyUid) -> Result<Segment> {
        let mut instances = BTreeMap::new();
        for number in 1..=IMAGES {
            let uid = format!("{study}.{number}");
            let uid: isocenter_domain::id::InstanceUid = uid.parse()?;
            let instance = Instance {
                sop_class: CT.parse()?,
                instance: uid.clone(),
                transfer_syntax: EXPLICIT.parse()?,
                size: 1 << 19,
                sha256: Digest::of(uid.as_str().as_bytes()),
                data_set: Digest::of(uid.as_str().as_bytes()),
                number,
                frames: 1,
                image: true,
            };
            instances.insert(uid, instance);
        }
        let series = Series { modality: "CT".into(), body_part: "HEAD".into(), number: 1, instances };
        let unique = random::uuid_v7().simple().to_string();
        let patient = Patient {
            authority: SITE.into(),
            id: Phi::new(unique.clone()),
            name: Phi::new("SYNTHETIC^PATIENT".into()),
            ..Patient::default()
        };
        let images = Images {
            patient,
            // DICOM SH: at most 16 characters; the last ones of the id are the random ones.
            accession: Phi::new(unique[16..].to_owned()),
            study_date: "20260105".into(),
            study_time: "120000".into(),
            procedure_code: "CTHEAD".into(),
            series: BTreeMap::from([(format!("{study}.0").parse()?, series)]),
            ..Images::default()
        };
        Ok(Segment { study: study.clone(), node: self.node.clone(), images })
    }
}
