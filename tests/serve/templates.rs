//! Chat templates that would take all memory or never end: each is given up with one line, and the next prompt is written.

use std::time::Instant;

use engine::model::chat::{ChatTemplate, Message};
use engine::model::renderer::Renderer;

fn renderer(source: &str) -> Result<Renderer, String> {
    let template = ChatTemplate { source: source.to_owned(), ..ChatTemplate::chat_ml() };
    Renderer::start(template, env!("CARGO_BIN_EXE_knee").into()).map_err(|e| e.to_string())
}

fn said(text: &str) -> Vec<Message> {
    vec![Message { role: "user".to_owned(), content: text.to_owned() }]
}

/// A template that repeats `step` 60 times on `ns.s`, whose first value is `first`.
fn repeated(first: &str, step: &str) -> String {
    format!(
        "{{% set ns = namespace(s={first}) %}}{{% for i in range(60) %}}{{% set ns.s = {step} %}}{{% endfor %}}"
    )
}

#[test]
fn a_template_that_takes_too_much_is_given_up() {
    let text = |step: &str| repeated("'0123456789'", step) + "{{ ns.s }}";
    let list = |step: &str, end: &str| repeated("[[0], [0]]", step) + end;
    let constant = "'x' * 99999999";
    let capped = "{% macro f(s, n) %}{% if n %}{{ f(s ~ s, n - 1) }}{% else %}{{ s }}{% endif %}{% endmacro %}";
    let cases = [
        text("ns.s ~ ns.s"),
        text("ns.s + ns.s"),
        text("ns.s * 9"),
        text("ns.s|replace('0', ns.s)"),
        text("[ns.s, ns.s]|join"),
        text("ns.s.join([ns.s, ns.s, ns.s])"),
        text("ns.s|indent(99999999999)"),
        text("'%s%s'|format(ns.s, ns.s)"),
        text("'%999999999999s'|format(ns.s)"),
        text("'{:>999999999999}'.format(ns.s)"),
        list("ns.s + ns.s", "{{ ns.s|list|length }}"),
        list("ns.s * 1000", "{{ ns.s|list|length }}"),
        // Small in memory, for its parts are one.
        list("[ns.s, ns.s]", "{{ ns.s }}"),
        list("[ns.s, ns.s]", "{{ ns.s|tojson }}"),
        list("[[ns.s[0], ns.s[0]], [ns.s[1], ns.s[1]]]", "{{ ns.s[0] == ns.s[1] }}"),
        // Deep.
        "{% set ns = namespace(s=0) %}{% for i in range(90000) %}{% for j in range(90) %}{% set ns.s = [ns.s] %}\
         {% endfor %}{% endfor %}{{ ns.s|string|length }}"
            .to_owned(),
        // Kept beside the prompt: blocks, macros and long texts of the template's own.
        "{% set a = 'xxxxxxxx' %}".to_owned()
            + &"{% set b %}{{ a }}{{ a }}{% endset %}{% set a %}{{ b }}{{ b }}{% endset %}".repeat(40),
        format!("{capped}{{{{ f('0123456789', 60) }}}}"),
        format!(
            "{{% set a %}}{{% for i in range(90000) %}}{}{{% endfor %}}{{% endset %}}",
            "x".repeat(60_000)
        ),
        // Folded when it is compiled.
        format!("{{{{ {} }}}}", [constant; 60].join(" ~ ")),
        format!("{{{{ [{}] }}}}", [constant; 60].join(", ")),
        "{{ range(10**9)|list }}".to_owned(),
        "{{ 9 ** 9 ** 9 }}".to_owned(),
    ];
    for source in cases {
        let began = Instant::now();
        let renderer = renderer(&source);
        let error = match &renderer {
            Ok(renderer) => renderer.render(&said("hello")).map_err(|e| e.to_string()),
            Err(error) => Err(error.clone()),
        };
        let error = error.map(|text| text.len());
        println!("{:.1?} {source:.200}: {error:?}", began.elapsed());
        let error = error.unwrap_err();
        assert!(!error.contains('\n') && error.contains("chat template"), "{source:.200}: {error}");
    }
}

#[test]
fn the_next_prompt_is_written_after_one_that_was_given_up() {
    let source = repeated("messages[0].content", "ns.s ~ ns.s") + "{{ ns.s|length }}";
    let renderer = renderer(&source).unwrap();
    let wrong = renderer.render(&said("hello")).unwrap_err().to_string();
    let most = "512 MiB of memory or 2 s of processor time";
    assert_eq!(wrong, format!("the chat template takes more than {most}"));
    assert_eq!(renderer.render(&said("")).unwrap(), "0");
    assert_eq!(renderer.render(&said("")).unwrap(), "0");
}

#[test]
fn a_text_of_every_kind_comes_back_as_it_went() {
    let renderer = renderer("{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    for text in ["", "\n\r\n", "\"\\", "\u{0}\u{7f}\u{2028}", "wörds 漢字 🙂"] {
        assert_eq!(renderer.render(&said(text)).unwrap(), text);
    }
    let long = "0123456789".repeat(1 << 20);
    assert_eq!(renderer.render(&said(&long)).unwrap(), long);
    let error = Renderer::start(ChatTemplate::chat_ml(), "/nowhere/knee".into()).err().unwrap();
    assert!(error.to_string().starts_with("cannot start a process for the chat template: "));
}
