//! A model's first layers, with its embedding, head and tokenizer: small enough to carry, and computed like the whole.
//! The text of the cut model makes no sense. `cut_gguf FROM.gguf TO.gguf LAYERS`.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;

use candle_core::Device;
use candle_core::quantized::gguf_file::{self, Content, Value};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, layers] = &arguments[..] else {
        eprintln!("cut_gguf FROM.gguf TO.gguf LAYERS");
        std::process::exit(2);
    };
    let layers = layers.parse().map_err(|e| format!("LAYERS {layers}: {e}").into());
    if let Err(error) = layers.and_then(|layers| cut(from, to, layers)) {
        eprintln!("cut_gguf: {error}");
        std::process::exit(1);
    }
}

fn cut(from: &str, to: &str, layers: u32) -> Result<(), Box<dyn Error>> {
    let mut file = File::open(from).map_err(|e| format!("{from}: {e}"))?;
    let mut content = Content::read(&mut file)?;
    let architecture = content.metadata.get("general.architecture").ok_or("no architecture")?;
    let count = format!("{}.block_count", architecture.to_string()?);
    let all = content.metadata.get(&count).ok_or("no number of layers")?.to_u32()?;
    if !(1..=all).contains(&layers) {
        return Err(format!("{from} has {all} layers: keep 1 to {all}").into());
    }
    content.metadata.insert(count, Value::U32(layers));
    let kept = |name: &str| {
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
        layer.is_none_or(|layer: u32| layer < layers)
    };
    let mut names: Vec<&String> = content.tensor_infos.keys().filter(|name| kept(name)).collect();
    names.sort();
    let tensor = |name: &&String| content.tensor(&mut file, name, &Device::Cpu);
    let tensors = names.iter().map(tensor).collect::<Result<Vec<_>, _>>()?;
    let tensors: Vec<_> = names.iter().map(|name| name.as_str()).zip(&tensors).collect();
    let mut metadata: Vec<_> = content.metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    metadata.sort_by_key(|pair| pair.0);
    gguf_file::write(&mut BufWriter::new(File::create(to)?), &metadata, &tensors)?;
    Ok(())
}
