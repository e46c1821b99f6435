//! The format of a file, told by the names of its columns.

use std::collections::BTreeSet;

use super::flat::{self, Columns};
use super::kind::{Kind, Reader, Seen};
use super::kinds;
use super::names::{Names, Slot};
use super::text::Documents;
use crate::TraceError;

/// The format of a table with these columns.
pub(crate) fn columns(columns: &[String]) -> &'static Kind {
    kinds::recognised(&Seen { columns, keys: None })
}

/// The format of JSON documents, told by the keys of the first of them.
pub(crate) fn documents(documents: &mut Documents<'_>) -> Result<&'static Kind, TraceError> {
    let file = documents.file().to_owned();
    let mut top = BTreeSet::new();
    let mut names = BTreeSet::new();
    let first = documents.first()?;
    if first.is_empty() {
        return Err(TraceError::file(&file, "an empty list: there are no requests in it"));
    }
    for document in first {
        // A document that cannot be read is named when it is its turn.
        if let Ok(keys) = flat::keys(document.json) {
            top.extend(keys);
        }
        let _ = flat::rows(document.json, &mut |columns: Columns<'_>| {
            names.extend(columns.into_iter().map(|(name, _)| name));
            Ok::<(), serde_json::Error>(())
        });
    }
    let columns: Vec<String> = names.iter().chain(&top).cloned().collect();
    let kind = kinds::recognised(&Seen { columns: &columns, keys: Some(&top) });
    if let Reader::Table(layout) = kind.reader {
        let mut known = Names::new(layout.names, &[]);
        let mut counts = |name: &String| known.places(name).iter().any(|p| p.slot == Slot::Input);
        let texts = top.contains("input") && top.contains("output");
        if texts && !columns.iter().any(&mut counts) {
            let problem = "its input and output are not token counts; count the tokens first (input_tokens, output_tokens)";
            return Err(TraceError::file(&file, problem));
        }
    }
    Ok(kind)
}
