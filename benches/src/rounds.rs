//! Legs measured in turn, round by round (A B A B …), so that what disturbs the machine meets all of them alike.

use std::collections::HashMap;

use anyhow::{Context as _, Result};

use crate::options::RunOptions;
use crate::progress::say;
use crate::report::{Report, Unit};
use crate::statistics::Budget;

/// What one leg gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Operations per second.
    pub(crate) rate: f64,
    /// Seconds of the server's CPU for each operation.
    pub(crate) cpu_per_operation: Option<f64>,
    /// Share of one core that the server used, where it has one to itself.
    pub(crate) server: Option<f64>,
    /// Share of one core that the load generator used; it must stay well below 1, else it was the limit.
    pub(crate) generator: Option<f64>,
}

impl Sample {
    /// What is a rate alone.
    pub(crate) fn of_rate(rate: f64) -> Self {
        Self { rate, cpu_per_operation: None, server: None, generator: None }
    }
}

/// Something that is measured once in each round.
pub(crate) struct Leg<'a> {
    pub(crate) name: &'static str,
    pub(crate) measure: Box<dyn FnMut() -> Result<Sample> + 'a>,
}

/// The samples of one round, by leg.
pub(crate) struct Round(HashMap<&'static str, Sample>);

impl Round {
    /// Operations per second of a leg; not a number if it was not measured.
    pub(crate) fn rate(&self, leg: &str) -> f64 {
        self.0.get(leg).map_or(f64::NAN, |sample| sample.rate)
    }

    /// Seconds that one operation of a leg takes which are made one after the other.
    pub(crate) fn latency(&self, leg: &str) -> f64 {
        1.0 / self.rate(leg)
    }

    /// Seconds of CPU for each operation of a leg; not a number if they are not known.
    pub(crate) fn cpu(&self, leg: &str) -> f64 {
        self.sample(leg).and_then(|sample| sample.cpu_per_operation).unwrap_or(f64::NAN)
    }

    /// The same round with rates from the server's CPU time alone, as if nobody shared its core.
    pub(crate) fn by_cpu(&self) -> Self {
        let rate = |sample: &Sample| Sample {
            rate: 1.0 / sample.cpu_per_operation.unwrap_or(f64::NAN),
            ..*sample
        };
        Self(self.0.iter().map(|(name, sample)| (*name, rate(sample))).collect())
    }

    pub(crate) fn sample(&self, leg: &str) -> Option<Sample> {
        self.0.get(leg).copied()
    }
}

/// A line of the result, computed from each round.
pub(crate) struct Row {
    /// What `--only` names.
    pub(crate) id: &'static str,
    pub(crate) title: String,
    /// The legs that `value` reads.
    pub(crate) legs: Vec<&'static str>,
    pub(crate) value: Box<dyn Fn(&Round) -> f64>,
    pub(crate) unit: Unit,
    pub(crate) budget: Option<Budget>,
}

impl Row {
    /// How many times as fast as `reference` the leg `subject` is.
    pub(crate) fn ratio(
        id: &'static str,
        title: impl Into<String>,
        subject: &'static str,
        reference: &'static str,
        budget: Option<Budget>,
    ) -> Self {
        Self {
            id,
            title: title.into(),
            legs: vec![subject, reference],
            value: Box::new(move |round| round.rate(subject) / round.rate(reference)),
            unit: Unit::Ratio,
            budget,
        }
    }
}

/// Measures those legs that wanted rows need, and adds the rows to the report.
pub(crate) fn group(
    name: &str,
    legs: Vec<Leg<'_>>,
    rows: Vec<Row>,
    options: &RunOptions,
    report: &mut Report,
) -> Result<()> {
    let rows: Vec<Row> = rows.into_iter().filter(|row| options.wants(row.id)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let mut legs: Vec<Leg<'_>> = legs
        .into_iter()
        .filter(|leg| rows.iter().any(|row| row.legs.contains(&leg.name)))
        .collect();
    let rounds = measure(name, &mut legs, options.rounds())?;
    let names: Vec<_> = legs.iter().map(|leg| leg.name).collect();
    report.add_rounds(name, &names, &rows, &rounds)
}

/// Measures all legs once as a warm-up that does not count, then `rounds` times in turn.
fn measure(group: &str, legs: &mut [Leg<'_>], rounds: u32) -> Result<Vec<Round>> {
    let names: Vec<_> = legs.iter().map(|leg| leg.name).collect();
    say(&format!("{group}: warm-up, then {rounds} rounds of {}", names.join(", ")));
    for leg in legs.iter_mut() {
        (leg.measure)().with_context(|| format!("{group}, {}, warm-up", leg.name))?;
    }
    (1..=rounds)
        .map(|number| {
            let mut round = HashMap::new();
            for leg in legs.iter_mut() {
                let sample = (leg.measure)()
                    .with_context(|| format!("{group}, {}, round {number}", leg.name))?;
                round.insert(leg.name, sample);
            }
            Ok(Round(round))
        })
        .collect()
}
