//! The tables that say which test proves what: of the specifications' examples in `tests/coverage/*.toml`, of the
//! programs that work together in `docs/interoperation.md`. A table can't outlive a test: each that it names exists.
//!
//! ```toml
//! # Every id that has to be there, once.
//! ids = ["nt:A1-A61", "nt:W1"]
//!
//! [[example]]
//! id = "nt:A1"
//! # The end of the file's path without `.rs`, and the function: `state/tests::name` where `tests::name` is in many.
//! tests = ["tunnel_server::routes_and_their_errors_a1_a2_a3_a4"]
//! # What is to be known besides; instead of tests, why there are none.
//! note = "…"
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use system_tests::repository;
use toml::{Table, Value};

/// Where tests are.
const FOLDERS: [&str; 5] = ["daemon", "jwt-core", "nginx-module", "tests", "fuzz"];

/// All Rust files with tests, each with its path from the repository on and its text.
struct Tree(Vec<(String, String)>);

impl Tree {
    fn read() -> Self {
        let mut files = Vec::new();
        for folder in FOLDERS {
            collect(&repository().join(folder), &mut files);
        }
        let named = |path: PathBuf| {
            let text = fs::read_to_string(&path).expect("a text");
            let name = path.strip_prefix(repository()).expect("a file of the repository");
            (name.with_extension("").to_str().expect("text").to_owned(), text)
        };
        Self(files.into_iter().map(named).collect())
    }

    /// Whether there is this test, and if not, what is wrong with its name.
    fn find(&self, test: &str) -> Result<(), String> {
        let (file, function) = test.rsplit_once("::").ok_or("the form is FILE::FUNCTION")?;
        let is_meant = |name: &str| name == file || name.ends_with(&format!("/{file}"));
        let mut meant = self.0.iter().filter(|(name, _)| is_meant(name));
        let (_, text) = meant.next().ok_or_else(|| format!("there is no file {file}.rs"))?;
        if let Some((other, _)) = meant.next() {
            return Err(format!("more than one file is meant, such as {other}.rs; add its folder"));
        }
        if is_test(text, function) { Ok(()) } else { Err(format!("{file}.rs has no such test")) }
    }
}

/// The Rust files below `folder`, but for what is built there.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Whether `text` has a function of this name with a test's attribute above it.
fn is_test(text: &str, function: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let declares = |line: &str| {
        let rest = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        let rest = rest.and_then(|rest| rest.strip_prefix(function));
        rest.is_some_and(|rest| rest.starts_with('('))
    };
    let attributes = |at: usize| {
        let above = lines[..at].iter().rev();
        above.take_while(|line| line.starts_with("#[") || line.starts_with("//"))
    };
    (0..lines.len()).filter(|&at| declares(lines[at])).any(|at| {
        attributes(at).any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

/// The ids that `nt:A1-A61` stands for, or the one id itself.
fn spread(ids: &str) -> Vec<String> {
    let range = || {
        let (document, range) = ids.split_once(':')?;
        let (from, to) = range.split_once('-')?;
        let letters = from.trim_end_matches(|letter: char| letter.is_ascii_digit());
        let number = |id: &str| id.strip_prefix(letters)?.parse::<u32>().ok();
        let each = |number| format!("{document}:{letters}{number}");
        Some((number(from)?..=number(to)?).map(each).collect::<Vec<_>>())
    };
    range().unwrap_or_else(|| vec![ids.to_owned()])
}

fn texts<'t>(table: &'t Table, key: &str) -> Vec<&'t str> {
    let list = table.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|text| text.as_str().expect("a text")).collect()
}

/// What is wrong with the table in `text`.
fn faults(tree: &Tree, text: &str) -> Vec<String> {
    let table: Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return vec![error.to_string()],
    };
    let mut faults = Vec::new();
    let mut left: BTreeSet<String> = BTreeSet::new();
    for id in texts(&table, "ids").into_iter().flat_map(spread) {
        if !left.insert(id.clone()) {
            faults.push(format!("ids: {id} is there twice"));
        }
    }
    if left.is_empty() {
        faults.push("ids: none".to_owned());
    }
    let examples = table.get("example").and_then(Value::as_array).cloned().unwrap_or_default();
    for example in examples {
        let example = example.as_table().expect("a table");
        let id = example.get("id").and_then(Value::as_str).unwrap_or_default();
        let unknown = example.keys().find(|key| !["id", "tests", "note"].contains(&key.as_str()));
        if let Some(key) = unknown {
            faults.push(format!("{id}: {key} is no key of an example"));
        }
        if !left.remove(id) {
            faults.push(format!("{id:?} is not among the ids, or has an example already"));
        }
        let tests = texts(example, "tests");
        let note = example.get("note").and_then(Value::as_str).unwrap_or_default();
        if tests.is_empty() && note.is_empty() {
            faults.push(format!("{id}: neither a test nor a note that tells why not"));
        }
        let missing = |test: &&str| tree.find(test).err().map(|why| format!("{id}: {test}: {why}"));
        faults.extend(tests.iter().filter_map(missing));
    }
    faults.extend(left.into_iter().map(|id| format!("{id} has no example")));
    faults
}

#[test]
fn every_example_names_tests_that_exist() {
    let tree = Tree::read();
    let folder = repository().join("tests/coverage");
    let mut tables = 0;
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the tables") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a text");
        let name = path.file_name().expect("a name").display();
        found.extend(faults(&tree, &text).into_iter().map(|fault| format!("{name}: {fault}")));
        tables += 1;
    }
    assert!(tables > 0, "no table");
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_combination_that_is_listed_has_its_tests() {
    let tree = Tree::read();
    let page = fs::read_to_string(repository().join("docs/interoperation.md")).expect("the page");
    let named: BTreeSet<&str> = page.split('`').filter(|text| text.contains("::")).collect();
    assert!(named.len() >= 15, "{named:?}");
    let missing: Vec<_> = named
        .iter()
        .filter_map(|test| tree.find(test).err().map(|why| format!("{test}: {why}")))
        .collect();
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
}

#[test]
fn a_table_that_is_not_true_is_refused() {
    let tree = Tree(vec![
        (
            "tests/a".into(),
            "#[test]\n/// Why.\nfn good() {}\nfn helper() {}\n#[tokio::test(x)]\nasync fn also() {}"
                .into(),
        ),
        ("daemon/src/b/tests".into(), "#[test]\nfn inner() {}".into()),
        ("daemon/src/c/tests".into(), "#[test]\nfn inner() {}".into()),
    ]);
    let good = r#"
        ids = ["nt:A1-A2", "rel:F1", "nt:W1"]
        example = [
            { id = "nt:A1", tests = ["a::good", "tests/a::also", "b/tests::inner"] },
            { id = "nt:A2", tests = [], note = "not run: no kernel has it" },
            { id = "rel:F1", tests = ["a::good"], note = "smaller" },
            { id = "nt:W1", tests = ["a::good"] },
        ]"#;
    assert_eq!(faults(&tree, good), Vec::<String>::new());
    for (from, to, fault) in [
        ("a::good\", ", "a::bad\", ", "nt:A1: a::bad: a.rs has no such test"),
        ("a::good\", ", "a::helper\", ", "nt:A1: a::helper: a.rs has no such test"),
        ("a::good\", ", "a::goo\", ", "nt:A1: a::goo: a.rs has no such test"),
        ("a::good\", ", "d::good\", ", "nt:A1: d::good: there is no file d.rs"),
        ("b/tests::inner", "tests::inner", "more than one file is meant"),
        (", note = \"not run: no kernel has it\"", "", "nt:A2: neither a test nor a note"),
        ("nt:A1-A2", "nt:A1-A3", "nt:A3 has no example"),
        ("\"rel:F1\", ", "", "\"rel:F1\" is not among the ids"),
        ("id = \"nt:W1\"", "id = \"rel:F1\"", "\"rel:F1\" is not among the ids, or has an example"),
        ("note = \"smaller\"", "notes = \"\"", "rel:F1: notes is no key"),
        ("\"nt:W1\"]", "\"nt:A2\"]", "ids: nt:A2 is there twice"),
    ] {
        assert!(good.contains(from), "{from}");
        let found = faults(&tree, &good.replacen(from, to, 1));
        assert!(found.iter().any(|found| found.contains(fault)), "{to}: {found:?}");
    }
}
