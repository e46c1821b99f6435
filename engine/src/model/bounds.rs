//! Figures that no model can have.

/// A figure by its name, and the most that any model can have.
pub(super) type Field = (&'static str, u32, u32);

/// A figure that no model can have, in words.
pub(super) fn out_of_range(fields: &[Field]) -> Option<String> {
    let (field, value, most) =
        fields.iter().find(|(_, value, most)| !(1..=*most).contains(value))?;
    Some(match value {
        0 => format!("{field} must be at least 1"),
        _ => format!("{field} = {value} is more than any model has ({most})"),
    })
}
