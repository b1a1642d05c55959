//! Receives a destination's reports from Isocenter: keeps each durably, then acknowledges it.
//!
//! It runs until it is told to stop and can be killed at any moment: what was kept and not acknowledged comes again, under
//! the same message id, and is found here. What it prints names no patient.

mod keep;

use std::{io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use isocenter_wire::v1::{
    AcknowledgeReportRequest, ReportAccepted, ReportMessage, ReportRefused, WatchReportsRequest,
    acknowledge_report_request::Outcome, report_delivery_client::ReportDeliveryClient,
};
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use keep::{Kept, keep};

/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How long connecting or an acknowledgement may take.
const CALL: Duration = Duration::from_secs(10);
/// A stream may be silent for hours. Without this a connection that was cut without a word would look like silence.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Receives a destination's reports: keeps each as a file, durably, then acknowledges it.
#[derive(Debug, Parser)]
struct Arguments {
    /// Any process of Isocenter: http://host:port, or https://host:port with certificates.
    #[arg(long)]
    server: String,
    /// The destination's id.
    #[arg(long)]
    destination: String,
    /// Where reports are kept.
    #[arg(long)]
    folder: PathBuf,
    /// The authorities of the server; PEM.
    #[arg(long, requires_all = ["cert", "key"])]
    ca: Option<PathBuf>,
    /// Our certificate; PEM. Its subject is `O=<tenant>, OU=network, CN=<destination>`.
    #[arg(long, requires = "ca")]
    cert: Option<PathBuf>,
    /// Its private key; PEM.
    #[arg(long, requires = "ca")]
    key: Option<PathBuf>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(never) => match never {},
        Err(e) => {
            say(&format!("receive: {e}"));
            ExitCode::FAILURE
        }
    }
}

/// Receives for ever; returns what only a person can mend.
async fn run(arguments: Arguments) -> Result<std::convert::Infallible, Failure> {
    std::fs::create_dir_all(&arguments.folder)?;
    let client = ReportDeliveryClient::new(endpoint(&arguments)?.connect_lazy());
    let mut pause = PAUSES.0;
    loop {
        let ended = follow(client.clone(), &arguments, &mut pause).await?;
        if !passes(ended.code()) {
            return Err(format!("{:?}: {}", ended.code(), ended.message()).into());
        }
        say(&format!("{:?}; connecting again", ended.code()));
        tokio::time::sleep(pause).await;
        pause = PAUSES.1.min(pause * 2);
    }
}

fn endpoint(arguments: &Arguments) -> Result<Endpoint, Failure> {
    let endpoint = Endpoint::from_shared(arguments.server.clone())?
        .connect_timeout(CALL)
        .http2_keep_alive_interval(KEEP_ALIVE);
    let (Some(ca), Some(cert), Some(key)) = (&arguments.ca, &arguments.cert, &arguments.key) else {
        return Ok(endpoint);
    };
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(std::fs::read(ca)?))
        .identity(Identity::from_pem(std::fs::read(cert)?, std::fs::read(key)?));
    Ok(endpoint.tls_config(tls)?)
}

/// Takes reports until the stream ends; says why it did. Only our own folder can fail otherwise.
async fn follow(
    mut client: ReportDeliveryClient<Channel>,
    arguments: &Arguments,
    pause: &mut Duration,
) -> Result<Status, Failure> {
    let request =
        WatchReportsRequest { destination_id: arguments.destination.clone(), max_unacknowledged: 0 };
    let mut reports = match client.watch_reports(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(status),
    };
    loop {
        let message = match reports.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(Status::unavailable("the stream ended")),
            Err(status) => return Ok(status),
        };
        let kept = keep(&arguments.folder, &message)?;
        if let Err(status) = client.acknowledge_report(acknowledgement(&message, kept)).await {
            // Accepted long ago, by an acknowledgement whose answer never arrived: it is archived with its case.
            if status.code() != Code::NotFound {
                return Ok(status);
            }
        }
        say(&format!("{}: {kept:?}", message.message_id));
        *pause = PAUSES.0;
    }
}

fn acknowledgement(message: &ReportMessage, kept: Kept) -> Request<AcknowledgeReportRequest> {
    let (report_id, version) =
        message.report.as_ref().map_or_else(Default::default, |r| (r.report_id.clone(), r.version));
    let outcome = match kept {
        Kept::New | Kept::Before => Outcome::Accepted(ReportAccepted::default()),
        Kept::Contradiction => {
            Outcome::Refused(ReportRefused { reason: "OTHER_CONTENT_UNDER_THIS_ID".to_owned() })
        }
    };
    let mut request = Request::new(AcknowledgeReportRequest {
        destination_id: message.destination_id.clone(),
        report_id,
        version,
        message_id: message.message_id.clone(),
        outcome: Some(outcome),
    });
    request.set_timeout(CALL);
    request
}

/// Whether the same call may succeed later without anybody changing anything.
fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
    )
}

fn say(line: &str) {
    // Nobody may be listening any more.
    drop(writeln!(std::io::stderr(), "{line}"));
}
