//! The findings of a calibration on a real engine, laid over a predicted iteration: a factor for each part of its time,
//! and the host's share anew.

use std::collections::BTreeMap;

use super::cost::{Breakdown, CostModel};
use crate::shape::Shape;

/// Largest factor: nothing is a thousand times slower than predicted.
const MOST: f64 = 1e3;

/// Factors on the parts of a [`Breakdown`].
#[derive(Debug, Clone, PartialEq)]
pub struct Correction {
    /// In the order of [`Breakdown::parts`].
    factors: Vec<f64>,
}

impl Correction {
    /// These factors by the names of parts; parts not named stay as they are.
    ///
    /// # Errors
    /// A name that is no part's, or a factor that is not a positive number; says which.
    pub fn new(by_name: &BTreeMap<String, f64>) -> Result<Self, String> {
        let parts = Breakdown::default().parts();
        let known = || parts.iter().map(|p| p.0).collect::<Vec<_>>().join(", ");
        for (name, factor) in by_name {
            if !parts.iter().any(|p| p.0 == name) {
                return Err(format!("no operator class `{name}`: expected {}", known()));
            }
            if !(0.0..=MOST).contains(factor) {
                return Err(format!(
                    "{name} = {factor}: a factor must not be negative or above {MOST}"
                ));
            }
        }
        let factors = parts.iter().map(|p| by_name.get(p.0).copied().unwrap_or(1.0)).collect();
        Ok(Self { factors })
    }

    /// The same, with all of an iteration taking `factor` times as long.
    #[must_use]
    pub fn paced(mut self, factor: f64) -> Self {
        self.factors.iter_mut().for_each(|f| *f *= factor);
        self
    }

    /// [`CostModel::stage_ns`], corrected.
    #[must_use]
    pub fn stage_ns(&self, cost: &CostModel, shape: &Shape) -> u64 {
        let parts = cost.breakdown(shape).parts();
        let seconds: f64 = parts.iter().zip(&self.factors).map(|(p, f)| p.1 * f).sum();
        (seconds * 1e9 + 0.5) as u64
    }
}

impl Default for Correction {
    /// Everything as predicted.
    fn default() -> Self {
        Self { factors: vec![1.0; Breakdown::default().parts().len()] }
    }
}

impl std::fmt::Display for Correction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = Breakdown::default().parts();
        let named = parts.iter().zip(&self.factors).filter(|(_, x)| **x != 1.0);
        let text: Vec<String> = named.map(|((name, _), x)| format!("{name} x {x:.4}")).collect();
        f.write_str(&text.join(", "))
    }
}
