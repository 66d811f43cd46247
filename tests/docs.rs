//! The documentation: nginx takes every example of it, it leaves no directive and no variable out, and what it states
//! as defaults, contexts, messages and fields is what the module does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use system_tests::{
    Answer, Nginx, NginxBuilder, Scratch, SigningKey, ask, eventually, get, jwks, now, repository,
};

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).expect("a file of the repository")
}

fn page() -> String {
    read("docs/directives.md")
}

/// The fenced blocks of `language`, each with the word that tells the level it is for.
fn blocks(text: &str, language: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match &mut open {
            None => {
                if let Some(info) = line.strip_prefix("```") {
                    open = Some((info.to_owned(), String::new()));
                }
            }
            Some(_) if line == "```" => blocks.extend(open.take()),
            Some((_, block)) => block.push_str(&format!("{line}\n")),
        }
    }
    assert!(open.is_none(), "a block does not end");
    blocks
        .into_iter()
        .filter_map(|(info, block)| Some((info.strip_prefix(language)?.trim().to_owned(), block)))
        .collect()
}

fn examples(text: &str) -> Vec<(String, String)> {
    blocks(text, "nginx")
}

/// The text of the section under this heading, with those below it.
fn section<'t>(text: &'t str, heading: &str) -> &'t str {
    let level = heading.split(' ').next().expect("a heading");
    let (_, rest) = text.split_once(&format!("\n{heading}\n")).expect(heading);
    let ends =
        (1..=level.len()).filter_map(|marks| rest.find(&format!("\n{} ", "#".repeat(marks))));
    &rest[..ends.min().unwrap_or(rest.len())]
}

/// The rows of the tables in `text`, each as its cells.
fn rows(text: &str) -> Vec<Vec<String>> {
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| ---");
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    text.lines().filter(is_row).map(cells).collect()
}

fn code(cell: &str) -> &str {
    cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`')).expect(cell)
}

/// Files that the page names are in the test's folder.
fn placed(text: &str) -> String {
    let dir = "DIR/public/";
    ["/etc/keys/", "/etc/nginx/jwt/", "/var/lib/jwtunnel/public/"]
        .iter()
        .fold(text.to_owned(), |text, folder| text.replace(folder, dir))
}

fn at_level(level: &str, block: &str, server_name: &str) -> String {
    let block = placed(block);
    let server = format!("server {{ listen LISTEN; server_name {server_name};");
    match level {
        "http" => block,
        "server" => format!("{server}\n{block}\n}}\n"),
        "location" => format!("{server}\nlocation / {{\n{block}\n}}\n}}\n"),
        other => panic!("```nginx {other}: one of http, server, location is expected"),
    }
}

fn builder(http: &str) -> NginxBuilder {
    NginxBuilder::bare(http)
        .jwks(&jwks(&[&SigningKey::generate("a")]))
        .file("left.json", "{}")
        .file("stolen.json", "{}")
        .file("tokens.json", "{}")
}

fn accept(level: &str, block: &str) {
    let check = builder(&at_level(level, block, "test")).check();
    assert!(check.accepted, "```nginx {level}\n{block}```\n{}", check.output);
}

#[test]
fn nginx_takes_every_example() {
    let examples = examples(&page());
    assert!(examples.len() >= 45, "only {} examples", examples.len());
    let (http, inner): (Vec<_>, Vec<_>) =
        examples.into_iter().partition(|(level, _)| level == "http");
    for (level, block) in http {
        accept(&level, &block);
    }
    // Servers do not get into each other's way: one run for all, unless one of them has to be found.
    let servers = inner
        .iter()
        .enumerate()
        .map(|(number, (level, block))| at_level(level, block, &format!("example{number}.test")));
    let check = builder(&servers.collect::<String>()).check();
    if !check.accepted {
        for (level, block) in &inner {
            accept(level, block);
        }
        panic!("{}", check.output);
    }
}

#[test]
fn nginx_takes_the_example_of_the_readme() {
    let mut blocks = examples(&read("README.md"));
    let (_, block) = blocks.pop().expect("an example");
    assert!(blocks.is_empty());
    let (module, location) = block.split_once('…').expect("the line that stands for the rest");
    assert_eq!(module.trim(), "load_module modules/ngx_http_jwt_module.so;");
    accept("server", location);
}

/// Every word of `text` that begins as our directives and variables do.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("auth_jwt"))
        .map(str::to_owned)
        .collect()
}

/// The module's table: each directive with its contexts, in the page's letters.
fn implemented() -> BTreeMap<String, &'static str> {
    let source = read("nginx-module/src/directives/mod.rs");
    let row = |line: &str| {
        let (name, rest) = line.trim().strip_prefix("row(c\"")?.split_once("\", ")?;
        let contexts = match rest.split(',').next()? {
            "Http" => "H",
            "Location" => "L",
            "ToLocation" => "HSL",
            "ToLimitExcept" => "HSLX",
            other => panic!("{other}: contexts that the page has no letters for"),
        };
        Some((name.to_owned(), contexts))
    };
    let table: BTreeMap<_, _> = source.lines().filter_map(row).collect();
    assert!(table.len() > 40, "{table:?}");
    table
}

/// What the page states about a directive.
#[derive(Debug)]
struct Described {
    contexts: String,
    default: Option<String>,
    /// Where it is another in dialect kjdev.
    kjdev: Option<String>,
}

/// The line under each directive's heading: syntax · default · contexts · source.
fn described() -> BTreeMap<String, Described> {
    let page = page();
    let mut described = BTreeMap::new();
    for part in page.split("\n### ").skip(1) {
        let mut lines = part.lines();
        let name = lines.next().expect("a heading").to_owned();
        if !name.starts_with("auth_jwt") {
            continue;
        }
        let line = lines.find(|line| !line.is_empty()).expect("a line below the heading");
        let fields: Vec<&str> = line.split(" · ").collect();
        let [syntax, default, contexts, source] = *fields else { panic!("{name}: {line}") };
        assert_eq!(names(syntax), BTreeSet::from([name.clone()]), "{line}");
        assert!(!source.is_empty(), "{line}");
        let mut values = default.split('`').skip(1).step_by(2).map(str::to_owned);
        let stated = Described {
            contexts: contexts.to_owned(),
            default: default.starts_with("default `").then(|| values.next()).flatten(),
            kjdev: values.nth(1),
        };
        assert_eq!(stated.default.is_none(), default == "no default", "{line}");
        assert!(described.insert(name.clone(), stated).is_none(), "{name} stands twice");
    }
    described
}

#[test]
fn every_directive_is_described_and_none_is_made_up() {
    let implemented = implemented();
    let contexts: BTreeMap<String, String> =
        described().into_iter().map(|(name, stated)| (name, stated.contexts)).collect();
    let expected: BTreeMap<String, String> =
        implemented.iter().map(|(name, contexts)| (name.clone(), (*contexts).to_owned())).collect();
    assert_eq!(contexts, expected);

    let page = page();
    for name in implemented.keys() {
        let own = section(&page, &format!("### {name}"));
        let used: BTreeSet<String> =
            examples(own).iter().flat_map(|(_, block)| names(block)).collect();
        assert!(used.contains(name), "{name} has no example");
    }
    // What only other modules have stands in the tables about these.
    let moving = page.find("\n## Moving from other modules").expect("the section");
    let readme = read("README.md");
    let fields = rows(section(&page, "### The status page"));
    let known: BTreeSet<String> = implemented
        .into_keys()
        .chain(variables().into_iter().map(|name| name.trim_end_matches("NAME").to_owned()))
        .chain(fields.iter().flatten().flat_map(|cell| names(cell)))
        .collect();
    for name in names(&page[..moving]).union(&names(&readme)) {
        assert!(known.contains(name), "{name} is no directive of the module");
    }
}

/// The names of the module's variables, those of prefixes with NAME.
fn variables() -> BTreeSet<String> {
    let source = read("nginx-module/src/ffi/entry.rs");
    let table = source.split("const NAMED").nth(1).expect("the table of variables");
    let (table, rest) = table.split_once("];\n").expect("its end");
    let constant = rest.split_once("const UNVERIFIED: &str = \"").expect("the constant").1;
    let mut names: BTreeSet<String> =
        table.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    names.extend(constant.split('"').next().map(str::to_owned));
    assert_eq!(names.len(), table.matches("_variable)").count(), "{names:?}");
    let full = |name: String| if name.ends_with('_') { name + "NAME" } else { name };
    names.into_iter().map(full).collect()
}

#[test]
fn every_variable_is_described_with_an_example() {
    let page = page();
    let section = section(&page, "## Variables");
    let described: BTreeSet<String> = rows(section)
        .iter()
        .filter_map(|row| row[0].strip_prefix("`$")?.strip_suffix('`').map(str::to_owned))
        .collect();
    assert_eq!(described, variables());
    let example: String = examples(section).into_iter().map(|(_, block)| block).collect();
    for name in described {
        let used = format!("${}", name.trim_end_matches("NAME"));
        assert!(example.contains(&used), "{name} has no example");
    }
}

#[test]
fn links_lead_to_headings() {
    let page = page();
    let anchors: BTreeSet<String> = page
        .lines()
        .filter_map(|line| {
            line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))
        })
        .map(|heading| {
            let kept = |c: &char| c.is_alphanumeric() || "_- ".contains(*c);
            heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
        })
        .collect();
    let links: BTreeSet<String> = page
        .split("](#")
        .skip(1)
        .filter_map(|rest| rest.split(')').next().map(str::to_owned))
        .collect();
    assert!(links.is_subset(&anchors), "{:?}", links.difference(&anchors));
    let contents = page.split("\n## ").next().expect("the contents");
    for name in implemented().keys() {
        assert!(contents.contains(&format!("[{name}](#{name})")), "{name} is not in the contents");
    }
}

/// Where a line of the tables of messages can stand.
fn level_of(text: &str) -> &'static str {
    let implemented = implemented();
    let is_http = |name: &String| implemented.get(name).is_some_and(|contexts| *contexts == "H");
    if names(text).iter().any(is_http) { "http" } else { "location" }
}

#[test]
fn messages_at_start_are_those_of_the_page() {
    let page = page();
    let messages = section(&page, "### Messages at start");
    let (errors, warnings) = messages.split_once("\nThese do not:\n").expect("two tables");
    let table = |text: &str| -> Vec<(String, String)> {
        let rows = rows(text);
        let pair = |row: &Vec<String>| (code(&row[0]).to_owned(), code(&row[1]).to_owned());
        rows.iter().filter(|row| row[0] != "written").map(pair).collect()
    };
    let errors = table(errors);
    assert!(errors.len() >= 20, "{errors:?}");
    for (written, message) in errors {
        let check = builder(&at_level(level_of(&written), &written, "test")).check();
        let line = check.output.lines().find(|line| line.contains("[emerg]")).unwrap_or_default();
        assert!(!check.accepted && line.contains(&message), "{written}\n{}", check.output);
    }
    let warnings = table(warnings);
    assert!(warnings.len() >= 6, "{warnings:?}");
    for (written, message) in warnings {
        let check = builder(&at_level(level_of(&written), &written, "test")).check();
        assert!(check.accepted && check.output.contains(&message), "{written}\n{}", check.output);
    }
}

/// What shows the default of a directive: the same requests for a location without it, one with the default written
/// out, and one with another value.
struct Probe {
    directive: &'static str,
    /// What stands above these locations, and beside the directive in each.
    outer: &'static str,
    inner: &'static str,
    other: &'static str,
    requests: Vec<(&'static str, Vec<(&'static str, String)>)>,
}

fn bearer(token: impl Into<String>) -> (&'static str, String) {
    ("authorization", format!("Bearer {}", token.into()))
}

/// Probes that send one request with a token of these claims besides an `exp` that has not come.
fn with_claims(
    key: &SigningKey,
    directive: &'static str,
    inner: &'static str,
    other: &'static str,
    claims: Value,
) -> Probe {
    let mut all = json!({"exp": now() + 300});
    for (name, value) in claims.as_object().expect("claims") {
        all[name] = value.clone();
    }
    all.as_object_mut().expect("claims").retain(|_, value| !value.is_null());
    let requests = vec![("GET", vec![bearer(key.sign(&all))])];
    Probe { directive, outer: "auth_jwt x;", inner, other, requests }
}

fn probes(key: &SigningKey, forger: &SigningKey) -> Vec<Probe> {
    let valid = || vec![("GET", vec![bearer(key.token("me"))])];
    let none = || vec![("GET", vec![])];
    let probe =
        |directive, outer, other, requests| Probe { directive, outer, inner: "", other, requests };
    let on = "auth_jwt x;";
    let claims = |directive, other, claims| with_claims(key, directive, "", other, claims);
    let preflight = vec![
        ("origin", "https://a.example".to_owned()),
        ("access-control-request-method", "PUT".to_owned()),
    ];
    let two = vec![bearer(key.token("me")), ("x-token", key.token("you"))];
    let long = |length| ("GET", vec![bearer("a".repeat(length))]);
    vec![
        probe("auth_jwt", "", "x", none()),
        // Only the access phase asks `satisfy`.
        probe("auth_jwt_phase", "auth_jwt x; satisfy any; allow all;", "preaccess", none()),
        probe("auth_jwt_preflight", on, "on", vec![("OPTIONS", preflight)]),
        probe("auth_jwt_dry_run", on, "on", none()),
        probe("auth_jwt_max_size", on, "17k", vec![long(16 * 1024), long(16 * 1024 + 1)]),
        probe(
            "auth_jwt_reject_multiple",
            "auth_jwt x token=$http_x_token;",
            "on",
            vec![("GET", two)],
        ),
        probe("auth_jwt_key_cache", "auth_jwt x; auth_jwt_key_request /_keys$uri;", "1h", valid()),
        Probe {
            inner: "auth_jwt_key_file DIR/public/forger.json;",
            ..probe("auth_jwt_key_inherit", on, "merge", valid())
        },
        probe(
            "auth_jwt_key_error",
            "auth_jwt x; auth_jwt_key_file DIR/public/never.json optional;",
            "500",
            none(),
        ),
        claims("auth_jwt_leeway", "60s", json!({"exp": now() - 1})),
        claims("auth_jwt_validate_exp", "off", json!({"exp": now() - 600})),
        claims("auth_jwt_validate_nbf", "off", json!({"nbf": now() + 600})),
        probe("auth_jwt_validate_sig", on, "off", vec![("GET", vec![bearer(forger.token("me"))])]),
        claims("auth_jwt_require_exp", "on", json!({"exp": null})),
        claims("auth_jwt_max_age", "1h", json!({"iat": now() - 7200})),
        claims("auth_jwt_max_lifetime", "1h", json!({"iat": now() - 7200})),
        probe("auth_jwt_alg", on, "HS256", valid()),
        probe("auth_jwt_typ", on, "at+jwt", valid()),
        probe("auth_jwt_audience", on, "api", valid()),
        probe("auth_jwt_scope", on, "read", valid()),
        Probe {
            inner: "auth_jwt_require $host;",
            ..probe(
                "auth_jwt_require_inherit",
                "auth_jwt x; auth_jwt_require $arg_never error=418;",
                "on",
                valid(),
            )
        },
        with_claims(
            key,
            "auth_jwt_allow_nested",
            "auth_jwt_require_claim a.b eq x;",
            "delimiter=.",
            json!({"a": {"b": "x"}}),
        ),
        claims("auth_jwt_replay", "zone=z:1m", json!({"jti": "1"})),
        probe("auth_jwt_www_authenticate", on, "off", none()),
        probe("auth_jwt_set_cookie", on, "at", valid()),
    ]
}

/// More than there are workers, so that one that remembers shows.
const REPEATS: usize = 3;

/// What a user sees of a request.
fn seen(answer: &Answer) -> String {
    let header = |name| answer.header(name).unwrap_or("-").to_owned();
    format!(
        "{} {} challenge {} cookie {}",
        answer.status,
        header("x-reason"),
        header("www-authenticate"),
        answer.header("set-cookie").is_some()
    )
}

/// Runs the probes in one nginx. `defaults` are those that the page states.
fn show(
    first: &str,
    probes: &[Probe],
    defaults: &BTreeMap<String, String>,
    key: &SigningKey,
    forger: &SigningKey,
) {
    let mut server = String::new();
    for (number, probe) in probes.iter().enumerate() {
        let Probe { directive, outer, inner, other, .. } = probe;
        let default = &defaults[*directive];
        let location = |name: &str, line: String| {
            format!("location /{number}/{name} {{ {line} {inner} try_files /jwks.json =404; }}\n")
        };
        server += &format!(
            "location /{number}/ {{ {outer}\n{}{}{} }}\n",
            location("unset", String::new()),
            location("default", format!("{directive} {default};")),
            location("other", format!("{directive} {other};")),
        );
    }
    let nginx = NginxBuilder::bare(&format!(
        "{first}
         large_client_header_buffers 4 64k;
         auth_jwt_key_file DIR/public/jwks.json;
         server {{ listen LISTEN; root DIR/public; add_header X-Reason $auth_jwt_status always;
           location /_keys/ {{
             internal; log_subrequest on; access_log DIR/state/keys.log; try_files /jwks.json =404;
           }}
           {server}
         }}"
    ))
    .jwks(&jwks(&[key]))
    .file("forger.json", &jwks(&[forger]))
    .start();
    for (number, probe) in probes.iter().enumerate() {
        let observe = |name: &str| -> Vec<String> {
            let path = format!("/{number}/{name}");
            let mut all = Vec::new();
            for (method, headers) in &probe.requests {
                let headers: Vec<(&str, &str)> =
                    headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let url = nginx.url(&path);
                all.extend((0..REPEATS).map(|_| seen(&ask(method, &url, &headers, None))));
            }
            let log = fs::read_to_string(nginx.scratch().join("state/keys.log"));
            let fetches = log.unwrap_or_default().matches(&format!(" {path} ")).count();
            all.push(format!("keys fetched for each request: {}", fetches == REPEATS));
            all
        };
        let directive = probe.directive;
        let (unset, default, other) = (observe("unset"), observe("default"), observe("other"));
        assert_eq!(unset, default, "{directive}: it is not {}", defaults[directive]);
        assert_ne!(unset, other, "{directive}: {} shows no difference", probe.other);
    }
}

#[test]
fn defaults_are_those_of_the_page() {
    let (key, forger) = (SigningKey::generate("a"), SigningKey::generate("a"));
    let described = described();
    let defaults: BTreeMap<String, String> = described
        .iter()
        .filter_map(|(name, stated)| Some((name.clone(), stated.default.clone()?)))
        .collect();
    let probes = probes(&key, &forger);
    let probed: BTreeSet<&str> = probes.iter().map(|probe| probe.directive).collect();
    // Those are looked at by tests of their own; auth_jwt_type takes one value only.
    let elsewhere = [
        "auth_jwt_compat",
        "auth_jwt_type",
        "auth_jwt_key_refresh",
        "auth_jwt_cache",
        "auth_jwt_status",
    ];
    let all: BTreeSet<&str> = probed.iter().copied().chain(elsewhere).collect();
    assert_eq!(all, defaults.keys().map(String::as_str).collect());
    show("", &probes, &defaults, &key, &forger);
}

#[test]
fn defaults_of_dialect_kjdev_are_those_of_the_page() {
    let (key, forger) = (SigningKey::generate("a"), SigningKey::generate("a"));
    let described = described();
    let defaults: BTreeMap<String, String> = described
        .iter()
        .filter_map(|(name, stated)| Some((name.clone(), stated.kjdev.clone()?)))
        .collect();
    assert_eq!(defaults.len(), 3, "{defaults:?}");
    let mut probes = probes(&key, &forger);
    probes.retain(|probe| defaults.contains_key(probe.directive));
    for probe in &mut probes {
        // The default of the other dialect is what differs.
        probe.other = match probe.directive {
            "auth_jwt_key_inherit" => "on",
            // Without those of other levels, which this dialect adds.
            "auth_jwt_key_error" => {
                probe.inner = "auth_jwt_key_inherit off; \
                               auth_jwt_key_file DIR/public/never.json optional;";
                "503"
            }
            "auth_jwt_require_exp" => "off",
            other => panic!("{other}: another value is needed here"),
        };
    }
    show("auth_jwt_compat kjdev;", &probes, &defaults, &key, &forger);
}

#[test]
fn files_are_looked_at_as_often_as_the_page_says() {
    let (old, new) = (SigningKey::generate("old"), SigningKey::generate("new"));
    let default = described()["auth_jwt_key_refresh"].default.clone().expect("a default");
    let location = |name: &str, line: String| {
        format!(
            "location /{name} {{ auth_jwt x; {line} auth_jwt_key_file DIR/public/{name}.json;
               try_files /jwks.json =404; }}\n"
        )
    };
    let nginx = NginxBuilder::bare(&format!(
        "server {{ listen LISTEN; root DIR/public; {}{}{} }}",
        location("unset", String::new()),
        location("default", format!("auth_jwt_key_refresh {default};")),
        location("other", "auth_jwt_key_refresh 24h;".to_owned()),
    ))
    .jwks("{}")
    .file("unset.json", &jwks(&[&old]))
    .file("default.json", &jwks(&[&old]))
    .file("other.json", &jwks(&[&old]))
    .start();
    let token = old.token("me");
    for name in ["unset", "default", "other"] {
        assert_eq!(nginx.get_with(&format!("/{name}"), &token).status, 200, "{name}");
        nginx.scratch().replace(&format!("public/{name}.json"), jwks(&[&new]).as_bytes());
    }
    let are = |path: &str, status| (0..8).all(|_| nginx.get_with(path, &token).status == status);
    for path in ["/unset", "/default"] {
        eventually("every worker has seen the new file", || are(path, 401).then_some(()));
    }
    assert!(are("/other", 200));
}

#[test]
fn what_stands_once_has_the_defaults_of_the_page() {
    let key = SigningKey::generate("a");
    let described = described();
    let default = |name: &str| described[name].default.clone().expect("a default");
    let (compat, cache, status) =
        (default("auth_jwt_compat"), default("auth_jwt_cache"), default("auth_jwt_status"));
    let observe = |first: &str, status: &str| {
        let nginx = NginxBuilder::bare(&format!(
            "{first} auth_jwt_key_file DIR/public/jwks.json;
             server {{ listen LISTEN; root DIR/public;
               location / {{ auth_jwt x; try_files /jwks.json =404; }}
               location /status {{ auth_jwt_status {status}; }} }}"
        ))
        .jwks(&jwks(&[&key]))
        .start();
        // kjdev's module sends its challenge with 200 too.
        let challenge = nginx.get_with("/", &key.token("me")).header("www-authenticate").is_some();
        let page = nginx.get("/status");
        let json = nginx.get("/status?format=json").body;
        let json: Value = serde_json::from_str(&json).expect("JSON");
        (challenge, page.header("content-type").map(str::to_owned), json["cache"]["limit"].clone())
    };
    let unset = observe("", "");
    let stated = observe(&format!("auth_jwt_compat {compat}; auth_jwt_cache {cache};"), &status);
    let other = observe("auth_jwt_compat kjdev; auth_jwt_cache size=1m;", "prometheus");
    assert_eq!(unset, stated);
    assert!(unset.0 != other.0 && unset.1 != other.1 && unset.2 != other.2, "{unset:?} {other:?}");
    let types = [default("auth_jwt_type")].map(|value| format!("auth_jwt_type {value};"));
    accept("location", &types.concat());
}

/// The paths of a JSON text's values, with `[]` for an element and REASON for the words of reasons.
fn paths(value: &Value, path: &str, reasons: &BTreeSet<String>, to: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let name = if reasons.contains(name) { "REASON" } else { name };
                let dot = if path.is_empty() { "" } else { "." };
                paths(value, &format!("{path}{dot}{name}"), reasons, to);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for item in items {
                paths(item, &format!("{path}[]"), reasons, to);
            }
        }
        _ => {
            to.insert(path.to_owned());
        }
    }
}

#[test]
fn the_status_page_has_the_fields_and_reasons_of_the_page() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::server(
        &key,
        "location / { auth_jwt x; auth_jwt_key_file DIR/public/jwks.json; return 200; }
         location /status { auth_jwt_status; }",
    );
    let page = page();
    let reasons: BTreeSet<String> = rows(section(&page, "## What happens to a request"))
        .iter()
        .filter_map(|row| match &**row {
            [word, _] if word.starts_with('`') => Some(code(word).to_owned()),
            _ => None,
        })
        .collect();
    let status: Value = serde_json::from_str(&nginx.get("/status").body).expect("JSON");
    let denied = status["requests"]["denied"].as_object().expect("reasons");
    assert_eq!(reasons, denied.keys().cloned().collect());

    let fields = rows(section(&page, "### The status page"));
    let mut found = BTreeSet::new();
    paths(&status, "", &reasons, &mut found);
    let stated: BTreeSet<String> =
        fields.iter().filter(|row| row[0] != "JSON").map(|row| code(&row[0]).to_owned()).collect();
    assert_eq!(stated, found);

    let text = nginx.get("/status?format=prometheus").body;
    let metrics: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned))
        .collect();
    let stated = fields.iter().flat_map(|row| names(&row[1])).collect::<BTreeSet<_>>();
    assert_eq!(stated, metrics);
}

#[test]
fn rewriting_comes_before_the_check() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::server(
        &key,
        "auth_jwt x; auth_jwt_key_file DIR/public/jwks.json; auth_jwt_claim_header X-User sub;
         root DIR/public;
         location /text { return 200 text; }
         location /named { try_files /none @text; }
         location @text { try_files /none =204; }
         location /early { set $early $http_x_user; add_header X-Early $early always;
                           add_header X-Late $http_x_user always; try_files /jwks.json =404; }",
    );
    assert_eq!(nginx.get("/text").status, 200);
    assert_eq!(nginx.get("/named").status, 401);
    assert_eq!(nginx.get_with("/named", &key.token("me")).status, 204);
    let answer = get(&nginx.url("/early"), &[("x-user", "forged")]);
    assert_eq!(answer.status, 401);
    assert_eq!((answer.header("x-early"), answer.header("x-late")), (Some("forged"), None));
}

#[test]
fn only_401_and_403_leave_the_word_to_others() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::server(
        &key,
        "auth_jwt x; auth_jwt_key_file DIR/public/jwks.json; root DIR/public; satisfy any; allow all;
         location /401 { auth_jwt_require $arg_never; try_files /jwks.json =404; }
         location /403 { auth_jwt_require $arg_never error=403; try_files /jwks.json =404; }
         location /404 { auth_jwt_require $arg_never error=404; try_files /jwks.json =404; }",
    );
    let status = |path| nginx.get_with(path, &key.token("me")).status;
    assert_eq!(["/401", "/403", "/404"].map(status), [200, 200, 404]);
}

/// The example of the section under `heading`, as it stands on the page.
fn moved(heading: &str, key: &SigningKey) -> Nginx {
    let page = page();
    let [(level, block)] = &*examples(section(&page, heading)) else { panic!("{heading}") };
    let block = block.replace("127.0.0.1:8080", "SERVICE");
    NginxBuilder::bare(&at_level(level, &block, "_")).jwks(&jwks(&[key])).start()
}

#[test]
fn teslagovs_users_are_sent_to_log_in() {
    let key = SigningKey::generate("a");
    let nginx = moved("### From TeslaGov ngx-http-auth-jwt", &key);
    let answer = nginx.get("/private/a?b=c");
    assert_eq!(answer.status, 302);
    let location = answer.header("location").expect("a location");
    assert!(location.starts_with("https://login.example/?return_url=http://"), "{location}");
    assert!(location.ends_with("/private/a?b=c"), "{location}");
    let with = |claims: Value| {
        let cookie = format!("at={}", key.sign(&claims));
        get(&nginx.url("/private/"), &[("cookie", &cookie)]).status
    };
    assert_eq!(with(json!({"sub": "me", "exp": now() + 60})), 200);
    assert_eq!(with(json!({"sub": "me"})), 302);
    assert_eq!(with(json!({"sub": "", "exp": now() + 60})), 302);
    assert_eq!(with(json!({"exp": now() + 60})), 302);
}

#[test]
fn ox_jwts_places_and_host_hold() {
    let key = SigningKey::generate("a");
    let nginx = moved("### From ox_jwt", &key);
    let host = "here.example";
    let token = |host: &str| key.sign(&json!({"Host": host, "exp": now() + 60}));
    let good = token(host);
    let status = |path: &str, name: &str, value: &str| {
        get(&nginx.url(path), &[("host", host), (name, value)]).status
    };
    assert_eq!(status(&format!("/pages/?jwt={good}"), "x-none", ""), 200);
    assert_eq!(status("/pages/", "cookie", &format!("jwtcookie={good}")), 200);
    assert_eq!(status("/pages/", "api-key", &good), 200);
    assert_eq!(status("/pages/", "authorization", &format!("Bearer {good}")), 401);
    assert_eq!(status("/pages/", "api-key", &token("there.example")), 401);
}

#[test]
fn keys_in_another_form_become_files() {
    let page = page();
    let shell: String = blocks(section(&page, "### Keys in another form"), "sh")
        .into_iter()
        .map(|(_, b)| b)
        .collect();
    let key = SigningKey::generate("key-1");
    let scratch = Scratch::new();
    scratch.replace("public.pem", key.pem().as_bytes());
    // "a secret of at least 32 bytes, in hex", with letters in it.
    let secret = b"zyxwvutsrqponmlkjihgfedcba0123456789";
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let made = Command::new("bash")
        .args(["-e", "-c", &shell])
        .current_dir(scratch.path())
        .env("HEX", hex)
        .output()
        .expect("bash");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made = |name: &str| fs::read_to_string(scratch.join(name)).expect(name);
    let nginx = NginxBuilder::bare(
        "server { listen LISTEN; root DIR/public; auth_jwt x;
           location /pem { auth_jwt_key_file DIR/public/keys.json keyval; try_files /jwks.json =404; }
           location /secret { auth_jwt_key_file DIR/public/secret.json; try_files /jwks.json =404; } }",
    )
    .jwks("{}")
    .file("keys.json", &made("keys.json"))
    .file("secret.json", &made("secret.json"))
    .start();
    let claims = json!({"exp": now() + 60});
    let secret = jsonwebtoken::EncodingKey::from_secret(secret);
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    let shared = jsonwebtoken::encode(&header, &claims, &secret).expect("a token");
    let signed = key.sign(&claims);
    assert_eq!(nginx.get_with("/pem", &signed).status, 200);
    assert_eq!(nginx.get_with("/pem", &key.sign_as(None, &claims)).status, 200);
    assert_eq!(nginx.get_with("/pem", &key.sign_as(Some("key-2"), &claims)).status, 401);
    assert_eq!(nginx.get_with("/pem", &shared).status, 401);
    assert_eq!(nginx.get_with("/secret", &shared).status, 200);
    assert_eq!(nginx.get_with("/secret", &signed).status, 401);
}
