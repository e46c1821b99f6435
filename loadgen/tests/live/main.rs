//! The client against the mock in the same process, and against servers that behave worse than any mock.

mod faults;
mod fixture;
mod odd;
mod rules;
mod sessions;
mod tls;
mod truth;
