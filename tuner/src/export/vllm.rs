//! `vllm serve` (V1). Chunked prefill on paged KV is its only scheduler.

use super::said::{Found, Said, Say, ask, common, script, start, weights};
use engine::config::SchedulerKind;
use engine::{Config, Knob};

/// knee's name of a knob and vLLM's, where both mean the same by the same values.
pub const FLAGS: [(&str, &str); 11] = [
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
    ("pp", "pipeline-parallel-size"),
];

/// A flag as a shell takes it.
#[must_use]
pub fn flag(name: &str, value: &str) -> String {
    match value {
        "on" | "true" => format!("--{name}"),
        "off" | "false" => format!("--no-{name}"),
        _ => format!("--{name} {}", super::said::quoted(value)),
    }
}

/// Flags of one engine, without replicas: also those that KServe and llm-d pass to vLLM. One API server is in front of
/// `ranks` such engines.
pub(super) fn say(config: &Config, ranks: u32) -> Said {
    ask(config, |knob, value| knob_flags(config, ranks, knob, value))
}

fn knob_flags(config: &Config, ranks: u32, knob: &Knob, value: &str) -> Say {
    if let Some(said) = common(config, knob, value) {
        return said;
    }
    let usual = || match FLAGS.iter().find(|(ours, _)| *ours == knob.name) {
        Some((_, theirs)) => Say::flag(flag(theirs, value)),
        None => Say::Missing(None),
    };
    match knob.name {
        "scheduler" => match config.scheduler {
            SchedulerKind::Chunked => Say::Implied,
            SchedulerKind::Disagg => Say::flag(
                "--kv-transfer-config '{\"kv_connector\":\"NixlConnector\",\"kv_role\":\"kv_both\"}'",
            ),
            SchedulerKind::Static | SchedulerKind::Continuous => {
                Say::missing("V1 always mixes chunks of prompts with decodes")
            }
        },
        // Said of the scheduler: chunks are always mixed with decodes.
        "mix" if value == "off" => Say::Elsewhere,
        "mix" => Say::missing("V1 mixes chunks, not whole prompts"),
        // A threshold that no prompt reaches is refused.
        "long-prefill-threshold"
            if config.max_model_len > 0
                && config.long_prefill_threshold >= config.max_model_len =>
        {
            Say::Implied
        }
        "block-size" if !config.block_size.is_multiple_of(16) => {
            Say::missing("attention kernels take multiples of 16")
        }
        "quantization" => weights(value),
        "kv-dtype" if value == "bf16" => Say::Implied,
        "kv-dtype" => Say::flag(format!("--kv-cache-dtype {value}")),
        "prompt-kv" if value == "whole" => Say::Implied,
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
            let inside = ranks * (config.max_seqs + config.max_queue);
            Say::flag(format!("--max-num-queued-reqs {inside}"))
        }
        "allow-long-context" => Say::Env("VLLM_ALLOW_LONG_MAX_MODEL_LEN=1"),
        "ep" if config.ep == 1 => Say::Implied,
        "ep" if config.ep == config.tp => Say::flag("--enable-expert-parallel"),
        "ep" => Say::missing("vLLM shares experts out over all ranks or none"),
        "tp" | "pp" if value == "1" => Say::Implied,
        "replicas" | "prefill-workers" | "decode-workers" => Say::Elsewhere,
        "router" if value == "least-loaded" => Say::Implied,
        _ => usual(),
    }
}

/// The command; prefill and decode are deployments of their own, with a proxy in front.
pub(super) fn render(found: &Found) -> String {
    let c = &found.config;
    let disagg = c.scheduler == SchedulerKind::Disagg;
    let mut said = say(c, if disagg { 1 } else { c.replicas });
    let command = start(&said, "vllm serve", &found.model);
    if disagg {
        said.comments.push(format!(
            "run {} of this to prefill and {} to decode, each with its own --port, behind a \
             prefill-decode proxy",
            c.replicas * c.prefill_workers,
            c.replicas * c.decode_workers
        ));
    } else if c.replicas > 1 {
        said.flags.push(format!("--data-parallel-size {}", c.replicas));
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
