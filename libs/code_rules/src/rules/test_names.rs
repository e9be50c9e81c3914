//! Test names: limits the words of a name, so that it can be read at a glance.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::source::SourceFile;
use crate::violation::Violation;

/// Words of a test's name, at most. Words stand between underscores.
const TEST_NAME_WORDS_MAX: usize = 8;

/// Returns a violation for each test whose name is too long.
pub(crate) fn check(file: &SourceFile) -> Vec<Violation> {
    let mut visitor = TestFunctions::default();
    visitor.visit_file(&file.syntax);

    let too_long = visitor.found.into_iter().filter(|(name, _)| words(name) > TEST_NAME_WORDS_MAX);
    too_long
        .map(|(name, line)| Violation {
            path: file.path.clone(),
            line,
            rule: "test_names",
            message: format!(
                "{name} has {} words, more than {TEST_NAME_WORDS_MAX}: shorten it and tell the story in a `///`",
                words(&name)
            ),
        })
        .collect()
}

fn words(name: &str) -> usize {
    name.split('_').filter(|word| !word.is_empty()).count()
}

/// Collects the name and line of each test function.
#[derive(Default)]
struct TestFunctions {
    found: Vec<(String, usize)>,
}

impl<'ast> Visit<'ast> for TestFunctions {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        let is_test = |attribute: &syn::Attribute| {
            attribute.path().segments.last().is_some_and(|segment| segment.ident == "test")
        };
        if function.attrs.iter().any(is_test) {
            let name = &function.sig.ident;
            self.found.push((name.to_string(), name.span().start().line));
        }
        visit::visit_item_fn(self, function);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if call.path.segments.last().is_some_and(|segment| segment.ident == "proptest") {
            self.collect_from_tokens(call.tokens.clone());
        }
    }
}

impl TestFunctions {
    /// Every function directly inside `proptest!` is a test.
    fn collect_from_tokens(&mut self, tokens: TokenStream) {
        let mut after_fn = false;
        for token in tokens {
            if let (true, TokenTree::Ident(name)) = (after_fn, &token) {
                self.found.push((name.to_string(), name.span().start().line));
            }
            after_fn = matches!(&token, TokenTree::Ident(word) if word == "fn");
        }
    }
}
