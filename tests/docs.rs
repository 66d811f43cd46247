//! The documentation: nginx takes every example of it, and it leaves no directive and no variable out.

use std::collections::BTreeSet;
use std::fs;

use system_tests::{NginxBuilder, SigningKey, jwks, repository};

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).expect("a file of the repository")
}

/// The fenced blocks of nginx's language, each with the word that tells the level it is for.
fn examples(text: &str) -> Vec<(String, String)> {
    let mut examples = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match &mut open {
            None => {
                if let Some(level) = line.strip_prefix("```nginx") {
                    open = Some((level.trim().to_owned(), String::new()));
                }
            }
            Some(_) if line == "```" => examples.extend(open.take()),
            Some((_, block)) => block.push_str(&format!("{line}\n")),
        }
    }
    assert!(open.is_none(), "a block does not end");
    examples
}

/// Files that the examples name are made in the test's folder.
fn check(level: &str, block: &str) {
    let dir = "DIR/public/";
    let block = block
        .replace("/etc/keys/", dir)
        .replace("/etc/nginx/jwt/", dir)
        .replace("/var/lib/jwtunnel/public/", dir);
    let text = match level {
        "http" => block.clone(),
        "server" => format!("server {{ listen LISTEN;\n{block}\n}}"),
        "location" => format!("server {{ listen LISTEN;\nlocation / {{\n{block}\n}}\n}}"),
        other => panic!("```nginx {other}: one of http, server, location is expected"),
    };
    let key = SigningKey::generate("a");
    let check = NginxBuilder::bare(&text)
        .jwks(&jwks(&[&key]))
        .file("left.json", "{}")
        .file("stolen.json", "{}")
        .file("tokens.json", "{}")
        .check();
    assert!(check.accepted, "```nginx {level}\n{block}```\n{}", check.output);
}

#[test]
fn nginx_takes_every_example() {
    let examples = examples(&read("docs/directives.md"));
    assert!(examples.len() >= 39, "only {} examples", examples.len());
    for (level, block) in examples {
        check(&level, &block);
    }
}

#[test]
fn nginx_takes_the_example_of_the_readme() {
    let mut blocks = examples(&read("README.md"));
    let (_, block) = blocks.pop().expect("an example");
    assert!(blocks.is_empty());
    let (module, location) = block.split_once('…').expect("the line that stands for the rest");
    assert_eq!(module.trim(), "load_module modules/ngx_http_jwt_module.so;");
    check("server", location);
}

/// Every word of `text` that begins as our directives and variables do.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("auth_jwt"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_directive_is_described_and_none_is_made_up() {
    let source = read("nginx-module/src/directives/mod.rs");
    let directives: BTreeSet<String> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("row(c\""))
        .filter_map(|rest| rest.split('"').next().map(str::to_owned))
        .collect();
    assert!(directives.len() > 40, "{directives:?}");
    let docs = read("docs/directives.md");
    let described: BTreeSet<String> =
        docs.lines().filter(|line| line.starts_with("### ")).flat_map(names).collect();
    assert_eq!(directives, described);
    let in_examples: String = examples(&docs).into_iter().map(|(_, block)| block).collect();
    let used = names(&in_examples);
    for directive in &directives {
        assert!(used.contains(directive), "{directive} has no example");
    }
}

#[test]
fn every_variable_is_described() {
    let source = read("nginx-module/src/ffi/entry.rs");
    let docs = read("docs/directives.md");
    let table = source.split("const NAMED").nth(1).expect("the table of variables");
    let mut count = 0;
    for name in table.split('"').skip(1).step_by(2).take(8) {
        let name = if name.ends_with('_') { format!("${name}NAME") } else { format!("${name}") };
        assert!(docs.contains(&format!("| `{name}` |")), "{name}");
        count += 1;
    }
    assert_eq!(count, 8);
    assert!(docs.contains("| `$jwt_unverified_claim_NAME` |"));
}
