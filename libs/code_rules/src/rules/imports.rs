//! Imports: the files of a crate do not import each other in a circle.
//!
//! An arrow is a path in a `use`, in code or in a macro call that leads to another file of the same crate. Test code has no
//! arrows. Circles that the settings allow, with a reason, are left out; one that the settings name and the code no longer
//! has is a violation too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::module_tree::{Module, ModuleTree, leaves};
use crate::rules::is_test_only;
use crate::settings::Settings;
use crate::source::Repository;
use crate::violation::Violation;

type Arrows = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

/// Returns a violation for each circle of imports, at its first file.
pub(crate) fn check(repository: &Repository, settings: &Settings) -> Vec<Violation> {
    let mut arrows = Arrows::new();
    for root in repository.files.iter().filter(|file| is_crate_root(&file.path)) {
        add_arrows(&ModuleTree::build(repository, root), &mut arrows);
    }

    let circles = circles(&arrows);
    let allowed: Vec<BTreeSet<PathBuf>> =
        settings.circle.iter().map(|circle| circle.files.iter().cloned().collect()).collect();

    let unexpected = circles.iter().filter(|circle| !allowed.contains(circle)).map(|circle| {
        let names: Vec<String> = circle.iter().map(|path| path.display().to_string()).collect();
        violation(circle, format!("import circle of {} files: {}; {}", names.len(), names.join(", "), REMEDY))
    });
    let outdated = allowed.iter().filter(|circle| !circles.contains(circle)).map(|circle| {
        violation(
            circle,
            "the settings allow an import circle that does not exist: remove it there".to_owned(),
        )
    });
    unexpected.chain(outdated).collect()
}

const REMEDY: &str = "move what both need into a file below them";

fn violation(circle: &BTreeSet<PathBuf>, message: String) -> Violation {
    Violation { path: circle.first().cloned().unwrap_or_default(), line: 1, rule: "imports", message }
}

/// Whether cargo takes the file for the root of a library or program.
fn is_crate_root(path: &Path) -> bool {
    let parts: Vec<_> = path.iter().filter_map(|part| part.to_str()).collect();
    matches!(
        parts.as_slice(),
        [.., "src", "lib.rs" | "main.rs"] | [.., "src", "bin", _] | [.., "src", "bin", _, "main.rs"]
    )
}

fn add_arrows(tree: &ModuleTree<'_>, arrows: &mut Arrows) {
    for (index, module) in tree.modules.iter().enumerate() {
        let mut paths = Paths::default();
        for item in module.items {
            paths.visit_item(item);
        }
        for path in paths.found {
            if let Some(target) = tree.file_of(index, &path) {
                add_arrow(module, target, arrows);
            }
        }
    }
}

fn add_arrow(module: &Module<'_>, target: &Path, arrows: &mut Arrows) {
    if module.file.path != target {
        arrows.entry(module.file.path.clone()).or_default().insert(target.to_owned());
        arrows.entry(target.to_owned()).or_default();
    }
}

/// Collects the paths of one module's code. Child modules are modules of their own.
#[derive(Default)]
struct Paths {
    found: Vec<Vec<String>>,
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        match item {
            syn::Item::Mod(_) => {}
            syn::Item::Use(import) if !is_test_only(&import.attrs) => {
                self.found.extend(leaves(&import.tree).into_iter().map(|(_, path)| path));
            }
            syn::Item::Fn(function) if is_test_only(&function.attrs) => {}
            syn::Item::Impl(block) if is_test_only(&block.attrs) => {}
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.found.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.collect_from_tokens(call.tokens.clone());
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_test_only(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }
}

impl Paths {
    /// Finds `a::b::c` among the tokens of a macro call, which are no syntax yet.
    fn collect_from_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.finish(&mut path);
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' && !path.is_empty() => colons += 1,
                other => {
                    self.finish(&mut path);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.collect_from_tokens(group.stream());
                    }
                }
            }
        }
        self.finish(&mut path);
    }

    fn finish(&mut self, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.found.push(path);
        }
    }
}

/// The groups of files that reach each other, by following arrows from every file.
fn circles(arrows: &Arrows) -> Vec<BTreeSet<PathBuf>> {
    let reached: BTreeMap<&PathBuf, BTreeSet<&PathBuf>> =
        arrows.keys().map(|file| (file, reachable(arrows, file))).collect();

    let mut circles: Vec<BTreeSet<PathBuf>> = Vec::new();
    for (file, targets) in &reached {
        let together: BTreeSet<PathBuf> = targets
            .iter()
            .filter(|target| reached[*target].contains(*file))
            .map(|target| (*target).clone())
            .collect();
        if !together.is_empty() && !circles.contains(&together) {
            circles.push(together);
        }
    }
    circles
}

fn reachable<'a>(arrows: &'a Arrows, from: &PathBuf) -> BTreeSet<&'a PathBuf> {
    let mut found = BTreeSet::new();
    let mut waiting: Vec<&PathBuf> = arrows[from].iter().collect();
    while let Some(file) = waiting.pop() {
        if found.insert(file) {
            waiting.extend(&arrows[file]);
        }
    }
    found
}
