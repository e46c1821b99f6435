//! A KServe `LLMInferenceService`, which runs vLLM.

use super::said::{Found, Said};
use super::vllm;
use engine::config::SchedulerKind;
use std::fmt::Write as _;

/// Pod template of one side, indented by `indent`.
fn template(indent: usize, said: &Said, gpus: u32) -> String {
    let mut lines = vec![
        "template:".to_owned(),
        "  containers:".to_owned(),
        "    - name: main".to_owned(),
        "      env:".to_owned(),
    ];
    let arguments = said.flags.join(" ");
    let variables = said.env.iter().filter_map(|variable| variable.split_once('='));
    for (name, value) in variables.chain([("VLLM_ADDITIONAL_ARGS", arguments.as_str())]) {
        lines.push(format!("        - name: {name}"));
        lines.push(format!("          value: {}", yaml_string(value)));
    }
    lines.extend([
        "      resources:".to_owned(),
        "        limits:".to_owned(),
        format!("          nvidia.com/gpu: \"{gpus}\""),
    ]);
    lines.iter().map(|l| format!("{:indent$}{l}\n", "")).collect()
}

/// Single-quoted, as YAML wants it, on one line.
pub(super) fn yaml_string(text: &str) -> String {
    format!("'{}'", text.replace(char::is_control, " ").replace('\'', "''"))
}

/// A name Kubernetes takes (RFC 1035): the model's last part, lower case, other characters as dashes, a letter first, 63
/// characters at most.
pub(super) fn resource_name(model: &str) -> String {
    let last = model.rsplit('/').next().unwrap_or(model).to_lowercase();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let mut name: String = last.chars().map(plain).collect();
    name = name.trim_matches('-').to_owned();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name = format!("model-{name}");
    }
    name.truncate(63);
    name.trim_end_matches('-').to_owned()
}

/// The manifest.
pub(super) fn render(found: &Found) -> String {
    let c = &found.config;
    let said = vllm::say(c, 1);
    let mut text = found.heading(&said);
    let disagg = c.scheduler == SchedulerKind::Disagg;
    let gpus = c.tp * c.pp;
    let replicas = if disagg { c.replicas * c.decode_workers } else { c.replicas };
    let _ = write!(
        text,
        "apiVersion: serving.kserve.io/v1alpha1\nkind: LLMInferenceService\nmetadata:\n  name: {}\nspec:\n  \
         model:\n    uri: {}\n    name: {}\n  replicas: {replicas}\n  router:\n    route: {{}}\n    \
         gateway: {{}}\n    scheduler: {{}}\n",
        resource_name(&found.model),
        yaml_string(&format!("hf://{}", found.model)),
        yaml_string(&found.model),
    );
    text.push_str(&template(2, &said, gpus));
    if disagg {
        let _ = writeln!(text, "  prefill:\n    replicas: {}", c.replicas * c.prefill_workers);
        text.push_str(&template(4, &said, gpus));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    #[test]
    fn any_model_gets_a_name_that_kubernetes_takes() {
        let of = resource_name;
        assert_eq!(of("org/Llama-3.1-8B_Instruct"), "llama-3-1-8b-instruct");
        assert_eq!(
            (of("0.5B"), of("./my dir/"), of("日本")),
            ("model-0-5b".into(), "model".into(), "model".into())
        );
        assert_eq!(of(&"x".repeat(80)).len(), 63);
    }

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
