//! `python -m sglang.launch_server`: what takes more than its description (`engine/engines/sglang.toml`).

use super::engine::{Asked, Engine};
use super::said::{Found, Say, acceptance, script, start, weights};
use super::target::{Target, as_the_engine};
use engine::Config;
use engine::config::{QueueOrder, Speculation};
use engine::speculation::PromptLookup;

static ENGINE: Engine = Engine { name: "sglang", own };

pub(super) static TARGET: Target = Target {
    name: "SGLang",
    file: "sglang.sh",
    starts: "python -m sglang.launch_server --model-path",
    engine: &ENGINE,
    own: as_the_engine,
    render,
};

fn own(asked: &Asked<'_>) -> Option<Say> {
    let (c, value) = (asked.config, asked.value);
    let scheduler = c.scheduler.traits();
    Some(match asked.knob.name {
        "prefix-cache" if value == "off" && c.queue == QueueOrder::ShortestPrefill => {
            Say::comment("left on, as shortest-prefill-first needs it")
        }
        "max-batch-tokens" => {
            let chunk = if scheduler.mixes { value } else { "-1" }; // whole prompts
            let chunk = format!("--chunked-prefill-size {chunk}");
            Say::Flags(vec![chunk, format!("--max-prefill-tokens {value}")])
        }
        "block-size" if scheduler.mixes && !c.max_batch_tokens.is_multiple_of(c.block_size) => {
            Say::missing("chunks are whole pages")
        }
        "quantization" => weights(value),
        "max-queue" if scheduler.disaggregates => {
            Say::missing("a disaggregated SGLang queues without limit")
        }
        // Its tp counts all ranks, its dp those of attention.
        "tp" if c.dp > 1 => Say::Elsewhere,
        "dp" => Say::Flags(vec![
            format!("--tp-size {}", c.tp * c.dp),
            format!("--dp-size {value} --enable-dp-attention"),
        ]),
        "allow-long-context" => Say::Env("SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1"),
        "speculation" => Say::Flags(drafts(c)),
        "acceptance" if value != "auto" => acceptance(),
        "draft-tokens" | "acceptance" | "replicas" | "prefill-workers" | "decode-workers" => {
            Say::Elsewhere
        }
        "router" => Say::comment("set it at the router in front (sglang_router)"),
        _ => return None,
    })
}

/// The flags of speculative decoding. What is verified counts the token before the drafts.
fn drafts(c: &Config) -> Vec<String> {
    let verified = format!("--speculative-num-draft-tokens {}", c.draft_tokens + 1);
    match c.speculation {
        Speculation::PromptLookup => {
            let longest = PromptLookup::default().longest;
            let window = format!("--speculative-ngram-max-trie-depth {longest}");
            vec!["--speculative-algorithm NGRAM".to_owned(), verified, window]
        }
        Speculation::Mtp | Speculation::Off => {
            let steps =
                format!("--speculative-num-steps {} --speculative-eagle-topk 1", c.draft_tokens);
            vec!["--speculative-algorithm NEXTN".to_owned(), steps, verified]
        }
    }
}

/// The command; two commands when disaggregated.
fn render(found: &Found) -> String {
    let c = &found.config;
    let mut said = TARGET.say(found, 1);
    if c.queue == QueueOrder::ShortestPrefill {
        said.comments.push("shortest-prefill-first is experimental, since 0.5.23".to_owned());
    }
    said.comments.push(
        "mem-fraction-static covers weights and KV only: lower it if activations do not fit beside"
            .to_owned(),
    );
    let command = start(&said, TARGET.starts, &found.model);
    if !c.scheduler.traits().disaggregates {
        if c.replicas > 1 && c.dp > 1 {
            let replicas = c.replicas;
            said.comments.push(format!("run {replicas} of this behind sglang_router"));
        } else if c.replicas > 1 {
            said.flags.push(format!("--dp-size {}", c.replicas));
        }
        return script(found, &said, &[(command, said.flags.clone())]);
    }
    let (prefill, decode) = (c.replicas * c.prefill_workers, c.replicas * c.decode_workers);
    said.comments.push(format!(
        "run {prefill} of the first and {decode} of the second behind sglang_router"
    ));
    let side = |mode: &str| {
        let mut flags = said.flags.clone();
        flags.push(format!("--disaggregation-mode {mode}"));
        (command.clone(), flags)
    };
    script(found, &said, &[side("prefill"), side("decode")])
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    #[test]
    fn golden() {
        insta::assert_snapshot!(render(&found(
            "paged",
            &[("max-seqs", "128"), ("kv-dtype", "fp8")]
        )), @r#"
        # knee 0.1.0: simulated on 1 x h100-sxm with workload chat
        # holds ttft:p99=200ms up to 12.35 requests/s
        # mem-fraction-static covers weights and KV only: lower it if activations do not fit beside
        python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B-Instruct \
          --disable-radix-cache \
          --max-running-requests 128 \
          --chunked-prefill-size -1 \
          --max-prefill-tokens 2048 \
          --page-size 16 \
          --mem-fraction-static 0.9 \
          --kv-cache-dtype fp8_e4m3 \
          --schedule-policy fcfs
        "#);
        insta::assert_snapshot!(render(&found("disagg", &[("decode-workers", "3")])), @r#"
        # knee 0.1.0: simulated on 1 x h100-sxm with workload chat
        # holds ttft:p99=200ms up to 12.35 requests/s
        # mem-fraction-static covers weights and KV only: lower it if activations do not fit beside
        # run 1 of the first and 3 of the second behind sglang_router
        python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B-Instruct \
          --max-running-requests 256 \
          --chunked-prefill-size -1 \
          --max-prefill-tokens 2048 \
          --page-size 16 \
          --mem-fraction-static 0.9 \
          --schedule-policy fcfs \
          --disaggregation-mode prefill
        python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B-Instruct \
          --max-running-requests 256 \
          --chunked-prefill-size -1 \
          --max-prefill-tokens 2048 \
          --page-size 16 \
          --mem-fraction-static 0.9 \
          --schedule-policy fcfs \
          --disaggregation-mode decode
        "#);
    }
}
