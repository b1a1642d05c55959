//! A reader at a workstation, led by the test step by step.

use std::{sync::Mutex, time::Duration};

use futures::{StreamExt as _, stream};
use isocenter_testkit::wait_for;
use isocenter_wire::v1::{self, reader_assignment_client::ReaderAssignmentClient};
use tokio_stream::wrappers::IntervalStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, transport::Channel};

use crate::{
    calls::persist,
    world::{PATIENCE, Sim, connect, unique},
};

/// Between signs of life; a fifth of the shortest presence of any test.
const SIGN_EVERY: Duration = Duration::from_millis(400);

/// A workstation. Dropped, its reader leaves.
pub struct Desk {
    reader: String,
    client: ReaderAssignmentClient<Channel>,
    frozen: CancellationToken,
    gone: CancellationToken,
    _present: DropGuard,
}

impl Desk {
    /// A workstation at which nobody sits.
    pub fn away(sim: &Sim, reader: &str, process: usize) -> Self {
        let client = ReaderAssignmentClient::new(connect(sim.server(process)));
        let (frozen, gone) = (CancellationToken::new(), CancellationToken::new());
        let present = gone.clone().drop_guard();
        Self { reader: reader.to_owned(), client, frozen, gone, _present: present }
    }

    /// The reader sits down at a workstation that talks to one of the processes.
    pub fn sit(sim: &Sim, reader: &str, process: usize) -> Self {
        let desk = Self::away(sim, reader, process);
        let (client, frozen, gone) = (desk.client.clone(), desk.frozen.clone(), desk.gone.clone());
        let (name, ended) = (reader.to_owned(), sim.peers.token());
        let streams = async move {
            let mut attempts = tokio::time::interval(SIGN_EVERY);
            while !gone.is_cancelled() && !frozen.is_cancelled() {
                attempts.tick().await;
                let (name, frozen) = (name.clone(), frozen.clone());
                let sign = move |_| v1::SetPresenceRequest { reader_id: name.clone(), accepting: true };
                let signs = IntervalStream::new(tokio::time::interval(SIGN_EVERY))
                    .map(sign)
                    // A frozen workstation holds its connection and says nothing.
                    .take_until(frozen.cancelled_owned())
                    .chain(stream::pending())
                    .take_until(gone.clone().cancelled_owned());
                if let Ok(answers) = client.clone().set_presence(signs).await {
                    let mut answers = answers.into_inner();
                    while let Ok(Some(_)) = answers.message().await {}
                }
            }
        };
        sim.peers.background("presence", async move {
            tokio::select! {
                () = streams => {}
                () = ended.cancelled() => {}
            }
        });
        desk
    }

    /// The workstation freezes: no sign of life from now on, and nobody says that the reader is gone.
    pub fn freeze(&self) {
        self.frozen.cancel();
    }

    /// One request for work.
    pub async fn ask(&self) -> Result<Option<v1::Read>, Status> {
        let request = v1::NextReadRequest { reader_id: self.reader.clone(), request_id: unique() };
        Ok(self.client.clone().next_read(request).await?.into_inner().read)
    }

    /// Asks for work until there is some.
    pub async fn next(&self) -> v1::Read {
        let offered = Mutex::new(None);
        wait_for("an offer", PATIENCE, || async {
            let read = self.ask().await.ok().flatten();
            let found = read.is_some();
            *offered.lock().unwrap() = read;
            found
        })
        .await;
        offered.into_inner().unwrap().expect("was waited for")
    }

    /// Opens a read, or takes it up again.
    pub async fn open(&self, read_id: &str) -> Result<v1::Read, Status> {
        let request = v1::OpenReadRequest {
            read_id: read_id.to_owned(),
            reader_id: self.reader.clone(),
            request_id: unique(),
            reason: String::new(),
        };
        persist("OpenRead", || {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.open_read(request).await }
        })
        .await
    }

    /// Takes the next read and opens it.
    pub async fn take(&self) -> v1::Read {
        let offered = self.next().await;
        self.open(&offered.read_id).await.unwrap()
    }

    /// The signature of an open read as the reader sees it.
    pub fn signature(&self, open: &v1::Read) -> v1::SignReadRequest {
        v1::SignReadRequest {
            read_id: open.read_id.clone(),
            reader_id: self.reader.clone(),
            open_token: open.open_token.clone(),
            findings: "SYNTHETIC REPORT, about no person.".into(),
            impression: format!("Nothing. Signed by {}.", self.reader),
            request_id: unique(),
            studies: open.studies.clone(),
            as_of: false,
            ..Default::default()
        }
    }

    /// Signs, and repeats the same request until the answer is one that stays.
    pub async fn sign(&self, signature: &v1::SignReadRequest) -> Result<v1::SignReadResponse, Status> {
        persist("SignRead", || {
            let (mut client, request) = (self.client.clone(), signature.clone());
            async move { client.sign_read(request).await }
        })
        .await
    }
}

/// Why a read is where it is.
pub async fn explain(sim: &Sim, read_id: &str) -> v1::ExplainReadResponse {
    let client = ReaderAssignmentClient::new(sim.channel());
    let request = v1::ExplainReadRequest { read_id: read_id.to_owned() };
    let answer = persist("ExplainRead", || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.explain_read(request).await }
    });
    answer.await.unwrap()
}

/// A lead takes a read back from its holder.
pub async fn reassign(sim: &Sim, read_id: &str, from: &str) -> v1::Read {
    let client = ReaderAssignmentClient::new(sim.channel());
    let request = v1::ReassignReadRequest {
        read_id: read_id.to_owned(),
        reader_id: from.to_owned(),
        reason: "the reader is gone".into(),
        request_id: unique(),
    };
    let answer = persist("ReassignRead", || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.reassign_read(request).await }
    });
    answer.await.unwrap()
}
