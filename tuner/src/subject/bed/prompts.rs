//! Real tokens for a trace that only says how long its prompts are and what they share.
//!
//! Prompts that share blocks in the trace get the same tokens there, and nothing else in common;
//! every token of the vocabulary may come. A model's answer to that makes no sense, but takes as
//! long to compute as any other.

use engine::Content;
use engine::request::{Token, mix};
use workloads::{Trace, TraceRequest};

/// The prompt of the trace's request `index`, of `vocab` tokens.
pub(super) fn prompt(trace: &Trace, index: u32, vocab: u32) -> Content {
    let r = &trace.requests[index as usize];
    let token = |at: u32| {
        let (identity, offset) = identity(trace, r, at).unwrap_or((u64::from(index) << 1 | 1, at));
        (mix(identity, u64::from(offset)) % u64::from(vocab)) as Token
    };
    Content::Tokens((0..r.input).map(token).collect())
}

/// The block that holds token `at`, if the trace knows it, and where in it.
fn identity(trace: &Trace, r: &TraceRequest, at: u32) -> Option<(u64, u32)> {
    let block = at.checked_div(trace.block_tokens)?;
    let entry = (block < r.blocks.len).then_some(r.blocks.start + block)?;
    Some((mix(trace.block_ids[entry as usize], 0), at % trace.block_tokens))
}

#[cfg(test)]
mod tests {
    use super::*;
    use workloads::{Arrival, BlockSpan};

    fn request(input: u32, start: u32, len: u32) -> TraceRequest {
        TraceRequest {
            arrival: Arrival::At(std::time::Duration::ZERO),
            input,
            output: 1,
            blocks: BlockSpan { start, len },
            class: 0,
            session: None,
        }
    }

    fn tokens(trace: &Trace, index: u32) -> Vec<Token> {
        match prompt(trace, index, 1000) {
            Content::Tokens(tokens) => tokens.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn prompts_share_the_tokens_that_the_trace_shares_and_no_others() {
        let trace = Trace {
            requests: vec![request(40, 0, 2), request(40, 2, 2), request(40, 0, 0)],
            block_ids: vec![7, 8, 7, 9],
            block_tokens: 16,
            ..Trace::default()
        };
        let [a, b, c] = [0, 1, 2].map(|i| tokens(&trace, i));
        assert_eq!(a[..16], b[..16]);
        for (x, y) in [(&a[16..32], &b[16..32]), (&a[32..], &b[32..]), (&a[..16], &c[..16])] {
            let same = x.iter().zip(y).filter(|(x, y)| x == y).count();
            assert!(same <= 1, "{same} tokens in common");
        }
        assert!(a.iter().chain(&b).chain(&c).all(|&t| t < 1000));
    }
}
