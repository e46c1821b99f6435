//! A conversation as a prompt: the model's own Jinja template, in the setting that Hugging Face's library renders it.

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

/// ChatML: what the built-in model is spoken to in.
const CHAT_ML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + \
                       '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Steps that a template may take for one prompt: a thousand times what a long conversation needs, and about a second.
const FUEL: u64 = 10_000_000;
/// Longest prompt that one may write, bytes.
const MOST_WRITTEN: usize = 64 << 20;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A model's template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The words of the control tokens that begin and end a text.
    begin: String,
    end: String,
}

impl ChatTemplate {
    /// The built-in model's.
    #[must_use]
    pub fn chat_ml() -> Self {
        Self::new(CHAT_ML.to_owned(), String::new(), "<|im_end|>".to_owned())
            .expect("the built-in one is sound")
    }

    fn new(source: String, begin: String, end: String) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        environment.set_syntax(syntax);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |why: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, why))
        });
        environment.add_filter("tojson", json);
        let environment = compiled(environment, source)?;
        Ok(Self { environment, begin, end })
    }

    /// The template in the folder `dir`: `chat_template.jinja`, else that of `tokenizer_config.json`; none when the
    /// model has none.
    ///
    /// # Errors
    /// When it cannot be read or is not a template.
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
        let template = Self::new(source, word("bos_token"), word("eos_token"));
        template.map(Some).map_err(|e| ModelError::broken(&path, format!("chat template: {e}")))
    }

    /// The template inside a GGUF file, if it has one.
    ///
    /// # Errors
    /// When it is not a template.
    pub fn of_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<Self>, ModelError> {
        let meta = gguf.meta();
        let Ok(source) = meta.text("tokenizer.chat_template") else { return Ok(None) };
        let word =
            |key: &str| meta.count(key).and_then(|id| tokenizer.word(id)).unwrap_or_default();
        let (begin, end) =
            (word("tokenizer.ggml.bos_token_id"), word("tokenizer.ggml.eos_token_id"));
        let template = Self::new(source.to_owned(), begin, end);
        template.map(Some).map_err(|e| ModelError::broken(meta.path, format!("chat template: {e}")))
    }

    /// The prompt that asks for the next turn after `messages`.
    ///
    /// # Errors
    /// What the template says against them.
    pub fn render(&self, messages: &[Message]) -> Result<String, ModelError> {
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

/// What a template has written, up to [`MOST_WRITTEN`].
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

    #[test]
    fn turns_are_put_between_control_tokens() {
        let text =
            ChatTemplate::chat_ml().render(&[said("system", "Be brief."), said("user", "Hi")]);
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
        let template = ChatTemplate::new(source.to_owned(), "<s>".into(), "</s>".into()).unwrap();
        let text = template.render(&[said("user", " <a> "), said("user", "stop it")]).unwrap();
        insta::assert_snapshot!(text, @r#"<s>[USER] <a></s>{"role": "user", "content": " <a> "}"#);
    }

    #[test]
    fn a_chain_without_end_is_compiled_or_refused() {
        let template = |middle: &str, times: usize| {
            let source = format!("{{{{ a{} }}}}", middle.repeat(times));
            ChatTemplate::new(source, String::new(), String::new())
        };
        for link in [".a", "|upper", " + a", "[0]", "()"] {
            assert!(template(link, LONGEST / link.len() - 4).is_ok(), "{link}");
        }
        let error = template(".a", LONGEST).unwrap_err();
        assert!(error.to_string().contains("131079 bytes long"), "{error}");
        assert!(template("", 0).is_ok());
    }

    #[test]
    fn what_a_template_refuses_is_said() {
        let source =
            "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}";
        let template = ChatTemplate::new(source.to_owned(), String::new(), String::new()).unwrap();
        let error = template.render(&[said("tool", "x")]).unwrap_err();
        assert_eq!(error.to_string(), "the chat template refuses these messages: user first");
        assert!(ChatTemplate::new("{% if %}".to_owned(), String::new(), String::new()).is_err());
    }

    #[test]
    fn a_template_that_does_not_end_is_given_up() {
        let render = |source: &str| {
            let template =
                ChatTemplate::new(source.to_owned(), String::new(), String::new()).unwrap();
            template.render(&[said("user", "x")]).unwrap_err().to_string()
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
