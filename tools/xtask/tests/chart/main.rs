//! The Helm chart: validation of values, rendered objects, and acceptance by a real API server.

mod cluster;
mod helm;
mod monitoring;
mod programs;
mod rendered;
mod values;
