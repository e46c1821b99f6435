//! The kinds of files, and their readers.

use std::path::Path;
use std::process::{Command, Stdio};

use engine::exec::cpu::{Isa, Precision};
use engine::machine::Machine;
use engine::model::Model;
use engine::model::chat::Message;
use engine::model::renderer::Renderer;
use tuner::subject::study::Study;

use crate::child::FAULT;
use crate::mutate::Random;
use crate::packed::{AS_NAMED, BZIP2, GZIP, SOMETIMES, XZ, ZSTD};
use crate::seeds::identity;

/// A damaged file in its folder.
pub(crate) struct Case<'a> {
    /// All files of the target.
    pub(crate) dir: &'a Path,
    /// The damaged one.
    pub(crate) file: &'a Path,
    /// Its number: targets with several ways to read a file take turns.
    pub(crate) round: u64,
}

/// The last step of damage, such as packing.
pub(crate) type Finish = fn(&mut Random, Vec<u8>) -> Vec<u8>;

/// A kind of file.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Selects the files that are damaged.
    pub(crate) damages: fn(&Path) -> bool,
    pub(crate) finish: Option<Finish>,
    /// Reads it; the refusal's words.
    pub(crate) read: fn(&Case<'_>) -> Result<(), String>,
}

const fn plain(name: &'static str, read: fn(&Case<'_>) -> Result<(), String>) -> Target {
    Target { name, damages: |_| true, finish: None, read }
}

/// All of them.
pub(crate) const TARGETS: [Target; 24] = [
    plain("gguf", |case| model(case.file)),
    Target {
        damages: |p| ends(p, "safetensors") || ends(p, "index.json"),
        ..folder("safetensors")
    },
    Target { damages: |p| ends(p, "config.json"), ..folder("config") },
    Target { damages: |p| ends(p, "tokenizer.json") || ends(p, "jinja"), ..folder("tokenizer") },
    plain("profile", |case| {
        knee(
            case,
            &[
                "profile show FILE --json",
                "profile show FILE --model llama-3.1-8b",
                "bench --device FILE --requests 30 --json",
                "bench --device FILE --model llama-3.1-70b --tp 8 --requests 30 --json",
                "plan --device FILE --model llama-3.1-70b --demand 5rps --slo ttft=2s --requests 30 --policy chunked --max-seqs 64 --max-batch-tokens 2048 --json",
            ],
        )
    }),
    plain("shape", |case| {
        knee(
            case,
            &[
                "models FILE",
                "profile show h100-sxm --model FILE",
                "bench --model FILE --requests 30 --json",
                "plan --model FILE --demand 5rps --slo ttft=2s --requests 30 --policy chunked --max-seqs 64 --max-batch-tokens 2048 --json",
            ],
        )
    }),
    plain("configuration", |case| {
        knee(
            case,
            &[
                "models FILE",
                "models FILE --quantization fp8_block --json",
                "profile show h100-sxm --model FILE",
                "bench --model FILE --requests 30 --json",
            ],
        )
    }),
    plain("workload", |case| {
        knee(case, &["trace inspect FILE", "bench --workload FILE --requests 50 --json"])
    }),
    plain("trace-csv", trace),
    plain("trace-json", trace),
    plain("trace-parquet", trace),
    Target { finish: Some(GZIP), ..plain("trace-gzip", trace) },
    Target { finish: Some(ZSTD), ..plain("trace-zstd", trace) },
    Target { finish: Some(XZ), ..plain("trace-xz", trace) },
    Target { finish: Some(BZIP2), ..plain("trace-bzip2", trace) },
    plain("knobs", |case| knee(case, &["bench --config FILE --requests 30 --json"])),
    plain("calibration", |case| {
        knee(
            case,
            &[
                "bench --calibration FILE --requests 30 --json",
                "bench --device FILE --requests 30 --json",
            ],
        )
    }),
    Target {
        finish: Some(SOMETIMES),
        ..plain("steps", |case| {
            knee(case, &["calibrate --steps FILE", "calibrate --steps FILE --fit host --json"])
        })
    },
    Target { finish: Some(SOMETIMES), ..plain("requests", requests) },
    Target {
        damages: |p| ends(p, "json"),
        ..plain("reports", |case| {
            let folder = Case { file: case.file.parent().unwrap_or(case.dir), ..*case };
            if ends(case.file, "part.json") {
                return knee(&folder, &["report DIR/worker0 DIR/worker1 --json --out DIR/whole"]);
            }
            knee(&folder, &["report FILE", "report FILE --json"])
        })
    },
    plain("study", |case| {
        let study = Study::open(case.file, &identity()).map_err(|e| e.to_string())?;
        study.close().map_err(|e| e.to_string())
    }),
    Target { finish: Some(AS_NAMED), ..plain("tables", tables) },
    Target { damages: |p| ends(p, "parquet"), ..plain("tables-parquet", tables) },
    plain("certificates", certificates),
];

/// The target called `name`.
pub(crate) fn named(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

const fn folder(name: &'static str) -> Target {
    plain(name, |case| model(case.dir))
}

fn ends(path: &Path, with: &str) -> bool {
    path.to_string_lossy().ends_with(with)
}

/// Opens a model and makes it ready to run, as `knee serve` does.
fn model(path: &Path) -> Result<(), String> {
    let mut model = Model::open(&path.to_string_lossy(), None).map_err(|e| e.to_string())?;
    let tokens =
        model.tokenizer.encode("A <|im_end|> 42 wörds", true).map_err(|e| e.to_string())?;
    let bytes: usize = tokens.iter().map(|t| model.tokenizer.piece(*t).len()).sum();
    assert!(bytes < 1 << 30);
    let whole = (Isa::best(), 1);
    let load = Machine::load(model.weights.as_mut(), Precision::F32, whole, (1, 1));
    load.map(drop).map_err(|e| e.to_string())?;
    let Some(template) = model.chat else { return Ok(()) };
    let renderer = Renderer::start(template, env!("CARGO_BIN_EXE_knee").into());
    let hello = Message { role: "user".to_owned(), content: "Hello!".to_owned() };
    renderer.and_then(|r| r.render(&[hello])).map(drop).map_err(|e| e.to_string())
}

fn trace(case: &Case<'_>) -> Result<(), String> {
    let commands = [
        "trace inspect FILE",
        "trace convert FILE --to jsonl -o DIR/made",
        "bench --workload FILE --requests 30 --json",
    ];
    let rate = |command: &&str| format!("{command} --arrival-rate 5");
    let timeless = ["lengths", "sharegpt", "weka"].iter().any(|name| {
        case.file.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
    });
    if timeless {
        let commands: Vec<String> = commands.iter().map(rate).collect();
        return knee(case, &commands.iter().map(String::as_str).collect::<Vec<_>>());
    }
    knee(case, &commands)
}

fn requests(case: &Case<'_>) -> Result<(), String> {
    let name = case.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.starts_with("prompts") {
        return knee(case, &["validate --requests DIR/requests.csv --prompts FILE --json"]);
    }
    if name.starts_with("load") {
        return knee(case, &["validate --requests DIR/requests.csv --timeseries FILE --json"]);
    }
    knee(
        case,
        &[
            "validate --requests FILE --json",
            "calibrate --requests FILE --json",
            "validate --requests FILE --out made",
        ],
    )
}

fn tables(case: &Case<'_>) -> Result<(), String> {
    knee(case, &["profile import DIR --device DIR/toy.toml --to DIR/made.toml"])
}

/// Has the certificates and the key read, and asks a port without a listener for its models.
fn certificates(case: &Case<'_>) -> Result<(), String> {
    let flags = "--ca-cert DIR/ca.pem --client-cert DIR/client.pem --client-key DIR/key.pem";
    let command = format!("bench --requests 1 --url https://127.0.0.1:9 {flags}");
    knee(case, &[&command])
        .or_else(|said| if said.contains("refused") { Ok(()) } else { Err(said) })
}

/// Runs one of `commands` in the case's folder, whose words FILE and DIR are the file and that folder.
fn knee(case: &Case<'_>, commands: &[&str]) -> Result<(), String> {
    let words = commands[(case.round % commands.len() as u64) as usize].split(' ');
    let (file, dir) = (case.file.to_string_lossy(), case.dir.to_string_lossy());
    let words = words.map(|w| w.replace("FILE", &file).replace("DIR", &dir));
    let mut command = Command::new(env!("CARGO_BIN_EXE_knee"));
    // Each arena of the allocator reserves address space, of which there is a limit here.
    command.args(words).current_dir(case.dir).env("MALLOC_ARENA_MAX", "2");
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{FAULT}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0 | 2) => Ok(()),
        Some(1) => {
            let notes = |line: &&str| !line.starts_with("knee: note: ");
            let refusal: Vec<&str> = said.lines().filter(notes).collect();
            Err(refusal.join("\n"))
        }
        _ => {
            let said = said.split_whitespace().take(60).collect::<Vec<_>>().join(" ");
            Err(format!("{FAULT} ({}): {said}", output.status))
        }
    }
}
