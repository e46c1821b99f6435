//! Turns of a session: what a server is asked holds what it said before, by its own log.

use std::collections::HashMap;
use std::time::Duration;

use loadgen::{Api, Live, LiveOptions, LiveRun, MockOptions, Server, Truth};
use serde_json::Value;
use workloads::{Arrival, BlockSpan, Trace, TraceRequest};

use crate::fixture::{Rig, index, server, slo};

/// `sessions` of `turns`, each turn a prompt, its answer, and some more; blocks of 16 tokens.
fn talks(sessions: u32, turns: u32, open: bool) -> Trace {
    let mut trace = Trace { block_tokens: 16, classes: vec!["all".to_owned()], ..Trace::default() };
    for session in 0..sessions {
        let (mut input, start) = (20 + session, trace.block_ids.len() as u32);
        trace.block_ids.extend((0..20).map(|block| u64::from(session * 1_000 + block)));
        for turn in 0..turns {
            let output = 5 + turn;
            let at = Duration::from_millis(u64::from(5 * session + 300 * turn));
            let previous = trace.requests.len() as u32;
            let arrival = match turn {
                0 => Arrival::At(at),
                _ if open => Arrival::At(at),
                _ => Arrival::After { previous: previous - 1, think: Duration::from_millis(3) },
            };
            let blocks = BlockSpan { start, len: (input + output).div_ceil(16) };
            let session = Some(session);
            trace.requests.push(TraceRequest { arrival, input, output, blocks, class: 0, session });
            input += output + 9;
        }
    }
    if open {
        trace.requests.sort_by_key(|r| match r.arrival {
            Arrival::At(at) => at,
            Arrival::After { .. } => Duration::ZERO,
        });
    }
    trace
}

/// One run against a mock that logs prompts and answers.
fn run(
    api: Api,
    trace: &Trace,
    options: &LiveOptions,
    mock: MockOptions,
) -> (LiveRun, HashMap<u32, Truth>) {
    let rig = Rig::start(MockOptions { log_prompts: true, ..mock });
    let server = Server { api, ..server(&rig.url()) };
    let mut live = Live::find(&server, Duration::from_secs(5)).unwrap();
    live.suit(trace, Duration::from_secs(5)).unwrap();
    let run = live.run(trace, options, &slo(&[], trace), |_| true).unwrap();
    // A salt of 64 bits: of the probes' it is the clock's, of this run's the low ones are set.
    let salt = "00000000-0000-4abc-8d00-";
    let (_, truths) = rig.end();
    let sent = truths.into_iter().filter(|t| t.id.as_ref().is_some_and(|id| id.starts_with(salt)));
    (run, sent.map(|t| (index(&t), t)).collect())
}

/// Turns with the turn before them in their session.
fn pairs(trace: &Trace) -> Vec<(u32, u32)> {
    let mut latest = HashMap::new();
    let turns = (0u32..).zip(&trace.requests);
    turns.filter_map(|(i, r)| Some((latest.insert(r.session?, i)?, i))).collect()
}

fn array(value: &Option<Value>) -> &[Value] {
    value.as_ref().unwrap().as_array().unwrap()
}

const SALTED: u64 = 0xABCD;

fn options() -> LiveOptions {
    LiveOptions { salt: SALTED, ..LiveOptions::default() }
}

#[test]
fn a_turn_begins_with_the_prompt_and_the_answer_before_it() {
    for open in [false, true] {
        let trace = talks(6, 4, open);
        let (run, sent) = run(Api::Completions, &trace, &options(), MockOptions::default());
        for (earlier, later) in pairs(&trace) {
            let (earlier, later) = (&sent[&earlier], &sent[&later]);
            let said = [array(&earlier.prompt), array(&earlier.answer)].concat();
            assert!(array(&later.prompt).starts_with(&said), "{later:?} after {earlier:?}");
        }
        for record in &run.recording.records {
            assert_eq!(record.input, trace.requests[record.request as usize].input);
        }
        assert_eq!((run.audit.answers_returned, run.audit.answers_made_up), (18, 0));
    }
}

#[test]
fn a_chat_returns_its_answers_as_messages() {
    let trace = talks(4, 3, false);
    let (run, sent) = run(Api::Chat, &trace, &options(), MockOptions::default());
    for (earlier, later) in pairs(&trace) {
        let (earlier, later) = (&sent[&earlier], &sent[&later]);
        let (before, after) = (array(&earlier.prompt), array(&later.prompt));
        assert!(after.starts_with(before) && after.len() == before.len() + 2);
        let [answer, question] = &after[before.len()..] else { unreachable!() };
        assert_eq!(Some(&answer["content"]), earlier.answer.as_ref());
        assert_eq!((&answer["role"], &question["role"]), (&"assistant".into(), &"user".into()));
    }
    assert_eq!((run.audit.answers_returned, run.audit.answers_made_up), (8, 0));
}

#[test]
fn a_closed_loop_of_sessions_returns_answers_too() {
    let options = LiveOptions { streams: Some(2), ..options() };
    let trace = talks(5, 3, true);
    let (run, sent) = run(Api::Completions, &trace, &options, MockOptions::default());
    for (earlier, later) in pairs(&trace) {
        let said = [array(&sent[&earlier].prompt), array(&sent[&earlier].answer)].concat();
        assert!(array(&sent[&later].prompt).starts_with(&said));
    }
    assert_eq!(run.audit.answers_returned, 10);
}

#[test]
fn answers_that_failed_or_came_too_late_are_made_up_and_reported() {
    let trace = talks(6, 4, false);
    let faults = vec!["cut=100%".parse().unwrap()];
    let failing = MockOptions { faults, ..MockOptions::default() };
    let live = |options: MockOptions, trace: &Trace| {
        let rig = Rig::start(options);
        let live = Live::assume(&server(&rig.url()), "mock", loadgen::Prompts::Ids).unwrap();
        live.run(trace, &self::options(), &slo(&[], trace), |_| true).unwrap().audit
    };
    let audit = live(failing, &trace);
    assert_eq!((audit.answers_returned, audit.answers_made_up), (0, 18));
    assert!(audit.reasons.iter().any(|r| r.contains("18 of 18 turns")), "{:?}", audit.reasons);
    let late = MockOptions { ttft: Duration::from_millis(700), ..MockOptions::default() };
    let audit = live(late, &talks(3, 4, true));
    assert_eq!((audit.answers_returned, audit.answers_made_up), (0, 9));
    let unshared = LiveOptions { shared_prefixes: false, ..self::options() };
    let (run, sent) = run(Api::Completions, &trace, &unshared, MockOptions::default());
    assert_eq!((run.audit.answers_returned, run.audit.answers_made_up), (0, 0));
    assert_ne!(array(&sent[&0].prompt)[0], array(&sent[&1].prompt)[0]);
}
