//! Every published configuration at hand is read, or refused by the name of the part that is not known; a model has the
//! number of parameters that is in its name.

use std::fs;
use std::path::{Path, PathBuf};

use engine::ModelShape;

/// A folder for each configuration, beside a checkout; absent elsewhere.
fn folder() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().map(|dir| dir.join("shared/models")).find(|dir| dir.is_dir())
}

/// Billions in a name: all parameters, and the active ones.
fn named(name: &str) -> (Option<f64>, Option<f64>) {
    let number = |text: &str| text.parse::<f64>().ok().filter(|n| *n > 0.0);
    let parts: Vec<&str> = name.split(['-', '_']).collect();
    let billions = |part: &&str| number(part.strip_suffix('B')?);
    let trillions = |part: &&str| Some(1e3 * number(part.strip_suffix('T')?)?);
    let all = parts.iter().find_map(|part| billions(part).or_else(|| trillions(part)));
    let active = parts.iter().find_map(|part| number(part.strip_prefix('A')?.strip_suffix('B')?));
    let experts = parts.iter().any(|p| p.strip_suffix('E').is_some_and(|n| number(n).is_some()));
    // Llama 4 says the active ones, and then its experts; Mixtral the size of an expert's model.
    if experts { (None, all) } else { (all, active) }
}

#[test]
fn published_configurations_are_read_or_refused_by_name() {
    let Some(folder) = folder() else {
        println!("skipped: no shared/models beside the checkout");
        return;
    };
    let mut folders: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    folders.retain(|path| path.join("config.json").is_file());
    folders.sort();
    let (mut read, mut faults) = (0, Vec::new());
    for path in &folders {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let model = match ModelShape::load(path.to_str().unwrap()) {
            Ok(model) => model,
            Err(error) => {
                let told = error.to_string();
                println!("{name:<52} refused: {}", told.rsplit(": ").next().unwrap());
                if !(told.contains("attention `") && told.contains("is not known")) {
                    faults.push(told);
                }
                continue;
            }
        };
        read += 1;
        let (all, active) =
            (model.parameters() as f64 / 1e9, model.active_parameters() as f64 / 1e9);
        let formats: Vec<String> = model.formats().iter().map(ToString::to_string).collect();
        let (kv, gb) = (engine::config::KvDtype::Bf16, model.weight_bytes() as f64 / 1e9);
        let layout = engine::memory::KvLayout::new(&model, &engine::Config::default());
        println!(
            "{name:<52}{all:>9.2}{active:>8.2}{gb:>9.1}{:>9}{:>12}   {}",
            model.kv_bytes_per_token(kv, 1),
            layout.sequence_bytes(&model, 131_072) / 131_072,
            formats.join(", ")
        );
        let said = named(&name);
        for (said, own) in [(said.0, all), (said.1, active)] {
            // Small ones are rounded to whole billions, a vision tower included.
            if said.is_some_and(|s| (own / s - 1.0).abs() > 0.1 && (own - s).abs() > 0.3) {
                faults.push(format!("{name}: {own:.2} B for {said:?}"));
            }
        }
    }
    println!("{read} of {} read", folders.len());
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(6 * read >= 5 * folders.len(), "{read} of {}", folders.len());
}
