//! Values of llm-d's modelservice Helm chart, which runs vLLM.

use super::kserve::{resource_name, yaml_string};
use super::said::{Found, Said};
use super::vllm;
use engine::config::SchedulerKind;
use std::fmt::Write as _;

/// One side: `decode`, which serves everything unless disaggregated, or `prefill`.
fn side(name: &str, replicas: u32, said: &Said, gpus: u32) -> String {
    let mut text = format!("{name}:\n  create: true\n  replicas: {replicas}\n");
    text.push_str("  containers:\n    - name: vllm\n      modelCommand: vllmServe\n");
    let variables = said.env.iter().filter_map(|variable| variable.split_once('='));
    for (i, (name, value)) in variables.enumerate() {
        let head = if i == 0 { "      env:\n" } else { "" };
        let _ =
            write!(text, "{head}        - name: {name}\n          value: {}\n", yaml_string(value));
    }
    text.push_str("      args:\n");
    // No shell takes these apart.
    for arg in said.flags.iter().flat_map(|flag| shlex::split(flag).unwrap_or_default()) {
        let _ = writeln!(text, "        - {}", yaml_string(&arg));
    }
    let _ =
        write!(text, "      resources:\n        limits:\n          nvidia.com/gpu: \"{gpus}\"\n");
    text
}

/// The values file.
pub(super) fn render(found: &Found) -> String {
    let c = &found.config;
    let said = vllm::say(c, 1);
    let mut text = found.heading(&said);
    let _ = write!(
        text,
        "fullnameOverride: {}\nmodelArtifacts:\n  name: {}\n  uri: {}\n",
        resource_name(&found.model),
        yaml_string(&found.model),
        yaml_string(&format!("hf://{}", found.model))
    );
    let gpus = c.tp * c.pp;
    if c.scheduler == SchedulerKind::Disagg {
        text.push_str(&side("decode", c.replicas * c.decode_workers, &said, gpus));
        text.push_str(&side("prefill", c.replicas * c.prefill_workers, &said, gpus));
    } else {
        text.push_str(&side("decode", c.replicas, &said, gpus));
        text.push_str("prefill:\n  create: false\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    #[test]
    fn golden() {
        insta::assert_snapshot!(render(&found("disagg", &[("tp", "2"), ("decode-workers", "3")])), @r#"
        # knee 0.1.0: simulated on 1 x h100-sxm with workload chat
        # holds ttft:p99=200ms up to 12.35 requests/s
        fullnameOverride: llama-3-1-8b-instruct
        modelArtifacts:
          name: 'meta-llama/Llama-3.1-8B-Instruct'
          uri: 'hf://meta-llama/Llama-3.1-8B-Instruct'
        decode:
          create: true
          replicas: 3
          containers:
            - name: vllm
              modelCommand: vllmServe
              args:
                - '--kv-transfer-config'
                - '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'
                - '--enable-prefix-caching'
                - '--max-num-seqs'
                - '256'
                - '--max-num-batched-tokens'
                - '2048'
                - '--block-size'
                - '16'
                - '--gpu-memory-utilization'
                - '0.9'
                - '--tensor-parallel-size'
                - '2'
              resources:
                limits:
                  nvidia.com/gpu: "2"
        prefill:
          create: true
          replicas: 1
          containers:
            - name: vllm
              modelCommand: vllmServe
              args:
                - '--kv-transfer-config'
                - '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'
                - '--enable-prefix-caching'
                - '--max-num-seqs'
                - '256'
                - '--max-num-batched-tokens'
                - '2048'
                - '--block-size'
                - '16'
                - '--gpu-memory-utilization'
                - '0.9'
                - '--tensor-parallel-size'
                - '2'
              resources:
                limits:
                  nvidia.com/gpu: "2"
        "#);
    }
}
