//! A KServe `LLMInferenceService`, which runs vLLM.

use super::{Found, vllm};
use engine::config::SchedulerKind;
use std::fmt::Write as _;

/// Pod template of one side, indented by `indent`.
fn template(indent: usize, args: &str, gpus: u32) -> String {
    let lines = [
        "template:".to_owned(),
        "  containers:".to_owned(),
        "    - name: main".to_owned(),
        "      env:".to_owned(),
        "        - name: VLLM_ADDITIONAL_ARGS".to_owned(),
        format!("          value: {}", yaml_string(args)),
        "      resources:".to_owned(),
        "        limits:".to_owned(),
        format!("          nvidia.com/gpu: \"{gpus}\""),
    ];
    lines.map(|l| format!("{:indent$}{l}\n", "")).concat()
}

/// Single-quoted, as YAML wants it.
fn yaml_string(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name Kubernetes takes: the model's last part, lower case, other characters as dashes.
pub(super) fn resource_name(model: &str) -> String {
    let last = model.rsplit('/').next().unwrap_or(model).to_lowercase();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = last.chars().map(plain).collect();
    name.trim_matches('-').to_owned()
}

/// The manifest.
pub(super) fn render(found: &Found) -> String {
    let c = &found.config;
    let said = vllm::say(c);
    let mut text = found.heading(&said);
    let disagg = c.scheduler == SchedulerKind::Disagg;
    let (args, gpus) = (said.flags.join(" "), c.tp * c.pp);
    let replicas = if disagg { c.replicas * c.decode_workers } else { c.replicas };
    let _ = write!(
        text,
        "apiVersion: serving.kserve.io/v1alpha1\nkind: LLMInferenceService\nmetadata:\n  name: {}\nspec:\n  \
         model:\n    uri: hf://{}\n    name: {}\n  replicas: {replicas}\n  router:\n    route: {{}}\n    \
         gateway: {{}}\n    scheduler: {{}}\n",
        resource_name(&found.model),
        found.model,
        found.model,
    );
    text.push_str(&template(2, &args, gpus));
    if disagg {
        let _ = writeln!(text, "  prefill:\n    replicas: {}", c.replicas * c.prefill_workers);
        text.push_str(&template(4, &args, gpus));
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
            uri: hf://meta-llama/Llama-3.1-8B-Instruct
            name: meta-llama/Llama-3.1-8B-Instruct
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
