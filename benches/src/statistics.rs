//! Median, quartiles, and the verdict about a budget.

/// The median with the quartiles around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quartiles {
    pub(crate) lower: f64,
    pub(crate) median: f64,
    pub(crate) upper: f64,
}

impl Quartiles {
    /// Of `values`, with linear interpolation between neighbours; `None` without values, or if one is no number.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values)?;
        let at = |share: f64| interpolate(&sorted, share);
        Some(Self { lower: at(0.25), median: at(0.5), upper: at(0.75) })
    }
}

/// The value below which `share` of `values` are; `None` as for [`Quartiles::of`].
pub(crate) fn quantile(values: &[f64], share: f64) -> Option<f64> {
    Some(interpolate(&sorted(values)?, share))
}

fn sorted(values: &[f64]) -> Option<Vec<f64>> {
    if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(sorted)
}

fn interpolate(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (place - place.floor())
}

/// What a row must reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Budget {
    AtLeast(f64),
    AtMost(f64),
}

/// Whether it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    Missed,
}

impl Budget {
    /// Missed when the upper quartile is on the wrong side. For [`Budget::AtLeast`] three quarters of the pairs
    /// stay below it then, so that noise alone seldom makes a miss; for [`Budget::AtMost`] a quarter above is one.
    pub(crate) fn verdict(self, quartiles: Quartiles) -> Verdict {
        let met = match self {
            Self::AtLeast(limit) => quartiles.upper >= limit,
            Self::AtMost(limit) => quartiles.upper <= limit,
        };
        if met { Verdict::Met } else { Verdict::Missed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quartiles(lower: f64, median: f64, upper: f64) -> Quartiles {
        Quartiles { lower, median, upper }
    }

    #[test]
    fn quartiles_of_an_odd_count_are_members() {
        let found = Quartiles::of(&[9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0]);
        assert_eq!(found, Some(quartiles(3.0, 5.0, 7.0)));
    }

    #[test]
    fn quartiles_of_an_even_count_are_interpolated() {
        assert_eq!(Quartiles::of(&[4.0, 1.0, 3.0, 2.0]), Some(quartiles(1.75, 2.5, 3.25)));
    }

    #[test]
    fn one_value_is_all_three() {
        assert_eq!(Quartiles::of(&[0.5]), Some(quartiles(0.5, 0.5, 0.5)));
    }

    #[test]
    fn nothing_and_what_is_no_number_have_no_quartiles() {
        assert_eq!(Quartiles::of(&[]), None);
        assert_eq!(Quartiles::of(&[1.0, f64::NAN]), None);
        assert_eq!(Quartiles::of(&[1.0, f64::INFINITY]), None);
    }

    #[test]
    fn a_quantile_is_interpolated_too() {
        let hundred_and_one: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&hundred_and_one, 0.99), Some(99.0));
        assert_eq!(quantile(&[1.0, 2.0], 0.99), Some(1.99));
        assert_eq!(quantile(&[], 0.99), None);
    }

    #[test]
    fn an_outlier_moves_no_quartile_of_nine() {
        let even = [0.40, 0.41, 0.42, 0.43, 0.44, 0.45, 0.46, 0.47, 0.48];
        let mut spiked = even;
        spiked[8] = 9.0;
        assert_eq!(Quartiles::of(&even), Quartiles::of(&spiked));
    }

    #[test]
    fn the_upper_quartile_decides_about_a_lower_limit() {
        let budget = Budget::AtLeast(0.95);
        assert_eq!(budget.verdict(quartiles(0.90, 0.93, 0.949)), Verdict::Missed);
        assert_eq!(budget.verdict(quartiles(0.90, 0.93, 0.95)), Verdict::Met);
        assert_eq!(budget.verdict(quartiles(0.96, 0.97, 0.98)), Verdict::Met);
    }

    #[test]
    fn the_upper_quartile_decides_about_an_upper_limit() {
        let budget = Budget::AtMost(1024.0);
        assert_eq!(budget.verdict(quartiles(900.0, 1000.0, 1025.0)), Verdict::Missed);
        assert_eq!(budget.verdict(quartiles(900.0, 1000.0, 1024.0)), Verdict::Met);
    }
}
