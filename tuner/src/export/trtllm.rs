//! `trtllm-serve` and the YAML it reads. It knows static batches, and whether running requests may be paused.

use super::said::{Found, Said, Say, ask, checkpoint, common, script, start};
use engine::config::{AllocatorKind, SchedulerKind};
use engine::{Config, Knob};
use std::fmt::Write as _;

fn knob_flags(config: &Config, knob: &Knob, value: &str) -> Say {
    if let Some(said) = common(config, knob, value).filter(|_| knob.name != "padding") {
        return said;
    }
    match knob.name {
        "scheduler" if config.scheduler == SchedulerKind::Disagg => Say::comment(
            "needs context and generation servers and an orchestrator (trtllm-serve disaggregated)",
        ),
        "padding" if config.scheduler != SchedulerKind::Static => Say::Implied,
        "padding" if value == "off" => Say::Implied,
        "padding" => Say::missing("this engine never pads"),
        "mix" if value == "off" => Say::missing("in-flight batching mixes context and generation"),
        "mix" => Say::Implied,
        "max-seqs" => Say::flag(format!("--max_batch_size {value}")),
        "max-batch-tokens" => Say::flag(format!("--max_num_tokens {value}")),
        "kv-fraction" => Say::flag(format!("--kv_cache_free_gpu_memory_fraction {value}")),
        "max-model-len" => Say::flag(format!("--max_seq_len {value}")),
        "tp" if config.tp == 1 => Say::Implied,
        "tp" => Say::flag(format!("--tp_size {value}")),
        "ep" if config.ep == 1 => Say::Implied,
        "ep" => Say::flag(format!("--ep_size {value}")),
        "pp" if config.pp == 1 => Say::Implied,
        "pp" => Say::flag(format!("--pp_size {value}")),
        // In the YAML; the scheduler as its capacity policy.
        "scheduler" | "prefix-cache" | "block-size" | "kv-dtype" => Say::Elsewhere,
        "quantization" => checkpoint(value),
        "prompt-kv" if value == "whole" => Say::Implied,
        "queue" if value == "fcfs" => Say::Implied,
        "replicas" if config.replicas == 1 => Say::Implied,
        "replicas" => Say::comment("run as many copies behind a load balancer"),
        "router" => Say::comment("set it at the load balancer"),
        "prefill-workers" => Say::comment("context servers per replica"),
        "decode-workers" => Say::comment("generation servers per replica"),
        _ => Say::Missing(None),
    }
}

/// The text of the YAML.
fn yaml(config: &Config) -> String {
    let capacity = match (config.scheduler, config.allocator) {
        (SchedulerKind::Static, _) => "STATIC_BATCH",
        (_, AllocatorKind::Contiguous) => "GUARANTEED_NO_EVICT",
        (_, AllocatorKind::Paged) => "MAX_UTILIZATION",
    };
    let mut text = String::new();
    let chunked = config.scheduler == SchedulerKind::Chunked;
    let _ = writeln!(text, "enable_chunked_prefill: {chunked}");
    let _ = writeln!(text, "scheduler_config:\n  capacity_scheduler_policy: {capacity}");
    let _ = writeln!(text, "kv_cache_config:\n  enable_block_reuse: {}", config.prefix_cache);
    if config.allocator == AllocatorKind::Paged {
        let _ = writeln!(text, "  tokens_per_block: {}", config.block_size);
    }
    if config.kv_dtype == engine::config::KvDtype::Fp8 {
        text.push_str("  dtype: fp8\n");
    }
    text
}

/// Flags of one engine; the rest is in the YAML.
pub(super) fn say(config: &Config) -> Said {
    let mut said = ask(config, |knob, value| knob_flags(config, knob, value));
    said.comments.push(
        "kv_cache_free_gpu_memory_fraction is a share of what weights and activations leave free"
            .to_owned(),
    );
    said.flags.push("--extra_llm_api_options knee.yaml".to_owned());
    said
}

/// The YAML as a here-document, then the command.
pub(super) fn render(found: &Found) -> String {
    let c = &found.config;
    let said = say(c);
    let file = format!("cat > knee.yaml <<'EOF'\n{}EOF", yaml(c));
    let command = start(&said, "trtllm-serve", &found.model);
    script(found, &said, &[(file, Vec::new()), (command, said.flags.clone())])
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    #[test]
    fn golden() {
        insta::assert_snapshot!(render(&found("chunked", &[("block-size", "32"), ("tp", "4")])), @r#"
        # knee 0.1.0: simulated on 1 x h100-sxm with workload chat
        # holds ttft:p99=200ms up to 12.35 requests/s
        # kv_cache_free_gpu_memory_fraction is a share of what weights and activations leave free
        cat > knee.yaml <<'EOF'
        enable_chunked_prefill: true
        scheduler_config:
          capacity_scheduler_policy: MAX_UTILIZATION
        kv_cache_config:
          enable_block_reuse: true
          tokens_per_block: 32
        EOF
        trtllm-serve meta-llama/Llama-3.1-8B-Instruct \
          --max_batch_size 256 \
          --max_num_tokens 2048 \
          --kv_cache_free_gpu_memory_fraction 0.9 \
          --tp_size 4 \
          --extra_llm_api_options knee.yaml
        "#);
        insta::assert_snapshot!(render(&found("static", &[])), @r#"
        # knee 0.1.0: simulated on 1 x h100-sxm with workload chat
        # holds ttft:p99=200ms up to 12.35 requests/s, but only with what this engine lacks:
        #   allocator contiguous: this engine pages its KV
        #   reserve max: this engine pages its KV
        #   padding on: this engine never pads
        #   max-wait 0s
        # kv_cache_free_gpu_memory_fraction is a share of what weights and activations leave free
        cat > knee.yaml <<'EOF'
        enable_chunked_prefill: false
        scheduler_config:
          capacity_scheduler_policy: STATIC_BATCH
        kv_cache_config:
          enable_block_reuse: false
        EOF
        trtllm-serve meta-llama/Llama-3.1-8B-Instruct \
          --max_batch_size 256 \
          --max_num_tokens 2048 \
          --kv_cache_free_gpu_memory_fraction 0.9 \
          --extra_llm_api_options knee.yaml
        "#);
    }
}
