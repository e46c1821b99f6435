//! Values of llm-d's modelservice Helm chart, which runs vLLM.

use super::manifest::{Pods, arguments, environment, indented, resource_name, yaml_string};
use super::said::{Found, Said};
use super::target::{Target, as_the_engine};
use super::vllm;
use std::fmt::Write as _;

pub(super) static TARGET: Target = Target {
    name: "llm-d",
    file: "llm-d-values.yaml",
    starts: "modelCommand: vllmServe",
    engine: &vllm::ENGINE,
    own: as_the_engine,
    render,
};

/// One side: `decode`, which serves everything unless disaggregated, or `prefill`.
fn side(name: &str, replicas: u32, said: &Said, gpus: u32) -> String {
    let mut text = format!("{name}:\n  create: true\n  replicas: {replicas}\n");
    let _ = write!(text, "  containers:\n    - name: vllm\n      {}\n", TARGET.starts);
    text.push_str(&indented(6, &environment(said.variables())));
    text.push_str("      args:\n");
    text.push_str(&indented(8, &arguments(&said.flags)));
    let _ =
        write!(text, "      resources:\n        limits:\n          nvidia.com/gpu: \"{gpus}\"\n");
    text
}

/// The values file.
fn render(found: &Found) -> String {
    let said = TARGET.say(found, 1);
    let pods = Pods::of(&found.config);
    let mut text = found.heading(&said);
    let _ = write!(
        text,
        "fullnameOverride: {}\nmodelArtifacts:\n  name: {}\n  uri: {}\n",
        resource_name(&found.model),
        yaml_string(&found.model),
        yaml_string(&format!("hf://{}", found.model))
    );
    text.push_str(&side("decode", pods.serve, &said, pods.gpus));
    match pods.prefill {
        Some(prefill) => text.push_str(&side("prefill", prefill, &said, pods.gpus)),
        None => text.push_str("prefill:\n  create: false\n"),
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
