//! Requests and responses that pass as they come, and are only counted.

use std::rc::Rc;

use super::super::{Policy, Route, Tables};
use super::{Http1, KEPT_BYTES_MAX, Unreadable, logged};
use crate::http1::{KnownHeads, RequestHead, RequestStep, ResponseStep};
use crate::relay::Side;

impl Http1 {
    /// Reads requests that pass.
    pub(super) fn observe_requests(
        &mut self,
        bytes: &[u8],
        policy: &Policy<'_>,
        tables: &mut Tables,
    ) -> Result<(), Unreadable> {
        let kept = self.keep(Side::Downstream, bytes)?;
        let mut rest = kept.as_deref().unwrap_or(bytes);
        while !rest.is_empty() {
            match self.requests.next_known(rest, &mut tables.heads) {
                RequestStep::Body { bytes, ends } => {
                    if ends {
                        self.request_ends();
                    }
                    rest = &rest[bytes..];
                }
                RequestStep::Opaque { bytes } => rest = &rest[bytes..],
                RequestStep::Head(_) if self.responses.is_full() => {
                    return Err(Unreadable::default());
                }
                RequestStep::Head(head) => {
                    let Some(route) = self.renamed_route(&head, tables) else {
                        return Err(Unreadable::default());
                    };
                    let logged = logged(&head, rest, policy.logging);
                    rest = &rest[head.head_len..];
                    self.pending = Some(head);
                    self.ask(route, logged, policy.now);
                }
                RequestStep::NeedMore | RequestStep::AwaitUpgrade => {
                    self.kept[Side::Downstream as usize] = rest.to_vec();
                    return Ok(());
                }
                RequestStep::Discard { .. } => return Ok(()),
                RequestStep::Refused(refusal) => {
                    return Err(Unreadable { refusal: Some(refusal), ..Unreadable::default() });
                }
            }
        }
        Ok(())
    }

    /// The route of `head`, where the address alone has decided: the same one under its own name.
    fn renamed_route(&mut self, head: &RequestHead, tables: &mut Tables) -> Option<Rc<Route>> {
        let last = self.route.as_ref()?;
        if last.host != head.host {
            let rename = || last.renamed(head.host.clone());
            let route = tables.routes.find(last.asker, head.host.as_ref(), rename);
            self.route = Some(route);
        }
        self.route.clone()
    }

    /// Reads responses that pass.
    pub(super) fn observe_responses(
        &mut self,
        bytes: &[u8],
        known: &mut KnownHeads,
    ) -> Result<(), Unreadable> {
        let kept = self.keep(Side::Upstream, bytes)?;
        let mut rest = kept.as_deref().unwrap_or(bytes);
        while !rest.is_empty() {
            match self.responses.next_known(rest, known) {
                ResponseStep::Head(head) => {
                    self.response_begins(&head);
                    rest = &rest[head.head_len..];
                }
                ResponseStep::Body { bytes, ends: _ } | ResponseStep::Opaque { bytes } => {
                    rest = &rest[bytes..];
                }
                ResponseStep::NeedMore => {
                    self.kept[Side::Upstream as usize] = rest.to_vec();
                    return Ok(());
                }
                ResponseStep::Unasked => return Err(Unreadable::default()),
                ResponseStep::Unframed(lost) => {
                    return Err(Unreadable { unframed: Some(lost), ..Unreadable::default() });
                }
            }
        }
        Ok(())
    }

    /// What is kept of `side`, with `bytes` behind it; `None` if nothing was kept.
    fn keep(&mut self, side: Side, bytes: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
        let kept = &mut self.kept[side as usize];
        if kept.is_empty() {
            return Ok(None);
        }
        if kept.len() + bytes.len() > KEPT_BYTES_MAX {
            return Err(Unreadable::default());
        }
        let mut kept = std::mem::take(kept);
        kept.extend_from_slice(bytes);
        Ok(Some(kept))
    }
}
