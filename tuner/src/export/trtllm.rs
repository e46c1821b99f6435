//! `trtllm-serve` and the YAML it reads: what takes more than its description (`engine/engines/tensorrt-llm.toml`).

use super::engine::{Asked, Engine};
use super::said::{Found, Say, acceptance, checkpoint, script, start};
use super::target::{Target, as_the_engine};
use engine::config::{AllocatorKind, Speculation};
use engine::speculation::PromptLookup;
use engine::{Config, Knob};
use std::fmt::Write as _;

static ENGINE: Engine = Engine { name: "tensorrt-llm", own };

pub(super) static TARGET: Target = Target {
    name: "TensorRT-LLM",
    file: "trtllm.sh",
    starts: "trtllm-serve",
    engine: &ENGINE,
    own: as_the_engine,
    render,
};

fn own(asked: &Asked<'_>) -> Option<Say> {
    let (c, value) = (asked.config, asked.value);
    Some(match asked.knob.name {
        "scheduler" if c.scheduler.traits().disaggregates => Say::comment(
            "needs context and generation servers and an orchestrator (trtllm-serve disaggregated)",
        ),
        "acceptance" if value != "auto" => acceptance(),
        // In the YAML; the scheduler as its capacity policy.
        "scheduler" | "prefix-cache" | "block-size" | "kv-dtype" | "async-scheduling"
        | "speculation" | "draft-tokens" | "acceptance" => Say::Elsewhere,
        "quantization" => checkpoint(value),
        // Its attention is split over all ranks by heads, or by sequences (in the YAML).
        "dp" if c.tp > 1 => Say::missing("attention is split over all ranks in one way"),
        "dp" => Say::flag(format!("--tp_size {value}")),
        "replicas" => Say::comment("run as many copies behind a load balancer"),
        "router" => Say::comment("set it at the load balancer"),
        "prefill-workers" => Say::comment("context servers per replica"),
        "decode-workers" => Say::comment("generation servers per replica"),
        _ => return None,
    })
}

/// The text of the YAML.
fn yaml(config: &Config) -> String {
    let scheduler = config.scheduler.traits();
    let capacity = match config.allocator {
        _ if scheduler.closes_batches => "STATIC_BATCH",
        AllocatorKind::Contiguous => "GUARANTEED_NO_EVICT",
        AllocatorKind::Paged => "MAX_UTILIZATION",
    };
    let mut text = String::new();
    let _ = writeln!(text, "enable_chunked_prefill: {}", scheduler.mixes);
    if !config.async_scheduling
        && Knob::named("async-scheduling").is_some_and(|k| k.applies(config))
    {
        text.push_str("disable_overlap_scheduler: true\n");
    }
    if config.dp > 1 && config.tp == 1 {
        text.push_str("enable_attention_dp: true\n");
    }
    match config.speculation {
        Speculation::Off => {}
        Speculation::PromptLookup => {
            let longest = PromptLookup::default().longest;
            let _ = writeln!(
                text,
                "speculative_config:\n  decoding_type: NGram\n  max_draft_len: {}\n  max_matching_ngram_size: {longest}",
                config.draft_tokens
            );
        }
        Speculation::Mtp => {
            let _ = writeln!(
                text,
                "speculative_config:\n  decoding_type: MTP\n  num_nextn_predict_layers: {}",
                config.draft_tokens
            );
        }
    }
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

/// The YAML as a here-document, then the command.
fn render(found: &Found) -> String {
    let c = &found.config;
    let mut said = TARGET.say(found, 1);
    said.comments.push(
        "kv_cache_free_gpu_memory_fraction is a share of what weights and activations leave free"
            .to_owned(),
    );
    said.flags.push("--extra_llm_api_options knee.yaml".to_owned());
    let file = format!("cat > knee.yaml <<'EOF'\n{}EOF", yaml(c));
    let command = start(&said, TARGET.starts, &found.model);
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
