//! Percentiles, robust means, bootstrap intervals, fits.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// An estimate with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// The estimate from all data.
    pub estimate: f64,
    /// The 2.5th percentile of the resampled estimates.
    pub low: f64,
    /// The 97.5th percentile of the resampled estimates.
    pub high: f64,
}

/// How often data are resampled.
const RESAMPLES: usize = 2_000;

/// The estimate and its percentile bootstrap interval, by drawing rounds with replacement. The same
/// seed gives the same interval.
pub fn bootstrap<T: Clone>(data: &[T], seed: u64, estimate: impl Fn(&[T]) -> f64) -> Bounds {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut resampled: Vec<f64> = Vec::with_capacity(RESAMPLES);
    if !data.is_empty() {
        for _ in 0..RESAMPLES {
            let draw = |_| data.get(random.random_range(0..data.len())).cloned();
            let sample: Vec<T> = (0..data.len()).filter_map(draw).collect();
            resampled.push(estimate(&sample));
        }
    }
    resampled.sort_by(f64::total_cmp);
    let (low, high) = (percentile(&resampled, 0.025), percentile(&resampled, 0.975));
    Bounds { estimate: estimate(data), low, high }
}

/// The value below which this share of sorted data lies, by linear interpolation; NaN without data.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let below = place.floor();
    let at = |place: f64| sorted.get(place as usize).copied().unwrap_or(f64::NAN);
    let (low, high) = (at(below), at(place.ceil()));
    low + (high - low) * (place - below)
}

/// The mean of the middle half: nearly as steady as the mean, and deaf to outliers.
pub fn midmean(data: &[f64]) -> f64 {
    let mut sorted = data.to_vec();
    sorted.sort_by(f64::total_cmp);
    let quarter = sorted.len() / 4;
    let middle = sorted.get(quarter..sorted.len() - quarter).unwrap_or_default();
    middle.iter().sum::<f64>() / middle.len() as f64
}

/// The midmean of ratios, taken of their logarithms so that a ratio and its inverse weigh the same.
pub(crate) fn mean_ratio(ratios: &[f64]) -> f64 {
    let logarithms: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
    midmean(&logarithms).exp()
}

/// The exponent k of `cost = c · size^k` that fits best, by least squares of logarithms.
pub fn fitted_exponent(points: &[(f64, f64)]) -> f64 {
    let logarithms: Vec<(f64, f64)> =
        points.iter().map(|(size, cost)| (size.ln(), cost.ln())).collect();
    let count = logarithms.len() as f64;
    let mean_x = logarithms.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = logarithms.iter().map(|(_, y)| y).sum::<f64>() / count;
    let covariance: f64 = logarithms.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = logarithms.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    covariance / variance
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_interpolates() {
        let data = [1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!(percentile(&data, 0.5), 3.0);
        assert_eq!(percentile(&data, 0.875), 4.5);
        assert_eq!(percentile(&data, 1.0), 5.0);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn midmean_ignores_outliers() {
        assert_eq!(midmean(&[1.0, 2.0, 2.0, 1e9]), 2.0);
        assert_eq!(midmean(&[7.0]), 7.0);
    }

    #[test]
    fn exponent_of_a_power_is_found() {
        let points = [10.0, 100.0, 1000.0].map(|size: f64| (size, 3.0 * size.powf(1.3)));
        assert!((fitted_exponent(&points) - 1.3).abs() < 1e-9);
    }

    #[test]
    fn bootstrap_is_the_same_for_the_same_seed_and_covers_the_truth() {
        let data: Vec<f64> = (0..100).map(f64::from).collect();
        let bounds = bootstrap(&data, 1, midmean);
        assert_eq!(bounds, bootstrap(&data, 1, midmean));
        assert!(bounds.low < 49.5 && 49.5 < bounds.high, "{bounds:?}");
        assert!(bounds.high - bounds.low < 30.0, "{bounds:?}");
    }
}
