//! A device: its data sheet, the share of it that each operator reaches, and the price of an hour.
//!
//! Every operator is priced in one way: its roofline by the data sheet, over an efficiency from a [`Table`] of knots
//! fitted to published measurements (`import`). The profiles ship as TOML, with where each figure comes from and how
//! far the fit is off.
//!
//! A user's own device is a file of the same form. One knot per table will do:
//!
//! ```toml
//! [gemm]
//! start_us = 4.0
//! per_mille = [[800]] # four fifths of the roofline, whatever the shape
//! source = "a guess"
//! ```
//!
//! A device of which nothing was timed needs only its data sheet ([`borrowed`]).

mod basis;
pub mod borrowed;
mod catalogue;
mod chunks;
mod device;
pub mod operators;
mod parts;
mod routing;
mod table;

pub use basis::Basis;
pub use borrowed::DataSheet;
pub use catalogue::import_sheets;
pub use chunks::{Asked, Chunks, Law, Peaks};
pub(crate) use device::MOST_OF_WORK;
pub use device::{DeviceProfile, KINDS, Sum, moved_roof};
pub use operators::attention::heads_metric;
pub use operators::collective::{Collective, Exchange};
pub use operators::delta::{Delta, DeltaTimes};
pub use operators::experts::Experts;
pub use operators::gemm::{gemm_metric, gemm_roof};
pub use operators::latent::{Index, Latent, LatentTimes};
pub use parts::{AllReduce, Attention, FitError, Heads, Host, Link, Price, PriceBasis};
pub use routing::Routing;
pub(crate) use table::Line;
pub(crate) use table::no_metric;
pub use table::{Metric, Place, Roof, Table, Times, apart};
