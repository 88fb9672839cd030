//! The chart: what it refuses, what it renders, and whether a real API server takes it.

mod cluster;
mod helm;
mod monitoring;
mod programs;
mod rendered;
mod values;
