//! The life of a read: which event is allowed in which state, and what follows.

use super::{
    Agreement, Conclusion, Pair, Preliminary, Read, ReadEffect as Do, ReadEvent, ReadKind, ReadState as S,
    Return, ReturnReason,
};
use crate::{
    id::ReaderId,
    record::{Illegal, report::StudyRevision},
    refs::Digest,
    time::Time,
};

/// The state that follows with its effects; `None`: the event is refused.
type After = Option<(S, Vec<Do>)>;

impl Read {
    /// The read after `event`.
    ///
    /// # Errors
    /// [`Illegal`] where the state does not allow the event; `docs/states.md` has them all.
    pub fn transition(mut self, event: ReadEvent, now: Time) -> Result<(Self, Vec<Do>), Illegal> {
        let refused = illegal(&self, &event);
        let after = match event {
            ReadEvent::Offered { reader, until } => self
                .is_queued()
                .then(|| (S::Offered { reader: reader.clone(), until }, vec![Do::HoldOffered(reader)])),
            ReadEvent::Lapsed => self.lapsed(),
            ReadEvent::Opened { reader, token, studies } => {
                let opened = (self.holder() == Some(&reader)).then_some(reader);
                opened.map(|reader| open(reader, token, studies, now))
            }
            ReadEvent::OpenedByName { reader, token, studies } => {
                self.is_queued().then(|| open(reader, token, studies, now))
            }
            ReadEvent::Suspended { reader, token, reason, until } => {
                let studies = self.open_with(&reader, &token).cloned();
                studies.map(|studies| {
                    let holds = Do::HoldSuspended(reader.clone());
                    (S::Suspended { reader, token, reason, since: now, until, studies }, vec![holds])
                })
            }
            ReadEvent::Transferred { by, to, until } => self.transferred(by.as_ref(), to, until, now),
            ReadEvent::Returned { reader, token, reason } => {
                let may = self.holder() == Some(&reader)
                    && (self.token().is_none() || self.token() == token.as_ref());
                may.then(|| self.back(reader, reason, now))
            }
            ReadEvent::Reassigned => {
                self.holder().cloned().map(|holder| self.back(holder, ReturnReason::Reassigned, now))
            }
            ReadEvent::SignedPreliminary { reader, token, studies } => {
                self.signed_preliminary(reader, &token, studies, now)
            }
            ReadEvent::Signed { reader, token, version, studies, conclusion, newer_images } => {
                let may = self.is_open_with(&reader, &token) && self.fits(conclusion.as_ref());
                may.then(|| {
                    let effects = self.follow_up(reader.clone(), conclusion.as_ref(), newer_images);
                    self.conclusion = conclusion;
                    (S::Signed { reader, at: now, version, studies }, effects)
                })
            }
            ReadEvent::DeclaredNonDiagnostic {
                reader,
                token,
                version,
                studies,
                reason,
                repeat,
                conclusion,
            } => {
                let may = self.is_open_with(&reader, &token) && self.may_give_up(conclusion.as_ref());
                may.then(|| {
                    let effects = self.follow_up(reader.clone(), conclusion.as_ref(), false);
                    self.conclusion = conclusion;
                    (S::NonDiagnostic { reader, at: now, version, studies, reason, repeat }, effects)
                })
            }
            ReadEvent::Cancelled => {
                let effects = self.holder().cloned().map(Do::Release).into_iter().collect();
                let may = self.is_live() && !self.kind.is_of_record() && self.preliminary.is_none();
                may.then_some((S::Cancelled { at: now }, effects))
            }
            ReadEvent::DraftKept { body } => self.is_live().then(|| self.kept(body)),
        };
        let (state, effects) = after.ok_or(refused)?;
        self.state = state;
        Ok((self, effects))
    }

    fn lapsed(&self) -> After {
        match &self.state {
            S::Offered { reader, .. } => Some((self.queue(), vec![Do::Release(reader.clone())])),
            S::Waiting
            | S::AwaitingFinal
            | S::Open { .. }
            | S::Suspended { .. }
            | S::Signed { .. }
            | S::NonDiagnostic { .. }
            | S::Cancelled { .. } => None,
        }
    }

    fn transferred(
        &mut self,
        by: Option<&(ReaderId, String)>,
        to: ReaderId,
        until: Time,
        now: Time,
    ) -> After {
        // A holder proves himself; a lead may hand on whatever is not done.
        let may =
            by.is_none_or(|(reader, token)| self.holder() == Some(reader) && self.token() == Some(token));
        if !may || !self.is_live() || self.holder() == Some(&to) {
            return None;
        }
        let mut effects = Vec::new();
        if let Some(from) = self.holder().cloned() {
            self.remember(from.clone(), ReturnReason::Transferred, now);
            effects.push(Do::Release(from));
        }
        effects.push(Do::HoldOffered(to.clone()));
        Some((S::Offered { reader: to, until }, effects))
    }

    fn signed_preliminary(
        &mut self,
        reader: ReaderId,
        token: &str,
        studies: Vec<StudyRevision>,
        now: Time,
    ) -> After {
        if !self.is_open_with(&reader, token) || self.needs_attending() {
            return None;
        }
        let version = self.next_version();
        self.preliminary = Some(Preliminary { reader: reader.clone(), at: now, version, studies });
        Some((S::AwaitingFinal, vec![Do::Release(reader), Do::CreateReport]))
    }

    fn back(&mut self, reader: ReaderId, reason: ReturnReason, now: Time) -> (S, Vec<Do>) {
        self.remember(reader.clone(), reason, now);
        (self.queue(), vec![Do::Release(reader)])
    }

    fn remember(&mut self, reader: ReaderId, reason: ReturnReason, at: Time) {
        self.returns.push(Return { reader, reason, at });
        let excess = self.returns.len().saturating_sub(Self::MAX_RETURNS);
        self.returns.drain(..excess);
    }

    /// Where a read goes that nobody holds.
    const fn queue(&self) -> S {
        if self.preliminary.is_some() { S::AwaitingFinal } else { S::Waiting }
    }

    fn is_open_with(&self, reader: &ReaderId, token: &str) -> bool {
        self.open_with(reader, token).is_some()
    }

    /// The studies as they were opened, where the read is open with this reader under this token.
    fn open_with(&self, reader: &ReaderId, token: &str) -> Option<&Vec<StudyRevision>> {
        match &self.state {
            S::Open { reader: holder, token: present, studies, .. } => {
                (holder == reader && present == token).then_some(studies)
            }
            S::Waiting
            | S::AwaitingFinal
            | S::Offered { .. }
            | S::Suspended { .. }
            | S::Signed { .. }
            | S::NonDiagnostic { .. }
            | S::Cancelled { .. } => None,
        }
    }

    fn kept(&mut self, body: Digest) -> (S, Vec<Do>) {
        self.drafts.retain(|draft| *draft != body);
        self.drafts.push(body);
        let excess = self.drafts.len().saturating_sub(Self::MAX_DRAFTS);
        self.drafts.drain(..excess);
        (self.state.clone(), Vec::new())
    }

    /// Whether a signature may conclude so: each kind asks for its own conclusion and for no other.
    fn fits(&self, conclusion: Option<&Conclusion>) -> bool {
        if self.preliminary.is_some() {
            return matches!(conclusion, Some(Conclusion::Final(_)));
        }
        match self.kind {
            ReadKind::Primary
            | ReadKind::Arbitration { .. }
            | ReadKind::Discrepancy { .. }
            | ReadKind::Consultation => conclusion.is_none(),
            ReadKind::Blinded { .. } => {
                matches!(conclusion, Some(Conclusion::Blinded { assessment: Some(_), .. }))
            }
            // None where the first report is not signed yet, so that there is nothing to agree with.
            ReadKind::SecondOpinion { .. } => matches!(conclusion, None | Some(Conclusion::Opinion(_))),
            ReadKind::Review { .. } => matches!(conclusion, Some(Conclusion::Review(_))),
        }
    }

    fn may_give_up(&self, conclusion: Option<&Conclusion>) -> bool {
        let blinded = matches!(conclusion, Some(Conclusion::Blinded { assessment: None, .. }));
        let fits = match self.kind {
            ReadKind::Blinded { .. } => blinded,
            ReadKind::Primary
            | ReadKind::Arbitration { .. }
            | ReadKind::Discrepancy { .. }
            | ReadKind::SecondOpinion { .. }
            | ReadKind::Consultation
            | ReadKind::Review { .. } => conclusion.is_none(),
        };
        fits && self.kind.is_of_record()
    }

    fn follow_up(&self, reader: ReaderId, conclusion: Option<&Conclusion>, newer_images: bool) -> Vec<Do> {
        let mut effects = vec![Do::Release(reader), Do::CreateReport];
        let disagrees = match conclusion {
            Some(Conclusion::Opinion(Agreement::Disagrees)) => true,
            Some(Conclusion::Review(score)) => score.is_significant(),
            Some(Conclusion::Blinded { pair: Pair::Disagreed, .. }) => {
                effects.push(Do::CreateArbitration);
                false
            }
            Some(Conclusion::Final(_) | Conclusion::Opinion(Agreement::Agrees))
            | Some(Conclusion::Blinded { pair: Pair::First | Pair::Agreed, .. })
            | None => false,
        };
        if disagrees {
            effects.push(Do::CreateDiscrepancy { disagrees_with: self.kind.about()[0] });
        } else if newer_images && self.is_corrected_by_newer_images() {
            effects.push(Do::CreateDiscrepancy { disagrees_with: None });
        }
        effects
    }

    /// Whether newer images than it names make its own report doubtful. An opinion stands as of what it was given on.
    const fn is_corrected_by_newer_images(&self) -> bool {
        match self.kind {
            ReadKind::Primary | ReadKind::Arbitration { .. } | ReadKind::Discrepancy { .. } => true,
            ReadKind::Blinded { .. }
            | ReadKind::SecondOpinion { .. }
            | ReadKind::Consultation
            | ReadKind::Review { .. } => false,
        }
    }
}

fn open(reader: ReaderId, token: String, studies: Vec<StudyRevision>, since: Time) -> (S, Vec<Do>) {
    (S::Open { reader: reader.clone(), token, since, studies }, vec![Do::HoldOpen(reader)])
}

/// The refusal of `event`, saying what the caller can learn from the state.
fn illegal(read: &Read, event: &ReadEvent) -> Illegal {
    let why = match &read.state {
        S::Waiting | S::AwaitingFinal => "nobody holds the read",
        S::Offered { .. } => "the read is offered, to another reader or not yet opened",
        S::Open { .. } => {
            "the caller is not its present holder, the token is stale, or the kind of read asks for another conclusion"
        }
        S::Suspended { .. } => "the read is set aside; its reader opens it again first",
        S::Signed { .. } => "the read is signed",
        S::NonDiagnostic { .. } => "the images were declared non-diagnostic",
        S::Cancelled { .. } => "the read is cancelled",
    };
    Illegal { record: "read", state: read.state.name(), event: event.name(), why }
}
