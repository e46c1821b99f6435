//! The parts that manifests for Kubernetes share.

use super::said::Said;
use engine::Config;

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

/// Pods of one engine each.
pub(super) struct Pods {
    /// Those that decode, or do everything.
    pub(super) serve: u32,
    /// Those that prefill only, where prompts and outputs are apart.
    pub(super) prefill: Option<u32>,
    /// GPUs of a pod.
    pub(super) gpus: u32,
}

impl Pods {
    pub(super) fn of(c: &Config) -> Self {
        let apart = c.scheduler.traits().disaggregates;
        Self {
            serve: if apart { c.replicas * c.decode_workers } else { c.replicas },
            prefill: apart.then_some(c.replicas * c.prefill_workers),
            gpus: c.tp * c.dp * c.pp,
        }
    }
}

/// The arguments of a container, a line each: no shell takes them apart.
pub(super) fn arguments(flags: &[String]) -> Vec<String> {
    let words = flags.iter().flat_map(|flag| shlex::split(flag).unwrap_or_default());
    words.map(|word| format!("- {}", yaml_string(&word))).collect()
}

/// The entries of a container's environment; nothing where there are none.
pub(super) fn environment<'a>(variables: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let entry =
        |(name, value)| [format!("  - name: {name}"), format!("    value: {}", yaml_string(value))];
    let entries: Vec<String> = variables.flat_map(entry).collect();
    let head = (!entries.is_empty()).then(|| "env:".to_owned());
    head.into_iter().chain(entries).collect()
}

impl Said {
    /// Names and values of the environment.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().filter_map(|variable| variable.split_once('='))
    }
}

/// `lines`, all `indent` further in, each with its end.
pub(super) fn indented(indent: usize, lines: &[String]) -> String {
    lines.iter().map(|line| format!("{:indent$}{line}\n", "")).collect()
}

#[cfg(test)]
mod tests {
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
}
