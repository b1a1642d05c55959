//! Read and holding.

use isocenter_domain::{
    Time,
    record::read::{
        Agreement, Assessment, Change, Conclusion, Holding, Insufficiency, Pair, Preliminary, Read, ReadKind,
        ReadState, Return, ReturnReason, Score, SuspendReason,
    },
};

use super::{Body, Stored, field};
use crate::{
    error::Malformed,
    stored::{self, record::Body as B},
};

impl Stored for Read {
    fn to_body(&self) -> Body {
        let (kind, of, with) = kind_numbers(self.kind);
        let mut read = stored::Read {
            kind,
            of,
            with,
            waiting_since: self.waiting_since.0,
            returns: self.returns.iter().map(returned).collect(),
            drafts: self.drafts.iter().map(|d| d.0.to_vec()).collect(),
            due: self.due.unwrap_or_default().0,
            request_id: self.request_id.clone(),
            question: field::digest_bytes(self.question),
            preliminary: self.preliminary.as_ref().map(preliminary),
            conclusion: self.conclusion.as_ref().map(conclusion),
            ..Default::default()
        };
        put_state(&mut read, &self.state);
        Body(B::Read(read))
    }

    fn from_body(body: Body) -> Result<Self, Malformed> {
        let B::Read(r) = body.0 else { return Err(Malformed::new("body", "is not a read")) };
        let state = from_state(&r)?;
        Ok(Self {
            kind: from_kind(r.kind, r.of, r.with)?,
            state,
            waiting_since: Time(r.waiting_since),
            returns: r.returns.iter().map(from_return).collect::<Result<_, _>>()?,
            drafts: r.drafts.iter().map(|d| field::digest(d, "read.drafts")).collect::<Result<_, _>>()?,
            due: field::maybe_time(r.due),
            request_id: r.request_id,
            question: field::maybe_digest(&r.question, "read.question")?,
            preliminary: r.preliminary.map(from_preliminary).transpose()?,
            conclusion: r.conclusion.as_ref().map(from_conclusion).transpose()?,
        })
    }
}

fn put_state(read: &mut stored::Read, state: &ReadState) {
    match state {
        ReadState::Waiting => read.state = 1,
        ReadState::Offered { reader, until } => {
            (read.state, read.reader, read.state_at) = (2, reader.to_string(), until.0);
        }
        ReadState::Open { reader, token, since, studies } => {
            (read.state, read.reader, read.state_at) = (3, reader.to_string(), since.0);
            (read.token, read.studies) = (token.clone(), field::revisions(studies));
        }
        ReadState::Signed { reader, at, version, studies } => {
            (read.state, read.reader, read.state_at) = (4, reader.to_string(), at.0);
            (read.version, read.studies) = (*version, field::revisions(studies));
        }
        ReadState::Suspended { reader, token, reason, since, until, studies } => {
            (read.state, read.reader, read.state_at) = (5, reader.to_string(), since.0);
            (read.token, read.studies) = (token.clone(), field::revisions(studies));
            (read.until, read.reason) = (until.0, suspend_number(*reason));
        }
        ReadState::AwaitingFinal => read.state = 6,
        ReadState::NonDiagnostic { reader, at, version, studies, reason, repeat } => {
            (read.state, read.reader, read.state_at) = (7, reader.to_string(), at.0);
            (read.version, read.studies) = (*version, field::revisions(studies));
            (read.reason, read.repeat) = (insufficiency_number(*reason), *repeat);
        }
        ReadState::Cancelled { at } => (read.state, read.state_at) = (8, at.0),
    }
}

fn from_state(r: &stored::Read) -> Result<ReadState, Malformed> {
    let reader = || field::id(&r.reader, "read.reader");
    let studies = || field::from_revisions(r.studies.clone(), "read.studies");
    let (at, token, version) = (Time(r.state_at), r.token.clone(), r.version);
    Ok(match r.state {
        1 => ReadState::Waiting,
        2 => ReadState::Offered { reader: reader()?, until: at },
        3 => ReadState::Open { reader: reader()?, token, since: at, studies: studies()? },
        4 => ReadState::Signed { reader: reader()?, at, version, studies: studies()? },
        5 => ReadState::Suspended {
            reader: reader()?,
            token,
            reason: match r.reason {
                1 => SuspendReason::AwaitingPriors,
                2 => SuspendReason::AwaitingInformation,
                3 => SuspendReason::AwaitingAdvice,
                4 => SuspendReason::Interrupted,
                other => return field::unknown("read.reason", other),
            },
            since: at,
            until: Time(r.until),
            studies: studies()?,
        },
        6 => ReadState::AwaitingFinal,
        7 => ReadState::NonDiagnostic {
            reader: reader()?,
            at,
            version,
            studies: studies()?,
            reason: from_insufficiency(r.reason)?,
            repeat: r.repeat,
        },
        8 => ReadState::Cancelled { at },
        other => return field::unknown("read.state", other),
    })
}

const fn suspend_number(reason: SuspendReason) -> u32 {
    match reason {
        SuspendReason::AwaitingPriors => 1,
        SuspendReason::AwaitingInformation => 2,
        SuspendReason::AwaitingAdvice => 3,
        SuspendReason::Interrupted => 4,
    }
}

const fn insufficiency_number(reason: Insufficiency) -> u32 {
    match reason {
        Insufficiency::Motion => 1,
        Insufficiency::Exposure => 2,
        Insufficiency::Coverage => 3,
        Insufficiency::Artefact => 4,
        Insufficiency::Contrast => 5,
        Insufficiency::Incomplete => 6,
        Insufficiency::WrongExamination => 7,
    }
}

fn from_insufficiency(number: u32) -> Result<Insufficiency, Malformed> {
    Ok(match number {
        1 => Insufficiency::Motion,
        2 => Insufficiency::Exposure,
        3 => Insufficiency::Coverage,
        4 => Insufficiency::Artefact,
        5 => Insufficiency::Contrast,
        6 => Insufficiency::Incomplete,
        7 => Insufficiency::WrongExamination,
        other => return field::unknown("read.reason", other),
    })
}

fn kind_numbers(kind: ReadKind) -> (u32, u32, u32) {
    match kind {
        ReadKind::Primary => (1, 0, 0),
        ReadKind::Discrepancy { of, with } => (2, of, with.unwrap_or_default()),
        ReadKind::Blinded { with } => (3, 0, with),
        ReadKind::Arbitration { of, with } => (4, of, with),
        ReadKind::SecondOpinion { of } => (5, of, 0),
        ReadKind::Consultation => (6, 0, 0),
        ReadKind::Review { of } => (7, of, 0),
    }
}

fn from_kind(kind: u32, of: u32, with: u32) -> Result<ReadKind, Malformed> {
    Ok(match kind {
        1 => ReadKind::Primary,
        2 => ReadKind::Discrepancy { of, with: (with != 0).then_some(with) },
        3 => ReadKind::Blinded { with },
        4 => ReadKind::Arbitration { of, with },
        5 => ReadKind::SecondOpinion { of },
        6 => ReadKind::Consultation,
        7 => ReadKind::Review { of },
        other => return field::unknown("read.kind", other),
    })
}

fn returned(r: &Return) -> stored::Return {
    let reason = match r.reason {
        ReturnReason::NotCompetent => 1,
        ReturnReason::Conflict => 2,
        ReturnReason::ImagesInsufficient => 3,
        ReturnReason::Interrupted => 4,
        ReturnReason::Reassigned => 5,
        ReturnReason::Transferred => 6,
    };
    stored::Return { reader: r.reader.to_string(), reason, at: r.at.0 }
}

fn from_return(r: &stored::Return) -> Result<Return, Malformed> {
    let reason = match r.reason {
        1 => ReturnReason::NotCompetent,
        2 => ReturnReason::Conflict,
        3 => ReturnReason::ImagesInsufficient,
        4 => ReturnReason::Interrupted,
        5 => ReturnReason::Reassigned,
        6 => ReturnReason::Transferred,
        other => return field::unknown("read.returns.reason", other),
    };
    Ok(Return { reader: field::id(&r.reader, "read.returns.reader")?, reason, at: Time(r.at) })
}

fn preliminary(p: &Preliminary) -> stored::Preliminary {
    let studies = field::revisions(&p.studies);
    stored::Preliminary { reader: p.reader.to_string(), at: p.at.0, version: p.version, studies }
}

fn from_preliminary(p: stored::Preliminary) -> Result<Preliminary, Malformed> {
    Ok(Preliminary {
        reader: field::id(&p.reader, "read.preliminary.reader")?,
        at: Time(p.at),
        version: p.version,
        studies: field::from_revisions(p.studies, "read.preliminary.studies")?,
    })
}

fn conclusion(c: &Conclusion) -> stored::Conclusion {
    let mut text = String::new();
    let (kind, value) = match c {
        Conclusion::Final(Change::None) => (1, 1),
        Conclusion::Final(Change::Minor) => (1, 2),
        Conclusion::Final(Change::Major) => (1, 3),
        Conclusion::Opinion(Agreement::Agrees) => (2, 1),
        Conclusion::Opinion(Agreement::Disagrees) => (2, 2),
        Conclusion::Blinded { assessment, pair } => {
            text = field::text(assessment.as_ref());
            let pair = match pair {
                Pair::First => 1,
                Pair::Agreed => 2,
                Pair::Disagreed => 3,
            };
            (3, pair)
        }
        Conclusion::Review(Score::Concur) => (4, 1),
        Conclusion::Review(Score::UnderstandableInsignificant) => (4, 2),
        Conclusion::Review(Score::UnderstandableSignificant) => (4, 3),
        Conclusion::Review(Score::UnexpectedInsignificant) => (4, 4),
        Conclusion::Review(Score::UnexpectedSignificant) => (4, 5),
    };
    stored::Conclusion { kind, value, assessment: text }
}

fn from_conclusion(c: &stored::Conclusion) -> Result<Conclusion, Malformed> {
    let blinded = |pair| {
        let text = c.assessment.as_str();
        let assessment: Option<Assessment> = match text {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|_| Malformed::new("read.conclusion.assessment", "is not an assessment"))?,
            ),
        };
        Ok(Conclusion::Blinded { assessment, pair })
    };
    Ok(match (c.kind, c.value) {
        (1, 1) => Conclusion::Final(Change::None),
        (1, 2) => Conclusion::Final(Change::Minor),
        (1, 3) => Conclusion::Final(Change::Major),
        (2, 1) => Conclusion::Opinion(Agreement::Agrees),
        (2, 2) => Conclusion::Opinion(Agreement::Disagrees),
        (3, 1) => blinded(Pair::First)?,
        (3, 2) => blinded(Pair::Agreed)?,
        (3, 3) => blinded(Pair::Disagreed)?,
        (4, 1) => Conclusion::Review(Score::Concur),
        (4, 2) => Conclusion::Review(Score::UnderstandableInsignificant),
        (4, 3) => Conclusion::Review(Score::UnderstandableSignificant),
        (4, 4) => Conclusion::Review(Score::UnexpectedInsignificant),
        (4, 5) => Conclusion::Review(Score::UnexpectedSignificant),
        (1..=4, other) => return field::unknown("read.conclusion.value", other),
        (other, _) => return field::unknown("read.conclusion.kind", other),
    })
}

impl Stored for Holding {
    fn to_body(&self) -> Body {
        let (offered, open) = (field::text(self.offered.as_ref()), field::text(self.open.as_ref()));
        Body(B::Holding(stored::Holding { offered, open, suspended: field::texts(&self.suspended) }))
    }

    fn from_body(body: Body) -> Result<Self, Malformed> {
        let B::Holding(h) = body.0 else { return Err(Malformed::new("body", "is not a holding")) };
        let suspended = h.suspended.iter().map(|id| field::parsed(id, "holding.suspended"));
        Ok(Self {
            offered: field::optional(&h.offered, "holding.offered")?,
            open: field::optional(&h.open, "holding.open")?,
            suspended: suspended.collect::<Result<_, _>>()?,
        })
    }
}
