//! What becomes of an upstream's responses, and what they change.

use super::super::{Action, Micros, Note, Outcome, Policy};
use super::{Follows, Http1, Switched, Unasked};
use crate::http1::{KnownHeads, ResponseBody, ResponseHead, ResponseStep, Turn};
use crate::metrics::UnaskedStatus;

impl Http1 {
    /// Bytes of a response have come.
    pub(super) fn responses_begin(&mut self, now: Micros) {
        if let Some(first) = self.responses.first_mut() {
            first.responded.get_or_insert(now);
        }
    }

    /// What becomes of the first bytes of the upstream.
    pub(super) fn response(
        &mut self,
        bytes: &[u8],
        policy: &Policy<'_>,
        known: &mut KnownHeads,
    ) -> Outcome {
        match self.responses.next_known(bytes, known) {
            ResponseStep::NeedMore => Outcome::Hold,
            ResponseStep::Head(head) => {
                self.response_begins(&head);
                if head.turn == Turn::Switched {
                    self.switched = Some(Box::new(Switched::to(head.agreed, policy.rules())));
                }
                Outcome::Pass(head.head_len)
            }
            ResponseStep::Opaque { bytes: count } => {
                if let Some(switched) = &mut self.switched {
                    switched.frames.responded(&bytes[..count]);
                }
                Outcome::Pass(count)
            }
            ResponseStep::Body { bytes, ends: _ } => Outcome::Pass(bytes),
            // A server that gives up an idle connection says so (408). That answers no request, and
            // the connection can carry no response any more: it is as if it had ended here.
            ResponseStep::Unasked if self.unasked == Unasked::No => {
                self.unasked = Unasked::Yes;
                self.is_leg_spent = true;
                Outcome::Note(Note::Unasked(UnaskedStatus::of(bytes)))
            }
            ResponseStep::Unasked => Outcome::Act(Action::EndResponses),
            // What follows is told as bytes that pass.
            ResponseStep::Unframed(lost) => {
                self.follows = Follows::Unframed;
                Outcome::Note(Note::ResponseUnframed(lost))
            }
        }
    }

    pub(super) fn response_begins(&mut self, head: &ResponseHead) {
        self.body_is_answered(head);
        if head.body == ResponseBody::UntilClose {
            self.follows = Follows::End;
        }
        match head.turn {
            Turn::Switched => {
                self.follows = Follows::OtherProtocol;
                self.requests.upgraded();
            }
            Turn::Declined => self.requests.upgrade_declined(),
            Turn::Interim | Turn::Final => {}
        }
    }
}
