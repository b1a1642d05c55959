//! The clauses, in the order in which they are checked.

use std::time::Duration;

use isocenter_wire::v1::{
    AnalyzeRequest, AnalyzeResponse, DescribeResponse, ai_inference_server, analyze_response::Outcome,
};
use tonic::{Code, Request, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    Report, Verdict,
    answers::{self, MAX_NAME},
    bench::{Bench, SHORT, Sample},
    dispatcher::Manner,
};

/// How soon a service has to have let go of what was cancelled or is late.
const SOON: Duration = Duration::from_secs(10);
/// More analyses at once than this are not tried.
const MOST_AT_ONCE: u32 = 16;
/// The most entries of a list of Describe.
const MAX_LIST: usize = 256;

fn judge(holds: bool, otherwise: impl Into<String>) -> Verdict {
    if holds { Verdict::Pass } else { Verdict::Fail(otherwise.into()) }
}

fn code(status: &Status) -> String {
    format!("it failed with {:?}", status.code())
}

/// What was answered, in words.
fn answered(answer: &Result<AnalyzeResponse, Status>) -> String {
    match answer {
        Err(status) => code(status),
        Ok(AnalyzeResponse { outcome: Some(Outcome::Result(_)), .. }) => "it gave a result".to_owned(),
        Ok(AnalyzeResponse { outcome: Some(Outcome::Refusal(refusal)), .. }) => {
            format!("it declined with {}", refusal.reason().as_str_name())
        }
        Ok(AnalyzeResponse { outcome: None, .. }) => "it answered without an outcome".to_owned(),
    }
}

const fn is_result(answer: &Result<AnalyzeResponse, Status>) -> bool {
    matches!(answer, Ok(AnalyzeResponse { outcome: Some(Outcome::Result(_)), .. }))
}

const fn is_refusal(answer: &Result<AnalyzeResponse, Status>) -> bool {
    matches!(answer, Ok(AnalyzeResponse { outcome: Some(Outcome::Refusal(_)), .. }))
}

/// What the service says of itself.
pub(super) async fn itself(bench: &mut Bench, report: &mut Report) {
    let described = bench.describe().await;
    let says = "Describe answers within 5 s";
    report.add(
        "describe.answers",
        says,
        described.as_ref().map_or_else(|e| Verdict::Fail(code(e)), |_| Verdict::Pass),
    );
    let Ok(described) = described else { return };
    let named = |name: &str| !name.is_empty() && name.len() <= MAX_NAME;
    let model = named(&described.model_id) && named(&described.model_version);
    let says = "model_id and model_version are given, at most 128 bytes each";
    report.add("describe.model", says, judge(model, "one of them is empty or too long"));
    let says = "max_concurrency is at least 1";
    report.add("describe.concurrency", says, judge(described.max_concurrency > 0, "it is 0"));
    let lists = [&described.modalities, &described.body_parts, &described.accepted_transfer_syntaxes];
    let bounded = lists.iter().all(|list| list.len() <= MAX_LIST && list.iter().all(|item| item.len() <= 64));
    let says = "lists have at most 256 entries of at most 64 bytes";
    report.add("describe.lists", says, judge(bounded, "one is longer"));
    let says = "intended_use says what it is for";
    report.add("describe.use", says, judge(!described.intended_use.is_empty(), "it is empty"));
    report.add(
        "health.serving",
        "grpc.health.v1 says SERVING of isocenter.v1.AiInference",
        health(bench).await,
    );
    report.model = format!("{} {}", described.model_id, described.model_version).escape_debug().to_string();
    bench.described = Some(described);
}

async fn health(bench: &Bench) -> Verdict {
    let service = ai_inference_server::SERVICE_NAME.to_owned();
    let mut request = Request::new(HealthCheckRequest { service });
    request.set_timeout(SHORT);
    match HealthClient::new(bench.channel.clone()).check(request).await {
        Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => Verdict::Pass,
        Ok(answer) => Verdict::Fail(format!("it says {}", answer.get_ref().status().as_str_name())),
        Err(status) => Verdict::Fail(code(&status)),
    }
}

/// What it makes of a study that it says it takes.
pub(super) async fn answers(bench: &Bench, report: &mut Report) {
    let ids = [
        ("analyze.answers", "a study that it takes is answered, as the contract says"),
        ("analyze.pixels", "pixels are fetched once, with the task's own token"),
        ("analyze.repeat", "a repeated request_id has the first answer, without new work"),
        ("analyze.together", "two calls of one request_id at a time have one answer, for one analysis"),
    ];
    let (described, sample) = match (bench.described.as_ref(), bench.sample()) {
        (Some(described), Ok(sample)) => (described, sample),
        (_, why) => {
            let why = why.err().unwrap_or_default();
            ids.into_iter().for_each(|(id, says)| report.add(id, says, Verdict::Skipped(why.clone())));
            return;
        }
    };
    let asked = bench.request(&sample, Manner::Sound);
    let first = bench.analyze(&asked, bench.patience).await;
    let pixels = once(bench, &asked, &first);
    let repeated = bench.analyze(&AnalyzeRequest { attempt: 2, ..asked.clone() }, bench.patience).await;
    let begun = bench.dispatcher.seen(&asked.request_id).begun;
    let repeat = match (&first, &repeated) {
        (Ok(first), Ok(repeated)) if first != repeated => {
            Verdict::Fail("the second answer is another".to_owned())
        }
        (Ok(_), Ok(_)) => judge(begun < 2, "pixels were fetched again"),
        (Err(_), _) => Verdict::Skipped("the first call failed".to_owned()),
        (_, Err(status)) => Verdict::Fail(code(status)),
    };
    let verdicts = [as_agreed(&asked, described, &first), pixels, repeat, together(bench, &sample).await];
    ids.into_iter().zip(verdicts).for_each(|((id, says), verdict)| report.add(id, says, verdict));
}

fn as_agreed(
    asked: &AnalyzeRequest,
    described: &DescribeResponse,
    answer: &Result<AnalyzeResponse, Status>,
) -> Verdict {
    match answer {
        Err(status) => Verdict::Fail(code(status)),
        Ok(answer) => answers::broken(asked, described, answer)
            .map_or_else(|why| Verdict::Fail(why.to_owned()), |()| Verdict::Pass),
    }
}

fn once(bench: &Bench, asked: &AnalyzeRequest, answer: &Result<AnalyzeResponse, Status>) -> Verdict {
    let seen = bench.dispatcher.seen(&asked.request_id);
    match (seen.begun, seen.refused) {
        (_, 1..) => Verdict::Fail(
            "it asked for pixels with a wrong token, or for instances that it was not told of".to_owned(),
        ),
        (0, _) if is_result(answer) => {
            Verdict::Fail("it gave a result without having seen a pixel".to_owned())
        }
        (0, _) => Verdict::Skipped(answered(answer)),
        (_, _) => Verdict::Pass,
    }
}

async fn together(bench: &Bench, sample: &Sample) -> Verdict {
    let asked = bench.request(sample, Manner::Slow);
    let call = || bench.analyze(&asked, bench.patience);
    match tokio::join!(call(), call()) {
        (Ok(one), Ok(other)) if one != other => Verdict::Fail("the answers differ".to_owned()),
        (Ok(_), Ok(_)) => {
            judge(bench.dispatcher.seen(&asked.request_id).begun < 2, "pixels were fetched twice")
        }
        (Err(status), _) | (_, Err(status)) => Verdict::Fail(code(&status)),
    }
}

/// Requests that it should not analyse.
pub(super) async fn requests(bench: &Bench, report: &mut Report) {
    let says = "a modality that it does not list is declined before any pixel moves";
    let verdict = match bench.foreign() {
        None => Verdict::Skipped("it takes any modality".to_owned()),
        Some(sample) => {
            let asked = bench.request(&sample, Manner::Sound);
            let answer = bench.analyze(&asked, bench.patience).await;
            if is_refusal(&answer) {
                judge(bench.dispatcher.seen(&asked.request_id).begun == 0, "it fetched pixels first")
            } else {
                Verdict::Fail(answered(&answer))
            }
        }
    };
    report.add("analyze.modality", says, verdict);
    let Ok(sample) = bench.sample() else { return };
    let says = "a study without series is declined, or INVALID_ARGUMENT";
    let asked = AnalyzeRequest { series: Vec::new(), ..bench.request(&sample, Manner::Sound) };
    let answer = bench.analyze(&asked, bench.patience).await;
    let fine = is_refusal(&answer) || is_code(&answer, Code::InvalidArgument);
    report.add("analyze.no-series", says, judge(fine, answered(&answer)));
    let says = "a request without request_id is INVALID_ARGUMENT";
    let asked = AnalyzeRequest { request_id: String::new(), ..bench.request(&sample, Manner::Sound) };
    let answer = bench.analyze(&asked, bench.patience).await;
    report.add(
        "analyze.no-request-id",
        says,
        judge(is_code(&answer, Code::InvalidArgument), answered(&answer)),
    );
    let says = "files that are no DICOM give no result, and it goes on serving";
    let damaged = sample.damaged();
    let answer = bench.analyze(&bench.request(&damaged, Manner::Sound), bench.patience).await;
    let alive = bench.describe().await.is_ok();
    let why = if alive { answered(&answer) } else { "it does not describe itself afterwards".to_owned() };
    report.add("analyze.damaged", says, judge(alive && !is_result(&answer), why));
}

fn is_code(answer: &Result<AnalyzeResponse, Status>, code: Code) -> bool {
    answer.as_ref().is_err_and(|status| status.code() == code)
}

/// Pixels that come badly, or not at all.
pub(super) async fn pixels(bench: &Bench, report: &mut Report) {
    let Ok(sample) = bench.sample() else { return };
    let says = "slow pixels are waited for";
    let answer = bench.analyze(&bench.request(&sample, Manner::Slow), bench.patience).await;
    report.add("fetch.slow", says, judge(answer.is_ok(), answered(&answer)));
    let says = "an instance without its SHA-256 gives no result";
    let answer = bench.analyze(&bench.request(&sample, Manner::WrongDigest), bench.patience).await;
    report.add("fetch.digest", says, judge(!is_result(&answer), answered(&answer)));
    let says = "a refused token gives an error after which Isocenter calls again, not an answer";
    let answer = bench.analyze(&bench.request(&sample, Manner::Refused), bench.patience).await;
    report.add("fetch.token", says, judge(again(&answer), answered(&answer)));
    let says = "a stream that breaks off is such an error, and the same request_id is analysed when it is called again";
    let asked = bench.request(&sample, Manner::Cut);
    let answer = bench.analyze(&asked, bench.patience).await;
    let verdict = if again(&answer) {
        bench.serve(&asked, &sample, Manner::Sound);
        let answer = bench.analyze(&AnalyzeRequest { attempt: 2, ..asked }, bench.patience).await;
        judge(answer.is_ok(), format!("called again, {}", answered(&answer)))
    } else {
        Verdict::Fail(answered(&answer))
    };
    report.add("fetch.cut", says, verdict);
}

/// Whether Isocenter would call again.
fn again(answer: &Result<AnalyzeResponse, Status>) -> bool {
    let last = [Code::InvalidArgument, Code::Unimplemented, Code::OutOfRange];
    answer.as_ref().is_err_and(|status| !last.contains(&status.code()))
}

/// Cancelling, deadlines and too much at once: what a service does while it holds an analysis.
pub(super) async fn control(bench: &Bench, report: &mut Report) {
    let says = "Cancel of an unknown request is NOT_FOUND";
    let unknown = bench.cancel("check-of-a-request-that-never-was").await;
    report.add(
        "cancel.unknown",
        says,
        judge(unknown == Err(Code::NotFound), format!("it answered {unknown:?}")),
    );
    let Ok(sample) = bench.sample() else { return };
    report.add("cancel.running", "Cancel ends an analysis within 10 s", cancelled(bench, &sample).await);
    let says = "after the call's deadline there is room for another within 10 s";
    report.add("deadline.room", says, late(bench, &sample).await);
    let says =
        "more than max_concurrency at once is RESOURCE_EXHAUSTED or waits; those under way are not disturbed";
    report.add("busy.turned-away", says, busy(bench, &sample).await);
    let now = bench.describe().await.ok();
    let same = now == bench.described;
    report.add(
        "describe.same",
        "Describe says the same as at the beginning",
        judge(same, "it says something else"),
    );
}

/// Begins an analysis whose pixels never come; does `then` once they were asked for, and answers what came of both. `None`
/// where it never asked.
async fn held<T>(
    bench: &Bench,
    asked: &AnalyzeRequest,
    within: Duration,
    then: impl Future<Output = T>,
) -> (Result<AnalyzeResponse, Status>, Option<T>) {
    let mut begun = bench.dispatcher.begun();
    let before = *begun.borrow_and_update();
    let call = bench.analyze(asked, within);
    tokio::pin!(call);
    tokio::select! {
        answer = &mut call => return (answer, None),
        // The sender lives in the bench.
        _ = begun.wait_for(|begun| *begun > before) => {}
    }
    let (answer, then) = tokio::join!(call, then);
    (answer, Some(then))
}

async fn cancelled(bench: &Bench, sample: &Sample) -> Verdict {
    let asked = bench.request(sample, Manner::Stalled);
    let cancel = bench.cancel(&asked.request_id);
    let call = held(bench, &asked, bench.patience.max(SOON), cancel);
    match tokio::time::timeout(bench.patience + SOON, call).await {
        Ok((_, None)) => Verdict::Skipped("it did not ask for pixels".to_owned()),
        Ok((_, Some(Err(code)))) => Verdict::Fail(format!("Cancel failed with {code:?}")),
        Ok((Err(status), Some(Ok(())))) if status.code() == Code::DeadlineExceeded => {
            Verdict::Fail("it went on".to_owned())
        }
        Ok((answer, Some(Ok(())))) => judge(answer.is_err(), answered(&answer)),
        Err(_) => Verdict::Fail("the call did not end".to_owned()),
    }
}

async fn late(bench: &Bench, sample: &Sample) -> Verdict {
    let most = bench.described.as_ref().map_or(1, |described| described.max_concurrency);
    if most > MOST_AT_ONCE {
        return Verdict::Skipped(format!("it takes {most} at once"));
    }
    // Each place is taken by an analysis that nobody waits for any more.
    for _ in 0..most {
        let asked = bench.request(sample, Manner::Stalled);
        drop(held(bench, &asked, Duration::from_secs(2), std::future::ready(())).await);
    }
    let room = async {
        loop {
            let answer = bench.analyze(&bench.request(sample, Manner::Sound), bench.patience).await;
            if !is_code(&answer, Code::ResourceExhausted) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    match tokio::time::timeout(SOON + bench.patience, room).await {
        Ok(answer) => judge(answer.is_ok(), answered(&answer)),
        Err(_) => Verdict::Fail("it stays busy".to_owned()),
    }
}

async fn busy(bench: &Bench, sample: &Sample) -> Verdict {
    let most = bench.described.as_ref().map_or(1, |described| described.max_concurrency);
    if most > MOST_AT_ONCE {
        return Verdict::Skipped(format!("it takes {most} at once"));
    }
    let mut begun = bench.dispatcher.begun();
    let before = *begun.borrow_and_update();
    let held: Vec<_> = (0..most).map(|_| bench.request(sample, Manner::Stalled)).collect();
    let calls = held.iter().map(|asked| bench.analyze(asked, bench.patience.max(SOON)));
    let all = futures::future::join_all(calls);
    let one_more = async {
        let full = begun.wait_for(|begun| *begun >= before + u64::from(most));
        if !matches!(tokio::time::timeout(bench.patience, full).await, Ok(Ok(_))) {
            return Verdict::Fail(format!("it does not take {most} at once"));
        }
        let answer = bench.analyze(&bench.request(sample, Manner::Sound), SHORT).await;
        for asked in &held {
            // What it says of it is another clause's.
            bench.cancel(&asked.request_id).await.unwrap_or_default();
        }
        let waits = is_code(&answer, Code::DeadlineExceeded) || is_code(&answer, Code::Cancelled);
        judge(waits || is_code(&answer, Code::ResourceExhausted), answered(&answer))
    };
    tokio::join!(all, one_more).1
}
