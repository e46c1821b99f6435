//! NVIDIA Dynamo's `DynamoGraphDeployment` (`nvidia.com/v1beta1`, as Dynamo 1.4 and 1.5 publish it): a frontend that
//! routes, and workers that run vLLM. A worker takes vLLM's own flags beside a few of Dynamo's.
//!
//! The frontend's `DYN_ROUTER_*` and the worker's `--disaggregation-mode` are those of the same releases' references
//! for the frontend and for vLLM.

use super::engine::Asked;
use super::manifest::{Pods, arguments, environment, indented, resource_name, yaml_string};
use super::said::{Found, Said, Say};
use super::target::Target;
use super::vllm;
use engine::config::RouterKind;

pub(super) static TARGET: Target = Target {
    name: "Dynamo",
    file: "dynamo.yaml",
    starts: "python3 -m dynamo.vllm --model",
    engine: &vllm::ENGINE,
    own,
    render,
};

/// The image of frontend and workers.
const IMAGE: &str = "nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.4.0";

fn own(asked: &Asked<'_>) -> Option<Say> {
    match asked.knob.name {
        // The frontend's.
        "router" => Some(Say::Elsewhere),
        _ => None,
    }
}

/// The frontend's settings for a router. Prefixes are routed by where others went, as here, not by events of workers.
fn routes(router: RouterKind) -> &'static [(&'static str, &'static str)] {
    match router {
        RouterKind::RoundRobin => &[("DYN_ROUTER_MODE", "round-robin")],
        RouterKind::LeastLoaded => &[("DYN_ROUTER_MODE", "least-loaded")],
        RouterKind::PrefixAffine => {
            &[("DYN_ROUTER_MODE", "kv"), ("DYN_ROUTER_USE_KV_EVENTS", "false")]
        }
    }
}

/// An entry of the graph's components, its container filled with `more`.
fn component(name: &str, kind: &str, replicas: u32, more: &[String]) -> String {
    let head = [
        format!("- name: {name}"),
        format!("  type: {kind}"),
        format!("  replicas: {replicas}"),
        "  podTemplate:".to_owned(),
        "    spec:".to_owned(),
        "      containers:".to_owned(),
        "        - name: main".to_owned(),
        format!("          image: {IMAGE}"),
    ];
    indented(4, &head) + &indented(14, more)
}

/// A worker's container, `own` flags of Dynamo's before vLLM's.
fn worker(found: &Found, said: &Said, own: &[&str], gpus: u32) -> Vec<String> {
    let mut words = TARGET.starts.split(' ').map(str::to_owned);
    let command: Vec<String> = words.by_ref().take(3).collect();
    let mut args: Vec<String> = words.map(|word| format!("- {}", yaml_string(&word))).collect();
    args.push(format!("- {}", yaml_string(&found.model)));
    args.extend(own.iter().map(|word| format!("- {}", yaml_string(word))));
    args.extend(arguments(&said.flags));
    let mut lines = vec![format!("command: [{}]", command.join(", "))];
    lines.extend(environment(said.variables()));
    lines.push("args:".to_owned());
    lines.extend(args.iter().map(|arg| format!("  {arg}")));
    lines.extend(["resources:".to_owned(), "  limits:".to_owned()]);
    lines.push(format!("    nvidia.com/gpu: \"{gpus}\""));
    lines
}

/// The manifest.
fn render(found: &Found) -> String {
    let said = TARGET.say(found, 1);
    let pods = Pods::of(&found.config);
    let routes = environment(routes(found.config.router).iter().copied());
    let part = |name, kind: &str, replicas, own: &[&str]| {
        component(name, kind, replicas, &worker(found, &said, own, pods.gpus))
    };
    let workers = match pods.prefill {
        None => part("VllmWorker", "worker", pods.serve, &[]),
        Some(prefill) => {
            let apart = |name, kind: &'static str, replicas| {
                part(name, kind, replicas, &["--disaggregation-mode", kind])
            };
            apart("VllmDecodeWorker", "decode", pods.serve)
                + &apart("VllmPrefillWorker", "prefill", prefill)
        }
    };
    format!(
        "{}apiVersion: nvidia.com/v1beta1\nkind: DynamoGraphDeployment\nmetadata:\n  name: {}\nspec:\n  \
         backendFramework: vllm\n  components:\n{}{workers}",
        found.heading(&said),
        resource_name(&found.model),
        component("Frontend", "frontend", 1, &routes),
    )
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
        apiVersion: nvidia.com/v1beta1
        kind: DynamoGraphDeployment
        metadata:
          name: llama-3-1-8b-instruct
        spec:
          backendFramework: vllm
          components:
            - name: Frontend
              type: frontend
              replicas: 1
              podTemplate:
                spec:
                  containers:
                    - name: main
                      image: nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.4.0
                      env:
                        - name: DYN_ROUTER_MODE
                          value: 'least-loaded'
            - name: VllmDecodeWorker
              type: decode
              replicas: 3
              podTemplate:
                spec:
                  containers:
                    - name: main
                      image: nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.4.0
                      command: [python3, -m, dynamo.vllm]
                      args:
                        - '--model'
                        - 'meta-llama/Llama-3.1-8B-Instruct'
                        - '--disaggregation-mode'
                        - 'decode'
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
            - name: VllmPrefillWorker
              type: prefill
              replicas: 1
              podTemplate:
                spec:
                  containers:
                    - name: main
                      image: nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.4.0
                      command: [python3, -m, dynamo.vllm]
                      args:
                        - '--model'
                        - 'meta-llama/Llama-3.1-8B-Instruct'
                        - '--disaggregation-mode'
                        - 'prefill'
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
        let routed = [("replicas", "2"), ("router", "prefix-affine")];
        insta::assert_snapshot!(render(&found("chunked", &routed)), @r#"
        # knee 0.1.0: simulated on 1 x h100-sxm with workload chat
        # holds ttft:p99=200ms up to 12.35 requests/s
        apiVersion: nvidia.com/v1beta1
        kind: DynamoGraphDeployment
        metadata:
          name: llama-3-1-8b-instruct
        spec:
          backendFramework: vllm
          components:
            - name: Frontend
              type: frontend
              replicas: 1
              podTemplate:
                spec:
                  containers:
                    - name: main
                      image: nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.4.0
                      env:
                        - name: DYN_ROUTER_MODE
                          value: 'kv'
                        - name: DYN_ROUTER_USE_KV_EVENTS
                          value: 'false'
            - name: VllmWorker
              type: worker
              replicas: 2
              podTemplate:
                spec:
                  containers:
                    - name: main
                      image: nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.4.0
                      command: [python3, -m, dynamo.vllm]
                      args:
                        - '--model'
                        - 'meta-llama/Llama-3.1-8B-Instruct'
                        - '--enable-prefix-caching'
                        - '--max-num-seqs'
                        - '256'
                        - '--max-num-batched-tokens'
                        - '2048'
                        - '--block-size'
                        - '16'
                        - '--gpu-memory-utilization'
                        - '0.9'
                      resources:
                        limits:
                          nvidia.com/gpu: "1"
        "#);
    }
}
