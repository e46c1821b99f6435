//! The server's own answers, which later turns of a session repeat.
//!
//! Prompts are made up, answers are not. A later turn that repeats an earlier one's answer must
//! carry the server's own words, or the server's prefix cache sees a conversation that never took
//! place. The trace tells how much of an answer a turn repeats: as far as the blocks of the two
//! agree beyond the earlier one's prompt. Answers are kept until their session is over.

use std::collections::HashMap;

use workloads::{Arrival, Trace};

use super::chunk::Usage;
use super::vocabulary::Tokens;
use crate::json::Json;

/// No request, no conversation.
const NONE: u32 = u32::MAX;

/// The words of an answer, in the form in which they go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Words {
    /// Token ids.
    Ids(Vec<u32>),
    /// Text.
    Text(String),
}

/// An answer in the course of arriving.
#[derive(Debug, Clone)]
pub(super) struct Hearing {
    words: Words,
    /// Events that brought some of it.
    events: u32,
    /// The part that is not repeated: a model's reasoning stays with the turn it was for.
    aside: Option<String>,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Said {
    request: u32,
    tokens: u32,
    /// Tokens of prompt and answer, where the server counted both.
    total: Option<u32>,
    words: Words,
}

/// An answer in its place in a prompt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passage<'a> {
    /// Tokens before it, by the trace.
    pub(super) at: u32,
    /// The number of its tokens that are repeated.
    pub(super) take: u32,
    said: &'a Said,
}

/// All conversations of a run.
#[derive(Debug, Default)]
pub(super) struct Talks {
    /// By request; empty where no turn repeats an answer.
    turns: Vec<Turn>,
    talks: Vec<Talk>,
    /// Turns whose answer to repeat was there whole, and those where it was not.
    pub(super) returned: u64,
    pub(super) made_up: u64,
}

/// A request in its conversation.
#[derive(Debug, Clone, Copy)]
struct Turn {
    talk: u32,
    previous: u32,
    /// Tokens of the previous answer that it repeats.
    repeats: u32,
    /// True where a later turn repeats its answer.
    awaited: bool,
    over: bool,
}

#[derive(Debug, Default)]
struct Talk {
    said: Vec<Said>,
    /// Turns that are not over.
    left: u32,
}

/// Tokens of `earlier`'s answer that `later`'s prompt repeats.
fn repeated(trace: &Trace, earlier: u32, later: u32) -> u32 {
    let (e, l) = (&trace.requests[earlier as usize], &trace.requests[later as usize]);
    let alike = if e.blocks.start == l.blocks.start {
        e.blocks.len.min(l.blocks.len) as usize
    } else {
        let pairs = trace.blocks_of(e).iter().zip(trace.blocks_of(l));
        pairs.take_while(|(a, b)| a == b).count()
    };
    let shared = alike as u64 * u64::from(trace.block_tokens);
    let end = shared.min(u64::from(e.input) + u64::from(e.output)).min(u64::from(l.input));
    end.saturating_sub(u64::from(e.input)) as u32
}

/// True if any turn of `trace` repeats an answer.
pub(super) fn repeats_answers(trace: &Trace) -> bool {
    !Talks::new(trace, true).turns.is_empty()
}

impl Talks {
    /// The conversations of `trace`; none where prefixes are not `shared`.
    pub(super) fn new(trace: &Trace, shared: bool) -> Self {
        if !shared || trace.block_tokens == 0 {
            return Self::default();
        }
        let mut all = Self::default();
        // Of each session: its conversation and its latest turn.
        let mut sessions: HashMap<u32, (u32, u32)> = HashMap::new();
        for (index, request) in (0u32..).zip(&trace.requests) {
            let latest = request.session.and_then(|s| sessions.get(&s).copied());
            let previous = match request.arrival {
                Arrival::After { previous, .. } if previous < index => previous,
                _ => latest.map_or(NONE, |(_, turn)| turn),
            };
            let talk = match (latest, request.session) {
                (Some((talk, _)), _) => talk,
                (None, Some(_)) => all.talk(),
                (None, None) if previous == NONE => NONE,
                (None, None) => all.talk_of(previous),
            };
            if let Some(session) = request.session {
                sessions.insert(session, (talk, index));
            }
            let repeats = if previous == NONE { 0 } else { repeated(trace, previous, index) };
            if repeats > 0 {
                all.turns[previous as usize].awaited = true;
            }
            if talk != NONE {
                all.talks[talk as usize].left += 1;
            }
            all.turns.push(Turn { talk, previous, repeats, awaited: false, over: false });
        }
        if all.turns.iter().any(|t| t.repeats > 0) { all } else { Self::default() }
    }

    fn talk(&mut self) -> u32 {
        self.talks.push(Talk::default());
        self.talks.len() as u32 - 1
    }

    /// The conversation that a request without a session is in because another waits for it.
    fn talk_of(&mut self, request: u32) -> u32 {
        let known = self.turns[request as usize].talk;
        if known != NONE {
            return known;
        }
        let talk = self.talk();
        self.turns[request as usize].talk = talk;
        self.talks[talk as usize].left += 1;
        talk
    }

    /// True if a later turn repeats the answer to `request`.
    pub(super) fn awaits(&self, request: u32) -> bool {
        self.turns.get(request as usize).is_some_and(|t| t.awaited)
    }

    /// True if all that `request` repeats has been said by now, as far as it ever will be.
    pub(super) fn is_ready(&self, request: u32) -> bool {
        let ready = |t: &Turn| t.previous == NONE || self.turns[t.previous as usize].over;
        self.turns.get(request as usize).is_none_or(ready)
    }

    /// The parts of `request`'s prompt that have been said before, in order.
    pub(super) fn passages(&self, trace: &Trace, request: u32) -> Vec<Passage<'_>> {
        let Some(turn) = self.turns.get(request as usize).filter(|t| t.talk != NONE) else {
            return Vec::new();
        };
        let said = self.talks[turn.talk as usize].said.iter().filter(|s| s.request < request);
        let mut passages = Vec::new();
        for said in said {
            let take = repeated(trace, said.request, request).min(said.tokens);
            let at = trace.requests[said.request as usize].input;
            if take > 0 {
                passages.push(Passage { at, take, said });
            }
        }
        passages.sort_by_key(|p| p.at);
        passages
    }

    /// `request` is being sent: counts whether it can repeat what it should.
    pub(super) fn sent(&mut self, request: u32) {
        let Some(&Turn { talk, previous, repeats, .. }) = self.turns.get(request as usize) else {
            return;
        };
        if repeats == 0 {
            return;
        }
        let mut said = self.talks[talk as usize].said.iter();
        let there = said.find(|s| s.request == previous).map_or(0, |s| s.tokens);
        if there >= repeats {
            self.returned += 1;
        } else {
            self.made_up += 1;
        }
        if there == 0 {
            // Should it still come, later turns must not contradict this one.
            self.turns[previous as usize].awaited = false;
        }
    }

    /// The answer to `request` has arrived whole.
    pub(super) fn heard(&mut self, trace: &Trace, request: u32, heard: Hearing, usage: Usage) {
        let Some(turn) = self.turns.get(request as usize).filter(|t| t.awaited) else { return };
        let counted = usage.completion_tokens.filter(|_| heard.aside.is_none());
        let tokens = match &heard.words {
            Words::Ids(ids) => ids.len() as u32,
            Words::Text(text) if text.is_empty() => 0,
            Words::Text(_) => counted.unwrap_or(heard.events),
        };
        if tokens == 0 {
            return;
        }
        let total = usage.prompt_tokens.map(|p| p.saturating_add(tokens));
        // Of an answer cut by its server the trace's places still count: what follows is made up.
        let whole = tokens >= trace.requests[request as usize].output;
        let said = Said { request, tokens, total: total.filter(|_| whole), words: heard.words };
        self.talks[turn.talk as usize].said.push(said);
    }

    /// `request` has ended, in whatever way.
    pub(super) fn over(&mut self, request: u32) {
        let Some(turn) = self.turns.get_mut(request as usize) else { return };
        turn.over = true;
        if turn.talk != NONE {
            let talk = &mut self.talks[turn.talk as usize];
            talk.left -= 1;
            if talk.left == 0 {
                talk.said = Vec::new();
            }
        }
    }
}

impl<'a> Passage<'a> {
    /// Its tokens; none where it is text.
    pub(super) fn ids(&self) -> &'a [u32] {
        match &self.said.words {
            Words::Ids(ids) => &ids[..ids.len().min(self.take as usize)],
            Words::Text(_) => &[],
        }
    }

    /// Its text; of a part, what is by length that part. Empty where it is tokens.
    pub(super) fn text(&self) -> &'a str {
        let Words::Text(text) = &self.said.words else { return "" };
        if self.take >= self.said.tokens {
            return text;
        }
        let part = text.len() as u64 * u64::from(self.take) / u64::from(self.said.tokens);
        &text[..text.floor_char_boundary(part as usize)]
    }

    /// Tokens to its end, by the server's count where it has one: what follows fills up to the length asked for.
    pub(super) fn end(&self) -> u32 {
        let whole = self.said.total.filter(|_| self.take >= self.said.tokens);
        whole.unwrap_or(self.at.saturating_add(self.take))
    }
}

impl Hearing {
    /// Of token ids, or of text.
    pub(super) fn new(ids: bool) -> Self {
        let words = if ids { Words::Ids(Vec::new()) } else { Words::Text(String::new()) };
        Self { words, events: 0, aside: None }
    }

    /// True once any token ids have come.
    pub(super) fn has_ids(&self) -> bool {
        matches!(&self.words, Words::Ids(ids) if !ids.is_empty())
    }

    /// Tokens of all its text; none where it has no text, or `tokens` does not know.
    pub(super) fn tokens(&self, tokens: &Tokens) -> Option<u32> {
        let Words::Text(text) = &self.words else { return None };
        let aside = self.aside.as_deref().map_or(Some(0), |aside| tokens.count(aside))?;
        u32::try_from(tokens.count(text)? + aside).ok()
    }

    /// Takes in what an event says aloud and aside, and the ids of its tokens.
    pub(super) fn take_in(&mut self, said: &[&str], aside: &[&str], ids: &[Json<'_>]) {
        if !aside.is_empty() {
            self.aside.get_or_insert_default().extend(aside.iter().copied());
        }
        match &mut self.words {
            Words::Ids(all) => all.extend(ids.iter().filter_map(Json::count)),
            Words::Text(text) => {
                self.events += u32::from(!said.is_empty());
                text.extend(said.iter().copied());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::chunk::Chunk;
    use std::time::Duration;
    use workloads::{BlockSpan, TraceRequest};

    /// Turns as (input, output, blocks), each after the one before, of one session.
    fn session(turns: &[(u32, u32, &[u64])]) -> Trace {
        let mut trace =
            Trace { block_tokens: 4, classes: vec!["all".to_owned()], ..Trace::default() };
        for (i, &(input, output, ids)) in (0u32..).zip(turns) {
            let arrival = match i.checked_sub(1) {
                None => Arrival::At(Duration::ZERO),
                Some(previous) => Arrival::After { previous, think: Duration::ZERO },
            };
            let blocks = BlockSpan { start: trace.block_ids.len() as u32, len: ids.len() as u32 };
            trace.block_ids.extend(ids);
            let request =
                TraceRequest { arrival, input, output, blocks, class: 0, session: Some(9) };
            trace.requests.push(request);
        }
        trace
    }

    fn hears(talks: &mut Talks, trace: &Trace, request: u32, ids: &[u32]) {
        let hearing = Hearing { words: Words::Ids(ids.to_vec()), events: 0, aside: None };
        talks.heard(trace, request, hearing, Usage::default());
        talks.over(request);
    }

    #[test]
    fn a_turn_repeats_the_blocks_it_shares_beyond_the_prompt_before() {
        // 6 + 4 tokens, all repeated; then 14 + 4, of which the blocks share 2.
        let trace =
            session(&[(6, 4, &[1, 2, 3]), (14, 4, &[1, 2, 3, 4]), (20, 1, &[1, 2, 3, 4, 5])]);
        assert_eq!(
            (repeated(&trace, 0, 1), repeated(&trace, 1, 2), repeated(&trace, 0, 2)),
            (4, 2, 4)
        );
        let mut talks = Talks::new(&trace, true);
        assert!(talks.awaits(0) && talks.awaits(1) && !talks.awaits(2));
        assert!(talks.is_ready(0) && !talks.is_ready(1));
        hears(&mut talks, &trace, 0, &[10, 11, 12, 13]);
        assert!(talks.is_ready(1));
        talks.sent(1);
        hears(&mut talks, &trace, 1, &[20, 21, 22, 23]);
        talks.sent(2);
        let passages = talks.passages(&trace, 2);
        let found: Vec<_> = passages.iter().map(|p| (p.at, p.ids(), p.end())).collect();
        assert_eq!(found, [(6, &[10, 11, 12, 13][..], 10), (14, &[20, 21][..], 16)]);
        assert_eq!((talks.returned, talks.made_up), (2, 0));
        talks.over(2);
        assert!(talks.talks[0].said.is_empty(), "a session that is over is forgotten");
    }

    #[test]
    fn an_answer_that_is_short_or_missing_is_counted() {
        let blocks: &[u64] = &[1, 2, 3, 4];
        let trace = session(&[(6, 4, &[1, 2, 3]), (12, 4, blocks), (16, 1, blocks)]);
        let mut talks = Talks::new(&trace, true);
        hears(&mut talks, &trace, 0, &[10, 11]);
        talks.sent(1);
        assert_eq!(talks.passages(&trace, 1)[0].ids(), [10, 11]);
        talks.sent(2);
        assert_eq!((talks.returned, talks.made_up), (0, 2));
        hears(&mut talks, &trace, 1, &[20, 21, 22, 23]);
        assert_eq!(talks.passages(&trace, 2).len(), 1, "too late: turn 2 went without it");
        assert!(Talks::new(&trace, false).turns.is_empty());
        assert!(!repeats_answers(&session(&[(6, 4, &[1, 2]), (9, 4, &[7, 8, 9])])));
    }

    #[test]
    fn text_is_taken_from_either_api_and_reasoning_is_not() {
        let mut hearing = Hearing::new(false);
        for event in [
            r#"{"choices":[{"delta":{"reasoning_content":"Hm"}}]}"#,
            r#"{"choices":[{"delta":{"content":"an \"é"}}]}"#,
            r#"{"choices":[{"text":"swer"}]}"#,
        ] {
            let event = Json::of(event.as_bytes()).unwrap();
            let chunk = Chunk::of(&event);
            hearing.take_in(&chunk.said, &chunk.aside, chunk.ids);
        }
        assert_eq!(hearing.words, Words::Text("an \"éswer".to_owned()));
        assert_eq!((hearing.aside.as_deref(), hearing.events), (Some("Hm"), 2));
        assert_eq!(hearing.tokens(&Tokens::new(|text| Some(text.len()))), Some(2 + 10));
        let said = Said { request: 0, tokens: 4, total: Some(99), words: hearing.words };
        let part = |take| Passage { at: 10, take, said: &said };
        assert_eq!((part(4).text(), part(4).end()), ("an \"éswer", 99));
        assert_eq!((part(2).text(), part(2).end()), ("an \"", 12), "no character is cut");
    }
}
