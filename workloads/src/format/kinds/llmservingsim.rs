//! LLMServingSim's workloads (JSONL): requests, or sessions of calls that follow each other after a tool has run. Token
//! ids, where they are given, tell which prompts begin alike.

use serde::Deserialize;
use serde_json::Number;

use crate::format::cells::tokens;
use crate::format::identities::{BLOCK_TOKENS, Identities};
use crate::format::kind::{Kind, Reader as Way};
use crate::format::options::ReadOptions;
use crate::format::rows::{HAS_TIMES, Row, Rows, Sent};
use crate::format::text::{Document, Documents, bad_json};
use crate::format::time::{TimeUnit, nanoseconds};
use crate::{BlockSpan, TraceError};

pub(super) const FORMAT: Kind = Kind {
    name: "llmservingsim",
    about: "LLMServingSim's workloads (JSONL)",
    tells: |seen| {
        let call = ["input_toks", "output_toks", "arrival_time_ns"];
        seen.has("sub_requests") || seen.has_all(&call)
    },
    reader: Way::Json(read),
    writer: None,
};

/// A request, or a session if it has `sub_requests`, or one of these.
#[derive(Deserialize)]
struct Call {
    arrival_time_ns: Option<Number>,
    sub_requests: Option<Vec<Self>>,
    input_toks: Option<u64>,
    output_toks: Option<u64>,
    /// From its answer to the next call.
    tool_duration_ns: Option<Number>,
    #[serde(default)]
    input_tok_ids: Option<Vec<u64>>,
    #[serde(default)]
    output_tok_ids: Option<Vec<u64>>,
}

fn read(documents: &mut Documents<'_>, options: &ReadOptions) -> Result<Rows, TraceError> {
    let file = documents.file().to_owned();
    let mut rows = Rows::new(&file, FORMAT.name);
    rows.block_tokens = options.block_tokens(&file, BLOCK_TOKENS)?;
    let mut reader = Reader { rows, identities: Identities::default(), options };
    while let Some(Document { line, json }) = documents.next_document()? {
        let call: Call = serde_json::from_str(json).map_err(|e| bad_json(&file, line, &e))?;
        reader.line(line, &call).map_err(|problem| TraceError::line(&file, line, problem))?;
    }
    if reader.rows.pool.is_empty() {
        reader.rows.block_tokens = 0;
    }
    Ok(reader.rows)
}

struct Reader<'o> {
    rows: Rows,
    identities: Identities,
    options: &'o ReadOptions,
}

impl Reader<'_> {
    fn line(&mut self, line: u64, call: &Call) -> Result<(), String> {
        let sent = match (&call.arrival_time_ns, self.options.rate) {
            (Some(_), Some(_)) => {
                return Err(HAS_TIMES.to_owned());
            }
            (Some(at), None) => Sent::At(nanoseconds(&at.to_string(), TimeUnit::Nanoseconds)?),
            (None, Some(_)) => Sent::Unknown,
            (None, None) => {
                return Err("no arrival_time_ns; add it, or give --arrival-rate".to_owned());
            }
        };
        let Some(calls) = &call.sub_requests else { return self.call(line, sent, None, call) };
        let session = Some(self.rows.sessions);
        self.rows.sessions += 1;
        let mut sent = sent;
        for (index, call) in calls.iter().enumerate() {
            let at = |problem: String| format!("sub-request {index}: {problem}");
            let previous = self.rows.len();
            self.call(line, sent, session, call).map_err(at)?;
            let think = call.tool_duration_ns.as_ref().map_or(Ok(0), |pause| {
                nanoseconds(&pause.to_string(), TimeUnit::Nanoseconds)
                    .map_err(|e| at(format!("tool_duration_ns: {e}")))
            })?;
            sent = Sent::After { previous, think };
        }
        Ok(())
    }

    fn call(
        &mut self,
        line: u64,
        sent: Sent,
        session: Option<u32>,
        call: &Call,
    ) -> Result<(), String> {
        let count = |count: Option<u64>, name: &str| {
            let count = count.ok_or_else(|| format!("no {name}; correct or delete the line"))?;
            tokens(&count.to_string()).map_err(|e| format!("{name}: {e}"))
        };
        let input = count(call.input_toks, "input_toks")?;
        let output = count(call.output_toks, "output_toks")?;
        let blocks = self.blocks(call, input, output)?;
        self.rows.push(Row { line, sent, input, output, class: 0, session, blocks })
    }

    fn blocks(&mut self, call: &Call, input: u32, output: u32) -> Result<BlockSpan, String> {
        let Some(prompt) = call.input_tok_ids.as_ref().filter(|ids| !ids.is_empty()) else {
            return Ok(BlockSpan::default());
        };
        if prompt.len() != input as usize {
            return Err(format!(
                "{} input_tok_ids for {input} input_toks; correct or delete the line",
                prompt.len()
            ));
        }
        // An answer that is not known whole is not known.
        let answer = call.output_tok_ids.as_ref().filter(|ids| ids.len() == output as usize);
        let answer = answer.into_iter().flatten().copied();
        let size = self.rows.block_tokens;
        let ids = self.identities.of_tokens(prompt.iter().copied().chain(answer), size);
        self.rows.pool.push(&ids)
    }
}
