//! Our own format: JSONL that loses nothing. The first line describes the trace, every other line is a request.
//!
//! ```text
//! {"schema":"knee.trace/1","name":"chat","block_tokens":0,"classes":["default"],"provenance":["…"]}
//! {"at_ns":0,"input":374,"output":44}
//! {"after":0,"think_ns":5000000000,"input":420,"output":80,"session":0,"blocks":[[0,26]]}
//! ```
//!
//! `blocks` are runs of consecutive identities, each `[first, count]`; `class` is left out where it is 0.

use std::io::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::printable;
use crate::format::cells::tokens;
use crate::format::kind::{Kind, Part, Reader, Writer};
use crate::format::rows::BlockPool;
use crate::format::text::{Document, Documents, bad_json};
use crate::format::time::LATEST;
use crate::{Arrival, Trace, TraceError, TraceRequest};

pub(super) const FORMAT: Kind = Kind {
    name: "jsonl",
    about: "our own JSONL, schema knee.trace/1, which loses nothing",
    tells: |seen| seen.has_key("schema"),
    reader: Reader::Whole(read),
    writer: Some(Writer {
        write,
        keeps: &[
            Part::Prefixes,
            Part::Responses,
            Part::Sessions,
            Part::Classes,
            Part::Limit,
            Part::Fractions,
            Part::Provenance,
        ],
    }),
};

/// First line's `schema`.
const SCHEMA: &str = "knee.trace/1";

/// Longest pause believed, as in sessions of other formats.
const LONGEST_THINK: u64 = 1_000_000_000 * 1_000_000_000;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    schema: String,
    name: String,
    block_tokens: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_concurrent_sessions: Option<u32>,
    classes: Vec<String>,
    #[serde(default)]
    provenance: Vec<String>,
}

#[derive(Deserialize)]
struct Version {
    schema: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    think_ns: Option<u64>,
    input: u32,
    output: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    class: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    blocks: Vec<(u64, u64)>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde calls")]
fn is_zero(n: &u16) -> bool {
    *n == 0
}

fn read(documents: &mut Documents<'_>) -> Result<Trace, TraceError> {
    let file = &documents.file().to_owned();
    let Some(head) = documents.next_document()? else {
        return Err(TraceError::file(file, "empty: there are no requests in it"));
    };
    let fail = |line: u64, problem: String| TraceError::line(file, line, problem);
    let unread = |e| bad_json(file, head.line, &e);
    // Another version may have other keys.
    let Version { schema } = serde_json::from_str(head.json).map_err(unread)?;
    if schema != SCHEMA {
        return Err(fail(head.line, format!("schema {schema:?}; this version reads {SCHEMA}")));
    }
    let header: Header = serde_json::from_str(head.json).map_err(unread)?;
    if header.classes.is_empty() {
        return Err(fail(head.line, "classes is empty; name at least one".to_owned()));
    }
    if header.max_concurrent_sessions == Some(0) {
        let problem = "max_concurrent_sessions is 0: none would start; leave it out";
        return Err(fail(head.line, problem.to_owned()));
    }
    let mut pool = BlockPool::default();
    let mut requests: Vec<TraceRequest> = Vec::new();
    let mut latest = Duration::ZERO;
    while let Some(Document { line, json }) = documents.next_document()? {
        let row: Line = serde_json::from_str(json).map_err(|e| bad_json(file, line, &e))?;
        let request = row
            .request(requests.len(), &header, &mut pool)
            .map_err(|problem| fail(line, problem))?;
        if let Arrival::At(at) = request.arrival {
            if at < latest {
                return Err(fail(
                    line,
                    "at_ns is before an earlier line's; sort the lines".to_owned(),
                ));
            }
            latest = at;
        }
        requests.push(request);
    }
    if requests.is_empty() {
        return Err(TraceError::file(file, "a header but no requests"));
    }
    Ok(Trace {
        name: printable(&header.name),
        requests,
        block_ids: pool.into_ids(),
        block_tokens: header.block_tokens,
        max_concurrent_sessions: header.max_concurrent_sessions,
        classes: header.classes.iter().map(|c| printable(c)).collect(),
        provenance: header.provenance.iter().map(|p| printable(p)).collect(),
    })
}

impl Line {
    fn request(
        &self,
        index: usize,
        header: &Header,
        pool: &mut BlockPool,
    ) -> Result<TraceRequest, String> {
        let arrival = match (self.at_ns, self.after, self.think_ns) {
            (Some(at), None, None) if at <= LATEST as u64 => Arrival::At(Duration::from_nanos(at)),
            (Some(_), None, None) => {
                return Err("at_ns is over 230 years; times are from the start".to_owned());
            }
            (None, Some(previous), Some(_)) if previous as usize >= index => {
                return Err(format!("after {previous} is not an earlier request"));
            }
            (None, Some(previous), Some(think)) if think <= LONGEST_THINK => {
                Arrival::After { previous, think: Duration::from_nanos(think) }
            }
            (None, Some(_), Some(_)) => return Err("think_ns is over 30 years".to_owned()),
            _ => return Err("needs either at_ns, or after and think_ns".to_owned()),
        };
        if usize::from(self.class) >= header.classes.len() {
            return Err(format!("class {} of {}", self.class, header.classes.len()));
        }
        let input = tokens(&self.input.to_string())?;
        let output = tokens(&self.output.to_string())?;
        let blocks = pool.push(&self.expand(header.block_tokens)?)?;
        Ok(TraceRequest {
            arrival,
            input,
            output,
            blocks,
            class: self.class,
            session: self.session,
        })
    }

    fn expand(&self, block_tokens: u32) -> Result<Vec<u64>, String> {
        let total =
            self.blocks.iter().try_fold(0_u64, |n, run| n.checked_add(run.1)).unwrap_or(u64::MAX);
        let most = match block_tokens {
            0 => 0,
            size => (u64::from(self.input) + u64::from(self.output)).div_ceil(u64::from(size)),
        };
        if total > most {
            return Err(format!("{total} blocks where prompt and output hold {most}"));
        }
        let in_range = |&(first, count): &(u64, u64)| first.checked_add(count).is_some();
        if !self.blocks.iter().all(in_range) {
            return Err("block identities beyond 2^64".to_owned());
        }
        // A prompt that continues the one before takes no more room, but is written out first.
        BlockPool::default().room(total)?;
        Ok(self.blocks.iter().flat_map(|&(first, count)| first..first + count).collect())
    }
}

fn write(trace: &Trace, out: &mut dyn Write) -> Result<(), TraceError> {
    let header = Header {
        schema: SCHEMA.to_owned(),
        name: trace.name.clone(),
        block_tokens: trace.block_tokens,
        max_concurrent_sessions: trace.max_concurrent_sessions,
        classes: trace.classes.clone(),
        provenance: trace.provenance.clone(),
    };
    line(out, &header)?;
    for request in &trace.requests {
        let nanos = |d: Duration| d.as_nanos() as u64;
        let (at_ns, after, think_ns) = match request.arrival {
            Arrival::At(at) => (Some(nanos(at)), None, None),
            Arrival::After { previous, think } => (None, Some(previous), Some(nanos(think))),
        };
        line(
            out,
            &Line {
                at_ns,
                after,
                think_ns,
                input: request.input,
                output: request.output,
                class: request.class,
                session: request.session,
                blocks: runs(trace.blocks_of(request)),
            },
        )?;
    }
    Ok(())
}

fn line(out: &mut dyn Write, value: &impl Serialize) -> Result<(), TraceError> {
    serde_json::to_writer(&mut *out, value).map_err(std::io::Error::from)?;
    Ok(out.write_all(b"\n")?)
}

/// Runs of consecutive identities.
fn runs(ids: &[u64]) -> Vec<(u64, u64)> {
    ids.chunk_by(|a, b| a.checked_add(1) == Some(*b))
        .map(|run| (run[0], run.len() as u64))
        .collect()
}
