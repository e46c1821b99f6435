//! The imports of a crate, file by file: read off `use` declarations and paths, re-exports
//! followed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::Visit;

/// A module's path within its crate; the root is empty.
type Module = Vec<String>;

/// A file: the names it re-exports, and the paths it takes names by.
#[derive(Default)]
struct File {
    /// Name under which something of elsewhere is offered here, and its full path.
    reexports: BTreeMap<String, Module>,
    /// Modules whose every name is offered here.
    globs: Vec<Module>,
    /// Full paths that this file uses.
    uses: BTreeSet<Module>,
}

/// Names of files, and which others each takes something from.
pub(crate) type Arrows = BTreeMap<String, BTreeSet<String>>;

/// The arrows between the files below `src`, tests left out.
pub(crate) fn arrows(src: &Path) -> Arrows {
    let mut files = BTreeMap::new();
    for path in super::sources(src) {
        let relative = path.strip_prefix(src).unwrap().with_extension("");
        let mut module: Module =
            relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if module.last().is_some_and(|last| last == "mod" || last == "lib" || last == "main") {
            module.pop();
        }
        // A test may look anywhere.
        if module.iter().any(|part| part == "tests") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut reader = Reader { at: module.clone(), file: File::default() };
        reader.visit_file(&parsed);
        files.insert(module, reader.file);
    }
    let house = House { files };
    let named = |module: &Module| {
        if module.is_empty() { "the root".to_owned() } else { module.join("/") }
    };
    let mut arrows = Arrows::new();
    for (module, file) in &house.files {
        let targets = file.uses.iter().filter_map(|path| house.home(path, 0));
        let targets = targets.filter(|target| *target != module).map(named).collect();
        arrows.insert(named(module), targets);
    }
    arrows
}

/// All files of a crate, by module.
struct House {
    files: BTreeMap<Module, File>,
}

impl House {
    /// The file in which what `path` names is written.
    fn home(&self, path: &[String], depth: usize) -> Option<&Module> {
        let of = (0..=path.len()).rev().find(|n| self.files.contains_key(&path[..*n]))?;
        let (module, file) = self.files.get_key_value(&path[..of])?;
        // A chain of re-exports is short; a longer one is a circle of names.
        let Some(name) = path.get(of).filter(|_| depth < 8) else { return Some(module) };
        let follow = |to: &Module| {
            let whole = [to.as_slice(), &path[of + 1..]].concat();
            self.home(&whole, depth + 1)
        };
        if let Some(to) = file.reexports.get(name) {
            return follow(to);
        }
        let offered = |glob: &&Module| {
            let home = self.files.get(glob.as_slice());
            home.is_some_and(|f| f.reexports.contains_key(name))
        };
        match file.globs.iter().find(offered) {
            Some(glob) => self.home(&[glob.as_slice(), &path[of..]].concat(), depth + 1),
            None => Some(module),
        }
    }
}

/// Walks one file.
struct Reader {
    at: Module,
    file: File,
}

impl Reader {
    /// `path` from the crate's root; none if it belongs to another crate or is a local name.
    fn absolute(&self, path: &[String]) -> Option<Module> {
        let mut base = self.at.clone();
        let mut rest = path;
        match rest.first().map(String::as_str) {
            Some("crate") => base.clear(),
            Some("self") => {}
            Some("super") => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
                return Some([base.as_slice(), rest].concat());
            }
            _ => return None,
        }
        Some([base.as_slice(), &rest[1..]].concat())
    }

    /// A path in the code. A path without `crate`, `self` or `super` may begin with a child, or
    /// with a name that this file offers.
    fn take(&mut self, path: &[String]) {
        let own = || [self.at.as_slice(), path].concat();
        let path = self.absolute(path).unwrap_or_else(own);
        self.file.uses.insert(path);
    }

    /// Every leaf of a tree of imports, as its path and the name it gets here.
    fn leaves(tree: &syn::UseTree, before: &[String], found: &mut Vec<(Vec<String>, String)>) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => Self::leaves(&path.tree, &with(&path.ident), found),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| Self::leaves(tree, before, found));
            }
            syn::UseTree::Glob(_) => found.push((before.to_vec(), "*".to_owned())),
            syn::UseTree::Name(name) if name.ident == "self" => {
                found.push((before.to_vec(), before.last().cloned().unwrap_or_default()));
            }
            syn::UseTree::Name(name) => found.push((with(&name.ident), name.ident.to_string())),
            syn::UseTree::Rename(renamed) => {
                found.push((with(&renamed.ident), renamed.rename.to_string()));
            }
        }
    }
}

/// True if an item is there for tests only.
fn of_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|a| {
        a.path().is_ident("cfg")
            && matches!(&a.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
    })
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if of_tests(&item.attrs) {
            return;
        }
        let mut found = Vec::new();
        Self::leaves(&item.tree, &[], &mut found);
        let offered = !matches!(item.vis, syn::Visibility::Inherited);
        for (path, name) in found {
            // A child may be named without saying where one stands.
            let own = [self.at.as_slice(), &path].concat();
            let to = self.absolute(&path);
            match to {
                Some(to) if offered && name == "*" => self.file.globs.push(to),
                Some(to) if offered => drop(self.file.reexports.insert(name, to)),
                Some(to) => drop(self.file.uses.insert(to)),
                None if offered && name == "*" => self.file.globs.push(own),
                None if offered => drop(self.file.reexports.insert(name, own)),
                None => drop(self.file.uses.insert(own)),
            }
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if of_tests(&item.attrs) || item.content.is_none() {
            return;
        }
        self.at.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.at.pop();
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if parts.len() > 1 {
            self.take(&parts);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !of_tests(&item.attrs) {
            syn::visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if !of_tests(&item.attrs) {
            syn::visit::visit_item_impl(self, item);
        }
    }
}

/// Groups of files that reach each other, each in alphabetical order.
pub(crate) fn circles(arrows: &Arrows) -> Vec<Vec<String>> {
    let reach = |from: &String| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&String> = arrows[from].iter().collect();
        while let Some(at) = open.pop() {
            if seen.insert(at.clone()) {
                open.extend(&arrows[at]);
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        arrows.keys().map(|from| (from, reach(from))).collect();
    let mut found = BTreeSet::new();
    for (from, to) in &reached {
        let round: Vec<String> =
            to.iter().filter(|at| reached[at].contains(*from)).cloned().collect();
        if round.len() > 1 {
            found.insert(round);
        }
    }
    found.into_iter().collect()
}
