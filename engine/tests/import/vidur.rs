//! Ambiguities of Vidur's tables are choices, and a fault in one of them is told with its place.

use std::fs;

use engine::DeviceProfile;
use engine::import::{SEED, import};

use super::{Folder, SHEET};

/// A sheet with constants for everything but what is tested.
fn vidur_sheet(choices: &str) -> String {
    let constants = SHEET.replace("\"aiconfigurator\"", "\"vidur\"");
    let without = |text: String, operator: &str| {
        let entry =
            format!("[{operator}]\nstart_us = 1.0\nper_mille = [[500]]\nsource = \"a guess\"\n");
        text.replace(&entry, "")
    };
    let sheet = ["prefill_attention", "decode_attention", "elementwise"]
        .iter()
        .fold(constants, |s, o| without(s, o));
    format!("{sheet}\n[import.vidur]\n{choices}\n")
}

/// One model's layer, and its attention with or without the time to write keys and values, in ms.
fn vidur_folder(name: &str, save: Option<&str>, derived: bool) -> Folder {
    let mut layer = "n_head,n_kv_head,n_embd,n_expanded_embd,vocab_size,use_gated_mlp,num_tensor_parallel_workers,\
        num_tokens,attn_pre_proj.median,attn_post_proj.median,mlp_up_proj.median,mlp_down_proj.median,\
        input_layernorm.median,post_attention_layernorm.median,attn_rope.median,mlp_act.median,add.median\n"
        .to_owned();
    for m in [1.0, 8.0, 64.0, 512.0, 4096.0] {
        let gemm = |n: f64, k: f64| 4e3 * (m * n * k / 1e12).max((n * k + m * (n + k)) / 1e11);
        let moved = |elements: f64| 4e3 * m * elements / 1e11 + 1e-3;
        layer += &format!(
            "8,8,1024,2048,1000,True,1,{m},{},{},{},{},{},{},{},{},{}\n",
            gemm(3072.0, 1024.0),
            gemm(1024.0, 1024.0),
            gemm(4096.0, 1024.0),
            gemm(1024.0, 2048.0),
            moved(4096.0),
            moved(4096.0),
            moved(4096.0),
            moved(6144.0),
            moved(2048.0)
        );
    }
    let column = if save.is_some() { ",time_stats.attn_kv_cache_save.median" } else { "" };
    let mut attention = format!(
        "n_embd,n_q_head,n_kv_head,num_tensor_parallel_workers,is_prefill,batch_size,prefill_chunk_size,\
         kv_cache_size,time_stats.attn_prefill.median,time_stats.attn_decode.median{column}\n"
    );
    for cached in [0.0, 512.0, 1024.0, 2048.0, 4096.0] {
        let save = save.map_or(String::new(), |s| format!(",{s}"));
        for tokens in [64.0, 256.0, 1024.0] {
            let ms = 1e-2 + 4e3 * 1024.0 * tokens * (cached + tokens) / 1e12;
            attention += &format!("1024,8,8,1,True,1,{tokens},{cached},{ms},{save}\n");
        }
        for seqs in [1.0, 8.0, 64.0] {
            let ms = 1e-2 + 1e3 * 4096.0 * seqs * (cached + 1.0) / 1e11;
            attention += &format!("1024,8,8,1,False,{seqs},0,{cached},,{ms}{save}\n");
        }
    }
    let root = std::env::temp_dir().join(format!("knee-vidur-{name}-{}", std::process::id()));
    let dir = root.join("vidur");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("toy.m.mlp.csv"), layer).unwrap();
    let mark = if derived { "DERIVED." } else { "" };
    fs::write(dir.join(format!("toy.m.tp1.attention.{mark}csv")), attention).unwrap();
    Folder(root)
}

fn device(folder: &Folder, choices: &str) -> Result<DeviceProfile, String> {
    let imported = import(&folder.0, ("toy", &vidur_sheet(choices)), &[], SEED);
    imported.map(|i| i.profile).map_err(|e| e.to_string())
}

#[test]
fn writing_the_cache_is_measured_set_or_left_out_but_never_forgotten() {
    let lacking = vidur_folder("lacking", None, false);
    let error = device(&lacking, "").unwrap_err();
    assert!(
        error.contains("toy.m.tp1.attention.csv:1: no column `attn_kv_cache_save.median`: say kv_cache_save = \"omit\""),
        "{error}"
    );
    let measured = vidur_folder("measured", Some("0.03"), false);
    let [without, set, by_table] = [
        device(&lacking, "kv_cache_save = \"omit\""),
        device(&lacking, "kv_cache_save = { us = 30.0 }"),
        device(&measured, ""),
    ]
    .map(|device| device.unwrap().decode_attention);
    assert_eq!(set.per_mille, by_table.per_mille, "30 µs are 0.03 ms");
    assert!(
        (set.start_us - without.start_us - 30.0).abs() < 0.1,
        "{} {}",
        set.start_us,
        without.start_us
    );
    // A time of zero was not measured.
    let zero = vidur_folder("zero", Some("0.0"), false);
    let error = device(&zero, "").unwrap_err();
    assert!(
        error.contains(":2: attn_kv_cache_save.median = `0.0` must be a time above 0"),
        "{error}"
    );
    assert!(device(&zero, "kv_cache_save = \"omit\"").is_ok());
}

#[test]
fn vidurs_other_choices_are_told_apart_too() {
    let folder = vidur_folder("choices", Some("0.03"), true);
    let error = device(&folder, "models = [\"m\"]").unwrap_err();
    assert!(error.starts_with("no table toy.m*.attention.csv in "), "{error}");
    assert!(
        error.ends_with(": one marked DERIVED is there; to take it, say derived = true"),
        "{error}"
    );
    let error = device(&folder, "models = [\"n\"]\nderived = true").unwrap_err();
    assert!(
        error.starts_with("no table toy.n*.mlp.csv in ") && !error.contains("DERIVED"),
        "{error}"
    );
    let error = device(&folder, "derived = false").unwrap_err();
    assert!(error.starts_with("no prefill_attention in the vidur tables of toy"), "{error}");
    let error = device(&folder, "derived = true\nlaunch = 1").unwrap_err();
    assert!(error.contains("unknown field `launch`"), "{error}");
    let moved = |choices: &str| {
        let device = device(&folder, choices).unwrap();
        device.elementwise().at(4096.0 * 4096.0 * 2.0, 0.0)
    };
    let (fused, own) = (moved("derived = true"), moved("derived = true\nresidual_add = true"));
    assert!(own > 1.05 * fused, "a kernel more takes longer: {own} against {fused}");
}

#[test]
fn every_table_tells_what_is_wrong_with_it_and_where() {
    let choices = "kv_cache_save = \"omit\"";
    for (name, file, from, to, at, reason) in [
        (
            "mlp-negative",
            "toy.m.mlp.csv",
            "True,1,64,",
            "True,1,64,-",
            4,
            "attn_pre_proj.median = `-",
        ),
        (
            "mlp-tokens",
            "toy.m.mlp.csv",
            "True,1,64,",
            "True,1,many,",
            4,
            "num_tokens = `many` must be a number",
        ),
        (
            "mlp-header",
            "toy.m.mlp.csv",
            "mlp_act.median",
            "act.median",
            1,
            "no column `mlp_act.median` among n_head, ",
        ),
        (
            "attention-header",
            "toy.m.tp1.attention.csv",
            "kv_cache_size",
            "kv",
            1,
            "no column `kv_cache_size` among ",
        ),
        (
            "attention-blank",
            "toy.m.tp1.attention.csv",
            "True,1,256,0,",
            "True,1,256,0,,",
            3,
            "found record with ",
        ),
    ] {
        let folder = vidur_folder(name, None, false);
        let path = folder.0.join("vidur").join(file);
        let text = fs::read_to_string(&path).unwrap().replacen(from, to, 1);
        fs::write(&path, text).unwrap();
        let error = device(&folder, choices).unwrap_err();
        assert!(error.contains(&format!("{file}:{at}: ")) && error.contains(reason), "{error}");
    }
    let folder = vidur_folder("nothing", None, false);
    fs::write(folder.0.join("vidur/toy.m.mlp.csv"), "").unwrap();
    let error = device(&folder, choices).unwrap_err();
    assert!(error.contains("toy.m.mlp.csv:1: the file is empty"), "{error}");
    // Seconds where milliseconds are expected: each operator is doubted by its own name.
    let folder = vidur_folder("seconds", None, false);
    let path = folder.0.join("vidur/toy.m.tp1.attention.csv");
    let mut lines: Vec<String> =
        fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
    for line in &mut lines[1..] {
        let mut fields: Vec<String> = line.split(',').map(str::to_owned).collect();
        for field in &mut fields[8..10] {
            if let Ok(ms) = field.parse::<f64>() {
                *field = (ms / 1e3).to_string();
            }
        }
        *line = fields.join(",");
    }
    fs::write(&path, lines.join("\n")).unwrap();
    let error = device(&folder, choices).unwrap_err();
    assert!(
        error.starts_with(
            "prefill_attention in the vidur tables of toy: half of the times are less than 1 /"
        ),
        "{error}"
    );
}
