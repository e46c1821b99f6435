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
        let text = template.and_then(|t| t.render(context));
        text.map_err(|e| {
            let why = e.detail().map_or_else(|| e.to_string(), str::to_owned);
            ModelError::Text(format!("the chat template refuses these messages: {why}"))
        })
    }
}

/// Bytes of a template: ten times the longest in use.
const LONGEST: usize = 256 << 10;

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
        assert!(error.to_string().contains("524297 bytes long"), "{error}");
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
}
