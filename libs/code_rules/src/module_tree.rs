//! Module tree: the modules of one crate target, and which file a path leads to.
//!
//! A path such as `crate::store::Writer` leads to the file that *defines* `Writer`: names that a module only re-exports
//! are followed to their origin, so a `mod.rs` that only re-exports names connects no files.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use crate::rules::is_test_only;
use crate::source::{Repository, SourceFile};

/// Steps from one re-export to the next, at most: more is a loop of globs.
const ALIAS_STEPS_MAX: usize = 32;

/// The modules that one crate root (`lib.rs`, `main.rs`, `bin/*.rs`) reaches by `mod`.
pub(crate) struct ModuleTree<'r> {
    pub(crate) modules: Vec<Module<'r>>,
}

/// One module. An inline module shares its file with the module around it.
pub(crate) struct Module<'r> {
    pub(crate) file: &'r SourceFile,
    pub(crate) items: &'r [syn::Item],
    parent: Option<usize>,
    children: HashMap<String, usize>,
    /// What `use` gives a name to in this module: the name, and the path that it stands for.
    aliases: HashMap<String, Vec<String>>,
}

impl<'r> ModuleTree<'r> {
    /// Builds the tree of the crate root `root`.
    pub(crate) fn build(repository: &'r Repository, root: &'r SourceFile) -> Self {
        let files = repository.files.iter().map(|file| (file.path.as_path(), file)).collect();
        let mut tree = Self { modules: Vec::new() };
        let directory = root.path.parent().unwrap_or(Path::new("")).to_owned();
        tree.add(&files, root, &root.syntax.items, None, &directory);
        tree
    }

    /// Adds a module and those that it declares; `directory` is where the files of its children are.
    fn add(
        &mut self,
        files: &BTreeMap<&Path, &'r SourceFile>,
        file: &'r SourceFile,
        items: &'r [syn::Item],
        parent: Option<usize>,
        directory: &Path,
    ) -> usize {
        let index = self.modules.len();
        let aliases = aliases_of(items);
        self.modules.push(Module { file, items, parent, children: HashMap::new(), aliases });

        for item in items {
            let syn::Item::Mod(declared) = item else { continue };
            if is_test_only(&declared.attrs) {
                continue;
            }
            let name = declared.ident.to_string();
            let below = directory.join(&name);
            let child = match &declared.content {
                Some((_, items)) => Some((file, items.as_slice())),
                None => module_file(files, directory, &name).map(|file| (file, file.syntax.items.as_slice())),
            };
            if let Some((file, items)) = child {
                let child = self.add(files, file, items, Some(index), &below);
                self.modules[index].children.insert(name, child);
            }
        }
        index
    }

    /// The file that defines what `path` names inside of `module`. `None` when it lies outside of the crate, or when the
    /// path names a module itself.
    pub(crate) fn file_of(&self, module: usize, path: &[String]) -> Option<&'r Path> {
        self.resolve(module, path, ALIAS_STEPS_MAX).map(|index| self.modules[index].file.path.as_path())
    }

    fn resolve(&self, module: usize, path: &[String], steps_left: usize) -> Option<usize> {
        let steps_left = steps_left.checked_sub(1)?;
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.descend(0, rest, steps_left),
            "self" => self.descend(module, rest, steps_left),
            "super" => {
                let parent = self.modules[module].parent?;
                // `super::super::x` goes on from the parent.
                if rest.first().is_some_and(|next| next == "super") {
                    self.resolve(parent, rest, steps_left)
                } else {
                    self.descend(parent, rest, steps_left)
                }
            }
            name if self.modules[module].children.contains_key(name)
                || self.modules[module].aliases.contains_key(name) =>
            {
                self.descend(module, path, steps_left)
            }
            _ => None,
        }
    }

    /// Goes from `module` along `path`, as far as modules and re-exports lead.
    fn descend(&self, module: usize, path: &[String], steps_left: usize) -> Option<usize> {
        let (first, rest) = path.split_first()?;
        let here = &self.modules[module];
        if let Some(child) = here.children.get(first) {
            return self.descend(*child, rest, steps_left);
        }
        if let Some(alias) = here.aliases.get(first) {
            let whole: Vec<String> = alias.iter().chain(rest).cloned().collect();
            return self.resolve(module, &whole, steps_left);
        }
        Some(module)
    }
}

/// The file of `mod name;` in a module whose children are in `directory`.
fn module_file<'r>(
    files: &BTreeMap<&Path, &'r SourceFile>,
    directory: &Path,
    name: &str,
) -> Option<&'r SourceFile> {
    let candidates: [PathBuf; 2] =
        [directory.join(format!("{name}.rs")), directory.join(name).join("mod.rs")];
    candidates.iter().find_map(|path| files.get(path.as_path()).copied())
}

/// The names that the `use` items of a module bring in. Globs bring in nothing that can be followed.
fn aliases_of(items: &[syn::Item]) -> HashMap<String, Vec<String>> {
    let mut aliases = HashMap::new();
    for item in items {
        if let syn::Item::Use(import) = item
            && !is_test_only(&import.attrs)
        {
            for (name, path) in leaves(&import.tree) {
                // A name that stands for itself, as `use serde;`, would be followed for ever.
                if path.len() > 1 {
                    aliases.insert(name, path);
                }
            }
        }
    }
    aliases
}

/// The leaves of a `use` tree: the name that each brings in (`*` for a glob), and its path.
pub(crate) fn leaves(tree: &syn::UseTree) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    collect_leaves(tree, &mut Vec::new(), &mut found);
    found
}

fn collect_leaves(tree: &syn::UseTree, prefix: &mut Vec<String>, found: &mut Vec<(String, Vec<String>)>) {
    let below = |name: &syn::Ident, prefix: &[String]| {
        let mut path = prefix.to_vec();
        if name != "self" || path.is_empty() {
            path.push(name.to_string());
        }
        path
    };
    match tree {
        syn::UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            collect_leaves(&path.tree, prefix, found);
            prefix.pop();
        }
        syn::UseTree::Name(name) => {
            let path = below(&name.ident, prefix);
            found.push((path.last().cloned().unwrap_or_default(), path));
        }
        syn::UseTree::Rename(rename) => {
            found.push((rename.rename.to_string(), below(&rename.ident, prefix)));
        }
        syn::UseTree::Glob(_) => found.push(("*".to_owned(), prefix.clone())),
        syn::UseTree::Group(group) => {
            for tree in &group.items {
                collect_leaves(tree, prefix, found);
            }
        }
    }
}
