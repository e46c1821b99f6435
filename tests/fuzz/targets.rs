//! What is damaged, and how it is read.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use engine::exec::cpu::{Isa, Precision};
use engine::machine::Machine;
use engine::model::Model;
use tuner::study::Study;

use crate::child::FAULT;
use crate::mutate::Random;
use crate::seeds::identity;

/// A damaged file in its folder.
pub(crate) struct Case<'a> {
    /// All files of the target.
    pub(crate) dir: &'a Path,
    /// The damaged one.
    pub(crate) file: &'a Path,
    /// Which it is: targets with several ways to read a file take turns.
    pub(crate) round: u64,
}

/// What is done to a damaged file at last.
pub(crate) type Finish = fn(&mut Random, Vec<u8>) -> Vec<u8>;

/// A kind of file.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Which of its files are damaged.
    pub(crate) damages: fn(&Path) -> bool,
    pub(crate) finish: Option<Finish>,
    /// Reads it; the refusal's words.
    pub(crate) read: fn(&Case<'_>) -> Result<(), String>,
}

const fn plain(name: &'static str, read: fn(&Case<'_>) -> Result<(), String>) -> Target {
    Target { name, damages: |_| true, finish: None, read }
}

/// All of them.
pub(crate) const TARGETS: [Target; 17] = [
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
                "profile show h100-sxm --model FILE",
                "bench --model FILE --requests 30 --json",
                "plan --model FILE --demand 5rps --slo ttft=2s --requests 30 --policy chunked --max-seqs 64 --max-batch-tokens 2048 --json",
            ],
        )
    }),
    plain("workload", |case| {
        knee(case, &["trace inspect FILE", "bench --workload FILE --requests 50 --json"])
    }),
    plain("trace-csv", trace),
    plain("trace-json", trace),
    Target { finish: Some(zipped), ..plain("trace-gzip", trace) },
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
        finish: Some(sometimes_zipped),
        ..plain("steps", |case| {
            knee(case, &["calibrate --steps FILE", "calibrate --steps FILE --fit host --json"])
        })
    },
    Target { finish: Some(sometimes_zipped), ..plain("requests", requests) },
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
    Target {
        finish: Some(zipped_as_named),
        ..plain("tables", |case| {
            knee(case, &["profile import DIR --device DIR/toy.toml --to DIR/made.toml"])
        })
    },
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
    load.map(drop).map_err(|e| e.to_string())
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

fn zip(bytes: &[u8]) -> Vec<u8> {
    let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zip.write_all(bytes).expect("memory can be written");
    zip.finish().expect("memory can be written")
}

/// Gzipped; now and then damaged again, or a bomb.
#[expect(clippy::needless_pass_by_value, reason = "the type of all of these")]
fn zipped(random: &mut Random, bytes: Vec<u8>) -> Vec<u8> {
    match random.below(40) {
        0 => bomb(random, &bytes),
        1..=15 => crate::mutate::damaged(random, &zip(&bytes), &[]),
        _ => zip(&bytes),
    }
}

fn sometimes_zipped(random: &mut Random, bytes: Vec<u8>) -> Vec<u8> {
    if random.below(4) == 0 { zipped(random, bytes) } else { bytes }
}

/// As the file's name says; its first bytes tell.
fn zipped_as_named(random: &mut Random, bytes: Vec<u8>) -> Vec<u8> {
    if bytes.starts_with(&[0x1f, 0x8b]) && random.below(60) == 0 {
        bomb(random, &[])
    } else {
        bytes
    }
}

/// Some megabytes that unpack to ten gigabytes: of nothing, of spaces, or of the file's last line.
fn bomb(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let line = bytes.split_inclusive(|b| *b == b'\n').next_back().unwrap_or(b"0,1,1\n");
    let part = match random.below(4) {
        0 => vec![0; 16 << 20],
        1 => vec![b' '; 16 << 20],
        _ => line.repeat((16 << 20) / line.len().max(1)),
    };
    let (first, member) = (zip(bytes), zip(&part));
    let most = ((64 << 20) / member.len()).min((10 << 30) / part.len().max(1));
    [first, member.repeat(most)].concat()
}
