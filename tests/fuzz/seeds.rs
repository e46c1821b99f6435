//! Sound files to damage, small ones, made here: most by the program itself.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use engine::{Config, DeviceProfile, ModelShape};
use loadgen::Slo;
use rcgen::{CertificateParams, KeyPair};
use tuner::subject::bed::Testbed;
use tuner::subject::study::{Identity, Study};
use tuner::subject::{Length, Relax, Subject as _, Trial};

use crate::child::write;
use crate::models;
use crate::packed::parquet;
use crate::targets::Target;

/// Fills `dir` with the files of `target`.
pub(crate) fn make(target: &Target, dir: &Path) {
    fs::create_dir_all(dir).expect("a folder can be made");
    let put = |files: &[(&str, &str)]| {
        files.iter().for_each(|(name, text)| write(&dir.join(name), text.as_bytes()));
    };
    match target.name {
        "gguf" => {
            write(&dir.join("llama.gguf"), &models::gguf("llama"));
            write(&dir.join("qwen2.gguf"), &models::gguf("qwen2"));
        }
        "safetensors" | "config" | "tokenizer" => models::folder(dir),
        "profile" => put(&[
            ("guess.toml", GUESS),
            ("rtx4090.toml", include_str!("../../engine/profiles/rtx4090.toml")),
        ]),
        "shape" => put(&[("flat.toml", FLAT), ("words.toml", WORDS)]),
        "configuration" => put(&CONFIGURATIONS),
        "workload" => put(&WORKLOADS),
        "trace-csv" => put(&CSV),
        "trace-json" => put(&JSON),
        "trace-parquet" => parquets(dir),
        "trace-gzip" | "trace-zstd" | "trace-xz" | "trace-bzip2" => {
            put(&[CSV[0], CSV[4], JSON[0], JSON[1], JSON[4]]);
        }
        "knobs" => put(&KNOBS),
        "calibration" => put(&[("found.toml", OVERLAY)]),
        "steps" => {
            knee(dir, "bench --requests 30 --rate 20 --json --steps steps.csv");
            put(&[("decodes.csv", &decodes())]);
        }
        "requests" => {
            knee(dir, "bench --requests 40 --rate 20 --out out");
            fs::rename(dir.join("out/requests.csv"), dir.join("requests.csv")).expect("a run");
            fs::remove_dir_all(dir.join("out")).expect("a folder");
            put(&[("lines.jsonl", LINES), ("load.csv", LOAD), ("prompts.jsonl", &prompts(dir))]);
        }
        "reports" => reports(dir),
        "study" => study(&dir.join("study.sqlite")),
        "tables" => tables(dir, false),
        "tables-parquet" => tables(dir, true),
        "certificates" => certificates(dir),
        other => panic!("no files for {other}"),
    }
}

/// Runs the program in `dir`.
fn knee(dir: &Path, words: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knee"));
    let output = command.args(words.split(' ')).current_dir(dir).output().expect("it starts");
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
}

fn reports(dir: &Path) {
    write(&dir.join("short.toml"), WORKLOADS[0].1.as_bytes());
    knee(dir, "bench --workload short.toml --out bench");
    knee(dir, "compare --workload short.toml --slo ttft=1s --no-claims --out compare");
    knee(dir, "tune --workload short.toml --slo ttft=1s --out tune");
    knee(dir, "validate --requests bench/requests.csv --out validate");
    let mut mock = Command::new(env!("CARGO_BIN_EXE_knee"));
    mock.args("mock --listen 127.0.0.1:0 --ttft 1ms --itl 1ms".split(' '));
    let mut mock = mock.stdout(Stdio::piped()).spawn().expect("a mock starts");
    let mut line = String::new();
    BufReader::new(mock.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let url = line.split_whitespace().find(|w| w.starts_with("http://")).expect("a URL");
    let start = SystemTime::now() + Duration::from_millis(500);
    let start = start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    std::thread::scope(|both| {
        for worker in 0..2 {
            let words = format!(
                "bench --url {url} --workload short.toml --start-at {start} --worker {worker}/2 --out worker{worker}"
            );
            both.spawn(move || knee(dir, &words));
        }
    });
    let _ = mock.kill();
    let _ = mock.wait();
    for folder in ["bench", "compare", "tune", "validate", "worker0", "worker1"] {
        for entry in fs::read_dir(dir.join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            let wanted = |name| path.file_name().is_some_and(|n| n == name);
            if path.is_dir() {
                fs::remove_dir_all(path).expect("a folder");
            } else if !wanted("report.json") && !wanted("part.json") {
                fs::remove_file(path).expect("a file");
            }
        }
    }
    fs::remove_file(dir.join("short.toml")).expect("a file");
}

/// A model as a flat list of figures.
const FLAT: &str = r#"
name = "flat"
source = "made up"
hidden = 4096
layers = 32
heads = 32
kv_heads = 8
head_dim = 128
ffn = 14336
gated = true
vocab = 32000
tied_embeddings = false
position_rows = 0
bias = true
qk_norm = true
format = "fp8"
max_context = 32768
"#;

/// A model in the words of a config.json.
const WORDS: &str = r#"
model_type = "qwen3_moe"
hidden_size = 2048
num_hidden_layers = 24
num_attention_heads = 32
num_key_value_heads = 4
head_dim = 128
moe_intermediate_size = 768
num_experts = 64
num_experts_per_tok = 8
vocab_size = 32000
max_position_embeddings = 32768
"#;

/// A configuration of each kind of layer, with number formats told in each way.
const CONFIGURATIONS: [(&str, &str); 4] = [
    (
        "windows.json",
        r#"{"model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 6, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880, "vocab_size": 20000, "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention",
        "sliding_attention", "full_attention"], "max_position_embeddings": 4096, "num_local_experts": 16,
        "num_experts_per_tok": 4, "rope_scaling": {"rope_type": "yarn", "factor": 32.0,
        "original_max_position_embeddings": 4096}, "quantization_config": {"quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}}"#,
    ),
    (
        "latent.json",
        r#"{"model_type": "deepseek_v32", "hidden_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 16,
        "kv_lora_rank": 512, "q_lora_rank": 768, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "index_topk": 2048, "index_n_heads": 8, "index_head_dim": 128, "intermediate_size": 2048, "vocab_size": 20000,
        "first_k_dense_replace": 2, "n_routed_experts": 16, "n_shared_experts": 1, "num_experts_per_tok": 4,
        "moe_intermediate_size": 512, "max_position_embeddings": 16384, "num_nextn_predict_layers": 1,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}"#,
    ),
    (
        "states.json",
        r#"{"model_type": "nemotron_h", "hidden_size": 1024, "hybrid_override_pattern": "MEM*M-ME",
        "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 2048,
        "moe_intermediate_size": 512, "n_routed_experts": 16, "num_experts_per_tok": 4, "moe_latent_size": 256,
        "moe_shared_expert_intermediate_size": 512, "mamba_num_heads": 32, "mamba_head_dim": 64, "n_groups": 8,
        "ssm_state_size": 128, "conv_kernel": 4, "vocab_size": 20000, "max_position_embeddings": 16384,
        "time_step_limit": [0.0, Infinity], "quantization_config": {"quant_algo": "MIXED_PRECISION",
        "quantized_layers": {"backbone.layers.0.mixer.in_proj": {"quant_algo": "FP8"},
        "backbone.layers.1.mixer.experts.0.up_proj": {"quant_algo": "NVFP4"}}}}"#,
    ),
    (
        "linear.json",
        r#"{"model_type": "qwen3_5", "vision_config": {}, "text_config": {"hidden_size": 1024, "num_hidden_layers": 8,
        "full_attention_interval": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128,
        "attn_output_gate": true, "linear_num_key_heads": 8, "linear_num_value_heads": 16, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "intermediate_size": 2048, "vocab_size": 20000,
        "max_position_embeddings": 16384}, "quantization_config": {"quant_method": "compressed-tensors",
        "config_groups": {"a": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
        "ignore": ["re:.*linear_attn\\.(in|out)_proj.*", "lm_head"]}}"#,
    ),
];

/// The search that the study belongs to.
pub(crate) fn identity() -> Identity {
    Identity::from([("trace".to_owned(), "short".to_owned())])
}

/// Some runs of the simulator.
fn study(path: &Path) {
    let spec = workloads::preset("chat").expect("a preset");
    let trace = workloads::synthesise(&spec, None).expect("it can be made").head(20);
    let slo = Slo::default().bind(&trace.classes).expect("no target names a class");
    let model = ModelShape::load("llama-3.1-8b").expect("a shipped model");
    let device = DeviceProfile::load("h100-sxm").expect("a shipped device");
    let bed = Testbed::new(Arc::new(trace), Arc::new(model), Arc::new(device), slo);
    let study = Study::open(path, &identity()).expect("a new study");
    let recorded = study.record(bed, "h100-sxm");
    for scale in [1.0, 2.0, 4.0, 8.0] {
        let config = Config { max_model_len: 8192, ..Config::default() };
        let trial = Trial {
            config: &config,
            relax: Relax::Nothing,
            length: Length::Requests(20),
            scale,
            verdict_only: false,
        };
        recorded.run(&trial).expect("it can be deployed");
    }
    drop(recorded);
    study.close().expect("it is written");
}

fn decodes() -> String {
    let row = |i: u32| format!("{i},{i},{},{}\n", 300 * i, 9000 + 40 * i);
    let rows: String = (1..120).map(|i| row(1 + i % 30)).collect();
    format!("tokens,sequences,context,time_us\n{rows}")
}

/// A prompt for each row of the recorded run, every other one like the one before.
fn prompts(dir: &Path) -> String {
    let rows = fs::read_to_string(dir.join("requests.csv")).expect("a run");
    let lengths = rows.lines().skip(1).filter_map(|row| row.split(',').nth(3)?.parse::<u32>().ok());
    let tokens = |n: u32| (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    lengths.map(|n| format!("{{\"prompt_token_ids\": [{}]}}\n", tokens(n))).collect()
}

/// Traces whose columns are numbers and texts.
fn parquets(dir: &Path) {
    for (name, text) in [CSV[0], CSV[3], CSV[5]] {
        write(&dir.join(name).with_extension("parquet"), &parquet(text));
    }
}

/// Two authorities, a certificate and its key.
fn certificates(dir: &Path) {
    let made = || {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
    };
    let (client, key) = made();
    let put = |name: &str, text: &str| write(&dir.join(name), text.as_bytes());
    put("ca.pem", &(made().0 + &made().0));
    put("client.pem", &client);
    put("key.pem", &key);
}

/// Tables of a device of which everything is measured by one family, and its sheet: in CSV, or as its wheel holds them.
fn tables(dir: &Path, wheel: bool) {
    let mut sheet = GUESS.replace("name = \"guess\"", "name = \"toy\"");
    sheet += "[import]\nfamily = \"aiconfigurator\"\nsystem = \"toy\"\n";
    for operator in ["gemm", "prefill_attention", "decode_attention"] {
        let start = sheet.find(&format!("[{operator}]")).expect("a table");
        let end = start + sheet[start..].find("\n[").expect("another follows") + 1;
        sheet.replace_range(start..end, "");
    }
    write(&dir.join("toy.toml"), sheet.as_bytes());
    let table = |name: &str, text: String| match wheel {
        true => {
            let path = format!("aiconfigurator/toy/all/vllm/1.0.0/{name}_perf.parquet");
            write(&dir.join(path), &parquet(&text));
        }
        false => {
            let path = format!("aiconfigurator/toy.vllm-1.{name}.csv");
            write(&dir.join(path), text.as_bytes());
        }
    };
    let mut rows = "gemm_dtype,kernel_source,m,n,k,latency_ms\n".to_owned();
    for (n, k) in [(512.0, 512.0), (1024.0, 512.0), (2048.0, 4096.0)] {
        for m in [1.0, 16.0, 64.0, 256.0, 1024.0] {
            let ms = 2e3 * (2.0 * m * n * k / 1e14_f64).max(2.0 * (n * k + m * (n + k)) / 1e12);
            rows += &format!("bfloat16,test,{m},{n},{k},{ms}\n");
        }
    }
    table("gemm", rows);
    for (name, length) in [("context", "isl"), ("generation", "kv_len")] {
        let mut rows = format!(
            "attn_dtype,kv_cache_dtype,head_dim,num_heads,num_key_value_heads,batch_size,{length},latency_ms\n"
        );
        for (batch, tokens) in [(1.0, 64.0), (1.0, 512.0), (4.0, 512.0), (8.0, 2048.0)] {
            let pairs = if name == "context" { tokens * tokens / 2.0 } else { tokens };
            let ms = 2e3
                * (batch * pairs * 4.0 * 128.0 * 32.0 / 1e14_f64)
                    .max(batch * tokens * 4096.0 / 1e12);
            rows += &format!("bfloat16,bfloat16,128,32,8,{batch},{tokens},{ms}\n");
        }
        table(&format!("{name}_attention"), rows);
    }
}

/// A device profile with one knot a table.
const GUESS: &str = r#"name = "guess"
provenance = "a guess"
memory_bytes = 80_000_000_000
peak_flops = 1e14
memory_bandwidth = 1e12
cache_bytes = 50_000_000
multiprocessors = 100
gpus_per_node = 8
runtime_bytes = 1_000_000
sustained = 0.9
[gemm]
start_us = 4.0
shapes = [[512, 512], [4096, 4096]]
x = [1.0, 64.0, 4096.0]
per_mille = [[500, 600, 700], [600, 700, 800]]
source = "a guess"
[prefill_attention]
start_us = 1.0
x = [1.0, 1e6]
y = [16.0, 1024.0]
per_mille = [[500, 600, 500, 600]]
source = "a guess"
[decode_attention]
start_us = 1.0
per_mille = [[500]]
source = "a guess"
[attention]
tile_tokens = 64.0
decode_rows = 0.0
skew = 0.1
source = "a guess"
[elementwise]
start_us = 1.0
per_mille = [[500]]
source = "a guess"
[sampler]
start_us = 1.0
per_mille = [[500]]
source = "a guess"
[[all_reduce]]
ranks = 2
start_us = 10.0
bandwidth = 1e11
buffer_bytes = 1000
x = [1e3, 1e6]
per_mille = [500, 800]
source = "a guess"
[node]
start_us = 1.0
bandwidth = 1e10
source = "a guess"
[network]
start_us = 1.0
bandwidth = 1e9
source = "a guess"
[host]
step_us = 100.0
seq_us = 1.0
source = "a guess"
[price]
per_gpu_hour = 1.0
currency = "USD"
date = "2026-01"
basis = "assumed"
source = "a guess"
"#;

const OVERLAY: &str = r#"calibrates = "h100-sxm"
source = "a guess"
[host]
step_us = 300.5
seq_us = 2.25
[factors]
dense = 1.02
"#;

const KNOBS: [(&str, &str); 2] = [
    (
        "knobs.toml",
        "policy = \"chunked\"\nmax-seqs = 64\nmax-batch-tokens = 1024\nkv-fraction = 0.8\nprefix-cache = true\ntp = 2\n",
    ),
    ("static.toml", "policy = \"static\"\nmax-seqs = 16\nmax-model-len = 4096\nreplicas = 2\n"),
];

const WORKLOADS: [(&str, &str); 5] = [
    (
        "plain.toml",
        r#"schema = "knee.workload/1"
name = "plain"
description = "Short requests"
provenance = ["made up"]
seed = 1
[size]
requests = 60
[arrival]
process = "poisson"
rate_rps = 100.0
[lengths]
input = { dist = "uniform", min = 5, max = 50 }
output = { dist = "lognormal", mean = 20, sigma = 0.5, min = 2, max = 60 }
spearman = 0.3
max_total_tokens = 90
[prefix]
block_tokens = 16
shared_root = { dist = "fixed", value = 32 }
"#,
    ),
    (
        "envelope.toml",
        r#"schema = "knee.workload/1"
name = "envelope"
description = "A rate that moves by slots"
provenance = []
seed = 2
[size]
duration_s = 30.0
[arrival]
process = "gamma"
cv = 2.0
rate_rps = 5.0
quantize_s = 0.5
[arrival.envelope]
slot_s = 10.0
factors = [0.5, 0.0, 2.5]
[lengths]
input = { dist = "histogram", values = [10, 100], weights = [3, 1] }
output = { dist = "fixed", value = 7 }
"#,
    ),
    (
        "ramp.toml",
        r#"schema = "knee.workload/1"
name = "ramp"
description = "A rising rate"
provenance = []
seed = 3
[size]
duration_s = 20.0
requests = 100
[arrival]
process = "weibull"
shape = 0.7
rate_rps = 8.0
[arrival.ramp]
from = 0.0
to = 2.0
over_s = 10.0
[lengths]
input = { dist = "quantile", values = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16] }
output = { dist = "fixed", value = 7 }
[reference]
source = "a guess"
rate_rps = 8.0
"#,
    ),
    (
        "closed.toml",
        r#"schema = "knee.workload/1"
name = "closed"
description = "Sessions that think"
provenance = []
seed = 4
[size]
requests = 80
[arrival]
process = "constant"
rate_rps = 2.0
max_concurrent_sessions = 8
[arrival.burst]
factor = 10.0
every_s = 5.0
length_s = 1.0
[lengths]
output = { dist = "fixed", value = 20 }
[session]
mode = "closed"
turns = { dist = "uniform", min = 1, max = 6 }
first_input = { dist = "fixed", value = 200 }
growth_per_turn = { dist = "uniform", min = 10, max = 90 }
opening = { turns = 2, growth = { dist = "fixed", value = 500 } }
extend_prob = 0.9
shrink_prob = 0.1
think_time_s = { dist = "lognormal", mean = 5, sigma = 1 }
think_time_cap_s = 60.0
compacted_input = { dist = "fixed", value = 100 }
max_total_tokens = 4000
[prefix]
block_tokens = 16
"#,
    ),
    (
        "open.toml",
        r#"schema = "knee.workload/1"
name = "open"
description = "Sessions that do not wait"
provenance = []
seed = 5
[size]
duration_s = 60.0
[arrival]
process = "poisson"
rate_rps = 1.0
[arrival.on_off]
on_mean_s = 2.0
on_cv = 0.5
off_mean_s = 6.0
off_cv = 1.0
[lengths]
output = { dist = "fixed", value = 20 }
[session]
mode = "open"
turns = { dist = "fixed", value = 3 }
first_input = { dist = "fixed", value = 200 }
new_input_per_turn = { dist = "fixed", value = 50 }
turn_gap_s = { dist = "fixed", value = 4 }
"#,
    ),
];

const CSV: [(&str, &str); 7] = [
    (
        "plain.csv",
        "arrival_s,input_tokens,output_tokens,class,session\n0.0,100,10,a,s\n0.1,5,20,b,t\n0.25,300,1,a,s\n0.3,7,7,b,u\n1.5,64,64,a,v\n",
    ),
    (
        "azure.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n2023-11-16T18:16:00.25,10,5\n",
    ),
    (
        "burstgpt.csv",
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,230,1317,API log\n118,GPT-4,417,0,417,API log\n",
    ),
    (
        "vidur.csv",
        "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,300,20\n1.5,20,300\n2.5,64,3\n",
    ),
    (
        "sharegpt.csv",
        "conv,turn,role,tokens\n1,0,human,20\n1,1,gpt,200\n1,2,human,10\n1,3,gpt,90\n2,0,human,5\n2,1,gpt,5\n",
    ),
    ("lengths.csv", "num_prefill_tokens,num_decode_tokens\n300,20\n20,300\n64,3\n"),
    (
        "dated.csv",
        "created_at;prompt_tokens;completion_tokens\n2024-05-10 00:00:00.009930+00:00;100;10\n2024-05-10T00:00:01Z;20;10\n",
    ),
];

const JSON: [(&str, &str); 6] = [
    (
        "mooncake.jsonl",
        "{\"timestamp\": 0, \"input_length\": 1000, \"output_length\": 50, \"hash_ids\": [0, 1]}\n{\"timestamp\": 900, \"input_length\": 1500, \"output_length\": 5, \"hash_ids\": [0, 1, 7]}\n{\"timestamp\": 1200.5, \"input_length\": 9, \"output_length\": 5, \"hash_ids\": [9], \"session_id\": \"a\", \"block_size\": 512}\n{\"session_id\": \"a\", \"delay\": 30, \"input_length\": 99, \"output_length\": 5, \"hash_ids\": [9]}\n",
    ),
    (
        "own.jsonl",
        "{\"schema\":\"knee.trace/1\",\"name\":\"own\",\"block_tokens\":16,\"max_concurrent_sessions\":4,\"classes\":[\"a\",\"b\"],\"provenance\":[\"made up\"]}\n{\"at_ns\":0,\"input\":374,\"output\":44,\"blocks\":[[0,24]]}\n{\"at_ns\":5000000,\"input\":374,\"output\":44,\"class\":1,\"session\":0,\"blocks\":[[0,20],[100,4]]}\n{\"after\":1,\"think_ns\":5000000000,\"input\":420,\"output\":80,\"session\":0,\"blocks\":[[0,20],[100,9]]}\n",
    ),
    (
        "weka.json",
        "{\"id\": \"s1\", \"block_size\": 64, \"requests\": [\n{\"t\": 0.0, \"in\": 130, \"out\": 20, \"hash_ids\": [1, 2, 3], \"api_time\": 2.5},\n{\"t\": 3.0, \"requests\": [{\"t\": 0.5, \"in\": 64, \"out\": 10, \"hash_ids\": [7], \"api_time\": 1.0}, {\"t\": 2.0, \"in\": 80, \"out\": 10, \"hash_ids\": [7, 8], \"think_time\": 0.5}]},\n{\"t\": 8.0, \"in\": 190, \"out\": 20, \"hash_ids\": [1, 2, 3, 4], \"think_time\": 3.0}\n]}\n",
    ),
    (
        "weka-turns.jsonl",
        "{\"session_id\": \"a\", \"turn_index\": 0, \"request_arrival_delta_s\": 0.0, \"input_tokens\": 50, \"output_tokens\": 20, \"api_time_s\": 1.0, \"think_time_s\": 0.0}\n{\"session_id\": \"a\", \"turn_index\": 1, \"request_arrival_delta_s\": 4.0, \"input_tokens\": 90, \"output_tokens\": 20, \"api_time_s\": null, \"think_time_s\": 2.0}\n",
    ),
    (
        "plain.jsonl",
        "{\"arrival_ms\": 0, \"prompt_tokens\": 12, \"completion_tokens\": 3}\n{\"arrival_ms\": \"40.5\", \"prompt_tokens\": 120, \"completion_tokens\": 30}\n{\"arrival_ms\": 1e2, \"prompt_tokens\": 12.0, \"completion_tokens\": 3, \"class\": \"x\"}\n",
    ),
    (
        "array.json",
        "[{\"arrival_s\": 0, \"in\": 12, \"out\": 3},\n {\"arrival_s\": 2.5, \"in\": 120, \"out\": 30}]\n",
    ),
];

const LINES: &str = "{\"queued_ts\": 10.0, \"scheduled_ts\": 10.1, \"first_token_ts\": 10.5, \"last_token_ts\": 12.0, \"input_toks\": 100, \"output_toks\": 20, \"prompt_id\": 1}\n{\"queued_ts\": 10.5, \"scheduled_ts\": 10.6, \"first_token_ts\": 11.0, \"last_token_ts\": 14.0, \"input_toks\": 64, \"output_toks\": 30, \"prompt_id\": 1}\n{\"queued_ts\": 11.0, \"scheduled_ts\": 11.1, \"first_token_ts\": 11.5, \"last_token_ts\": 13.0, \"input_toks\": 300, \"output_toks\": 10, \"prompt_id\": \"x\"}\n";

const LOAD: &str = "t,running,waiting\n1,3,0\n2,5,1\n3,4,0\n";
