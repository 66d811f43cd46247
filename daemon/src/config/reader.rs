//! Reads settings from their layers: `JWTUNNEL_*` variables, the file, JWThenticator's variables,
//! the default. The first that has a value wins; the others are not even parsed.
//!
//! Remembers which settings exist, so that an unknown one is an error, and where each effective
//! value came from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::{Place, Problem};
use super::value::{Setting, quoted};

/// The environment, passed in so that tests need not change the process's own.
pub type Environment = BTreeMap<String, String>;

/// A setting with its effective value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The section without brackets, such as `jwks` or, for tables of an array, `jwks.remote`.
    pub section: String,
    /// Which table of the array, from 0; `None` for a section.
    pub table: Option<usize>,
    /// The key.
    pub key: &'static str,
    /// The value as TOML, a secret masked.
    pub value: String,
    /// Where it came from.
    pub place: Place,
}

/// What became of a variable of one of the original services, to be logged at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableNote {
    /// The variable.
    pub name: &'static str,
    /// What it did, such as `sets [jwthenticator] jwt_lifetime`.
    pub effect: String,
}

/// A variable of the original that stands for one of our settings.
pub(super) struct Original<'r, T> {
    pub(super) name: &'static str,
    /// What may be written, for the error.
    pub(super) expected: &'static str,
    pub(super) parse: &'r dyn Fn(&str) -> Option<T>,
}

pub(super) struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    table: DeTable<'a>,
    environment: &'a Environment,
    /// Every (section, key) asked for, known or refused.
    known: Vec<(&'static str, &'static str)>,
    /// Parts that a later version will have: not known, but not called unknown either.
    later: Vec<(&'static str, &'static str)>,
    pub(super) problems: Vec<Problem>,
    pub(super) effective: Vec<Effective>,
    pub(super) notes: Vec<VariableNote>,
}

impl<'a> Reader<'a> {
    /// # Errors
    /// The TOML syntax error with its line.
    pub(super) fn new(
        path: &'a Path,
        text: &'a str,
        environment: &'a Environment,
    ) -> Result<Self, Problem> {
        let table = DeTable::parse(text).map_err(|error| Problem {
            place: Place::File(path.into(), error.span().map_or(0, |s| line_of(text, s.start))),
            subject: String::new(),
            text: format!("not valid TOML: {}", error.message().replace('\n', ", ")),
        })?;
        Ok(Self {
            path,
            text,
            table: table.into_inner(),
            environment,
            known: Vec::new(),
            later: Vec::new(),
            problems: Vec::new(),
            effective: Vec::new(),
            notes: Vec::new(),
        })
    }

    pub(super) fn environment(&self) -> &'a Environment {
        self.environment
    }

    /// The value of `[section] key`, or `default`.
    pub(super) fn take<T: Setting>(
        &mut self,
        section: &'static str,
        key: &'static str,
        default: T,
    ) -> T {
        self.take_or(section, key, &[], default)
    }

    /// As [`Reader::take`], but the first of the original's variables that is set goes before the
    /// default.
    pub(super) fn take_or<T: Setting>(
        &mut self,
        section: &'static str,
        key: &'static str,
        originals: &[Original<'_, T>],
        default: T,
    ) -> T {
        self.known.push((section, key));
        let mut result = self.own_value(section, key);
        for original in originals {
            let Some(text) = self.environment.get(original.name) else { continue };
            let setting = format!("[{section}] {key}");
            if let Some((_, place)) = &result {
                let effect = format!("has no effect: {setting} is set by {place}");
                self.notes.push(VariableNote { name: original.name, effect });
                continue;
            }
            let value = (original.parse)(text);
            if value.is_none() {
                self.problem_in_variable(original.name, text, T::SHOWABLE, original.expected);
            }
            let effect = format!("sets {setting}");
            self.notes.push(VariableNote { name: original.name, effect });
            result = Some((value, Place::Variable(original.name.into())));
        }
        let (value, place) = match result {
            Some((Some(value), place)) => (value, place),
            // The problem is recorded; the default only lets the rest be read.
            Some((None, place)) => (default, place),
            None => (default, Place::Default),
        };
        let (section, value_shown) = (section.to_owned(), value.show());
        self.effective.push(Effective { section, table: None, key, value: value_shown, place });
        value
    }

    /// Our own layers: the variable `JWTUNNEL_<SECTION>_<KEY>`, then the file. `Some((None, _))` is a
    /// value that could not be read; its problem is recorded.
    fn own_value<T: Setting>(
        &mut self,
        section: &'static str,
        key: &'static str,
    ) -> Option<(Option<T>, Place)> {
        let variable = variable_name(section, key);
        if let Some(text) = self.environment.get(&variable) {
            let value = T::from_text(text);
            if value.is_none() {
                self.problem_in_variable(&variable, text, T::SHOWABLE, &T::expected());
            }
            return Some((value, Place::Variable(variable)));
        }
        let (line, value, shown) = {
            let (span, value) = self.file_value(section, key)?;
            let shown = self.text.get(span.clone()).unwrap_or_default().to_owned();
            (line_of(self.text, span.start), T::from_toml(value), shown)
        };
        let place = Place::File(self.path.into(), line);
        if value.is_none() {
            let subject = if T::SHOWABLE {
                format!("[{section}] {key} = {}", cut(&shown))
            } else {
                format!("[{section}] {key}")
            };
            let text = format!("expected {}", T::expected());
            self.problems.push(Problem { place: place.clone(), subject, text });
        }
        Some((value, place))
    }

    /// Whether `[section] key` is set by one of our own layers.
    pub(super) fn is_set(&self, section: &str, key: &str) -> bool {
        self.place_of(section, key).is_some()
    }

    /// Where our own layers set `[section] key`.
    pub(super) fn place_of(&self, section: &str, key: &str) -> Option<Place> {
        let variable = variable_name(section, key);
        if self.environment.contains_key(&variable) {
            return Some(Place::Variable(variable));
        }
        let (span, _) = self.file_value(section, key)?;
        Some(Place::File(self.path.into(), line_of(self.text, span.start)))
    }

    fn file_value(
        &self,
        section: &str,
        key: &str,
    ) -> Option<(std::ops::Range<usize>, &DeValue<'a>)> {
        let DeValue::Table(table) = self.table.get(section)?.get_ref() else { return None };
        let value = table.get(key)?;
        Some((value.span(), value.get_ref()))
    }

    /// Declares a section that a later version will have. Setting it is an error that says so: what is accepted and does
    /// nothing would be a trap.
    pub(super) fn later_section(&mut self, section: &'static str, remedy: &str) {
        self.later.push((section, ""));
        if let Some(value) = self.table.get(section) {
            let place = Place::File(self.path.into(), line_of(self.text, value.span().start));
            let text = format!("not available yet; {remedy}");
            self.problems.push(Problem { place, subject: format!("[{section}]"), text });
        }
    }

    /// The tables of `[[section.key]]`: what `read` makes of each. They stand in the file only.
    pub(super) fn tables<T>(
        &mut self,
        section: &'static str,
        key: &'static str,
        read: impl Fn(&mut TableReader<'_, 'a>) -> T,
    ) -> Vec<T> {
        self.known.push((section, key));
        let mut problems = Vec::new();
        let mut effective = Vec::new();
        let mut result = Vec::new();
        let name = format!("{section}.{key}");
        let title = format!("[[{name}]]");
        let variable = variable_name(section, key);
        if self.environment.contains_key(&variable) {
            let text = format!("write the tables {title} in the configuration file");
            self.problem_at_variable(&variable, text);
        }
        match self.file_value(section, key) {
            None => {}
            Some((_, DeValue::Array(items))) => {
                for (number, item) in items.iter().enumerate() {
                    let line = line_of(self.text, item.span().start);
                    let place = Place::File(self.path.into(), line);
                    let DeValue::Table(table) = item.get_ref() else {
                        let text = format!("expected a table, written {title}");
                        problems.push(Problem { place, subject: title.clone(), text });
                        continue;
                    };
                    let mut reader = TableReader {
                        path: self.path,
                        text: self.text,
                        title: &title,
                        table,
                        place,
                        name: &name,
                        number,
                        known: Vec::new(),
                        problems: &mut problems,
                        effective: &mut effective,
                    };
                    let value = read(&mut reader);
                    reader.finish();
                    result.push(value);
                }
            }
            Some((span, _)) => {
                let place = Place::File(self.path.into(), line_of(self.text, span.start));
                let text = format!("expected tables, each written {title}");
                problems.push(Problem { place, subject: format!("[{section}] {key}"), text });
            }
        }
        self.problems.append(&mut problems);
        self.effective.append(&mut effective);
        result
    }

    pub(super) fn problem_in_variable(
        &mut self,
        name: &str,
        value: &str,
        showable: bool,
        expected: &str,
    ) {
        let subject = if showable { quoted(&cut(value)) } else { String::new() };
        let text = format!("expected {expected}");
        self.problems.push(Problem { place: Place::Variable(name.into()), subject, text });
    }

    pub(super) fn problem_at_variable(&mut self, name: &str, text: String) {
        self.problems.push(Problem {
            place: Place::Variable(name.into()),
            subject: String::new(),
            text,
        });
    }

    /// A problem of `[section] key` whose value is well-formed but cannot be used.
    pub(super) fn problem_of(&mut self, section: &str, key: &str, text: String) {
        let place = self.effective_place(section, None, key);
        self.problems.push(Problem { place, subject: format!("[{section}] {key}"), text });
    }

    /// As [`Reader::problem_of`] for a table of `[[name]]`, counted from 0.
    pub(super) fn problem_in_table(&mut self, name: &str, number: usize, key: &str, text: String) {
        let place = self.effective_place(name, Some(number), key);
        self.problems.push(Problem { place, subject: format!("[[{name}]] {key}"), text });
    }

    fn effective_place(&self, section: &str, table: Option<usize>, key: &str) -> Place {
        let mut all = self.effective.iter();
        let found = all.find(|e| e.section == section && e.table == table && e.key == key);
        found.map_or(Place::Default, |e| e.place.clone())
    }

    /// Reports what nobody asked for: unknown sections, keys and `JWTUNNEL_*` variables.
    pub(super) fn finish(&mut self) {
        let mut problems = Vec::new();
        let mut sections: Vec<&'static str> = Vec::new();
        for (section, _) in &self.known {
            if !sections.contains(section) {
                sections.push(section);
            }
        }
        let is_declared = |section: &str, key: &str| {
            self.known.iter().chain(&self.later).any(|(s, k)| *s == section && *k == key)
        };
        let keys_of = |section: &str| -> Vec<&'static str> {
            self.known.iter().filter(|(s, _)| *s == section).map(|(_, k)| *k).collect()
        };
        for (name, value) in &self.table {
            let section = name.get_ref().as_ref();
            let place = |start| Place::File(PathBuf::from(self.path), line_of(self.text, start));
            if is_declared(section, "") {
                continue;
            }
            if !sections.contains(&section) {
                let (subject, kind) = match value.get_ref() {
                    DeValue::Table(_) => (format!("[{section}]"), "unknown section"),
                    _ => (section.to_owned(), "not in a section"),
                };
                let text = format!(
                    "{kind}; the sections are {}",
                    join(sections.iter().copied(), "[", "]")
                );
                problems.push(Problem { place: place(name.span().start), subject, text });
                continue;
            }
            let DeValue::Table(table) = value.get_ref() else {
                let text = format!("expected a section, written [{section}] on a line of its own");
                problems.push(Problem {
                    place: place(name.span().start),
                    subject: section.to_owned(),
                    text,
                });
                continue;
            };
            for key in table.keys() {
                if !is_declared(section, key.get_ref()) {
                    let text = unknown_key(key.get_ref(), &keys_of(section));
                    let subject = format!("[{section}] {}", cut(key.get_ref()));
                    problems.push(Problem { place: place(key.span().start), subject, text });
                }
            }
        }
        for name in self.environment.keys() {
            let Some(rest) = name.strip_prefix("JWTUNNEL_") else { continue };
            let Some(section) = sections
                .iter()
                .find(|s| rest.strip_prefix(&s.to_uppercase()).is_some_and(|r| r.starts_with('_')))
            else {
                continue;
            };
            let key = rest[section.len() + 1..].to_lowercase();
            if !is_declared(section, &key) {
                let text = unknown_key(&key, &keys_of(section));
                problems.push(Problem {
                    place: Place::Variable(name.clone()),
                    subject: String::new(),
                    text,
                });
            }
        }
        self.problems.append(&mut problems);
    }
}

/// Reads one table of an array of tables.
pub(super) struct TableReader<'r, 'a> {
    path: &'r Path,
    text: &'r str,
    title: &'r str,
    table: &'r DeTable<'a>,
    place: Place,
    name: &'r str,
    number: usize,
    known: Vec<&'static str>,
    problems: &'r mut Vec<Problem>,
    effective: &'r mut Vec<Effective>,
}

impl TableReader<'_, '_> {
    pub(super) fn take<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        self.known.push(key);
        let value = self.table.get(key).map(|value| {
            T::from_toml(value.get_ref()).ok_or_else(|| {
                let shown = self.text.get(value.span()).unwrap_or_default();
                self.problems.push(Problem {
                    place: self.place_of(key),
                    subject: format!("{} {key} = {}", self.title, cut(shown)),
                    text: format!("expected {}", T::expected()),
                });
            })
        });
        let value = value.and_then(Result::ok).unwrap_or(default);
        let is_set = self.table.contains_key(key);
        self.effective.push(Effective {
            section: self.name.to_owned(),
            table: Some(self.number),
            key,
            value: value.show(),
            place: if is_set { self.place_of(key) } else { Place::Default },
        });
        value
    }

    /// Where `key` is written; without it, where the table is.
    pub(super) fn place_of(&self, key: &str) -> Place {
        self.table.get(key).map_or_else(
            || self.place.clone(),
            |value| Place::File(self.path.into(), line_of(self.text, value.span().start)),
        )
    }

    /// A problem of one key, whose value is not repeated; of the table if the key is not there.
    pub(super) fn problem_of(&mut self, key: &str, text: String) {
        let place = self.place_of(key);
        self.problems.push(Problem { place, subject: format!("{} {key}", self.title), text });
    }

    /// A problem of the table as a whole.
    pub(super) fn problem(&mut self, text: &str) {
        self.problems.push(Problem {
            place: self.place.clone(),
            subject: self.title.to_owned(),
            text: text.to_owned(),
        });
    }

    fn finish(self) {
        for key in self.table.keys() {
            if !self.known.contains(&key.get_ref().as_ref()) {
                self.problems.push(Problem {
                    place: Place::File(self.path.into(), line_of(self.text, key.span().start)),
                    subject: format!("{} {}", self.title, cut(key.get_ref())),
                    text: unknown_key(key.get_ref(), &self.known),
                });
            }
        }
    }
}

/// The variable that overrides `[section] key`.
pub(super) fn variable_name(section: &str, key: &str) -> String {
    format!("JWTUNNEL_{}_{}", section.to_uppercase(), key.to_uppercase())
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

fn unknown_key(key: &str, known: &[&'static str]) -> String {
    let nearest = known.iter().map(|name| (distance(key, name), *name)).min();
    let settings = join(known.iter().copied(), "", "");
    match nearest {
        Some((edits, name)) if edits <= 2 + name.len() / 6 => {
            format!("unknown setting; did you mean {name}? The settings here are {settings}")
        }
        _ => format!("unknown setting; the settings here are {settings}"),
    }
}

fn join<'a>(names: impl Iterator<Item = &'a str>, before: &str, after: &str) -> String {
    names.map(|name| format!("{before}{name}{after}")).collect::<Vec<_>>().join(", ")
}

/// Long values are cut in errors: the place names them well enough.
fn cut(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() > 80 || line.len() < text.len() {
        line.chars().take(80).collect::<String>() + "…"
    } else {
        line.to_owned()
    }
}

/// The Levenshtein distance, for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
