//! Text that goes through a tokenizer and comes back, against the decoder of the crate.

use proptest::prelude::*;

use super::stream::Characters;
use super::*;

fn text(tokenizer: &Tokenizer, tokens: &[Token]) -> String {
    let (mut characters, mut out) = (Characters::default(), String::new());
    for &token in tokens {
        characters.push(tokenizer.piece(token), &mut out);
    }
    characters.finish(&mut out);
    out
}

/// A vocabulary in SentencePiece's spelling, as GGUF keeps it.
fn sentence_pieces() -> Tokenizer {
    let json = json!({
        "version": "1.0",
        "added_tokens": [rebuild::added_token(0, "<unk>", true), rebuild::added_token(1, "<s>", true)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "fuse_unk": true,
            "vocab": vocab(), "merges": [["▁", "a"], ["▁a", "b"]]},
    });
    Tokenizer::from_json(Path::new("pieces"), &json.to_string()).unwrap()
}

fn vocab() -> HashMap<String, u32> {
    let bytes = (0..=255u32).map(|b| (format!("<0x{b:02X}>"), b + 2));
    let words = ["<unk>", "<s>"].into_iter().zip(0..);
    let pieces = ["▁", "a", "b", "▁a", "▁ab"].into_iter().zip(258..);
    words.chain(pieces).map(|(w, id)| (w.to_owned(), id)).chain(bytes).collect()
}

proptest! {
    #[test]
    fn any_text_comes_back(source in ".{0,40}") {
        for tokenizer in [Tokenizer::bytes(), sentence_pieces()] {
            let tokens = tokenizer.encode(&source, true).unwrap();
            prop_assert_eq!(text(&tokenizer, &tokens), source.clone());
        }
    }

    /// Against the decoder of the crate, on tokens that need not be text.
    #[test]
    fn any_tokens_are_decoded_as_at_once(tokens in prop::collection::vec(0u32..258, 0..40)) {
        let tokenizer = Tokenizer::bytes();
        let whole = tokenizer.inner.decode(&tokens, false).unwrap();
        prop_assert_eq!(text(&tokenizer, &tokens), whole);
    }
}

#[test]
fn control_tokens_are_recognised_and_known() {
    let tokenizer = Tokenizer::bytes();
    assert_eq!(tokenizer.encode("<|im_start|>é", true).unwrap(), [256, 0xc3, 0xa9]);
    assert!(tokenizer.is_special(257) && !tokenizer.is_special(65) && !tokenizer.is_special(9999));
    assert_eq!(tokenizer.piece(257), b"<|im_end|>");
    assert_eq!((tokenizer.piece(9999), tokenizer.vocab()), (&[][..], 258));
    assert_eq!(tokenizer.token("<|im_end|>"), Some(257));
}

#[test]
fn truncation_and_padding_for_training_are_dropped() {
    let plain = Tokenizer::bytes();
    let mut json: serde_json::Value = serde_json::from_str(&plain.to_json()).unwrap();
    json["truncation"] =
        json!({"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"});
    json["padding"] = json!({"strategy": {"Fixed": 16}, "direction": "Left", "pad_to_multiple_of": null,
        "pad_id": 257, "pad_type_id": 0, "pad_token": "<|im_end|>"});
    let tokenizer = Tokenizer::from_json(Path::new("t.json"), &json.to_string()).unwrap();
    for text in ["a", "abcdefgh"] {
        assert_eq!(tokenizer.encode(text, true).unwrap(), plain.encode(text, true).unwrap());
    }
}

#[test]
fn a_text_that_is_too_long_is_not_tokenised_whole() {
    let tokenizer = Tokenizer::bytes();
    let up_to = |bytes: usize, most: u32| {
        tokenizer.encode_up_to(&"é".repeat(bytes / 2), true, most).unwrap().map(|t| t.len())
    };
    // A text that is short enough is counted, so the caller checks its length.
    assert_eq!(up_to(100, 7), Some(100));
    assert_eq!(up_to(4 * PIECE, 4 * PIECE as u32), Some(4 * PIECE));
    assert_eq!(up_to(4 * PIECE, 2 * PIECE as u32), None);
    assert!(tokenizer.could_be(16 * 100, 100) && !tokenizer.could_be(16 * 100 + 1, 100));
}

#[test]
fn a_decoder_that_spells_no_bytes_is_refused() {
    let json = r#"{"version": "1.0", "added_tokens": [], "decoder": {"type": "WordPiece", "prefix": "@", "cleanup": true},
        "model": {"type": "BPE", "vocab": {}, "merges": []}}"#;
    let refused = |text| Tokenizer::from_json(Path::new("t.json"), text).err().unwrap().to_string();
    assert_eq!(refused(json), "t.json: unsupported tokenizer: its decoder spells no bytes");
    assert!(refused("{}").starts_with("t.json: not a tokenizer: "));
}

#[test]
fn identities_and_texts_that_the_crate_cannot_bear_are_refused() {
    let file = |added: u64, vocab: u64, special: u64| {
        json!({"version": "1.0", "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            "added_tokens": [rebuild::added_token(0, "<s>", true), {"id": added, "content": "x", "special": false,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}],
            "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}], "pair": [],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [special], "tokens": ["<s>"]}}},
            "model": {"type": "BPE", "vocab": {"<s>": 0, "a": vocab}, "merges": []}})
        .to_string()
    };
    let read =
        |text: &str| Tokenizer::from_json(Path::new("t.json"), text).map_err(|e| e.to_string());
    assert_eq!(read(&file(2, 1, 0)).map(|t| t.vocab()).unwrap(), 3);
    let most = u64::from(u32::MAX);
    for text in [file(most, 1, 0), file(2, most, 0), file(2, 1, most)] {
        let error = read(&text).err().unwrap();
        assert!(
            error.starts_with("t.json: not a tokenizer: a token of identity 4294967295"),
            "{error}"
        );
    }
    let whole = file(2, 1, 0);
    let lost = whole.replace(r#""special_tokens":{"<s>""#, r#""special_tokens":{"<t>""#);
    assert_ne!(lost, whole);
    let error = read(&lost).err().unwrap();
    assert_eq!(error, "t.json: not a tokenizer: it contradicts itself");
    for cut in 0..whole.len() {
        assert!(read(&whole[..cut]).is_err(), "{cut}");
    }
    let broken = whole.replace("ByteLevel\",", "ByteLevel\"");
    assert!(broken != whole && read(&broken).is_err());
}
