//! A KServe `LLMInferenceService`, which runs vLLM.

use super::manifest::{Pods, environment, indented, resource_name, yaml_string};
use super::said::{Found, Said};
use super::target::{Target, as_the_engine};
use super::vllm;
use std::fmt::Write as _;

pub(super) static TARGET: Target = Target {
    name: "KServe",
    file: "kserve.yaml",
    starts: "VLLM_ADDITIONAL_ARGS",
    engine: &vllm::ENGINE,
    own: as_the_engine,
    render,
};

/// Pod template of one side, indented by `indent`.
fn template(indent: usize, said: &Said, gpus: u32) -> String {
    let arguments = said.flags.join(" ");
    let variables = said.variables().chain([(TARGET.starts, arguments.as_str())]);
    let head = ["template:", "  containers:", "    - name: main"];
    let limits = [
        "resources:".to_owned(),
        "  limits:".to_owned(),
        format!("    nvidia.com/gpu: \"{gpus}\""),
    ];
    indented(indent, &head.map(str::to_owned))
        + &indented(indent + 6, &environment(variables))
        + &indented(indent + 6, &limits)
}

/// The manifest.
fn render(found: &Found) -> String {
    let said = TARGET.say(found, 1);
    let pods = Pods::of(&found.config);
    let mut text = found.heading(&said);
    let _ = write!(
        text,
        "apiVersion: serving.kserve.io/v1alpha1\nkind: LLMInferenceService\nmetadata:\n  name: {}\nspec:\n  \
         model:\n    uri: {}\n    name: {}\n  replicas: {}\n  router:\n    route: {{}}\n    \
         gateway: {{}}\n    scheduler: {{}}\n",
        resource_name(&found.model),
        yaml_string(&format!("hf://{}", found.model)),
        yaml_string(&found.model),
        pods.serve,
    );
    text.push_str(&template(2, &said, pods.gpus));
    if let Some(prefill) = pods.prefill {
        let _ = writeln!(text, "  prefill:\n    replicas: {prefill}");
        text.push_str(&template(4, &said, pods.gpus));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    #[test]
    fn golden() {
        insta::assert_snapshot!(render(&found("disagg", &[("tp", "2"), ("max-seqs", "64")])), @r#"
        # knee 0.1.0: simulated on 1 x h100-sxm with workload chat
        # holds ttft:p99=200ms up to 12.35 requests/s
        apiVersion: serving.kserve.io/v1alpha1
        kind: LLMInferenceService
        metadata:
          name: llama-3-1-8b-instruct
        spec:
          model:
            uri: 'hf://meta-llama/Llama-3.1-8B-Instruct'
            name: 'meta-llama/Llama-3.1-8B-Instruct'
          replicas: 1
          router:
            route: {}
            gateway: {}
            scheduler: {}
          template:
            containers:
              - name: main
                env:
                  - name: VLLM_ADDITIONAL_ARGS
                    value: '--kv-transfer-config ''{"kv_connector":"NixlConnector","kv_role":"kv_both"}'' --enable-prefix-caching --max-num-seqs 64 --max-num-batched-tokens 2048 --block-size 16 --gpu-memory-utilization 0.9 --tensor-parallel-size 2'
                resources:
                  limits:
                    nvidia.com/gpu: "2"
          prefill:
            replicas: 1
            template:
              containers:
                - name: main
                  env:
                    - name: VLLM_ADDITIONAL_ARGS
                      value: '--kv-transfer-config ''{"kv_connector":"NixlConnector","kv_role":"kv_both"}'' --enable-prefix-caching --max-num-seqs 64 --max-num-batched-tokens 2048 --block-size 16 --gpu-memory-utilization 0.9 --tensor-parallel-size 2'
                  resources:
                    limits:
                      nvidia.com/gpu: "2"
        "#);
    }
}
