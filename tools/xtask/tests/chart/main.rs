//! The Helm chart: validation of values, rendered objects, and acceptance by a real API server.

mod alerts;
mod cluster;
mod helm;
mod monitoring;
mod notes;
mod programs;
mod rendered;
mod values;
