//! `vllm serve`: what takes more than its description (`engine/engines/vllm.toml`).

use super::engine::{Asked, Engine};
use super::said::{Found, Say, acceptance, script, start, weights};
use super::target::{Target, as_the_engine};
use engine::Config;
use engine::config::Speculation;
use engine::speculation::PromptLookup;

/// vLLM.
pub(super) static ENGINE: Engine = Engine { name: "vllm", own };

pub(super) static TARGET: Target = Target {
    name: "vLLM",
    file: "vllm.sh",
    starts: "vllm serve",
    engine: &ENGINE,
    own: as_the_engine,
    render,
};

fn own(asked: &Asked<'_>) -> Option<Say> {
    let (c, value) = (asked.config, asked.value);
    Some(match asked.knob.name {
        // A threshold that no prompt reaches is refused.
        "long-prefill-threshold"
            if c.max_model_len > 0 && c.long_prefill_threshold >= c.max_model_len =>
        {
            Say::Implied
        }
        "quantization" => weights(value),
        "prompt-kv" => {
            Say::comment("set scheduler_reserve_full_isl to false in the scheduler's config")
        }
        "victim" if value == "priority" => Say::comment("comes with --scheduling-policy priority"),
        // vLLM counts those that run, too.
        "max-queue" => {
            let inside = asked.ranks * c.dp * (c.max_seqs + c.max_queue);
            Say::flag(format!("--max-num-queued-reqs {inside}"))
        }
        "allow-long-context" => Say::Env("VLLM_ALLOW_LONG_MAX_MODEL_LEN=1"),
        "ep" if c.ep == c.tp * c.dp => Say::flag("--enable-expert-parallel"),
        "ep" => Say::missing("vLLM shares experts out over all ranks or none"),
        "speculation" => Say::flag(format!("--speculative-config '{}'", drafts(c))),
        "acceptance" if value != "auto" => acceptance(),
        "draft-tokens" | "acceptance" | "replicas" | "prefill-workers" | "decode-workers" => {
            Say::Elsewhere
        }
        _ => return None,
    })
}

/// The value of `--speculative-config`.
fn drafts(c: &Config) -> String {
    let PromptLookup { longest, shortest } = PromptLookup::default();
    let n = c.draft_tokens;
    match c.speculation {
        Speculation::PromptLookup => format!(
            "{{\"method\":\"ngram\",\"num_speculative_tokens\":{n},\"prompt_lookup_max\":{longest},\
             \"prompt_lookup_min\":{shortest}}}"
        ),
        Speculation::Mtp | Speculation::Off => {
            format!("{{\"method\":\"mtp\",\"num_speculative_tokens\":{n}}}")
        }
    }
}

/// The command; prefill and decode are deployments of their own, with a proxy in front.
fn render(found: &Found) -> String {
    let c = &found.config;
    let disagg = c.scheduler.traits().disaggregates;
    // With experts, ranks behind one server share them: then they are one engine, not copies.
    let ranks = if disagg || found.experts { 1 } else { c.replicas };
    let mut said = TARGET.say(found, ranks);
    let command = start(&said, TARGET.starts, &found.model);
    if disagg {
        said.comments.push(format!(
            "run {} of this to prefill and {} to decode, each with its own --port, behind a \
             prefill-decode proxy",
            c.replicas * c.prefill_workers,
            c.replicas * c.decode_workers
        ));
    } else if ranks > 1 {
        said.flags.push(format!("--data-parallel-size {ranks}"));
    } else if c.replicas > 1 {
        said.comments.push(format!(
            "run {} of this, each with its own --port, behind a load balancer: with \
             --data-parallel-size their ranks would share experts",
            c.replicas
        ));
    }
    script(found, &said, &[(command, said.flags.clone())])
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    #[test]
    fn golden() {
        insta::assert_snapshot!(render(&found("chunked", &[("max-seqs", "128"), ("tp", "2")])), @r#"
        # knee 0.1.0: simulated on 1 x h100-sxm with workload chat
        # holds ttft:p99=200ms up to 12.35 requests/s
        vllm serve meta-llama/Llama-3.1-8B-Instruct \
          --enable-prefix-caching \
          --max-num-seqs 128 \
          --max-num-batched-tokens 2048 \
          --block-size 16 \
          --gpu-memory-utilization 0.9 \
          --tensor-parallel-size 2
        "#);
        insta::assert_snapshot!(render(&found("continuous", &[("queue", "shortest-prefill")])), @r#"
        # knee 0.1.0: simulated on 1 x h100-sxm with workload chat
        # holds ttft:p99=200ms up to 12.35 requests/s, but only with what this engine lacks:
        #   scheduler continuous: V1 always mixes chunks of prompts with decodes
        #   allocator contiguous: this engine pages its KV
        #   reserve max: this engine pages its KV
        #   queue shortest-prefill: V1 knows fcfs and priority
        vllm serve meta-llama/Llama-3.1-8B-Instruct \
          --no-enable-prefix-caching \
          --max-num-seqs 256 \
          --max-num-batched-tokens 2048 \
          --gpu-memory-utilization 0.9
        "#);
    }
}
