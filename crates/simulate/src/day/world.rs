//! The event loop: what happens, in order of time, whatever policy assigns.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use super::{
    policy::{Counts, Policy},
    scenario::DAY,
    workload::Workload,
};

/// What a reader is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hands {
    /// Nothing: not on shift, or the line is broken.
    Away,
    /// Waiting for work since.
    Idle(i64),
    /// Reading a study, expected by nobody to end at a certain time.
    Reading(u32),
}

/// A reader at work.
#[derive(Clone, Debug)]
pub struct Desk {
    /// What they are doing.
    pub hands: Hands,
    /// The shift they are on, if any: since, until.
    pub shift: Option<(i64, i64)>,
    /// Whether their line is up.
    pub connected: bool,
    /// Thousandths of relative value units signed on this shift.
    pub points: u32,
    /// Whether they left for the rest of the day.
    left: bool,
    /// Guards against the end of a reading that was broken off.
    token: u32,
    /// When the reading began.
    began: i64,
}

impl Desk {
    /// Whether they can be given a study when their hands are free.
    #[must_use]
    pub const fn works(&self) -> bool {
        self.shift.is_some() && self.connected && !self.left
    }
}

/// What a policy sees of the room. Truth and paces are not in it.
#[derive(Debug)]
pub struct Room<'a> {
    /// Studies, readers, the scenario.
    pub workload: &'a Workload,
    /// Each reader.
    pub desks: Vec<Desk>,
    /// Readers whose hands are free.
    pub idle: BTreeSet<u32>,
}

impl Room<'_> {
    /// Whether `reader` has the skill for `study`.
    #[must_use]
    pub fn reads(&self, reader: u32, study: u32) -> bool {
        self.workload.reads(place(reader), place(study))
    }
}

/// A number as a place in a list.
pub(crate) fn place(number: u32) -> usize {
    usize::try_from(number).expect("32 bits fit")
}

fn number(place: usize) -> u32 {
    u32::try_from(place).expect("fewer than 2^32")
}

/// What became of a study.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fate {
    /// When it was opened by the one who signed it.
    pub opened: Option<i64>,
    pub signed: Option<i64>,
    pub reader: u32,
    /// How often it was opened and given back.
    pub returned: u32,
    /// Whether the reader had it ahead of time.
    pub prefetched: bool,
}

/// What became of everything.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub fates: Vec<Fate>,
    /// Each reader's time on shift and points within the measured days.
    pub on_shift: Vec<i64>,
    pub points: Vec<u64>,
    pub counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Answer(u32),
    Finish { reader: u32, token: u32 },
    ShiftEnds(u32),
    ShiftBegins { reader: u32, since: i64 },
    LineBreaks(u32),
    LineMends(u32),
    DropOut,
    Wake(u32),
    Arrive(u32),
}

struct World<'a> {
    room: Room<'a>,
    policy: &'a mut dyn Policy,
    events: BinaryHeap<Reverse<(i64, u64, Event)>>,
    sequence: u64,
    fates: Vec<Fate>,
    points: Vec<u64>,
    measured: (i64, i64),
}

/// Runs `policy` through everything of `workload`.
pub(crate) fn run(workload: &Workload, policy: &mut dyn Policy) -> History {
    let scenario = &workload.scenario;
    let away =
        Desk { hands: Hands::Away, shift: None, connected: true, points: 0, left: false, token: 0, began: 0 };
    let room = Room { workload, desks: vec![away; workload.readers.len()], idle: BTreeSet::new() };
    let mut world = World {
        room,
        policy,
        events: BinaryHeap::new(),
        sequence: 0,
        fates: vec![Fate::default(); workload.studies.len()],
        points: vec![0; workload.readers.len()],
        measured: scenario.measured(),
    };
    world.plan();
    let horizon = scenario.horizon();
    while let Some(Reverse((now, _, event))) = world.events.pop() {
        if now >= horizon {
            break;
        }
        world.happen(now, event);
    }
    let counts = world.policy.counts();
    let on_shift = on_shift(workload);
    History { fates: world.fates, on_shift, points: world.points, counts }
}

/// The shifts of every reader that touch the days of the scenario.
fn shifts(workload: &Workload) -> impl Iterator<Item = (u32, i64, i64)> {
    let days = workload.scenario.horizon() / DAY;
    (-1..=days).flat_map(move |day| {
        workload.readers.iter().enumerate().filter_map(move |(reader, who)| {
            let since = day * DAY + who.start;
            (since + who.hours > 0).then_some((number(reader), since, since + who.hours))
        })
    })
}

fn on_shift(workload: &Workload) -> Vec<i64> {
    let (from, to) = workload.scenario.measured();
    let mut times = vec![0; workload.readers.len()];
    for (reader, since, until) in shifts(workload) {
        let mut until = until;
        if let Some((at, _)) = workload.scenario.drop_out
            && workload.readers[place(reader)].drops_out
            && (since..until).contains(&at)
        {
            until = at;
        }
        times[place(reader)] += (until.min(to) - since.max(from)).max(0);
    }
    times
}

impl World<'_> {
    fn plan(&mut self) {
        let workload = self.room.workload;
        // The first arrival only: each brings the next.
        if let Some(first) = workload.studies.first() {
            self.at(first.arrived, Event::Arrive(0));
        }
        for (reader, since, until) in shifts(workload) {
            self.at(since.max(0), Event::ShiftBegins { reader, since });
            self.at(until, Event::ShiftEnds(reader));
        }
        if let Some((at, _)) = workload.scenario.drop_out {
            self.at(at, Event::DropOut);
        }
        if let Some((_, every, away)) = workload.scenario.flapping {
            let flapping = (0..workload.readers.len()).filter(|reader| workload.readers[*reader].flaps);
            for (n, reader) in flapping.map(number).enumerate() {
                // One after the other, so that they do not all break at once.
                let mut at = every * i64::try_from(n).expect("few readers") / 7 % every;
                while at < workload.scenario.horizon() {
                    self.at(at, Event::LineBreaks(reader));
                    self.at(at + away, Event::LineMends(reader));
                    at += every;
                }
            }
        }
    }

    fn at(&mut self, time: i64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    fn happen(&mut self, now: i64, event: Event) {
        match event {
            Event::Arrive(study) => {
                let next = study + 1;
                if let Some(later) = self.room.workload.studies.get(place(next)) {
                    self.at(later.arrived, Event::Arrive(next));
                }
                if let Some(answer) = self.room.workload.truths[place(study)].answer {
                    self.at(answer.at, Event::Answer(study));
                }
                self.wait(study, now);
            }
            Event::Answer(study) => {
                if self.fates[place(study)].opened.is_none()
                    && let Some(answer) = self.room.workload.truths[place(study)].answer
                {
                    self.policy.answer(study, answer.probability, answer.flagged, now, &self.room);
                }
            }
            Event::Wake(study) => {
                if self.fates[place(study)].opened.is_none() {
                    self.offer_to_idle(now);
                }
            }
            Event::Finish { reader, token } => self.finish(reader, token, now),
            Event::ShiftBegins { reader, since } => self.shift_begins(reader, since, now),
            Event::ShiftEnds(reader) => {
                self.room.desks[place(reader)].shift = None;
                self.gone(reader, now);
            }
            Event::LineBreaks(reader) => {
                self.room.desks[place(reader)].connected = false;
                self.gone(reader, now);
            }
            Event::LineMends(reader) => {
                self.room.desks[place(reader)].connected = true;
                self.free(reader, now);
            }
            Event::DropOut => self.drop_out(now),
        }
    }

    /// A study begins to wait: it may go to somebody idle at once.
    fn wait(&mut self, study: u32, now: i64) {
        if let Some(reader) = self.policy.add(study, now, &self.room) {
            self.open(reader, study, false, now);
        } else if let Some(wake) = self.policy.wake(study, &self.room).filter(|wake| *wake > now) {
            self.at(wake, Event::Wake(study));
        }
    }

    fn shift_begins(&mut self, reader: u32, since: i64, now: i64) {
        let hours = self.room.workload.readers[place(reader)].hours;
        let desk = &mut self.room.desks[place(reader)];
        desk.shift = Some((since, since + hours));
        desk.left = false;
        desk.points = 0;
        self.free(reader, now);
    }

    /// A reader whose hands may be free asks for work.
    fn free(&mut self, reader: u32, now: i64) {
        let desk = &mut self.room.desks[place(reader)];
        if matches!(desk.hands, Hands::Reading(_)) {
            return;
        }
        if !desk.works() {
            desk.hands = Hands::Away;
            self.room.idle.remove(&reader);
            return;
        }
        if !matches!(desk.hands, Hands::Idle(_)) {
            desk.hands = Hands::Idle(now);
        }
        match self.policy.pull(reader, now, &self.room) {
            Some((study, prefetched)) => self.open(reader, study, prefetched, now),
            None => {
                self.room.idle.insert(reader);
            }
        }
        for study in self.policy.given_back() {
            self.wait(study, now);
        }
    }

    fn offer_to_idle(&mut self, now: i64) {
        let idle: Vec<u32> = self.room.idle.iter().copied().collect();
        for reader in idle {
            self.free(reader, now);
        }
    }

    fn open(&mut self, reader: u32, study: u32, prefetched: bool, now: i64) {
        let workload = self.room.workload;
        let who = &workload.readers[place(reader)];
        let mut time = to_float(workload.truths[place(study)].reading)
            * who.paces[usize::from(workload.studies[place(study)].category)];
        if let (Some(visits), Some(first)) = (workload.scenario.visits, workload.studies[place(study)].visit)
            && self.fates[place(first)].opened.is_some()
            && self.fates[place(first)].reader == reader
        {
            time *= 1.0 - visits.saves;
        }
        let desk = &mut self.room.desks[place(reader)];
        desk.token += 1;
        desk.began = now;
        desk.hands = Hands::Reading(study);
        let token = desk.token;
        self.room.idle.remove(&reader);
        let fate = &mut self.fates[place(study)];
        (fate.opened, fate.reader, fate.prefetched) = (Some(now), reader, prefetched);
        self.at(now + to_micros(time).max(1), Event::Finish { reader, token });
        self.policy.opened(reader, study, now, &self.room);
    }

    fn finish(&mut self, reader: u32, token: u32, now: i64) {
        let desk = &mut self.room.desks[place(reader)];
        let Hands::Reading(study) = desk.hands else { return };
        if desk.token != token {
            return;
        }
        let points = self.room.workload.studies[place(study)].points;
        desk.points += points;
        desk.hands = Hands::Away;
        self.fates[place(study)].signed = Some(now);
        if (self.measured.0..self.measured.1).contains(&now) {
            self.points[place(reader)] += u64::from(points);
        }
        self.policy.signed(reader, study, &self.room);
        self.free(reader, now);
    }

    /// A reader stops taking work. What is open stays open; what was merely theirs goes back.
    fn gone(&mut self, reader: u32, now: i64) {
        self.free(reader, now);
        for study in self.policy.leave(reader, now, &self.room) {
            self.wait(study, now);
        }
    }

    fn drop_out(&mut self, now: i64) {
        let workload = self.room.workload;
        let leaving = (0..workload.readers.len())
            .filter(|reader| workload.readers[*reader].drops_out && self.room.desks[*reader].works());
        let leaving: Vec<u32> = leaving.map(number).collect();
        for reader in leaving {
            let desk = &mut self.room.desks[place(reader)];
            desk.left = true;
            let open = if let Hands::Reading(study) = desk.hands { Some(study) } else { None };
            desk.hands = Hands::Away;
            desk.token += 1;
            self.gone(reader, now);
            if let Some(study) = open {
                // An open reading is lost with its reader: it begins again, with its original age.
                let fate = &mut self.fates[place(study)];
                fate.opened = None;
                fate.returned += 1;
                self.wait(study, now);
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a reading of hours")]
fn to_float(value: i64) -> f64 {
    value as f64
}

#[expect(clippy::cast_possible_truncation, reason = "a reading of hours")]
fn to_micros(value: f64) -> i64 {
    value as i64
}
