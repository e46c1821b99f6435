//! Kernels with one mistake each: the check of every one of them must notice, by a wrong result, a deadlock or a write
//! beyond a buffer, in at least one order of threads.

use kernels::cuda::{emulator, source};

use super::{cache, checks, folder};

/// A mistake: what it is, where, what is written instead of what, and which check it is for.
struct Mutant {
    what: &'static str,
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
    check: fn() -> checks::Check,
}

const MUTANTS: &[Mutant] = &[
    Mutant {
        what: "rows of a window follow one another",
        file: "random.cu",
        right: "first + row * stride",
        wrong: "first + row * cols",
        check: checks::fill,
    },
    Mutant {
        what: "a sum read before all warps have written",
        file: "rows.cu",
        right: "parts[threadIdx.x >> 5] = squares;\n  __syncthreads();",
        wrong: "parts[threadIdx.x >> 5] = squares;",
        check: checks::add_rmsnorm,
    },
    Mutant {
        what: "the residual stream is not written",
        file: "rows.cu",
        right: "*pieces(residual + base + c) = sum;",
        wrong: "",
        check: checks::add_rmsnorm,
    },
    Mutant {
        what: "the last piece of a row is forgotten",
        file: "rows.cu",
        right: "c < cols / 8; c += blockDim.x",
        wrong: "c < cols / 8 - 1; c += blockDim.x",
        check: checks::embedding,
    },
    Mutant {
        what: "elements rotate the other way",
        file: "rope.cu",
        right: "a = low[j] * c - high[j] * s;",
        wrong: "a = low[j] * c + high[j] * s;",
        check: cache::rope_kv_write,
    },
    Mutant {
        what: "values go where keys are",
        file: "rope.cu",
        right: "(value ? values : keys)",
        wrong: "(value ? keys : values)",
        check: cache::rope_kv_write,
    },
    Mutant {
        what: "warps are added up before they are done",
        file: "decode.cu",
        right: "__syncthreads();  // all warps have written",
        wrong: "",
        check: cache::decode_attention,
    },
    Mutant {
        what: "the last token is not attended to",
        file: "decode.cu",
        right: "to = min(seq.context, (int)(blockIdx.y + 1) * split);",
        wrong: "to = min(seq.context - 1, (int)(blockIdx.y + 1) * split);",
        check: cache::decode_attention,
    },
    Mutant {
        what: "the first split's scale is used for all",
        file: "decode.cu",
        right: "const float shrink = exp2f(stats[2 * s] - most);",
        wrong: "const float shrink = exp2f(stats[0] - most);",
        check: cache::decode_attention,
    },
    Mutant {
        what: "eight heads: tokens are used before other threads' copies have arrived",
        file: "decode.cu",
        right: "__syncthreads();  // everybody's copies have arrived",
        wrong: "",
        check: cache::decode_attention,
    },
    Mutant {
        what: "eight heads: tokens are loaded over ones in use",
        file: "decode.cu",
        right: "__syncthreads();  // the next round loads over these tokens",
        wrong: "",
        check: cache::decode_attention,
    },
    Mutant {
        what: "eight heads: the wait leaves the current tokens under way",
        file: "decode.cu",
        right: "copy_async_wait<1>();",
        wrong: "copy_async_wait<2>();",
        check: cache::decode_attention,
    },
    Mutant {
        what: "eight heads: tokens after the last are attended to",
        file: "decode.cu",
        right: "score[n][j] = key < to ?",
        wrong: "score[n][j] = key < to + 1 ?",
        check: cache::decode_attention,
    },
    Mutant {
        what: "eight heads: the second half of the keys is that of the first",
        file: "decode.cu",
        right: "mma_16816(score[1], a, b1);",
        wrong: "mma_16816(score[1], a, b0);",
        check: cache::decode_attention,
    },
    Mutant {
        what: "the last rank is left out of the sum",
        file: "rows.cu",
        right: "if (r < ranks) {",
        wrong: "if (r < ranks - 1) {",
        check: checks::all_reduce,
    },
    Mutant {
        what: "a rank takes a token that is the next rank's first",
        file: "rows.cu",
        right: "row >= 0 && row < rows;",
        wrong: "row >= 0 && row <= rows;",
        check: checks::embedding,
    },
    Mutant {
        what: "ranks' columns are put in another order",
        file: "rows.cu",
        right: "parts[row * words + i % words]",
        wrong: "parts[row * words + (words - 1 - i % words)]",
        check: checks::join_columns,
    },
    Mutant {
        what: "the table is read one block early",
        file: "decode.cu",
        right: "slot_of(tables, seq, position)",
        wrong: "slot_of(tables, seq, max(0, position - 1))",
        check: cache::decode_attention,
    },
    Mutant {
        what: "the next tile is loaded over one in use",
        file: "prefill.cu",
        right: "__syncthreads();  // the next round loads over this tile",
        wrong: "",
        check: cache::prefill_attention,
    },
    Mutant {
        what: "a tile is used before other warps' copies have arrived",
        file: "prefill.cu",
        right: "copy_async_wait<0>();\n    }\n    __syncthreads();",
        wrong: "copy_async_wait<0>();\n    }",
        check: cache::prefill_attention,
    },
    Mutant {
        what: "the wait leaves the current tile under way",
        file: "prefill.cu",
        right: "copy_async_wait<1>();",
        wrong: "copy_async_wait<2>();",
        check: cache::prefill_attention,
    },
    Mutant {
        what: "a row sees the token after it",
        file: "prefill.cu",
        right: "key <= row &&",
        wrong: "key <= row + 1 &&",
        check: cache::prefill_attention,
    },
    Mutant {
        what: "the other group's keys",
        file: "prefill.cu",
        right: "kv = head / (heads / kv_heads)",
        wrong: "kv = head % kv_heads",
        check: cache::prefill_attention,
    },
    Mutant {
        what: "the operands of two products are exchanged",
        file: "linear.cu",
        right: "mma_16816(sum[2 * n + 1], a, b1);",
        wrong: "mma_16816(sum[2 * n + 1], a, b0);",
        check: checks::large_products,
    },
    Mutant {
        what: "features beyond the last are multiplied",
        file: "linear.cu",
        right: "okx = m0 + r < rows && k < features, okw = n0 + r < outputs && k < features",
        wrong: "okx = m0 + r < rows, okw = n0 + r < outputs",
        check: checks::large_products,
    },
    Mutant {
        what: "outputs beyond the last are written",
        file: "linear.cu",
        right: "lane == 0 && first + e < outputs",
        wrong: "lane == 0",
        check: checks::small_products,
    },
    Mutant {
        what: "bins are read before they are counted",
        file: "sample.cu",
        right: "* in.ties);\n    __syncthreads();",
        wrong: "* in.ties);",
        check: checks::sample,
    },
    Mutant {
        what: "one token too many is kept",
        file: "sample.cu",
        right: "(ulong64)draw.top_k, bins",
        wrong: "(ulong64)draw.top_k + 1, bins",
        check: checks::sample,
    },
    Mutant {
        what: "the last of several equal tokens is taken",
        file: "sample.cu",
        right: "if (m > most || (m == most && t < token)) { most = m; token = t; }\n  }\n  if ((tid",
        wrong: "if (m > most || (m == most && t > token)) { most = m; token = t; }\n  }\n  if ((tid",
        check: checks::sample,
    },
];

/// In which order the mistake shows; none where it does not.
fn caught(mutant: &Mutant) -> Option<(i32, String)> {
    let mut sources = source::all();
    let source = sources.iter_mut().find(|s| s.file == mutant.file).expect("a file of kernels");
    assert!(source.text.contains(mutant.right), "{}: the text is there to be changed", mutant.what);
    source.text = source.text.replacen(mutant.right, mutant.wrong, 1);
    let check = (mutant.check)();
    (0..emulator::ORDERS).find_map(|order| {
        let device = emulator::of_sources(sources.clone(), folder(), order);
        match (check.run)(&device) {
            Ok(error) if error <= check.most => None,
            Ok(error) => Some((order, format!("error {error:.1e}"))),
            Err(error) => Some((order, error.to_string())),
        }
    })
}

fn all_caught(part: usize) {
    if let Some(reason) = emulator::absent() {
        return println!("skipped: {reason}");
    }
    let mut missed = Vec::new();
    for mutant in MUTANTS.iter().skip(part).step_by(2) {
        match caught(mutant) {
            Some((order, how)) => {
                println!("{}: {}: order {order}: {how}", mutant.file, mutant.what);
            }
            None => missed.push(mutant.what),
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

// Two tests, so that two processors compile.
#[test]
fn mistakes_are_noticed() {
    all_caught(0);
}

#[test]
fn other_mistakes_are_noticed() {
    all_caught(1);
}
