//! Lists of modules as quantisation tools write them: names, names with `*`, and simple regular expressions.

use std::collections::BTreeMap;

/// Most names with a `*` in a list: every module is held against each.
const MOST_GLOBS: usize = 8192;
/// Most names that one expression with alternatives stands for.
const MOST_ALTERNATIVES: usize = 64;

/// Values of modules, by name.
#[derive(Debug, Clone)]
pub(super) struct Modules<T> {
    exact: BTreeMap<String, T>,
    globs: Vec<(String, T)>,
}

impl<T> Default for Modules<T> {
    fn default() -> Self {
        Self { exact: BTreeMap::new(), globs: Vec::new() }
    }
}

impl<T: Copy> Modules<T> {
    /// Adds the value of the modules that `pattern` stands for.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn add(&mut self, pattern: &str, said: T) -> Result<(), String> {
        if let Some(expression) = pattern.strip_prefix("re:") {
            let globs = globs(expression).ok_or_else(|| {
                format!("the pattern `{pattern}` of its quantisation cannot be read")
            })?;
            self.globs.extend(globs.into_iter().map(|glob| (rooted(&glob).to_owned(), said)));
        } else if pattern.contains('*') {
            self.globs.push((rooted(pattern).to_owned(), said));
        } else {
            self.exact.insert(rooted(pattern).to_owned(), said);
        }
        if self.globs.len() > MOST_GLOBS {
            return Err(format!("its quantisation has more than {MOST_GLOBS} patterns"));
        }
        Ok(())
    }

    /// The value for `module`, for a module that it is part of, or for every part of its name.
    pub(super) fn find(&self, module: &str) -> Option<T> {
        let wholes = std::iter::successors(Some(module), |name| Some(name.rsplit_once('.')?.0));
        let within = wholes.filter_map(|name| self.exact.get(name)).next();
        let part = || module.split('.').find_map(|part| self.exact.get(part));
        let alike = || {
            let is = |glob: &str| matches(glob, module);
            self.globs.iter().find(|(g, _)| is(g) || is(&format!("{g}.*"))).map(|(_, said)| said)
        };
        within.or_else(part).or_else(alike).copied()
    }
}

/// A module's name without what different tools put in front of a language model.
fn rooted(name: &str) -> &str {
    let roots = ["model.", "language_model.", "backbone.", "text_model."];
    let mut name = name;
    while let Some(rest) = roots.iter().find_map(|root| name.strip_prefix(root)) {
        name = rest;
    }
    name
}

/// True where `glob`, in which `*` stands for anything, is `text`.
fn matches(glob: &str, text: &str) -> bool {
    let (glob, text) = (glob.as_bytes(), text.as_bytes());
    let (mut g, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if g < glob.len() && glob[g] == b'*' {
            star = Some((g, t));
            g += 1;
        } else if g < glob.len() && glob[g] == text[t] {
            (g, t) = (g + 1, t + 1);
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (g, t) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|c| *c == b'*')
}

/// The names with `*` that a simple regular expression, held against the beginning of a name, stands for: `.*`, `.+`,
/// `\d+`, escaped characters and alternatives in one pair of brackets each. None where it is not so simple.
fn globs(expression: &str) -> Option<Vec<String>> {
    let mut found = vec![String::new()];
    let push =
        |found: &mut Vec<String>, text: &str| found.iter_mut().for_each(|f| f.push_str(text));
    let mut rest = expression.strip_prefix('^').unwrap_or(expression);
    let mut open = true;
    while let Some(c) = rest.chars().next() {
        let any = [".*", ".+", "\\d+", "\\d", "[0-9]+", "\\w+", "[^.]+", "."];
        if let Some(token) = any.iter().find(|token| rest.starts_with(**token)) {
            push(&mut found, "*");
            rest = &rest[token.len()..];
        } else if c == '\\' {
            let escaped = rest[1..].chars().next().filter(|c| !c.is_alphanumeric())?;
            push(&mut found, escaped.encode_utf8(&mut [0; 4]));
            rest = &rest[1 + escaped.len_utf8()..];
        } else if c == '(' {
            let (inner, after) = rest[1..].split_once(')')?;
            let inner = inner.strip_prefix("?:").unwrap_or(inner);
            let plain = |s: &str| s.chars().all(|c| c.is_alphanumeric() || "_.-".contains(c));
            let choices: Vec<&str> = inner.split('|').collect();
            if !choices.iter().all(|s| plain(s)) || found.len() * choices.len() > MOST_ALTERNATIVES
            {
                return None;
            }
            let with = |f: &String| choices.iter().map(|s| format!("{f}{s}")).collect::<Vec<_>>();
            found = found.iter().flat_map(with).collect();
            rest = after;
        } else if rest == "$" {
            open = false;
            rest = "";
        } else if "[]{}?+*|$^)".contains(c) {
            return None;
        } else {
            push(&mut found, c.encode_utf8(&mut [0; 4]));
            rest = &rest[c.len_utf8()..];
        }
    }
    if open {
        push(&mut found, "*");
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(patterns: &[&str], module: &str) -> bool {
        let mut modules = Modules::default();
        patterns.iter().for_each(|pattern| modules.add(pattern, ()).unwrap());
        modules.find(module).is_some()
    }

    #[test]
    fn modules_are_found_by_every_spelling() {
        let q = "layers.11.self_attn.q_proj";
        for pattern in [
            "model.layers.11.self_attn.q_proj",
            "language_model.model.layers.11.self_attn",
            "model.layers.*.self_attn",
            "model.layers.11*",
            "model.language_model.layers.11.self_attn*",
            "re:.*self_attn.*",
            r"re:.*self_attn\.(q|k|v|o)_proj$",
            r"re:model\.layers\.\d+\.self_attn",
            "self_attn",
        ] {
            assert!(said(&[pattern], q), "{pattern}");
        }
        for pattern in [
            "model.layers.1.self_attn",
            "model.layers.1.*",
            "gate",
            r"re:.*mlp\.(gate|up)_proj.*",
            "lm_head",
        ] {
            assert!(!said(&[pattern], q), "{pattern}");
        }
        let dense = r"re:.*mlp\.(gate|up|gate_up|down)_proj.*";
        assert!(said(&[dense], "layers.0.mlp.gate_proj"));
        assert!(!said(&[dense], "layers.1.mlp.experts.0.gate_proj"));
    }

    #[test]
    fn an_expression_that_cannot_be_read_is_named() {
        let mut modules = Modules::default();
        let told = modules.add(r"re:(?!.*lm_head).*(a(b|c))", ()).unwrap_err();
        assert!(told.contains("cannot be read"), "{told}");
        let many = "re:".to_owned() + &"(a|b)".repeat(20);
        assert!(modules.add(&many, ()).is_err(), "alternatives are bounded");
    }
}
