//! Rules: one file a rule, each a function from parsed files to violations.

pub(crate) mod file_head;
pub(crate) mod file_length;
pub(crate) mod imports;
pub(crate) mod metrics;
pub(crate) mod repeats;
pub(crate) mod test_names;

/// Whether attributes put an item under `#[cfg(test)]`, alone or in an `all(…)`.
pub(crate) fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        let condition = list.tokens.to_string();
        list.path.is_ident("cfg") && (condition == "test" || condition.starts_with("all (test"))
    })
}
