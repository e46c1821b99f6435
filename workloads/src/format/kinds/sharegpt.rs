//! ShareGPT-style files of lengths: `conv,turn,role,tokens,…`, one message per line, no times.
//!
//! A response is one request: its prompt is everything said before. The next turn begins with this one's prompt and
//! response, so prefixes are known exactly although no text is. Conversations start at the rate the user gives; within
//! one, a turn is sent when the last has been answered, for the file knows no pauses.

use crate::TraceError;
use crate::format::cells::tokens;
use crate::format::csv::Csv;
use crate::format::identities::BLOCK_TOKENS;
use crate::format::kind::{Kind, Reader};
use crate::format::options::ReadOptions;
use crate::format::rows::{Row, Rows, Sent};

pub(super) const FORMAT: Kind = Kind {
    name: "sharegpt",
    about: "message lengths of conversations as CSV: conv,turn,role,tokens",
    tells: |seen| seen.has_all(&["conv", "turn", "role", "tokens"]),
    reader: Reader::Csv(read),
    writer: None,
};

fn read(csv: &mut Csv<'_>, options: &ReadOptions) -> Result<Rows, TraceError> {
    let file = &csv.file().to_owned();
    if options.rate.is_none() {
        let problem =
            "has lengths but no arrival times; give --arrival-rate (conversations per second)";
        return Err(TraceError::file(file, problem));
    }
    let column = |name: &str| {
        let missing = || {
            TraceError::line(file, 1, format!("no column {name}; expected conv,turn,role,tokens"))
        };
        csv.header.iter().position(|h| h == name).ok_or_else(missing)
    };
    let (conv, role, count) = (column("conv")?, column("role")?, column("tokens")?);
    let mut rows = Rows::new(file, FORMAT.name);
    rows.block_tokens = options.block_tokens(file, BLOCK_TOKENS)?;
    let mut talk = Conversation::default();
    let mut line = 1;
    while let Some(record) = csv.next_record()? {
        line = record.line;
        let wrong = |problem: String| TraceError::line(file, line, problem);
        let cell = |i: usize| {
            record
                .get(i)
                .ok_or_else(|| wrong("too few fields; correct or delete the line".to_owned()))
        };
        if cell(conv)? != talk.name {
            talk.store(&mut rows).map_err(wrong)?;
            talk = Conversation {
                name: cell(conv)?.to_owned(),
                first_block: talk.next_block(),
                ..Conversation::default()
            };
        }
        let said = tokens(cell(count)?).map_err(wrong)?;
        let answers =
            matches!(cell(role)?, "gpt" | "assistant" | "chatgpt" | "model" | "bing" | "bard");
        talk.say(answers, said).map_err(wrong)?;
    }
    talk.store(&mut rows).map_err(|problem| TraceError::line(file, line, problem))?;
    rows.notes.push(
        "a turn follows the answer to the one before at once: the file has no pauses".to_owned(),
    );
    Ok(rows)
}

/// The messages of one conversation.
#[derive(Default)]
struct Conversation {
    name: String,
    /// The first block identity it may use, and how many it did.
    first_block: u64,
    blocks_used: u64,
    /// Tokens of the whole of it so far.
    total: u32,
    /// (prompt, response) in tokens.
    turns: Vec<(u32, u32)>,
}

impl Conversation {
    fn say(&mut self, answers: bool, said: u32) -> Result<(), String> {
        // A response to nothing cannot have been a request; it only is context for what follows.
        if answers && self.total > 0 {
            self.turns.push((self.total, said));
        }
        self.total = self
            .total
            .checked_add(said)
            .filter(|&total| total <= 1 << 30)
            .ok_or("the conversation is longer than 2^30 tokens; correct or delete it")?;
        Ok(())
    }

    fn next_block(&self) -> u64 {
        self.first_block + self.blocks_used
    }

    /// Adds its requests to `rows`.
    fn store(&mut self, rows: &mut Rows) -> Result<(), String> {
        let Some(&(input, output)) = self.turns.last() else { return Ok(()) };
        let size = rows.block_tokens;
        let session = rows.sessions;
        self.blocks_used = u64::from((input + output).div_ceil(size));
        rows.pool.room(self.blocks_used)?;
        let ids: Vec<u64> = (self.first_block..self.next_block()).collect();
        let mut previous = None;
        for (turn, &(input, output)) in self.turns.iter().enumerate() {
            // The part that a later turn repeats reaches to the end of this one's response, else only over the prompt.
            let covered = if turn + 1 < self.turns.len() { input + output } else { input };
            let blocks = rows.pool.push(&ids[..covered.div_ceil(size) as usize])?;
            let sent =
                previous.map_or(Sent::Unknown, |previous| Sent::After { previous, think: 0 });
            previous = Some(rows.len());
            let session = Some(session);
            rows.push(Row { line: 0, sent, input, output, class: 0, session, blocks })?;
        }
        rows.sessions += 1;
        Ok(())
    }
}
