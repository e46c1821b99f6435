//! A conversation as a prompt: the model's own Jinja template, in the setting that Hugging Face's library renders it.
//!
//! A template is a program that came with a model. It is kept as text here; a [`Renderer`](super::renderer::Renderer)
//! compiles and runs it where it can do no harm.

use std::io::{self, Write};
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use serde_json::Serializer;
use serde_json::ser::{Formatter, PrettyFormatter};

use super::gguf::Gguf;
use super::tokenizer::Tokenizer;
use super::weights::ModelError;
use crate::files::{LONGEST_SETTINGS, read_text};

/// ChatML, the form that the built-in model is spoken to in.
const CHAT_ML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + \
                       '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Steps that a template may take for one prompt: a thousand times what a long conversation needs, and about a second.
const FUEL: u64 = 10_000_000;
/// Longest prompt that one may write, bytes.
const MOST_WRITTEN: usize = 16 << 20;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text of the turn.
    pub content: String,
}

/// A model's template, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatTemplate {
    /// Jinja.
    pub source: String,
    /// The word of the control token that begins a text; empty for none.
    pub begin: String,
    /// The word of the control token that ends a text; empty for none.
    pub end: String,
}

impl ChatTemplate {
    /// The built-in model's.
    #[must_use]
    pub fn chat_ml() -> Self {
        let end = "<|im_end|>".to_owned();
        Self { source: CHAT_ML.to_owned(), begin: String::new(), end }
    }

    /// The template in the folder `dir`: `chat_template.jinja`, else that of `tokenizer_config.json`; none when the
    /// model has none.
    ///
    /// # Errors
    /// When `tokenizer_config.json` is not JSON.
    pub fn open(dir: &Path) -> Result<Option<Self>, ModelError> {
        let path = dir.join("tokenizer_config.json");
        let config: serde_json::Value = match read_text(&path, LONGEST_SETTINGS) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| ModelError::broken(&path, e))?,
            Err(_) => serde_json::Value::Null,
        };
        let named = |list: &Vec<serde_json::Value>| {
            let default = list.iter().find(|t| t["name"] == "default");
            default.and_then(|t| t["template"].as_str()).map(str::to_owned)
        };
        let inside = match &config["chat_template"] {
            serde_json::Value::Array(list) => named(list),
            other => other.as_str().map(str::to_owned),
        };
        let Some(source) =
            read_text(&dir.join("chat_template.jinja"), LONGEST_SETTINGS).ok().or(inside)
        else {
            return Ok(None);
        };
        // A token is a text, or an object with one.
        let word = |key: &str| {
            let token = &config[key];
            token.as_str().or(token["content"].as_str()).unwrap_or_default().to_owned()
        };
        Ok(Some(Self { source, begin: word("bos_token"), end: word("eos_token") }))
    }

    /// The template inside a GGUF file, if it has one.
    #[must_use]
    pub fn of_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Option<Self> {
        let meta = gguf.meta();
        let source = meta.text("tokenizer.chat_template").ok()?.to_owned();
        let word =
            |key: &str| meta.count(key).and_then(|id| tokenizer.word(id)).unwrap_or_default();
        let (begin, end) =
            (word("tokenizer.ggml.bos_token_id"), word("tokenizer.ggml.eos_token_id"));
        Some(Self { source, begin, end })
    }
}

/// A template that is ready to write prompts. Neither memory nor time of compiling and writing is bounded: steps that
/// the engine of templates counts are, but one step may double a text.
#[derive(Debug)]
pub(super) struct Compiled {
    environment: Environment<'static>,
    begin: String,
    end: String,
}

impl Compiled {
    /// # Errors
    /// When it is not a template.
    pub(super) fn new(template: ChatTemplate) -> Result<Self, ModelError> {
        let environment = environment(template.source)
            .map_err(|e| ModelError::Text(format!("not a chat template: {e}")))?;
        Ok(Self { environment, begin: template.begin, end: template.end })
    }

    /// The prompt that asks for the next turn after `messages`.
    ///
    /// # Errors
    /// The template's own words against them.
    pub(super) fn render(&self, messages: &[Message]) -> Result<String, ModelError> {
        let template = self.environment.get_template("chat");
        let turn = |m: &Message| {
            Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())])
        };
        let messages: Vec<Value> = messages.iter().map(turn).collect();
        let context = context! {
            messages => messages,
            add_generation_prompt => true,
            bos_token => self.begin.as_str(),
            eos_token => self.end.as_str(),
        };
        let mut text = Bounded(Vec::new());
        let written = template.and_then(|t| t.render_captured_to(context, &mut text).map(drop));
        written.map_err(|e| {
            ModelError::Text(match e.kind() {
                ErrorKind::OutOfFuel => "the chat template does not come to an end".to_owned(),
                ErrorKind::WriteFailure => "the chat template writes without an end".to_owned(),
                _ => {
                    let why = e.detail().map_or_else(|| e.to_string(), str::to_owned);
                    format!("the chat template refuses these messages: {why}")
                }
            })
        })?;
        String::from_utf8(text.0).map_err(|e| ModelError::Text(e.to_string()))
    }
}

/// The text that a template has written so far, up to [`MOST_WRITTEN`].
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_WRITTEN {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `source` in the setting of Hugging Face's library.
fn environment(source: String) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |why: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, why))
    });
    environment.add_filter("tojson", json);
    compiled(environment, source)
}

/// Bytes of a template: some times the longest in use. Compiling a chain takes the square of its length.
const LONGEST: usize = 64 << 10;

/// `environment` with `source` in it. The compiler calls itself for every link of a chain such as `a.a.a`, of which there
/// are as many as fit into [`LONGEST`]: it is given a stack for them, of which only what is used takes memory.
fn compiled(
    mut environment: Environment<'static>,
    source: String,
) -> Result<Environment<'static>, Error> {
    let failed = |why: String| Error::new(ErrorKind::InvalidOperation, why);
    if source.len() > LONGEST {
        return Err(failed(format!("{} bytes long: at most {LONGEST}", source.len())));
    }
    let compile = move || environment.add_template_owned("chat", source).map(|()| environment);
    let thread = std::thread::Builder::new().stack_size(256 << 20).spawn(compile);
    let thread = thread.map_err(|e| failed(format!("no thread to compile it: {e}")))?;
    thread.join().unwrap_or_else(|_| Err(failed("the compiler gave up".to_owned())))
}

/// Python's `json.dumps`, as templates expect it: nothing is escaped for HTML.
#[expect(clippy::needless_pass_by_value, reason = "the form of a filter")]
fn json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let failed = |e: String| Error::new(ErrorKind::BadSerialization, e);
    let mut out = Vec::new();
    let written = match options.get::<Option<usize>>("indent")? {
        None => Serialize::serialize(value, &mut Serializer::with_formatter(&mut out, Spaced)),
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let form = PrettyFormatter::with_indent(spaces.as_bytes());
            Serialize::serialize(value, &mut Serializer::with_formatter(&mut out, form))
        }
    };
    written.map_err(|e| failed(e.to_string()))?;
    String::from_utf8(out).map_err(|e| failed(e.to_string()))
}

/// JSON on one line with Python's spaces.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned() }
    }

    fn compiled(source: &str) -> Result<Compiled, ModelError> {
        let (source, begin, end) = (source.to_owned(), "<s>".to_owned(), "</s>".to_owned());
        Compiled::new(ChatTemplate { source, begin, end })
    }

    #[test]
    fn turns_are_put_between_control_tokens() {
        let template = Compiled::new(ChatTemplate::chat_ml()).unwrap();
        let text = template.render(&[said("system", "Be brief."), said("user", "Hi")]);
        insta::assert_snapshot!(text.unwrap(), @"
        <|im_start|>system
        Be brief.<|im_end|>
        <|im_start|>user
        Hi<|im_end|>
        <|im_start|>assistant
        ");
    }

    #[test]
    fn templates_of_python_work() {
        // Blocks on lines of their own leave none behind; Python's methods; control words; a loop left early.
        let source = "{{ bos_token }}\n{%- for m in messages %}\n    {%- if m.content.strip().startswith('stop') %}\n\
                      {%- break %}\n    {%- endif %}\n    {% set c = m['content'].strip() %}\n[{{ m.role | upper }}] \
                      {{ c }}{{ eos_token }}\n{%- endfor %}\n{{ messages[0] | tojson }}";
        let messages = [said("user", " <a> "), said("user", "stop it")];
        let text = compiled(source).unwrap().render(&messages).unwrap();
        insta::assert_snapshot!(text, @r#"<s>[USER] <a></s>{"role": "user", "content": " <a> "}"#);
    }

    #[test]
    fn a_chain_without_end_is_compiled_or_refused() {
        let template =
            |middle: &str, times: usize| compiled(&format!("{{{{ a{} }}}}", middle.repeat(times)));
        for link in [".a", "|upper", " + a", "[0]", "()"] {
            assert!(template(link, LONGEST / link.len() - 4).is_ok(), "{link}");
        }
        let error = template(".a", LONGEST).unwrap_err();
        assert!(error.to_string().contains("131079 bytes long"), "{error}");
        assert!(template("", 0).is_ok());
    }

    #[test]
    fn a_refusal_of_the_template_is_passed_on() {
        let source =
            "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}";
        let error = compiled(source).unwrap().render(&[said("tool", "x")]).unwrap_err();
        assert_eq!(error.to_string(), "the chat template refuses these messages: user first");
        let error = compiled("{% if %}").unwrap_err().to_string();
        assert!(error.starts_with("not a chat template: syntax error"), "{error}");
    }

    #[test]
    fn a_template_that_does_not_end_is_given_up() {
        let render = |source: &str| {
            compiled(source).unwrap().render(&[said("user", "x")]).unwrap_err().to_string()
        };
        let count = "{% for i in range(90000) %}";
        let nested = format!("{count}{count}{count}{{% set a = i %}}{}", "{% endfor %}".repeat(3));
        assert_eq!(render(&nested), "the chat template does not come to an end");
        let twice = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}";
        assert_eq!(render(twice), "the chat template does not come to an end");
        let long = format!("{count}{{{{ 'x' * 9000 }}}}{{% endfor %}}");
        assert_eq!(render(&long), "the chat template writes without an end");
    }
}
