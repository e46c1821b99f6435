//! A mixture of experts: a router chooses `top_k` of them for each token; some models have a part that every token
//! goes through as well.

use super::super::bounds::out_of_range;
use super::super::operators::{Class, Matrix, Operators, Pool};
use super::dense::matrices;

/// Experts and their router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Experts {
    /// Experts.
    pub experts: u32,
    /// Experts that a token goes through.
    pub top_k: u32,
    /// Inner width of one expert.
    pub width: u32,
    /// Inner width of the part that every token goes through besides; 0 = none.
    pub shared: u32,
    /// True where that part has a gate of its own for each token.
    pub shared_gate: bool,
    /// True where experts have a gate: three matrices instead of two.
    pub gated: bool,
    /// True where router and experts have biases.
    pub bias: bool,
    /// Width that tokens are brought to before the experts, and back from after them; none = the model's own.
    pub latent: Option<u32>,
}

impl Experts {
    pub(super) fn describe(&self) -> String {
        let Self { experts, top_k, width, shared, .. } = self;
        let shared = if *shared > 0 { format!(" + {shared} shared") } else { String::new() };
        let latent = self.latent.map_or_else(String::new, |l| format!(" in a latent of {l}"));
        format!("{top_k} of {experts} experts, {width} wide{latent}{shared}")
    }

    pub(super) fn operators(&self, hidden: u32, tp: u32) -> Operators {
        let h = u64::from(hidden);
        let mut all = match self.shared {
            0 => Operators::default(),
            width => {
                let mut shared = matrices(hidden, tp, (width, self.gated, false), Class::Shared);
                // The two outputs are added.
                shared.moved.push(3.0 * f64::from(hidden));
                shared
            }
        };
        all.matrices.push(Matrix::copied(u64::from(self.experts), h, Class::Plain));
        all.copied_vectors += u64::from(self.bias) * u64::from(self.experts);
        all.copied_vectors += u64::from(self.shared_gate) * h;
        if let Some(latent) = self.latent {
            let latent = u64::from(latent);
            all.matrices.extend([
                Matrix::copied(latent, h, Class::Shared),
                Matrix::copied(h, latent, Class::Shared),
            ]);
        }
        all.pool = Some(Pool {
            experts: self.experts,
            top_k: self.top_k,
            outer: self.latent.unwrap_or(hidden),
            inner: self.width,
            gated: self.gated,
            bias: self.bias,
        });
        all
    }

    /// A token goes through all of its experts at once.
    pub(super) fn inner_width(&self, tp: u32) -> u64 {
        let routed = u64::from(self.top_k) * u64::from(self.width.div_ceil(tp));
        routed + u64::from(self.shared.div_ceil(tp))
    }

    pub(super) fn fault(&self) -> Option<String> {
        let mut fields = vec![
            ("experts", self.experts, 1 << 14),
            ("experts per token", self.top_k, 1 << 10),
            ("width of an expert", self.width, 1 << 20),
        ];
        if self.shared > 0 {
            fields.push(("width of shared experts", self.shared, 1 << 24));
        }
        fields.extend(self.latent.map(|latent| ("width of the experts' latent", latent, 1 << 18)));
        let (top_k, experts) = (self.top_k, self.experts);
        out_of_range(&fields).or_else(|| {
            (top_k > experts)
                .then(|| format!("{top_k} experts per token is more than its {experts} experts"))
        })
    }
}
