//! `vllm serve` (V1). Chunked prefill on paged KV is its only scheduler.

use super::engine::{Asked, Engine};
use super::said::{Found, Say, script, start, weights};
use super::target::{Target, as_the_engine};

/// vLLM V1.
pub static ENGINE: Engine = Engine {
    name: "vllm",
    policy: "chunked",
    flags: &[
        ("max-seqs", "max-num-seqs"),
        ("max-batch-tokens", "max-num-batched-tokens"),
        ("block-size", "block-size"),
        ("prefix-cache", "enable-prefix-caching"),
        ("long-prefill-threshold", "long-prefill-token-threshold"),
        ("kv-fraction", "gpu-memory-utilization"),
        ("watermark", "watermark"),
        ("async-scheduling", "async-scheduling"),
        ("max-model-len", "max-model-len"),
        ("tp", "tensor-parallel-size"),
        ("dp", "data-parallel-size"),
        ("pp", "pipeline-parallel-size"),
    ],
    own,
};

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
    let scheduler = c.scheduler.traits();
    Some(match asked.knob.name {
        "scheduler" if scheduler.disaggregates => Say::flag(
            "--kv-transfer-config '{\"kv_connector\":\"NixlConnector\",\"kv_role\":\"kv_both\"}'",
        ),
        "scheduler" if scheduler.mixes => Say::Implied,
        "scheduler" => Say::missing("V1 always mixes chunks of prompts with decodes"),
        // Said of the scheduler: chunks are always mixed with decodes.
        "mix" if value == "off" => Say::Elsewhere,
        "mix" => Say::missing("V1 mixes chunks, not whole prompts"),
        // A threshold that no prompt reaches is refused.
        "long-prefill-threshold"
            if c.max_model_len > 0 && c.long_prefill_threshold >= c.max_model_len =>
        {
            Say::Implied
        }
        "block-size" if !c.block_size.is_multiple_of(16) => {
            Say::missing("attention kernels take multiples of 16")
        }
        "quantization" => weights(value),
        "kv-dtype" => Say::flag(format!("--kv-cache-dtype {value}")),
        "prompt-kv" => {
            Say::comment("set scheduler_reserve_full_isl to false in the scheduler's config")
        }
        "queue" => match value {
            "fcfs" => Say::Implied,
            "priority" => Say::flag("--scheduling-policy priority"),
            _ => Say::missing("V1 knows fcfs and priority"),
        },
        "victim" if value == "priority" => Say::comment("comes with --scheduling-policy priority"),
        // vLLM counts those that run, too.
        "max-queue" => {
            let inside = asked.ranks * c.dp * (c.max_seqs + c.max_queue);
            Say::flag(format!("--max-num-queued-reqs {inside}"))
        }
        "allow-long-context" => Say::Env("VLLM_ALLOW_LONG_MAX_MODEL_LEN=1"),
        "ep" if c.ep == c.tp * c.dp => Say::flag("--enable-expert-parallel"),
        "ep" => Say::missing("vLLM shares experts out over all ranks or none"),
        "replicas" | "prefill-workers" | "decode-workers" => Say::Elsewhere,
        "router" if value == "least-loaded" => Say::Implied,
        _ => return None,
    })
}

/// The command; prefill and decode are deployments of their own, with a proxy in front.
fn render(found: &Found) -> String {
    let c = &found.config;
    let disagg = c.scheduler.traits().disaggregates;
    // With experts, ranks behind one server share them: then they are one engine, not copies.
    let ranks = if disagg || found.experts { 1 } else { c.replicas };
    let mut said = TARGET.say(c, ranks);
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
