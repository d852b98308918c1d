//! A workload's connection: it says what its plan says, and keeps what it hears.

use egret::sys::kernel::Errno;
use egret::sys::sim::{EndId, Micros, Net};

use crate::plan::{End, Reader, Step};

/// How a stream ended for the one who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It has not.
    More,
    End,
    Error(Errno),
}

/// An actor's end of a connection: steps that it does in time, and a reader.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) end: EndId,
    pub(crate) says: Vec<u8>,
    pub(crate) said: usize,
    pub(crate) heard: Vec<u8>,
    pub(crate) ear: Heard,
    /// What it has done to end it.
    pub(crate) ended: Option<End>,
    /// The same, if it did so unprovoked, and when.
    pub(crate) own_end: Option<(Micros, End)>,
    pub(crate) is_closed: bool,
    closed_at: Option<Micros>,
    steps: Vec<(Micros, Step)>,
    at_step: usize,
    step_at: Micros,
    to_say: usize,
    /// How it ends when all of that is said.
    ends_behind: Option<End>,
    reader: Reader,
    read_at: Micros,
    waits: Option<Wait>,
    /// When it closes, if it does nothing more: an actor does not wait for ever.
    gives_up_at: Micros,
    /// How long nothing had happened when it did so.
    pub(crate) gave_up_after: Option<Micros>,
    /// Where something was put between what it says, in the places of before.
    inserted: Vec<usize>,
    pub(crate) began_at: Micros,
    /// When bytes or an end last moved here.
    pub(crate) active_at: Micros,
    pub(crate) ear_at: Micros,
    /// When how much had been said, and heard.
    moved_at: Vec<(Micros, usize, usize)>,
}

/// What the next step waits for: more than these bytes heard, or a 101 among them.
#[derive(Debug, Clone, Copy)]
struct Wait {
    heard: usize,
    until: Micros,
    is_switch: bool,
}

/// Bytes of what is put between.
const INSERTED: usize = 9;

/// What a step may wait for: longer than any timeout.
const PATIENCE_US: Micros = 90_000_000;

/// How a 101 begins.
const SWITCHED: &[u8] = b"HTTP/1.1 101 ";

/// What a trace shows: bytes said and heard, how its ear and itself have ended.
pub(crate) type State = (usize, usize, Heard, Option<End>);

impl Actor {
    pub(crate) fn state(&self) -> State {
        (self.said, self.heard.len(), self.ear, self.ended)
    }

    pub(crate) fn new(
        end: EndId,
        says: Vec<u8>,
        steps: Vec<(Micros, Step)>,
        reader: Reader,
        now: Micros,
    ) -> Self {
        let step_at = now + steps.first().map_or(0, |(pause, _)| *pause);
        Self {
            end,
            says,
            said: 0,
            heard: Vec::new(),
            ear: Heard::More,
            ended: None,
            own_end: None,
            is_closed: false,
            closed_at: None,
            steps,
            at_step: 0,
            step_at,
            to_say: 0,
            ends_behind: None,
            reader,
            read_at: now,
            waits: None,
            gives_up_at: now + PATIENCE_US,
            gave_up_after: None,
            inserted: Vec::new(),
            began_at: now,
            active_at: now,
            ear_at: 0,
            moved_at: vec![(now, 0, 0)],
        }
    }

    /// When so many bytes of what it was to say had been said.
    pub(crate) fn said_at(&self, planned: usize) -> Option<Micros> {
        let before = self.inserted.iter().filter(|at| **at < planned).count();
        let least = planned + INSERTED * before;
        self.moved_at.iter().find(|(_, said, _)| *said >= least).map(|(at, ..)| *at)
    }

    /// When so many bytes had been heard.
    pub(crate) fn heard_at(&self, least: usize) -> Option<Micros> {
        self.moved_at.iter().find(|(.., heard)| *heard >= least).map(|(at, ..)| *at)
    }

    /// When bytes last moved here, up to a time.
    pub(crate) fn moved_by(&self, time: Micros) -> Micros {
        let until = self.moved_at.partition_point(|(at, ..)| *at <= time);
        self.moved_at[..until].last().map_or(self.began_at, |(at, ..)| *at)
    }

    /// Says these bytes, too, at the first of `boundaries` that is not behind it.
    pub(crate) fn insert(&mut self, boundaries: &[usize], bytes: [u8; INSERTED]) {
        for &boundary in boundaries {
            let before = self.inserted.iter().filter(|at| **at <= boundary).count();
            let at = boundary + INSERTED * before;
            if at < self.said {
                continue;
            }
            self.says.splice(at..at, bytes);
            self.inserted.push(boundary);
            if at <= self.said + self.to_say {
                self.to_say += INSERTED;
            }
            return;
        }
    }

    /// More to say, at once.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.says.extend_from_slice(bytes);
        self.to_say += bytes.len();
    }

    pub(crate) fn next(&self) -> Option<Micros> {
        if self.is_closed {
            return None;
        }
        let has_step = self.to_say == 0 && self.at_step < self.steps.len() && self.ended.is_none();
        let step = match self.waits {
            Some(wait) => Some(wait.until),
            None => has_step.then_some(self.step_at),
        };
        let reads =
            (self.ear == Heard::More && self.read_at != Micros::MAX).then_some(self.read_at);
        [step, Some(self.gives_up_at), reads].into_iter().flatten().min()
    }

    pub(crate) fn act(&mut self, net: &mut Net) {
        if self.is_closed {
            return;
        }
        let before = (self.said, self.heard.len());
        let ear = self.ear;
        if self.gives_up_at <= net.now() {
            self.gave_up_after = Some(net.now() - self.active_at);
            return self.close(net);
        }
        self.wake(net);
        self.listen(net);
        self.speak(net);
        if before != (self.said, self.heard.len()) {
            self.active_at = net.now();
            self.moved_at.push((net.now(), self.said, self.heard.len()));
        }
        if ear != self.ear {
            self.ear_at = net.now();
        }
        if !self.is_closed && self.is_over() {
            self.close(net);
        }
    }

    /// Both directions are at their end, or it has waited in vain.
    fn is_over(&self) -> bool {
        let has_said = self.ended.is_some() || matches!(self.ear, Heard::Error(_));
        has_said && self.ear != Heard::More
    }

    fn listen(&mut self, net: &mut Net) {
        if self.ear != Heard::More || self.read_at > net.now() {
            return;
        }
        match net.read(self.end, self.reader.most) {
            Ok(bytes) if bytes.is_empty() => self.ear = Heard::End,
            Ok(bytes) => {
                self.heard.extend(bytes);
                self.read_at = net.now() + self.reader.every_us;
                if let Some((after, pause)) = self.reader.stops
                    && self.heard.len() >= after
                {
                    self.read_at = net.now() + pause;
                    self.reader.stops = None;
                }
            }
            Err(Errno::EAGAIN) => self.read_at = Micros::MAX,
            Err(error) => self.ear = Heard::Error(error),
        }
    }

    /// Something has come: it reads again.
    fn wake(&mut self, net: &Net) {
        if self.read_at == Micros::MAX && net.is_readable(self.end) {
            self.read_at = net.now() + self.reader.every_us;
        }
    }

    fn speak(&mut self, net: &mut Net) {
        while self.ended.is_none() {
            while self.to_say > 0 {
                let until = (self.said + self.to_say).min(self.says.len());
                match net.write(self.end, &self.says[self.said..until]) {
                    Ok(count) => {
                        self.said += count;
                        self.to_say -= count;
                    }
                    Err(Errno::EAGAIN) => return,
                    Err(error) => {
                        if self.ear == Heard::More {
                            self.ear = Heard::Error(error);
                        }
                        return self.close(net);
                    }
                }
            }
            if let Some(how) = self.ends_behind.take() {
                return self.finish(how, net);
            }
            if !self.goes_on(net) {
                break;
            }
            let Some(&(_, step)) = self.steps.get(self.at_step) else { break };
            if self.step_at > net.now() {
                break;
            }
            self.at_step += 1;
            self.step_at = net.now() + self.steps.get(self.at_step).map_or(0, |(pause, _)| *pause);
            let left = self.says.len() - self.said;
            match step {
                Step::Send(most) => self.to_say = most.min(left),
                Step::Hear(most) | Step::Switch(most) => {
                    let is_switch = matches!(step, Step::Switch(_));
                    let (heard, until) = (self.heard.len(), net.now() + most);
                    self.waits = Some(Wait { heard, until, is_switch });
                }
                // What was put between is not part of the steps.
                Step::End(how) if left > 0 && left <= INSERTED * self.inserted.len() => {
                    self.to_say = left;
                    self.ends_behind = Some(how);
                }
                Step::End(how) => self.finish(how, net),
            }
        }
    }

    /// Whether what the next step waits for has come, or never will.
    fn goes_on(&mut self, net: &mut Net) -> bool {
        let Some(wait) = &mut self.waits else { return true };
        let has_come = match wait.is_switch {
            true => {
                let from = wait.heard.saturating_sub(SWITCHED.len());
                wait.heard = self.heard.len();
                self.heard[from..].windows(SWITCHED.len()).any(|bytes| bytes == SWITCHED)
            }
            false => self.heard.len() > wait.heard,
        };
        if !has_come && wait.until > net.now() {
            return false;
        }
        let gives_up = wait.is_switch && !has_come;
        self.waits = None;
        self.step_at = net.now() + self.steps.get(self.at_step).map_or(0, |(pause, _)| *pause);
        if gives_up {
            self.finish(End::Finish, net);
        }
        !gives_up
    }

    /// Ends when all is said.
    pub(crate) fn finish_behind(&mut self, how: End, net: &mut Net) {
        self.ends_behind = Some(how);
        self.act(net);
    }

    pub(crate) fn finish(&mut self, how: End, net: &mut Net) {
        if self.is_closed || self.ended.is_some() {
            return;
        }
        self.ended = Some(how);
        self.own_end = Some((net.now(), how));
        match how {
            End::Finish => {
                // The peer may have reset it.
                let _ = net.finish(self.end);
            }
            End::Reset => {
                self.is_closed = true;
                net.reset(self.end);
            }
            End::Close => self.close(net),
        }
    }

    /// It had closed by this time.
    pub(crate) fn is_closed_by(&self, time: Micros) -> bool {
        self.closed_at.is_some_and(|at| at <= time)
    }

    fn close(&mut self, net: &mut Net) {
        self.closed_at = Some(net.now());
        self.ended.get_or_insert(End::Close);
        self.is_closed = true;
        net.close(self.end);
    }
}
