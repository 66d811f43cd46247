//! The result: a table for readers, JSON for programs.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::conditions::Conditions;
use crate::rounds::{Round, Row, Sample};
use crate::statistics::{Budget, Quartiles, Verdict};

/// Collects rows and prints them at the end.
#[derive(Debug)]
pub(crate) struct Report {
    conditions: Conditions,
    lines: Vec<Line>,
    legs: Vec<LegLine>,
}

/// What a row's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Ratio,
    Kib,
    Instructions,
    Seconds,
    Milliseconds,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Ratio => format!("{value:.3}"),
            Self::Kib => format!("{:.1} KiB", value / 1024.0),
            Self::Instructions => format!("{value:.0}"),
            Self::Seconds => format!("{value:.3} s"),
            Self::Milliseconds => format!("{:.2} ms", value * 1e3),
        }
    }

    /// Of the number in the JSON.
    fn name(self) -> &'static str {
        match self {
            Self::Ratio => "ratio",
            Self::Kib => "bytes",
            Self::Instructions => "instructions",
            Self::Seconds | Self::Milliseconds => "seconds",
        }
    }
}

#[derive(Debug)]
struct Line {
    id: String,
    title: String,
    unit: Unit,
    numbers: Numbers,
    quartiles: Quartiles,
}

#[derive(Debug)]
struct Numbers {
    values: Vec<f64>,
    by_cpu: Option<f64>,
    budget: Option<Budget>,
    /// Whether a leg's server did not have its core to itself.
    disturbed: bool,
}

/// What is said of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Met,
    Missed,
    /// What disturbs a server disturbs the faster leg more, so ratios look better than they are: a budget that is
    /// missed even so is missed, but one that is met proves nothing.
    Undecided,
}

/// A server that used less of its core than this was held up by something else.
const ALONE: f64 = 0.85;
/// A load generator that used more of its core than this may have been what held the server up.
const BUSY: f64 = 0.95;

#[derive(Debug)]
struct LegLine {
    group: String,
    name: &'static str,
    rate: Quartiles,
    cpu: Option<f64>,
    server: Option<f64>,
    generator: Option<f64>,
}

impl Report {
    pub(crate) fn new(conditions: Conditions) -> Self {
        Self { conditions, lines: Vec::new(), legs: Vec::new() }
    }

    /// Adds the rows of a group with the legs that they were computed from.
    pub(crate) fn add_rounds(
        &mut self,
        group: &str,
        legs: &[&'static str],
        rows: &[Row],
        rounds: &[Round],
    ) -> Result<()> {
        for name in legs {
            let samples: Vec<Sample> =
                rounds.iter().filter_map(|round| round.sample(name)).collect();
            let rates: Vec<f64> = samples.iter().map(|sample| sample.rate).collect();
            let median = |value: fn(&Sample) -> Option<f64>| {
                let values: Option<Vec<f64>> = samples.iter().map(value).collect();
                Quartiles::of(&values?).map(|quartiles| quartiles.median)
            };
            self.legs.push(LegLine {
                group: group.to_owned(),
                name,
                rate: Quartiles::of(&rates)
                    .with_context(|| format!("{group}, {name}: no numbers"))?,
                cpu: median(|sample| sample.cpu_per_operation),
                server: median(|sample| sample.server),
                generator: median(|sample| sample.generator),
            });
        }
        for row in rows {
            let values: Vec<f64> = rounds.iter().map(|round| (row.value)(round)).collect();
            let by_cpu: Vec<f64> =
                rounds.iter().map(|round| (row.value)(&round.by_cpu())).collect();
            let by_cpu = Quartiles::of(&by_cpu)
                .filter(|_| row.unit == Unit::Ratio)
                .map(|quartiles| quartiles.median);
            let disturbed = self.legs.iter().any(|leg| {
                leg.group == group && row.legs.contains(&leg.name) && leg.was_disturbed()
            });
            let numbers = Numbers { values, by_cpu, budget: row.budget, disturbed };
            self.add(row.id, &row.title, row.unit, numbers)?;
        }
        Ok(())
    }

    /// Adds a number that is no ratio of legs.
    pub(crate) fn add_value(
        &mut self,
        id: &str,
        title: &str,
        unit: Unit,
        value: f64,
        budget: Option<Budget>,
    ) -> Result<()> {
        let numbers = Numbers { values: vec![value], by_cpu: None, budget, disturbed: false };
        self.add(id, title, unit, numbers)
    }

    fn add(&mut self, id: &str, title: &str, unit: Unit, numbers: Numbers) -> Result<()> {
        let quartiles =
            Quartiles::of(&numbers.values).with_context(|| format!("{id}: no numbers"))?;
        self.lines.push(Line {
            id: id.to_owned(),
            title: title.to_owned(),
            unit,
            numbers,
            quartiles,
        });
        Ok(())
    }

    /// To be called when all is measured.
    pub(crate) fn finish(&mut self) {
        self.conditions.finish();
    }

    /// Whether every budget is known to be met.
    pub(crate) fn is_good(&self) -> bool {
        self.count(Outcome::Missed) + self.count(Outcome::Undecided) == 0
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.lines.iter().filter(|line| line.outcome() == Some(outcome)).count()
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        line("");
        for (name, value) in self.conditions.entries() {
            line(&format!("{:<20} {value}", format!("{name}:")));
        }
        if !self.legs.is_empty() {
            line("");
            line(&format!(
                "{:<10} {:<25} {:>10}  {:>10}  {:>8}  {:>9}",
                "group", "leg", "per second", "CPU us/op", "server", "generator busy"
            ));
            self.legs.iter().for_each(LegLine::print);
        }
        line("");
        line(&format!(
            "{:<29} {:<66} {:>8}  {:>17}  {:>7}  {:>9}",
            "row", "what", "median", "quartiles", "by CPU", "budget"
        ));
        for entry in &self.lines {
            entry.print();
        }
        line("");
        line(
            "\"by CPU\" is the same ratio from CPU per operation, which suffers less when the cores are shared.",
        );
        let (missed, undecided) = (self.count(Outcome::Missed), self.count(Outcome::Undecided));
        if missed > 0 {
            line(&format!("budgets MISSED: {missed} (the upper quartile is on the wrong side)"));
        }
        if undecided > 0 {
            line(&format!(
                "budgets UNDECIDED: {undecided} (a server had less than {:.0} % of its core: try again on an idle machine)",
                ALONE * 100.0
            ));
        }
        if missed + undecided == 0 {
            line("no budget is missed");
        }
        if self.conditions.quick {
            line("QUICK=1: this is no result; it only shows that the benchmark runs");
        }
    }

    /// Writes the JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let json = json!({
            "conditions": self.conditions.to_json(),
            "quick": self.conditions.quick,
            "missed": self.count(Outcome::Missed),
            "undecided": self.count(Outcome::Undecided),
            "legs": self.legs.iter().map(LegLine::to_json).collect::<Vec<_>>(),
            "rows": self.lines.iter().map(Line::to_json).collect::<Vec<_>>(),
        });
        let text = serde_json::to_string_pretty(&json)? + "\n";
        fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
    }
}

impl LegLine {
    fn print(&self) {
        let number = |value: Option<f64>, factor: f64, places: usize, unit: &str| match value {
            Some(value) => format!("{:.places$}{unit}", value * factor),
            None => "-".to_owned(),
        };
        line(&format!(
            "{:<10} {:<25} {:>10.0}  {:>10}  {:>8}  {:>9}{}",
            self.group,
            self.name,
            self.rate.median,
            number(self.cpu, 1e6, 2, ""),
            number(self.server, 100.0, 0, " %"),
            number(self.generator, 100.0, 0, " %"),
            self.remark()
        ));
    }

    fn was_disturbed(&self) -> bool {
        self.server.is_some_and(|share| share < ALONE)
    }

    fn remark(&self) -> &'static str {
        if self.generator.is_some_and(|share| share > BUSY) {
            "  the generator was the limit"
        } else if self.was_disturbed() {
            "  the server was not alone on its core, or not loaded"
        } else {
            ""
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "group": self.group,
            "leg": self.name,
            "per_second": {"lower": self.rate.lower, "median": self.rate.median, "upper": self.rate.upper},
            "cpu_seconds_per_operation": self.cpu,
            "server_cores": self.server,
            "generator_cores": self.generator,
        })
    }
}

impl Line {
    fn outcome(&self) -> Option<Outcome> {
        let verdict = self.numbers.budget?.verdict(self.quartiles);
        Some(match (verdict, self.numbers.disturbed) {
            (Verdict::Missed, _) => Outcome::Missed,
            (Verdict::Met, false) => Outcome::Met,
            (Verdict::Met, true) => Outcome::Undecided,
        })
    }

    fn print(&self) {
        let (numbers, quartiles) = (&self.numbers, &self.quartiles);
        let number = |value: f64| self.unit.show(value);
        let range = if numbers.values.len() > 1 {
            format!("{} to {}", number(quartiles.lower), number(quartiles.upper))
        } else {
            String::new()
        };
        let budget = match numbers.budget {
            Some(Budget::AtLeast(limit)) => format!(">= {}", number(limit)),
            Some(Budget::AtMost(limit)) => format!("<= {}", number(limit)),
            None => String::new(),
        };
        let verdict = match self.outcome() {
            Some(Outcome::Met) => "  met",
            Some(Outcome::Missed) => "  MISSED",
            Some(Outcome::Undecided) => "  UNDECIDED",
            None => "",
        };
        let by_cpu = numbers.by_cpu.map(number).unwrap_or_default();
        let text = format!(
            "{:<29} {:<66} {:>8}  {range:>17}  {by_cpu:>7}  {budget:>9}{verdict}",
            self.id,
            self.title,
            number(quartiles.median)
        );
        line(text.trim_end());
    }

    fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "title": self.title,
            "unit": self.unit.name(),
            "median": self.quartiles.median,
            "lower_quartile": self.quartiles.lower,
            "upper_quartile": self.quartiles.upper,
            "by_cpu": self.numbers.by_cpu,
            "budget": self.numbers.budget.map(|budget| match budget {
                Budget::AtLeast(limit) => json!({"at_least": limit}),
                Budget::AtMost(limit) => json!({"at_most": limit}),
            }),
            "outcome": self.outcome().map(|outcome| match outcome {
                Outcome::Met => "met",
                Outcome::Missed => "missed",
                Outcome::Undecided => "undecided",
            }),
            "disturbed": self.numbers.disturbed,
            "values": self.numbers.values,
        })
    }
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) {
    // A reader that has gone, such as `head`, is no reason to end without the JSON.
    let _ = writeln!(std::io::stdout(), "{text}");
}
